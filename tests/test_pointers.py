"""A Git-LFS pointer is a file that was not fetched: what is there is read, with a note; else the pointer is named as that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import PEER, Run
from weightkit.checkpoints import open_checkpoint
from weightkit.convert import convert
from weightkit.core.errors import FormatError, PlanError
from weightkit.merge import merge_lora
from weightkit.recover import recover

HF, KNOWLM, ZH1 = PEER / "hf-bin", PEER / "diffs" / "knowlm", PEER / "lora-zh1-bin"
FIRST, INDEX = "pytorch_model-00001-of-00004.bin", "pytorch_model.bin.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 13476939516\n".format("4f" * 32)


def point(path: Path) -> None:
    """As ``git clone`` without git-lfs leaves it."""
    path.write_text(POINTER)


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def both(tmp_path: Path) -> Path:
    """A folder with one model in both containers, the safetensors in two shards with an index."""
    folder = copied(HF, tmp_path / "both")
    tensors = {name: one for file in sorted(HF.glob("*.bin")) for name, one in torch.load(file).items()}
    names = list(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, own in shards.items():
        save_file({name: tensors[name].contiguous() for name in own}, folder / file)
    weight_map = {name: file for file, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def one_of_a_set(folder: Path) -> str:
    point(folder / "model-00002-of-00002.safetensors")
    return "model-00002-of-00002.safetensors"


def all_of_a_set(folder: Path) -> str:
    for one in folder.glob("model-*.safetensors"):
        point(one)
    return ""


def all_with_their_index(folder: Path) -> str:
    point(folder / "model.safetensors.index.json")
    return all_of_a_set(folder)


def a_single_file(folder: Path) -> str:
    for one in folder.glob("model*"):
        one.unlink()
    point(folder / "model.safetensors")
    return ""


def a_single_file_beside_its_shards(folder: Path) -> str:
    point(folder / "model.safetensors")
    return ""


def the_other_container(folder: Path) -> str:
    for one in folder.glob("pytorch_model-*"):
        point(one)
    return ""


def all_of_both(folder: Path) -> str:
    all_of_a_set(folder)
    the_other_container(folder)
    return "model-00001-of-00002.safetensors"


def the_index_alone(folder: Path) -> str:
    for one in folder.glob("model*"):
        one.unlink()
    point(folder / INDEX)
    return ""


def an_index_and_nothing_else(folder: Path) -> str:
    for one in (*folder.glob("model*"), *folder.glob("*.bin")):
        one.unlink()
    point(folder / INDEX)
    return INDEX


WAYS = (
    *(one_of_a_set, all_of_a_set, all_with_their_index, a_single_file, a_single_file_beside_its_shards),
    *(the_other_container, all_of_both, the_index_alone, an_index_and_nothing_else),
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_was_fetched_is_read(tmp_path: Path, way: Callable[[Path], str]) -> None:
    folder = both(tmp_path)
    refused = way(folder)
    if refused:
        with pytest.raises(FormatError, match=rf"{refused}: is a Git-LFS pointer"):
            convert(folder, tmp_path / "o", "hf")
        assert not (tmp_path / "o").exists()
        return
    done = convert(folder, tmp_path / "o", "hf")
    assert any("Git-LFS pointer" in note and "git lfs pull" in note for note in done.plan.notes)
    wanted = {name: one for file in sorted(HF.glob("*.bin")) for name, one in torch.load(file).items()}
    found = open_checkpoint(tmp_path / "o", "o").tensors
    assert found.keys() == wanted.keys()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("side", ["base", "diff"])
def test_a_small_file_that_is_used_is_not_a_pointer(tmp_path: Path, name: str, side: str) -> None:
    folders = {"base": HF, "diff": KNOWLM}
    if not (folders[side] / name).exists():
        pytest.skip("no such file")
    folders[side] = copied(folders[side], tmp_path / side)
    point(folders[side] / name)
    if side == "base" and name != "config.json":  # the diff's go along
        recover(folders["base"], folders["diff"], tmp_path / "o")
        return
    with pytest.raises(FormatError, match=f"{name}: is a Git-LFS pointer"):
        recover(folders["base"], folders["diff"], tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "config.json"])
def test_nor_is_one_that_a_conversion_takes_along(tmp_path: Path, name: str) -> None:
    folder = copied(HF, tmp_path / "x")
    point(folder / name)
    with pytest.raises(FormatError, match=f"{name}: is a Git-LFS pointer"):
        convert(folder, tmp_path / "o", "hf")


@pytest.mark.parametrize("real", ["adapter_model.bin", "adapter_model.safetensors", ""])
def test_an_adapter(tmp_path: Path, real: str) -> None:
    lora = copied(ZH1, tmp_path / "l")
    wanted = lora / "adapter_model.bin"
    if real == "adapter_model.safetensors":
        save_file({name: one.contiguous() for name, one in torch.load(wanted).items()}, lora / real)
        point(wanted)
    else:
        point(lora / "adapter_model.safetensors")
    if not real:
        point(wanted)
        with pytest.raises(FormatError, match=r"adapter_model.safetensors: is a Git-LFS pointer"):
            merge_lora(HF, [lora], tmp_path / "o")
        return
    done = merge_lora(HF, [lora], tmp_path / "o")
    assert any("Git-LFS pointer" in note and f"{real} is used" in note for note in done.plan.notes)
    right = merge_lora(HF, [ZH1], tmp_path / "right")
    assert [one.sha256 for one in done.report.receipts] == [one.sha256 for one in right.report.receipts]


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer.model"])
def test_small_files_of_an_adapter(tmp_path: Path, name: str) -> None:
    lora = copied(ZH1, tmp_path / "l")
    point(lora / name)
    with pytest.raises(FormatError, match=f"{name}: is a Git-LFS pointer"):
        merge_lora(HF, [lora], tmp_path / "o")


@pytest.mark.parametrize("name", ["params.json", "consolidated.00.pth", "../tokenizer.model"])
def test_metas_files(tmp_path: Path, name: str) -> None:
    copied(PEER / "meta", tmp_path / "m")
    point(tmp_path / "m" / "7B" / name)
    with pytest.raises(FormatError, match="is a Git-LFS pointer"):
        convert(tmp_path / "m" / "7B", tmp_path / "o", "hf")


def test_exact_differences(weightkit: Run, tmp_path: Path) -> None:
    words = ["make-diff", "--raw", HF, "--tuned", PEER / "tuned-fp16-bin", "--method", "exact", "--out", "d"]
    assert weightkit(*words).returncode == 0
    for name in [one.name for one in (tmp_path / "d").iterdir() if one.name not in ("SHA256SUMS", "TENSORS")]:
        diff = copied(tmp_path / "d", tmp_path / name.replace(".", "-"))
        point(diff / name)
        done = weightkit("recover", "--raw", HF, "--diff", diff, "--out", "o")
        assert done.returncode in (1, 3), name
        assert "Git-LFS pointer" in done.stderr, (name, done.stderr)
        assert not (tmp_path / "o").exists()


def test_identify_says_so(weightkit: Run, tmp_path: Path) -> None:
    folder = both(tmp_path)
    all_of_a_set(folder)
    assert "Git-LFS pointers, so not fetched: model-00001-of-00002.safetensors" in weightkit("identify", folder).stdout


def test_shards_of_two_sets(tmp_path: Path) -> None:
    folder = copied(HF, tmp_path / "x")
    (folder / INDEX).unlink()
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes((folder / FIRST).read_bytes())
    with pytest.raises(PlanError, match="shards of two sets"):
        convert(folder, tmp_path / "o", "hf")
