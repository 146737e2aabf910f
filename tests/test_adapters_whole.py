"""Adapters that are not what their config says, and adapters named twice. What PEFT 0.21.2 does with such files was run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PEER
from weightkit.core.errors import PlanError
from weightkit.merge import merge_lora
from weightkit.recover import recover

BASE, ALPACA, WHOLE = PEER / "hf-bin", PEER / "lora-alpaca-bin", PEER / "lora-zh1-bin"


def edited(source: Path, to: Path, keep: Callable[[str], bool] = bool, **fields: Any) -> Path:
    """A copy of an adapter with some of its tensors and other fields in its config."""
    shutil.copytree(source, to)
    file, config = to / "adapter_model.bin", to / "adapter_config.json"
    torch.save({name: one for name, one in torch.load(file, weights_only=True).items() if keep(name)}, file)
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    return to


@pytest.mark.parametrize("lacks", ["embed_tokens", "lm_head"])
def test_half_of_modules_to_save_is_refused(tmp_path: Path, lacks: str) -> None:
    lora = edited(WHOLE, tmp_path / "l", lambda name: lacks not in name)
    with pytest.raises(PlanError, match=f"{lacks}.weight: modules_to_save says .* lacks it"):
        merge_lora(BASE, [lora], tmp_path / "o")


def test_embedding_and_head_of_different_rows_are_refused(tmp_path: Path) -> None:
    lora = edited(WHOLE, tmp_path / "l", lambda name: "embed_tokens" not in name, modules_to_save=["lm_head"])
    with pytest.raises(PlanError, match="rows after the merge"):
        merge_lora(BASE, [lora], tmp_path / "o")


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["gate_proj", "v_proj"]},
        {"target_modules": r".*\.q_proj"},
        {"layers_to_transform": [0]},
        {"exclude_modules": ["v_proj"]},
    ],
    ids=str,
)
def test_factors_that_the_config_does_not_name_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    lora = edited(ALPACA, tmp_path / "l", **fields)
    with pytest.raises(PlanError, match="2 of 4 LoRAs are of modules that its config does not name"):
        merge_lora(BASE, [lora], tmp_path / "o")


@pytest.mark.parametrize("lacks", ["layers.1.", "v_proj"])
def test_modules_without_factors_are_said(tmp_path: Path, lacks: str) -> None:
    done = merge_lora(BASE, [edited(ALPACA, tmp_path / "l", lambda name: lacks not in name)], tmp_path / "o")
    assert any("names 2 modules that the file has no LoRA of" in note and lacks in note for note in done.plan.notes)
    plain = merge_lora(BASE, [ALPACA], tmp_path / "p")
    assert not any("has no LoRA of" in note or "is zero" in note for note in plain.plan.notes)


@pytest.mark.parametrize("said", [None, "all-linear", r".*\.(q|v)_proj", ["self_attn.q_proj", "v_proj"]], ids=str)
def test_other_ways_to_name_them_are_right(tmp_path: Path, said: Any) -> None:
    merge_lora(BASE, [edited(ALPACA, tmp_path / "l", target_modules=said)], tmp_path / "o")


def test_an_untrained_adapter_is_said(tmp_path: Path) -> None:
    lora = edited(ALPACA, tmp_path / "l")
    tensors = torch.load(lora / "adapter_model.bin", weights_only=True)
    torch.save({name: one * -0.0 if "lora_B" in name else one for name, one in tensors.items()}, lora / "adapter_model.bin")
    assert any("every LoRA of it is zero" in note for note in merge_lora(BASE, [lora], tmp_path / "o").plan.notes)


@pytest.mark.parametrize(
    "two", [(ALPACA, PEER / "lora-alpaca-st"), (ALPACA, ALPACA), (WHOLE, WHOLE)], ids=["st", "bin", "whole"]
)
def test_one_adapter_twice_is_refused(tmp_path: Path, two: tuple[Path, Path]) -> None:
    with pytest.raises(PlanError, match="name it once"):
        merge_lora(BASE, two, tmp_path / "o")
    with pytest.raises(PlanError, match="name it once"):
        recover(BASE, PEER / "diffs" / "knowlm", tmp_path / "o", lora=two)
