"""What a download left empty, unfilled, or as a web page is named as that: no base, key or index is blamed for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import PEER, Run

HF, DIFFS, THIRD = PEER / "hf-bin", PEER / "diffs", "pytorch_model-00003-of-00004.bin"


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def said(weightkit: Run, diff: Path, base: Path = HF) -> str:
    """What is said of it; the base is not blamed."""
    done = weightkit("recover", "--raw", base, "--diff", diff, "--out", "o")
    assert done.returncode == 1, done.stdout
    assert "is not the base" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("kind", ["oasst", "oasst-gzip", "enc", "knowlm"])
def test_an_empty_file_of_weights(weightkit: Run, tmp_path: Path, kind: str) -> None:
    diff = copied(DIFFS / kind, tmp_path / "d")
    (next(diff.glob(f"{THIRD}*"), diff / "pytorch_model.bin")).write_bytes(b"")
    text = said(weightkit, diff, PEER / "meta" / "7B" if kind == "enc" else HF)
    assert "empty" in text
    assert "download" in text


@pytest.mark.parametrize("kind", ["oasst", "knowlm"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "tokenizer_config.json"])
def test_an_empty_small_file(weightkit: Run, tmp_path: Path, kind: str, name: str) -> None:
    diff = copied(DIFFS / kind, tmp_path / "d")
    (diff / name).write_bytes(b"")
    text = said(weightkit, diff)
    assert name in text
    assert "empty" in text


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_a_web_page(weightkit: Run, tmp_path: Path, name: str) -> None:
    diff = copied(DIFFS / "knowlm", tmp_path / "d")
    (diff / name).write_bytes(b"<!DOCTYPE html>\n<html>Sign in</html>")
    assert f"{name}: is a web page" in said(weightkit, diff)


def test_an_empty_file_of_the_base(weightkit: Run, tmp_path: Path) -> None:
    base = copied(HF, tmp_path / "b")
    (base / THIRD).write_bytes(b"")
    assert "--raw: not all files were fetched" in said(weightkit, DIFFS / "oasst", base)


@pytest.mark.parametrize("which", ["alone", "shard"])
def test_an_additive_diff_that_was_never_filled(weightkit: Run, tmp_path: Path, which: str) -> None:
    """Its size is right, its bytes are zeros, as an XOR payload begins with them."""
    diff = copied(DIFFS / ("knowlm" if which == "alone" else "fastchat-sharded"), tmp_path / "d")
    file = diff / ("pytorch_model.bin" if which == "alone" else "pytorch_model-00001-of-00002.bin")
    file.write_bytes(bytes(file.stat().st_size))
    text = said(weightkit, diff)
    assert file.name in text
    assert "zeros" in text
    assert "never filled" in text or "download these again" in text


def test_an_xor_payload_that_was_never_filled(weightkit: Run, tmp_path: Path) -> None:
    """The base's own file comes out of it: nobody can tell, so it is said."""
    diff = copied(DIFFS / "oasst", tmp_path / "d")
    (diff / THIRD).write_bytes(bytes((diff / THIRD).stat().st_size))
    done = weightkit("recover", "--raw", HF, "--diff", diff, "--out", "o")
    assert f"{THIRD}: zeros wherever it was looked at" in done.stdout
    assert "zeros wherever" not in weightkit("recover", "--raw", HF, "--diff", DIFFS / "oasst", "--out", "p").stdout


def test_payloads_are_compared_file_by_file(weightkit: Run, tmp_path: Path) -> None:
    """Their index is XORed, too: that it is no index is no fault of it."""
    diff = copied(DIFFS / "oasst", tmp_path / "d")
    (diff / THIRD).write_bytes((diff / THIRD).read_bytes() + b"\0")
    done = weightkit("explain", diff, "--against", DIFFS / "oasst")
    assert done.returncode == 3
    assert "is no index" not in done.stdout
    assert f"an XOR payload, so file by file: of {THIRD} the bytes differ; 10 files are the same" in done.stdout
    assert weightkit("explain", DIFFS / "oasst", "--against", DIFFS / "oasst").returncode == 0
