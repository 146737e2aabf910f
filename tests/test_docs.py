"""What the README shows is what happens; what ships is what the house has."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import Run
from weightkit import manifests
from weightkit.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
VARYING = [
    (r"in \d+\.\d s", "in 0.0 s"),
    (r"[\d.]+ .?B free: enough", "0 GB free: enough"),
    (r"memory  [\d.]+ MB", "memory  0 MB"),  # the process is measured: another torch is another number
]


def plain(text: str) -> str:
    """Without what differs from run to run: seconds, memory, and room on the disk."""
    for pattern, put in VARYING:
        text = re.sub(pattern, put, text)
    return text.strip()


def test_readme_shows_what_happens(weightkit: Run, tmp_path: Path) -> None:
    weightkit("demo", "--keep", ".")
    for name in ("release", "release-2"):
        subprocess.run(["rm", "-r", str(tmp_path / name)], check=True)
    from weightkit.cli.demo_model import flip_bit

    flip_bit(tmp_path / "base" / "pytorch_model.bin")  # back, after the demo flipped it
    shown = re.findall(r"```console\n\$ weightkit (.*?)\n(.*?)```", README, re.DOTALL)
    assert len(shown) >= 4
    for words, output in shown:
        done = weightkit(*words.split())
        assert done.returncode == 0, done.stderr
        assert plain(done.stdout) == plain(output)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pytorch_model.bin" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_a_place_in_the_docs(weightkit: Run, command: str) -> None:
    text = weightkit(command, "--help").stdout
    assert text.count("\n") > 5
    assert f"weightkit {command}" in README
    common = {"--help", "--json", "--quiet", "--verbose", "--jobs", "--overwrite", "--max-memory", "--dtype", "--raw", "--diff"}
    for option in set(re.findall(r"--[a-z-]+", text)) - common - {"--out", "--tuned", "--keep", "--to"}:
        assert option in README, option


def test_every_package_ships() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "weightkit").rglob("__init__.py")}
    assert listed == found | {"weightkit.checksums"}


def test_published_lists_ship_and_are_sound() -> None:
    lists = sorted((ROOT / "checksums").glob("*/*SUMS"))
    assert lists
    for path in lists:
        assert manifests.read(path)
        assert path.read_text().startswith("# ")
        assert files("weightkit.checksums") / path.parent.name / path.name
    found = files("weightkit.checksums") / "zhixi-13b" / "MD5SUMS"
    assert "b19e56ec888b44bfe5c1db49eb4a3195" in found.read_text()


def test_torch_save_and_load_are_never_called() -> None:
    for path in (ROOT / "weightkit").rglob("*.py"):
        assert not re.search(r"torch\.(save|load)\(", path.read_text()), path
