"""What a conversion between layouts may not lose without a word: tensors, settings of the rotary embedding, files beside."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import PEER, bits
from weightkit.convert import convert
from weightkit.core.errors import PlanError, WeightkitError
from weightkit.diff import make_diff
from weightkit.inspect import inspect
from weightkit.manifest import of_tensors
from weightkit.merge import merge_lora
from weightkit.recover import recover
from weightkit.verify import verify

META, HF = PEER / "meta" / "7B", PEER / "hf-bin-nofreq"
SHARD = "pytorch_model-00001-of-00004.bin"


def copied(source: Path, to: Path, **config: Any) -> Path:
    """A copy in which a JSON of numbers is changed."""
    shutil.copytree(source, to)
    for one in to.iterdir():
        one.chmod(0o644)
    name = to / ("params.json" if (to / "params.json").exists() else "config.json")
    name.write_text(json.dumps({**json.loads(name.read_text()), **config}))
    return to


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """A torch file with other tensors."""
    named = torch.load(file, weights_only=True)
    change(named)
    torch.save(named, file)


def loaded(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("to", ["meta", "tencentpretrain"])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.0.mlp.up_proj.weight_scale",
        "vision_tower.patch.weight",
        "lm_head.bias",
    ],
)
def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path, name: str, to: Any) -> None:
    source = copied(HF, tmp_path / "x")
    changed(source / SHARD, lambda named: named.update({name: torch.ones(16).half()}))
    with pytest.raises(PlanError, match=name):
        convert(source, tmp_path / "o", to)
    assert not (tmp_path / "o").exists()


def test_names_of_tensors_without_a_place_are_bounded(tmp_path: Path) -> None:
    source = copied(HF, tmp_path / "x")
    changed(source / SHARD, lambda named: named.update({f"vision.{n}": torch.ones(1).half() for n in range(500)}))
    with pytest.raises(PlanError, match="500 tensors") as caught:
        convert(source, tmp_path / "o", "meta")
    assert len(str(caught.value)) < 600


def test_a_tied_head_is_called_so(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.mkdir()
    named: dict[str, torch.Tensor] = {}
    for file in sorted(HF.glob("*.bin")):
        named |= loaded(file)
    del named["lm_head.weight"]
    torch.save(named, source / "pytorch_model.bin")
    config = json.loads((HF / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(PlanError, match="tied to its embedding"):
        convert(source, tmp_path / "o", "meta")


@pytest.mark.parametrize(
    "config", [{"rope_theta": 1e6}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}], ids=["4", "5"]
)
def test_theta_goes_to_meta_and_back(tmp_path: Path, config: dict[str, Any]) -> None:
    source = copied(HF, tmp_path / "x", **config)
    convert(source, tmp_path / "m", "meta")
    assert json.loads((tmp_path / "m" / "params.json").read_text())["rope_theta"] == 1e6
    wanted = 1.0 / (1e6 ** (torch.arange(0, 16, 2).float() / 16))
    assert bits(loaded(tmp_path / "m" / "consolidated.00.pth")["rope.freqs"]) == bits(wanted.half())
    convert(tmp_path / "m", tmp_path / "back", "hf", converter="transformers-4.28.1+inv-freq-exact")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rope_theta"] == 1e6
    stored = loaded(tmp_path / "back" / "pytorch_model.bin")["model.layers.0.self_attn.rotary_emb.inv_freq"]
    assert bits(stored) == bits(wanted)
    with pytest.raises(PlanError, match=r"rope_theta is 1000000\.0"):
        convert(source, tmp_path / "t", "tencentpretrain")


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize("word", ["rope_type", "type"])
def test_llama_3s_scaling_goes_to_meta_and_back(tmp_path: Path, word: str) -> None:
    scaling = {word: "llama3", **LLAMA3}
    source = copied(HF, tmp_path / "x", rope_theta=500000.0, rope_scaling=scaling)
    convert(source, tmp_path / "m", "meta")
    params = json.loads((tmp_path / "m" / "params.json").read_text())
    assert (params["rope_theta"], params["use_scaled_rope"]) == (500000.0, True)
    convert(tmp_path / "m", tmp_path / "back", "hf")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "llama3", **LLAMA3}
    assert config["rope_theta"] == 500000.0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": 32.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "rope_scaling"),
        ({"head_dim": 32}, "head_dim"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 512}, "sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
@pytest.mark.parametrize("to", ["meta", "tencentpretrain"])
def test_settings_that_the_layout_has_no_word_for(tmp_path: Path, config: dict[str, Any], said: str, to: Any) -> None:
    with pytest.raises(PlanError, match=said):
        convert(copied(HF, tmp_path / "x", **config), tmp_path / "o", to)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"moe": {"num_experts": 8}}, "moe"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"head_dim": 32}, "head_dim"),
        ({"hidden_dim": 512}, "hidden_dim"),
        ({"rope_theta": "x"}, "rope_theta"),
    ],
)
def test_params_that_are_not_understood(tmp_path: Path, params: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightkitError, match=said):
        convert(copied(META, tmp_path / "x", **params), tmp_path / "o", "hf")


def test_heads_against_the_frequencies(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"n_heads 8 makes a head 8 wide, rope\.freqs 16"):
        convert(copied(META, tmp_path / "m", n_heads=8), tmp_path / "o", "hf")
    with pytest.raises(PlanError, match=r"num_attention_heads 8 makes a head 8 wide, .*inv_freq 16"):
        convert(copied(PEER / "hf-bin", tmp_path / "h", num_attention_heads=8), tmp_path / "o", "meta")


def test_one_part_twice(tmp_path: Path) -> None:
    convert(META, tmp_path / "m", "meta", parts=2)
    named = loaded(tmp_path / "m" / "consolidated.00.pth")
    torch.save(named, tmp_path / "m" / "consolidated.01.pth")
    with pytest.raises(PlanError, match=r"consolidated\.01\.pth holds the same as consolidated\.00\.pth"):
        recover(tmp_path / "m", PEER / "diffs" / "knowlm", tmp_path / "o")


def doubled(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(HF.glob("*.bin")):
        found |= loaded(file)
    return {name: (one * 2).contiguous() for name, one in found.items()}


def test_two_models_in_one_folder(tmp_path: Path) -> None:
    """The one that transformers loads is taken, and the other is named."""
    both = copied(HF, tmp_path / "both")
    save_file(doubled(both), both / "model.safetensors", metadata={"format": "pt"})
    found = inspect(both)
    assert [one.name for one in found.files] == ["model.safetensors"]
    (note,) = found.notes
    assert "pytorch_model-00001-of-00004.bin" in note
    assert "not read" in note
    done = recover(both, PEER / "diffs" / "knowlm", tmp_path / "o")
    assert any("not read" in one for one in done.plan.notes)
    lists = tmp_path / "TENSORS"
    lists.write_bytes(tensors_of(HF))
    checked = verify(both, [lists])
    assert not checked.ok
    assert any(one.status == "extra" and one.path == SHARD for one in checked.checked)


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    both = copied(HF, tmp_path / "both")
    torch.save(doubled(both), both / "pytorch_model.bin")
    found = inspect(both)
    assert [one.name for one in found.files] == ["pytorch_model.bin"]
    assert any("not read" in one and SHARD in one for one in found.notes)


def test_another_set_of_shards_beside_the_indexed_one(tmp_path: Path) -> None:
    both = copied(HF, tmp_path / "both")
    shutil.copy(both / SHARD, both / "pytorch_model-00001-of-00002.bin")
    assert any("not read" in one and "pytorch_model-00001-of-00002.bin" in one for one in inspect(both).notes)
    assert not inspect(HF).notes


def tensors_of(folder: Path) -> bytes:
    """The list of a folder's tensors."""
    return of_tensors(folder)[1]


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers"])
def test_a_config_of_another_model(tmp_path: Path, field: str) -> None:
    source = copied(HF, tmp_path / "x", **{field: 4096})
    said = f"config.json says {field} 4096"
    assert any(said in one for one in inspect(source).notes)
    assert any(said in one for one in convert(source, tmp_path / "o", "hf").plan.notes)
    with pytest.raises(PlanError, match=said):
        convert(source, tmp_path / "m", "meta")


