"""Bases that are not the original, told by their config: quantized, LLaMA-2, bfloat16; families whose norms tell nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
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
    base = edited(tmp_path / "b", quantization_config={"quant_method": method, "bits": 4})
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
