"""Tied embeddings: what PEFT's ``merge_and_unload`` made of small Qwen3, Llama and Gemma models, bit for bit, config too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.conftest import DATA, bits
from tests.test_recover import tensors
from weightkit.core.errors import PlanError
from weightkit.merge import Form, merge_lora
from weightkit.methods.lora import Arithmetic

TIED = DATA / "peft-tied"
CASES = sorted(str(path.parent.relative_to(TIED)) for path in TIED.glob("*/*/merged.safetensors"))
PEFT = Arithmetic("peft-0.16")


def wanted(case: str) -> tuple[dict[str, torch.Tensor], bool]:
    """What PEFT wrote of the merged model, and whether its config ties the head."""
    folder = TIED / case
    with safe_open(folder / "merged.safetensors", "pt") as file:
        tied = json.loads(file.metadata()["tie_word_embeddings"])
    return load_file(folder.parent / "model.safetensors") | load_file(folder / "merged.safetensors"), tied


def of(folder: Path) -> dict[str, bytes]:
    return {name: bits(one) for name, one in tensors(folder).items()}


@pytest.mark.parametrize("case", CASES)
def test_what_peft_makes_of_a_tied_model(tmp_path: Path, case: str) -> None:
    model, tied = wanted(case)
    done = merge_lora((TIED / case).parent, [TIED / case], tmp_path / "o", how=PEFT)
    assert of(tmp_path / "o") == {name: bits(one) for name, one in model.items()}
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    untied = [note for note in done.plan.notes if "tie_word_embeddings" in note]
    assert bool(untied) is not tied
    own = json.loads(((TIED / case).parent / "config.json").read_text())
    assert {**config, "tie_word_embeddings": True} == own, "nothing else of the config changes"


def test_in_several_shards_and_as_bin_the_head_has_a_place_too(tmp_path: Path) -> None:
    case = "qwen3/whole-embedding"
    model, _ = wanted(case)
    for name, form in {"cut": Form(max_shard_bytes=6000), "bin": Form(format="bin")}.items():
        merge_lora(TIED / "qwen3", [TIED / case], tmp_path / name, how=PEFT, form=form)
        assert of(tmp_path / name) == {name: bits(one) for name, one in model.items()}
    merge_lora(tmp_path / "cut", [TIED / case], tmp_path / "again", how=PEFT, allow_tuned_base=True)
    index = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model)


def test_a_second_adapter_finds_an_untied_model(tmp_path: Path) -> None:
    first, second = TIED / "qwen3" / "whole-embedding", TIED / "qwen3" / "lora-embedding"
    merge_lora(TIED / "qwen3", [first], tmp_path / "one", how=PEFT)
    merge_lora(tmp_path / "one", [second], tmp_path / "two", how=PEFT)
    merge_lora(TIED / "qwen3", [first, second], tmp_path / "both", how=PEFT)
    assert of(tmp_path / "both") == of(tmp_path / "two")
    embedding = load_file(TIED / "qwen3" / "model.safetensors")["model.embed_tokens.weight"]
    assert of(tmp_path / "both")["lm_head.weight"] == bits(embedding)


def edited(base: Path, to: Path, change: Any) -> Path:
    """A copy of a model with its config.json's fields changed."""
    to.mkdir()
    shutil.copyfile(base / "model.safetensors", to / "model.safetensors")
    fields = json.loads((base / "config.json").read_text())
    change(fields)
    (to / "config.json").write_text(json.dumps(fields, indent=2))
    return to


def test_a_config_that_leaves_tying_to_its_class(tmp_path: Path) -> None:
    """transformers 4 writes no tie_word_embeddings for Gemma: true is that class's default. Without a head, it is tied."""
    base = edited(TIED / "gemma3", tmp_path / "base", lambda fields: fields.pop("tie_word_embeddings"))
    model, _ = wanted("gemma3/whole-embedding")
    merge_lora(base, [TIED / "gemma3" / "whole-embedding"], tmp_path / "o", how=PEFT)
    assert of(tmp_path / "o") == {name: bits(one) for name, one in model.items()}
    assert json.loads((tmp_path / "o" / "config.json").read_text())["tie_word_embeddings"] is False