def test_new_rows_without_a_tokenizer_of_their_own(tmp_path: Path) -> None:
    adapter = copied_files(PEER / "lora-zh1-bin", tmp_path / "a", ("adapter_config.json", "adapter_model.bin"))
    done = merge_lora(HF, [adapter], tmp_path / "o")
    assert any("330 rows" in one and "tokenizer" in one for one in done.plan.notes)
    whole = merge_lora(HF, [PEER / "lora-zh1-bin"], tmp_path / "p")
    assert not any("tokenizer that goes along" in one for one in whole.plan.notes)


def test_a_diff_without_a_config(tmp_path: Path) -> None:
    diff = copied_files(PEER / "diffs" / "knowlm", tmp_path / "d", ("pytorch_model.bin",))
    done = recover(HF, diff, tmp_path / "o")
    assert any("no config.json" in one for one in done.plan.notes)


def test_parts_without_a_tokenizer(tmp_path: Path) -> None:
    raw = copied_files(META, tmp_path / "m", ("params.json", "consolidated.00.pth"))
    done = convert(raw, tmp_path / "o", "hf")
    assert not (tmp_path / "o" / "tokenizer_config.json").exists()
    assert any("no tokenizer" in one for one in done.plan.notes)


def copied_files(source: Path, to: Path, names: Sequence[str]) -> Path:
    """Some files of a folder in another."""
    to.mkdir()
    for name in names:
        shutil.copyfile(source / name, to / name)
    return to


