"""What many tests share: the data, the command line through a real process, bits of tensors."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.warm import Warm
from weightkit.core.errors import WeightkitError

DATA = Path(__file__).parent / "data"
PEER = DATA / "peer"
GOLDEN = DATA / "torch-golden"

Run = Callable[..., subprocess.CompletedProcess[str]]


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, row-major."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "WEIGHTKIT_RIGS" not in os.environ:
        for item in items:
            if item.get_closest_marker("rig"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: set WEIGHTKIT_RIGS to run it"))


@pytest.fixture(autouse=True)
def errors_in_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name options, as they are written; ``test_python.py`` looks at what Python is told."""
    monkeypatch.setattr(WeightkitError, "in_options", True)


@pytest.fixture
def weightkit(tmp_path: Path) -> Run:
    """Runs the command line in a process of its own; whatever it says, it must not be a traceback."""

    def run(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **{str(k): str(v) for k, v in dict(more.pop("env", {})).items()}}  # type: ignore[call-overload]
        command = [sys.executable, "-m", "weightkit", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm() as found:
        yield found


@pytest.fixture
def warm_weightkit(tmp_path: Path, warm: Warm) -> Run:
    """Runs the command line in a process of its own, which need not import torch anew; it must not end in a traceback."""

    def run(*words: object, env: Any = None) -> subprocess.CompletedProcess[str]:
        done = warm.run(*words, env={**os.environ, **(env or {})}, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the good base with one file spoilt."""

    def make(way: str) -> Path:
        folder = tmp_path / way
        shutil.copytree(PEER / "hf-bin", folder)
        if way == "missing-shard":
            (folder / "pytorch_model-00001-of-00004.bin").unlink()
        else:
            shutil.copytree(PEER / "bad" / way, folder, dirs_exist_ok=True)
        return folder

    return make