def test_rows_of_a_head_that_nobody_has_are_not_invented(tmp_path: Path) -> None:
    adapter = tmp_path / "a"
    shutil.copytree(TIED / "qwen3" / "whole-embedding", adapter)
    held = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.weight"
    held[name] = torch.cat([held[name], held[name][:2]])
    save_file(held, adapter / "adapter_model.safetensors")
    with pytest.raises(PlanError, match="42 rows, .* lm_head.weight"):
        merge_lora(TIED / "qwen3", [adapter], tmp_path / "o")


def test_both_on_one_weight_is_said(tmp_path: Path) -> None:
    done = merge_lora(TIED / "qwen3", [TIED / "qwen3" / "lora-both"], tmp_path / "o", how=PEFT)
    assert any("one weight" in note for note in done.plan.notes)


def test_copies_of_an_embedding_are_no_sign_of_merged_already(tmp_path: Path) -> None:
    """PEFT stores the original beside the LoRA of an embedding; it equals the base's by nature."""
    merge_lora(TIED / "qwen3", [TIED / "qwen3" / "lora-embedding"], tmp_path / "a")
    merge_lora(TIED / "qwen3", [TIED / "qwen3" / "copied"], tmp_path / "b")
    merge_lora(TIED / "qwen3", [TIED / "qwen3" / "whole-embedding"], tmp_path / "c")
    with pytest.raises(PlanError, match="is merged already"):
        merge_lora(tmp_path / "c", [TIED / "qwen3" / "whole-embedding"], tmp_path / "d")


def untied_config(tmp_path: Path, text: str) -> str:
    """What becomes of a config.json when an adapter unties the head."""
    base = tmp_path / "base"
    base.mkdir()
    shutil.copyfile(TIED / "qwen3" / "model.safetensors", base / "model.safetensors")
    (base / "config.json").write_bytes(text.encode())
    merge_lora(base, [TIED / "qwen3" / "whole-embedding"], tmp_path / "o", how=PEFT)
    return (tmp_path / "o" / "config.json").read_bytes().decode()


TRAP = r'"note": "say \"tie_word_embeddings\": true, {\"tie_word_embeddings\": true}"'
OWN = '"architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 40'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{OWN, TRAP, "tie_word_embeddings" :\ttrue }\r\n', '{OWN, TRAP, "tie_word_embeddings" :\tfalse }\r\n'),
        (
            '{"vision_config": {"tie_word_embeddings": true}, "tie_word_embeddings": true, "text_config": '
            '{ "tie_word_embeddings": true, TRAP}, OWN}',
            '{"vision_config": {"tie_word_embeddings": true}, "tie_word_embeddings": false, "text_config": '
            '{ "tie_word_embeddings": false, TRAP}, OWN}',
        ),
        (
            '{\r\n\tOWN, "text_config": {"tie_word_embeddings": true, "x": {"tie_word_embeddings": true}}}',
            '{\r\n\t"tie_word_embeddings": false,\r\n\tOWN, "text_config": {"tie_word_embeddings": false, '
            '"x": {"tie_word_embeddings": true}}}',
        ),
        (
            '{OWN, TRAP, "text_config": {}}',
            '{"tie_word_embeddings": false,OWN, TRAP, "text_config": {"tie_word_embeddings": false}}',
        ),
        ("\ufeff{\n  OWN,\n  TRAP\n}", '\ufeff{\n  "tie_word_embeddings": false,\n  OWN,\n  TRAP\n}'),
        (
            '{"tie_word_embeddings": false, "tie_word_embeddings": true, OWN}',
            '{"tie_word_embeddings": false, "tie_word_embeddings": false, OWN}',
        ),
        ('{"tie_word_embeddings": null, OWN}', '{"tie_word_embeddings": false, OWN}'),
    ],
    ids=["text", "three", "nested", "nowhere", "mark", "twice", "null"],
)
def test_only_the_value_itself_changes_in_a_config(tmp_path: Path, before: str, after: str) -> None:
    before, after = (one.replace("TRAP", TRAP).replace("OWN", OWN) for one in (before, after))
    assert untied_config(tmp_path, before) == after
    assert json.loads(after.lstrip("\ufeff"))["tie_word_embeddings"] is False