def exact(tmp_path: Path) -> tuple[Path, Path]:
    """A tuned model with files of its own, and its exact difference."""
    tuned = copied(PEER / "tuned-fp16-bin", tmp_path / "t")
    for name in ("modeling_own.py", "spiece.model", "qwen.tiktoken", "processor_config.json"):
        (tuned / name).write_text(name)
    (tuned / "SHA256SUMS").write_text("")
    make_diff(HF, tuned, tmp_path / "d", method="exact")
    return tuned, tmp_path / "d"


def test_an_exact_difference_brings_all_small_files(tmp_path: Path) -> None:
    tuned, diff = exact(tmp_path)
    recover(HF, diff, tmp_path / "o")
    for file in tuned.iterdir():
        if file.name != "SHA256SUMS":
            assert (tmp_path / "o" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("way", ["missing", "edited"])
def test_an_exact_difference_that_is_not_as_its_list_says(tmp_path: Path, way: str) -> None:
    _, diff = exact(tmp_path)
    if way == "missing":
        (diff / "config.json").unlink()
    else:
        (diff / "config.json").write_text("{}")
    with pytest.raises(PlanError, match="config.json"):
        recover(HF, diff, tmp_path / "o")


def test_small_files_that_do_not_go_along_are_named(tmp_path: Path) -> None:
    source = copied(HF, tmp_path / "x")
    for name in ("modeling_own.py", "spiece.model", "processor_config.json"):
        (source / name).write_text(name)
    (note,) = [one for one in convert(source, tmp_path / "o", "hf").plan.notes if "not taken along" in one]
    assert all(name in note for name in ("modeling_own.py", "spiece.model", "processor_config.json"))
    assert not convert(HF, tmp_path / "p", "hf").plan.notes


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["consolidated.00.pth", "consolidated.01.pth", "consolidated.03.pth"], "consolidated.02.pth"),
        (["model_00001-of-00002.safetensors"], "model_00002-of-00002.safetensors"),
        (["weights-1-of-3.safetensors", "weights-3-of-3.safetensors"], "weights-2-of-3.safetensors"),
        ([f"weights-{n}-of-12.safetensors" for n in range(1, 12)], "weights-12-of-12.safetensors"),
        (["w-01-of-02.bin"], "w-02-of-02.bin"),
    ],
)
def test_a_gap_in_numbered_files(tmp_path: Path, names: list[str], missing: str) -> None:
    lines = []
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    found = verify(tmp_path)
    assert [one.path for one in found.checked if one.status == "missing"] == [missing]
