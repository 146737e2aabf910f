"""A container format and a way of publishing that another package brings, used through the command line.

The package is laid out as pip installs one: modules, and a ``.dist-info`` folder with its entry points.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import PEER, Run, bits

TOY = Path(__file__).parent / "toy"
BASE = PEER / "hf-bin"
TUNED = PEER / "tuned-fp16-bin"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the toy package installed in it."""
    site = tmp_path / "site"
    site.mkdir()
    for module in TOY.glob("*.py"):
        shutil.copy(module, site)
    info = site / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[weightkit.containers]\ntoy = toy_container:FORMAT\n\n[weightkit.methods]\nbackwards = toy_method:METHOD\n"
    )
    return site


def test_its_format_is_written_and_read(weightkit: Run, site: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(site)}
    done = weightkit("convert", BASE, "toys", "--to", "hf", "--format", "toy", env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(one.name for one in (tmp_path / "toys").glob("*.toy")) == [f"toys-{n:05d}-of-00004.toy" for n in range(1, 5)]
    shown = weightkit("inspect", "toys", env=env)
    assert "toys-00001-of-00004.toy" in shown.stdout
    assert "written by the toy package" in shown.stdout
    back = weightkit("convert", "toys", "back", "--to", "hf", "--format", "safetensors", "--max-shard-size", "1GB", env=env)
    assert back.returncode == 0, back.stderr
    found = load_file(tmp_path / "back" / "model.safetensors")
    for shard in sorted(BASE.glob("*.bin")):
        for name, tensor in torch.load(shard, weights_only=True).items():
            assert bits(found[name]) == bits(tensor), name


def test_without_the_package_its_format_is_not_known(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("convert", BASE, "toys", "--to", "hf", "--format", "toy")
    assert done.returncode == 2
    assert "known: bin, safetensors" in done.stderr


def test_its_method_makes_and_recovers(weightkit: Run, site: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(site)}
    done = weightkit("make-diff", "--raw", BASE, "--tuned", TUNED, "--out", "diff", "--method", "backwards", env=env)
    assert done.returncode == 0, done.stderr
    done = weightkit("recover", "--raw", BASE, "--diff", "diff", "--out", "release", env=env)
    assert done.returncode == 0, done.stderr
    assert "a difference the other way round: it holds BACKWARDS" in done.stdout
    for shard in sorted(TUNED.glob("*.bin")):
        base = {k: v for one in sorted(BASE.glob("*.bin")) for k, v in torch.load(one, weights_only=True).items()}
        found = torch.load(tmp_path / "release" / shard.name, weights_only=True)
        for name, tensor in torch.load(shard, weights_only=True).items():
            assert bits(found[name]) == bits(base[name] - (base[name] - tensor)), name


def test_the_guide_counts_files_right() -> None:
    """What CONTRIBUTING says it takes to add a format or a method is what the toy package took."""
    guide = (TOY.parents[1] / "CONTRIBUTING.md").read_text()
    for what, entry in (("a container format", "FORMAT = "), ("a way in which releases are published", "METHOD = ")):
        row = re.search(rf"^\| {what} \|.*\| (\d+) \| (\d+) \|$", guide, re.MULTILINE)
        assert row, what
        assert int(row[2]) == sum(entry in module.read_text() for module in TOY.glob("*.py"))
        assert int(row[1]) == int(row[2]) + 1  # and the tuple that names it
