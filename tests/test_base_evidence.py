"""Bases that are not the original, told by their config: quantized, LLaMA-2, bfloat16; families whose norms tell nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import DATA, PEER, Run
from weightkit.core.errors import PlanError
from weightkit.merge import merge_lora
from weightkit.recover import recover

BASE, DIFF, ALPACA = PEER / "hf-bin", PEER / "diffs" / "knowlm", PEER / "lora-alpaca-bin"
TWO = {"_name_or_path": "meta-llama/Llama-2-7b-hf", "rms_norm_eps": 1e-05, "max_position_embeddings": 4096}


def edited(to: Path, **fields: Any) -> Path:
    shutil.copytree(BASE, to)
    config = to / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    return to


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fp8"])
def test_a_quantized_base_is_refused_by_name(tmp_path: Path, method: str) -> None:
    """Plain floats under such a config are a note: ``test_quantized.py``."""
    base = edited(tmp_path / "b", quantization_config={"quant_method": method, "bits": 4})
    for path in base.glob("*.bin"):
        named = torch.load(path, weights_only=True)
        torch.save({name: one if one.dim() < 2 else one.to(torch.int8) for name, one in named.items()}, path)
    with pytest.raises(PlanError, match=f"(?i)is quantized \\({method}\\).*take the original"):
        merge_lora(base, [ALPACA], tmp_path / "o")
    with pytest.raises(PlanError, match=f"(?i)is quantized \\({method}\\).*take the original"):
        recover(base, DIFF, tmp_path / "o")


def test_llama_two_under_a_diff_of_llama_one(tmp_path: Path) -> None:
    base = edited(tmp_path / "b", **TWO)
    with pytest.raises(PlanError, match="looks like LLaMA-2 .*max_position_embeddings 4096"):
        recover(base, DIFF, tmp_path / "o")
    done = recover(base, DIFF, tmp_path / "o", allow_tuned_base=True)
    assert any("LLaMA-2" in note for note in done.plan.notes)
    assert any("rms_norm_eps is 1e-05" in note for note in done.plan.notes)
    assert not any("LLaMA-2" in note for note in recover(BASE, DIFF, tmp_path / "p").plan.notes)


def test_a_base_stored_as_bfloat16_is_said(weightkit: Run, tmp_path: Path) -> None:
    weightkit("convert", BASE, tmp_path / "b", "--to", "hf", "--dtype", "bfloat16")
    with pytest.raises(PlanError, match="is stored as bfloat16, and the diff is not: LLaMA 1 was published in float16"):
        recover(tmp_path / "b", DIFF, tmp_path / "o")
    done = recover(tmp_path / "b", DIFF, tmp_path / "o", allow_tuned_base=True)
    assert any("is stored as bfloat16, and the diff is not" in note for note in done.plan.notes)


def adapter_of(to: Path, name: str) -> Path:
    """The adapter, said to be trained on another base."""
    shutil.copytree(ALPACA, to)
    path = to / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))
    return to


@pytest.mark.parametrize("name", ["decapoda-research/llama-7b-hf", "huggyllama/llama-13b", "yahma/llama-7b-hf"])
def test_llama_two_under_an_adapter_of_llama_one(tmp_path: Path, name: str) -> None:
    base, lora = edited(tmp_path / "b", **TWO), adapter_of(tmp_path / "l", name)
    with pytest.raises(PlanError, match=f"looks like LLaMA-2 .* trained on LLaMA 1 \\({name}\\): take that, or say"):
        merge_lora(base, [lora], tmp_path / "o")
    done = merge_lora(base, [lora], tmp_path / "o", allow_tuned_base=True)
    assert any(f"trained on LLaMA 1 ({name})" in note for note in done.plan.notes)


@pytest.mark.parametrize("name", ["meta-llama/Llama-2-7b-hf", "NousResearch/Llama-2-13b-chat-hf"])
def test_llama_one_under_an_adapter_of_llama_two(tmp_path: Path, name: str) -> None:
    done = merge_lora(BASE, [adapter_of(tmp_path / "l", name)], tmp_path / "o")
    assert any("looks like LLaMA 1 by its config (2048 positions), and" in note and name in note for note in done.plan.notes)


@pytest.mark.parametrize("name", ["/data/llama-7b-hf", "../models/llama-2-7b", "output/llama-7b-hf", ""])
def test_a_path_of_somebodys_disk_says_nothing(tmp_path: Path, name: str) -> None:
    done = merge_lora(BASE, [adapter_of(tmp_path / "l", name)], tmp_path / "o")
    assert not any("trained on" in note for note in done.plan.notes)


def test_a_base_stored_as_bfloat16_under_an_adapter_is_said(weightkit: Run, tmp_path: Path) -> None:
    weightkit("convert", BASE, tmp_path / "b", "--to", "hf", "--dtype", "bfloat16")
    lora = adapter_of(tmp_path / "l", "decapoda-research/llama-7b-hf")
    done = merge_lora(tmp_path / "b", [lora], tmp_path / "o")
    said = [note for note in done.plan.notes if "is stored as bfloat16" in note]
    assert len(said) == 1
    assert said[0].endswith("take a base in float16")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rms_norm_eps": 1e-05}, "rms_norm_eps is 1e-05 in the base's config, 1e-06 in the diff's"),
        (
            {"architectures": ["MistralForCausalLM"]},
            "architectures is MistralForCausalLM in the base's config, LlamaForCausalLM",
        ),
        ({"dtype": "bfloat16"}, ": dtype is bfloat16 in its config, and its weights are stored as float16"),
        ({"rope_theta": 500000.0}, "rope_theta is 500000.0 in the base's config, 10000.0"),
        ({"max_position_embeddings": 4096}, "looks like LLaMA-2 (max_position_embeddings 4096 in its config)"),
        ({"max_position_embeddings": 8192}, "max_position_embeddings is 8192 in the base's config, 2048"),
        ({"torch_dtype": "bfloat16"}, "torch_dtype is bfloat16 in its config, and its weights are stored as float16"),
    ],
)
def test_configs_that_contradict_each_other_are_said(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    diff = tmp_path / "d"
    shutil.copytree(DIFF, diff)
    config = json.loads((BASE / "config.json").read_text()) | {"rope_theta": 10000.0}
    (diff / "config.json").write_text(json.dumps(json.loads((diff / "config.json").read_text()) | {"rope_theta": 10000.0}))
    assert config["torch_dtype"] == "float16"
    done = recover(edited(tmp_path / "b", **fields), diff, tmp_path / "o")
    assert [note for note in done.plan.notes if said in note], done.plan.notes


def test_gemmas_norms_are_no_sign_of_a_diff(weightkit: Run, tmp_path: Path) -> None:
    base = DATA / "peft-tied" / "gemma3"
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    shutil.copyfile(base / "config.json", tuned / "config.json")
    save_file({name: one * 2 for name, one in load_file(base / "model.safetensors").items()}, tuned / "model.safetensors")
    made = weightkit("make-diff", "--raw", base, "--tuned", tuned, "--out", tmp_path / "diff")
    assert made.returncode == 0, made.stderr
    recover(base, tmp_path / "diff", tmp_path / "o")
    merge_lora(base, [base / "lora-head"], tmp_path / "m")
    seen = weightkit("identify", base)
    assert "a diff" not in seen.stdout, seen.stdout
