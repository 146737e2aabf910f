"""Short seeded runs of the rigs. Each is a process of its own: it forks, and so must not carry other tests' threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs.inject import compiler

ROOT = Path(__file__).parents[1]


def rig(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kills() -> None:
    assert "6 kills, seed 1: 0 finds" in rig("tests.rigs.kills", "--kills", "2", "--jobs", "recover,merge,make-diff", "--small")


def test_faults() -> None:
    assert "seed 1: 0 finds" in rig("tests.rigs.faults", "--sample", "16", "--seed", "1", "--jobs", "recover,xor-decode")


@pytest.mark.skipif(compiler() is None, reason="only the shim sees the calls, and there is no C compiler to build it")
def test_order() -> None:
    assert "files in order, 0 finds" in rig("tests.rigs.order", "--jobs", "recover,make-diff")


def test_what_is_broken_is_found() -> None:
    only = "writes under the final name,no lock,replaces what was there"
    assert "3 ways, seed 1: 0 missed" in rig("tests.rigs.broken", "--seed", "1", "--only", only)


@pytest.mark.rig
def test_all_that_is_broken_is_found() -> None:
    assert "seed 2: 0 missed" in rig("tests.rigs.broken", "--seed", "2")


@pytest.mark.rig
def test_more_faults() -> None:
    assert "seed 2: 0 finds" in rig("tests.rigs.faults", "--sample", "80", "--seed", "2")


def test_limits() -> None:
    assert "limits, seed 1: 0 finds" in rig("tests.rigs.limits", "--jobs", "recover")


@pytest.mark.rig
def test_more_limits() -> None:
    assert "limits, seed 2: 0 finds" in rig("tests.rigs.limits", "--seed", "2", "--jobs", "merge,convert")


@pytest.mark.rig
def test_more_kills() -> None:
    assert "80 kills, seed 2: 0 finds" in rig("tests.rigs.kills", "--kills", "10", "--seed", "2")
