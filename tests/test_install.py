"""How weightkit gets onto a machine: what works without torch, and what is said where something is missing."""

from __future__ import annotations

import configparser
import os
import pickle
from pathlib import Path

import pytest

from tests.conftest import PEER, Run
from weightkit.core import installed
from weightkit.core.errors import TorchError

ROOT = Path(__file__).resolve().parents[1]

TORCHES = {
    "missing": 'raise ModuleNotFoundError("No module named torch", name="torch")',
    "broken": 'raise OSError("libtorch_cpu.so: cannot open shared object file: No such file or directory")',
    "half": "import no_such_module_of_torch",
    "crooked": "def (",
    "another": "x = 1",
}
"""What stands where torch should: as Python finds it where there is none, and ways in which it fails to load."""

NEED_TORCH = {
    "recover": ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "--out", "o"),
    "merge": ("merge", "--raw", PEER / "hf-bin", "--lora", PEER / "lora-alpaca-bin", "--out", "o"),
    "make-diff": ("make-diff", "--raw", PEER / "hf-bin", "--tuned", PEER / "tuned-fp16-bin", "--out", "o"),
}

NEED_NONE = {
    "verify": ("verify", "--release", "zhixi-13b", "--no-fail-on-missing", PEER / "hf-bin"),
    "identify": ("identify", PEER / "hf-bin"),
    "inspect": ("inspect", PEER / "hf-bin"),
    "manifest": ("manifest", PEER / "hf-bin"),
    "releases": ("releases", "zhixi-13b"),
    "xor": ("xor", "--help"),
}


def spoilt_torch(folder: Path, source: str) -> dict[str, str]:
    """An environment in which ``import torch`` does this."""
    folder.mkdir(exist_ok=True)
    (folder / "torch.py").write_text(source + "\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.mark.parametrize("command", NEED_TORCH)
@pytest.mark.parametrize("torch", TORCHES)
def test_torch_that_is_not_fit_is_one_line(weightkit: Run, tmp_path: Path, torch: str, command: str) -> None:
    done = weightkit(*NEED_TORCH[command], env=spoilt_torch(tmp_path / "no", TORCHES[torch]))
    assert done.returncode == 1
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("weightkit:")]
    assert "torch" in line
    assert line.count("install 'torch>=2.1'") == 2
    assert "whl/cpu" in line
    assert not list((tmp_path / "o").glob("*.bin")) if (tmp_path / "o").exists() else True


@pytest.mark.parametrize("command", NEED_NONE)
def test_what_needs_no_torch_works_without(weightkit: Run, tmp_path: Path, command: str) -> None:
    done = weightkit(*NEED_NONE[command], env=spoilt_torch(tmp_path / "no", TORCHES["missing"]))
    assert "torch" not in done.stderr
    assert done.returncode in ((0, 3) if command == "verify" else (0,))


def test_what_a_torch_error_says_survives_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(TorchError("found", "do")))
    assert (str(error), error.problem, error.hint) == ("found; do", "found", "do")


def test_extras_are_those_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for extra, requirement in installed.EXTRAS.items():
        assert config["options.extras_require"][extra].split() == [requirement]


def test_no_source_tells_to_install_weightkit_from_a_registry() -> None:
    for path in (ROOT / "weightkit").rglob("*.py"):
        assert "install 'weightkit" not in path.read_text(), path
