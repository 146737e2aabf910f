"""Short seeded runs of the rigs. Each is a process of its own: it forks, and so must not carry other tests' threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def rig(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kills() -> None:
    assert "6 kills, seed 1: 0 finds" in rig("tests.rigs.kills", "--kills", "2", "--jobs", "recover,merge,make-diff", "--small")


@pytest.mark.slow
@pytest.mark.skipif("WEIGHTKIT_RIGS" not in os.environ, reason="takes minutes on slow disks: set WEIGHTKIT_RIGS to run it")
def test_faults() -> None:
    assert "40 faults of" in rig("tests.rigs.faults", "--sample", "40", "--seed", "1", "--jobs", "xor-decode")


def test_limits() -> None:
    assert "limits, seed 1: 0 finds" in rig("tests.rigs.limits", "--jobs", "recover")


@pytest.mark.slow
def test_more_limits() -> None:
    assert "limits, seed 2: 0 finds" in rig("tests.rigs.limits", "--seed", "2", "--jobs", "merge,convert")


@pytest.mark.slow
def test_more_kills() -> None:
    assert "80 kills, seed 2: 0 finds" in rig("tests.rigs.kills", "--kills", "10", "--seed", "2")
