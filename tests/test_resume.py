"""Killed at any instant: nothing half-done stands under a final name, and the same command ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.big import sparse_folder
from tests.conftest import PEER, flip_bit
from weightkit.checkpoints.form import Form
from weightkit.core.errors import PlanError
from weightkit.recover import recover

TENSORS = {f"model.layers.{layer}.mlp.up_proj.weight": (5000, 4096) for layer in range(6)} | {"model.norm.weight": (4096,)}
FILES = 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return (
        sparse_folder(folder / "base", TENSORS, "float16", 1.0),
        sparse_folder(folder / "diff", TENSORS, "float32", 0.001, FILES),
    )


@pytest.fixture(scope="module")
def wanted(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "o"
    recover(*inputs, out)
    return (out / "SHA256SUMS").read_bytes()


def start(inputs: tuple[Path, Path], out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = ["recover", "--raw", str(inputs[0]), "--diff", str(inputs[1]), "--out", str(out), "--jobs", "1", *more]
    return subprocess.Popen([sys.executable, "-m", "weightkit", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("model-*.safetensors"))


def wait_for(process: subprocess.Popen[bytes], condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.002)


@pytest.mark.parametrize("moment", ["first partial", "first file", "second file"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_and_taken_up(
    inputs: tuple[Path, Path], wanted: bytes, tmp_path: Path, moment: str, how: signal.Signals
) -> None:
    out = tmp_path / "o"
    reached = {
        "first partial": lambda: any(out.glob(".model-*.partial")),
        "first file": lambda: len(shards(out)) >= 1,
        "second file": lambda: len(shards(out)) >= 2,
    }[moment]
    process = start(inputs, out)
    wait_for(process, reached)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0, "it was over before it could be killed"
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert errors.count(b"weightkit: ") == 1
        assert not list(out.glob(".*.partial"))
    sizes = {path.name: path.stat().st_size for path in shards(inputs[1])}
    before = {path: path.stat().st_ino for path in shards(out)}
    assert all(path.stat().st_size == sizes[path.name] for path in before)
    assert not (out / "SHA256SUMS").exists()
    again = start(inputs, out)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert (out / "SHA256SUMS").read_bytes() == wanted
    assert {path: path.stat().st_ino for path in before} == before, "files that were whole are kept"
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    check = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=False)
    assert check.returncode == 0


def interrupted(inputs: tuple[Path, Path], out: Path) -> None:
    process = start(inputs, out)
    wait_for(process, lambda: len(shards(out)) >= 1)
    process.kill()
    process.communicate()
    assert shards(out)


def test_a_file_that_was_damaged_meanwhile_is_made_again(inputs: tuple[Path, Path], wanted: bytes, tmp_path: Path) -> None:
    out = tmp_path / "o"
    interrupted(inputs, out)
    flip_bit(shards(out)[0], 100_000)
    recover(*inputs, out)
    assert (out / "SHA256SUMS").read_bytes() == wanted
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=False).returncode == 0


def test_another_plan_does_not_take_it_up(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "o"
    interrupted(inputs, out)
    os.utime(inputs[0] / "model.safetensors")
    with pytest.raises(PlanError, match="there already"):
        recover(*inputs, out)


def test_a_second_run_of_what_is_complete_finds_it_right_and_harms_nothing(tmp_path: Path) -> None:
    words = (PEER / "hf-bin", PEER / "diffs" / "knowlm", tmp_path / "o")
    recover(*words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    done = recover(*words)
    assert done.ok
    assert done.stood
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before
    with pytest.raises(PlanError, match="is there already"):
        recover(*words, form=Form("safetensors"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before
