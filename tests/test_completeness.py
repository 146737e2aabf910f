"""Completeness is part of every proof: what the index, the numbers in names and a release's list name must all be there."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from tests.conftest import PEER, Run
from weightkit.convert import convert
from weightkit.core.errors import Incomplete
from weightkit.proof.completeness import named_by_index, siblings

THIRD = "pytorch_model-00003-of-00004.bin"


def without(source: Path, target: Path, pattern: str) -> Path:
    """A copy of a folder that lacks some files."""
    shutil.copytree(source, target)
    gone = list(target.glob(pattern))
    assert gone
    for path in gone:
        path.unlink()
    return target


@pytest.mark.parametrize(
    ("diff", "base", "index"), [("enc", "meta/7B", False), ("oasst", "hf-bin", True), ("oasst-gzip", "hf-bin", True)]
)
def test_an_xor_release_with_a_shard_missing_is_exit_3(
    weightkit: Run, tmp_path: Path, diff: str, base: str, index: bool
) -> None:
    payload = without(PEER / "diffs" / diff, tmp_path / "d", f"{THIRD}*")
    for words in (["recover", "--raw", PEER / base, "--diff", payload], ["xor", "decode", payload, "--key", PEER / base]):
        done = weightkit(*words, "--out", "o")
        assert done.returncode == 3
        assert THIRD in done.stderr
        assert "weight_map" in done.stderr or not index
        assert not (tmp_path / "o").exists()


def test_the_index_alone_tells(weightkit: Run, tmp_path: Path) -> None:
    """Here no number in a name does: not one shard is there."""
    payload = without(PEER / "diffs" / "oasst", tmp_path / "d", "pytorch_model-*")
    done = weightkit("xor", "decode", payload, "--key", PEER / "hf-bin", "--out", "o", "--format", "block")
    assert done.returncode == 3
    assert "pytorch_model-00001-of-00004.bin" in done.stderr


def test_one_file_of_a_release_may_be_decoded(weightkit: Run, tmp_path: Path) -> None:
    one = next((PEER / "diffs" / "enc").glob(f"{THIRD}*"))
    done = weightkit("xor", "decode", one, "--key", PEER / "meta" / "7B", "--out", "o")
    assert done.returncode == 0
    assert (tmp_path / "o" / THIRD).is_file()


def test_verify_misses_what_the_index_names(weightkit: Run, tmp_path: Path) -> None:
    folder = without(PEER / "hf-bin", tmp_path / "d", THIRD)
    assert weightkit("manifest", folder, "-o", folder / "SHA256SUMS").returncode == 0
    done = weightkit("verify", folder)
    assert done.returncode == 3
    assert f"missing  {THIRD}" in done.stdout
    assert weightkit("verify", folder, "--no-fail-on-missing").returncode == 0
    for name in ("pytorch_model.bin.index.json", "SHA256SUMS"):
        (folder / name).unlink()
    assert weightkit("manifest", folder, "-o", folder / "SHA256SUMS").returncode == 0
    done = weightkit("verify", folder)  # the numbers in the names alone
    assert done.returncode == 3
    assert f"missing  {THIRD}" in done.stdout


def test_an_index_of_another_container_is_no_complaint(weightkit: Run, tmp_path: Path) -> None:
    """A repository with both kinds of files, of which one was downloaded, indexes and all."""
    folder = tmp_path / "d"
    shutil.copytree(PEER / "hf-bin", folder)
    other = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(other))
    assert weightkit("manifest", folder, "-o", folder / "SHA256SUMS").returncode == 0
    assert weightkit("verify", folder).returncode == 0


def test_names_say_how_many_there_are() -> None:
    assert siblings(["a/m-00001-of-00003.bin", "m.bin"]) == [
        "a/m-00001-of-00003.bin",
        "a/m-00002-of-00003.bin",
        "a/m-00003-of-00003.bin",
    ]
    assert siblings(["m-00000-of-00001.safetensors"]) == ["m-00000-of-00001.safetensors"]  # counted from 0
    assert len(siblings(["m-00001-of-99999.bin"])) < 2000


@pytest.mark.parametrize("text", [b"", b"[]", b'{"weight_map": []}', b"[" * 99999, b'{"weight_map": {"a": 1}}', b"\xff"])
def test_what_is_no_index_names_nothing(text: bytes) -> None:
    assert named_by_index("model.bin.index.json", text) == []


def test_the_error_travels() -> None:
    error = pickle.loads(pickle.dumps(Incomplete("o", ["a", "b"], "the index")))
    assert (error.path, error.missing) == ("o", ("a", "b"))
    assert "a, b" in str(error)


INDEXED, NUMBERED = "pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.bin"
SHARDED, ADAPTER, TUNED = PEER / "diffs" / "fastchat-sharded", PEER / "lora-alpaca-bin", PEER / "tuned-fp16-bin"


@pytest.mark.parametrize("gone", [[THIRD], [THIRD, INDEXED]], ids=["index", "numbers"])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["recover", "--raw", PEER / "hf-bin", "--diff", "X"], 3),
        (["convert", "X", "--to", "meta"], 3),
        (["make-diff", "--raw", PEER / "hf-bin", "--tuned", "X"], 3),
        (["make-diff", "--raw", PEER / "hf-bin", "--tuned", "X", "--method", "exact"], 3),
        (["xor", "encode", "X", "--key", PEER / "hf-bin", "--format", "block"], 3),
        (["recover", "--raw", "X", "--diff", PEER / "diffs" / "knowlm"], 1),
        (["recover", "--raw", "X", "--diff", PEER / "diffs" / "oasst"], 1),
        (["merge", "--base", "X", "--lora", ADAPTER], 1),
        (["make-diff", "--raw", "X", "--tuned", TUNED], 1),
        (["make-diff", "--raw", "X", "--tuned", TUNED, "--method", "xor-block"], 1),
        (["xor", "encode", TUNED, "--key", "X", "--format", "block"], 1),
    ],
    ids=lambda words: " ".join(str(one) for one in words if "/" not in str(one)) if isinstance(words, list) else "",
)
def test_a_shard_is_missing(weightkit: Run, tmp_path: Path, words: list[object], status: int, gone: list[str]) -> None:
    """Of what was published or is to be: 3. Of the base: 1, as of all that does not fit. Nothing is written, nothing copied."""
    shutil.copytree(PEER / "hf-bin", tmp_path / "X")
    for name in gone:
        (tmp_path / "X" / name).unlink()
    done = weightkit(*words, "--out", "o")
    assert done.returncode == status, done.stderr
    assert THIRD in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("side", ["raw", "src"])
def test_a_part_of_metas_is_missing(weightkit: Run, tmp_path: Path, side: str) -> None:
    convert(PEER / "hf-bin", tmp_path / "m", "meta", parts=2)
    (tmp_path / "m" / "consolidated.00.pth").unlink()
    words = ["convert", "m", "o", "--to", "hf"] if side == "src" else ["merge", "--base", "m", "--lora", ADAPTER, "--out", "o"]
    done = weightkit(*words)
    assert done.returncode == (3 if side == "src" else 1)
    assert "consolidated.00.pth not there" in done.stderr


def test_an_adapter_without_its_weights(weightkit: Run, tmp_path: Path) -> None:
    folder = without(ADAPTER, tmp_path / "l", "adapter_model.*")
    done = weightkit("merge", "--base", PEER / "hf-bin", "--lora", folder, "--out", "o")
    assert done.returncode == 3
    assert "adapter_model.safetensors or adapter_model.bin not there" in done.stderr


def test_the_same_in_json(weightkit: Run, tmp_path: Path) -> None:
    folder = without(SHARDED, tmp_path / "d", NUMBERED)
    done = weightkit("recover", "--raw", PEER / "hf-bin", "--diff", folder, "--out", "o", "--json")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "incomplete"
    assert error["hint"] == "fetch it"


def test_a_folder_is_the_same_as_itself_though_a_shard_is_missing(weightkit: Run, tmp_path: Path) -> None:
    folder = without(PEER / "hf-bin", tmp_path / "d", THIRD)
    done = weightkit("explain", folder, "--against", folder)
    assert done.returncode == 0, done.stdout
    assert "file by file: ;" not in done.stdout


def cut(folder: Path, gone: str) -> Path:
    """A folder whose index was cut with its shard: nothing but the numbers in the other names tells."""
    (folder / gone).unlink()
    index = json.loads((folder / INDEXED).read_text())
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != gone}
    (folder / INDEXED).write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["recover", "--raw", PEER / "hf-bin", "--diff", "X"], 3),
        (["make-diff", "--raw", PEER / "hf-bin", "--tuned", "X"], 3),
        (["recover", "--raw", "X", "--diff", PEER / "diffs" / "knowlm"], 1),
        (["merge", "--base", "X", "--lora", ADAPTER], 1),
    ],
    ids=["diff", "tuned", "raw", "base"],
)
def test_an_index_that_was_cut_is_no_excuse(weightkit: Run, tmp_path: Path, words: list[object], status: int) -> None:
    """Nor is the other side blamed, a base or an adapter that does not fit what is left."""
    shutil.copytree(SHARDED, tmp_path / "X")
    cut(tmp_path / "X", NUMBERED)
    done = weightkit(*words, "--out", "o")
    assert done.returncode == status
    assert f"X: is not complete: {NUMBERED} not there" in done.stderr
