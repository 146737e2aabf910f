"""Values that are no tensors, beside those of a torch file: no door writes them, each says which they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PEER, Run
from weightkit.blobs import open_local
from weightkit.containers import open_file

UP = "model.layers.0.mlp.up_proj.weight"
BESIDE = {"step": 5, "lr": 0.5, "optimizer": {"state": {}, "groups": [1, 2, 3]}, "note": "x\x1b[31m\n" + "y" * 500, "ema": None}


def saved(folder: Path, tensors: dict[str, Any], **how: Any) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model.bin", **how)
    return folder


def weight(value: float) -> torch.Tensor:
    return torch.full((4, 8), float(value))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_knows_what_lies_beside_its_tensors(tmp_path: Path, zipped: bool) -> None:
    torch.save({UP: weight(1), **BESIDE}, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    found = open_file(open_local(tmp_path / "a.bin"))
    assert set(found.tensors) == {UP}
    assert found.beside["optimizer"].text == "a dict of 4 values"  # type: ignore[attr-defined]
    assert set(found.beside) == {"step", "lr", "optimizer", "note", "ema"}  # type: ignore[attr-defined]


def notes_of(done: Any) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [one for one in json.loads(done.stdout)["notes"] if "beside its tensors" in one]


@pytest.mark.parametrize("door", ["recover", "merge", "convert", "make-diff"])
def test_each_door_says_it(weightkit: Run, tmp_path: Path, door: str) -> None:
    saved(tmp_path / "b", {UP: weight(1), "epoch": 3})
    saved(tmp_path / "d", {UP: weight(2), **BESIDE})
    match door:
        case "recover":
            args, wanted = ["--raw", "b", "--diff", "d", "--out", "o"], ["b/pytorch_model.bin", "d/pytorch_model.bin"]
        case "make-diff":
            args, wanted = ["--raw", "b", "--tuned", "d", "--out", "o"], ["b/pytorch_model.bin", "d/pytorch_model.bin"]
        case "convert":
            args, wanted = ["d", "o", "--to", "hf"], ["d/pytorch_model.bin"]
        case _:
            (tmp_path / "a").mkdir()
            (tmp_path / "a/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
            name = UP.removesuffix(".weight")
            factors = {f"base_model.model.{name}.lora_A.weight": torch.ones(1, 8), "global_step": 7}
            factors[f"base_model.model.{name}.lora_B.weight"] = torch.ones(4, 1)
            torch.save(factors, tmp_path / "a/adapter_model.bin")
            args, wanted = ["--base", "b", "--lora", "a", "--out", "o"], ["b/pytorch_model.bin", "a/adapter_model.bin"]
    found = notes_of(weightkit(door, *args, "--json"))
    assert sorted(note.partition(":")[0] for note in found) == sorted(wanted)
    for note in found:
        assert "\x1b" not in note
        assert "\n" not in note
        assert len(note) < 500
        assert "not written here" in note
    if door in ("recover", "convert"):
        assert all(key in found[-1] for key in ("step = 5", "lr = 0.5", "optimizer", "note", "ema"))
    held = torch.load(tmp_path / "o/pytorch_model.bin", weights_only=True)
    assert set(held) == {UP}


def test_inspect_shows_them(weightkit: Run, tmp_path: Path) -> None:
    saved(tmp_path / "d", {UP: weight(2), **BESIDE})
    seen = weightkit("inspect", "d")
    assert "step = 5" in seen.stdout
    assert "\x1b" not in seen.stdout
    assert len(notes_of(weightkit("inspect", "d", "--json"))) == 1
    assert json.loads(weightkit("inspect", PEER / "hf-bin", "--json").stdout)["notes"] == []


def test_many_are_counted_and_few_shown(weightkit: Run, tmp_path: Path) -> None:
    saved(tmp_path / "d", {UP: weight(2), **{f"k{i}": i for i in range(5000)}, "log": [{"loss": 0.5}] * 3000})
    (note,) = notes_of(weightkit("inspect", "d", "--json"))
    assert "8000 values" in note
    assert len(note) < 500


@pytest.mark.parametrize("value", [0.5, 3, True, "x", None, [], [0.5], {"a": 1}])
@pytest.mark.parametrize("side", ["diff", "base"])
def test_a_value_under_a_tensors_name_is_refused(weightkit: Run, tmp_path: Path, value: Any, side: str) -> None:
    """transformers raises there; a bare sum of torch would spread a number over the whole tensor."""
    other = "model.layers.0.mlp.down_proj.weight"
    for name in ("base", "diff"):
        saved(tmp_path / name, {UP: weight(1), other: value if name == side else weight(1)})
    done = weightkit("recover", "--raw", "base", "--diff", "diff", "--out", "o")
    assert done.returncode == 1
    assert f"{other}: " in done.stderr
    assert f"no tensor in the {side}" in done.stderr
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_a_file_of_values_alone_is_refused_by_what_it_holds(weightkit: Run, tmp_path: Path) -> None:
    saved(tmp_path / "d", {"step": 5, "lr": 0.1})
    done = weightkit("convert", "d", "o", "--to", "hf")
    assert done.returncode == 1
    assert "no tensors" in done.stderr


def test_knowlms_diff_says_nothing(weightkit: Run, tmp_path: Path) -> None:
    shutil.copytree(PEER / "hf-bin", tmp_path / "b")
    assert notes_of(weightkit("convert", "b", "o", "--to", "hf", "--json")) == []
