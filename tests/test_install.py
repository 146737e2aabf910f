"""How weightkit gets onto a machine: what works without torch, and what is said where something is missing."""

from __future__ import annotations

import configparser
import json
import os
import pickle
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.conftest import PEER, Run
from weightkit.blobs import hub
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
        assert config["options.extras_require"][extra].split() == requirement.split()


def test_the_action_installs_what_is_required_but_torch_and_the_hubs_client() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = {re.split(r"[<>=]", one)[0] for one in config["options"]["install_requires"].split()}
    (line,) = (one for one in (ROOT / "action.yml").read_text().splitlines() if "install --quiet click" in one)
    assert set(line.partition("--quiet ")[2].split()) == required - {"torch", "huggingface_hub"}


CLIENTS = {
    "missing": ('raise ModuleNotFoundError("No module named huggingface_hub", name="huggingface_hub")', "is not installed"),
    "old": ('__version__ = "0.36.2"', "0.36.2 is too old"),
}
"""What stands where the Hub's client should, and what is said of it."""


@pytest.mark.parametrize("case", CLIENTS)
def test_the_hubs_client_is_asked_for_where_a_name_is_given(weightkit: Run, tmp_path: Path, case: str) -> None:
    source, said = CLIENTS[case]
    package = tmp_path / "no" / "huggingface_hub"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source + "\n")
    for name in ("constants", "errors", "file_download", "utils"):
        (package / f"{name}.py").touch()
    env = {"PYTHONPATH": str(tmp_path / "no")}
    for words in (
        ("inspect", "hf://org/base"),
        ("fetch", "zhixi-13b"),
        ("recover", "--raw", PEER / "hf-bin", "--release", "zhixi-13b", "--out", "o"),
    ):
        done = weightkit(*words, env=env)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert f"huggingface_hub{' ' if case == 'old' else ', which names on the Hub need, '}{said}" in line
        assert "'huggingface_hub>=1.1'" in line
    assert weightkit("inspect", PEER / "hf-bin", env=env).returncode == 0
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert hub.REQUIREMENT in config["options"]["install_requires"].split()


REGISTRY = re.compile(r"\b(?:pip|pipx|uv|poetry|conda)\b[^\n;`]*\b(?:install|add)\b[^\n;`]*(?<![./\w-])weightkit\b(?![./\w-])")
"""A command that takes weightkit from a package index, where it is not published."""

TOLD = (
    "README*.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "action.yml",
    "docs",
    "examples",
    "benchmarks",
    "scripts",
    "weightkit",
    ".github",
)


def test_nothing_tells_to_install_weightkit_from_a_registry() -> None:
    assert REGISTRY.search("pip install 'weightkit[exact]'")
    assert REGISTRY.search("uv pip install --python x weightkit")
    assert not REGISTRY.search("pip install -e /home/me/weightkit")
    for place in (one for pattern in TOLD for one in ROOT.glob(pattern)):
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.suffix in (".py", ".md", ".sh", ".yml", ".toml", ".ipynb"):
                assert not REGISTRY.search(path.read_text()), path


INSTALLERS = {
    "pip": ({"pip"}, "pip", (), [sys.executable, "-m", "pip", "install"]),
    "uv": (set(), "uv", (), ["uv", "pip", "install", "--python", sys.executable]),
    "uv, pip too": ({"pip"}, "uv", ("pip",), ["uv", "pip", "install", "--python", sys.executable]),
    "poetry, where uv is": (set(), "poetry 2", ("uv", "pip"), ["uv", "pip", "install", "--python", sys.executable]),
    "poetry, where pip is": (set(), "poetry 2", ("pip",), ["pip", "--python", sys.executable, "install"]),
    "nothing": (set(), "", (), []),
}
"""Modules that are there, who installed weightkit, programs that are there -> how a package is added."""


@pytest.mark.parametrize("case", INSTALLERS)
def test_what_is_said_to_install_is_a_command_of_this_installation(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    modules, by, programs, words = INSTALLERS[case]
    monkeypatch.setattr(installed, "note", {"INSTALLER": f"{by}\n"}.get)
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: name if name in modules else None)
    monkeypatch.setattr(installed.shutil, "which", lambda name: name if name in programs else None)
    assert installed.installer() == words
    said = installed.adding("zstandard>=0.20")
    assert said == shlex.join([*words, "zstandard>=0.20"]) if words else f"install 'zstandard>=0.20' for {sys.executable}"
    assert installed.adding_extra("exact") == said


def test_pipx_is_asked_to_inject(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pipx_metadata.json").write_text("{}")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert installed.adding_extra("exact") == "pipx inject weightkit 'zstandard>=0.20'"


def test_in_a_clone_an_extra_comes_from_the_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "my clone"
    folder.mkdir()
    (folder / "setup.cfg").touch()
    written = json.dumps({"url": folder.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(installed, "note", {"direct_url.json": written, "INSTALLER": "pip"}.get)
    assert installed.adding_extra("exact") == shlex.join([sys.executable, "-m", "pip", "install", "-e", f"{folder}[exact]"])
    (folder / "setup.cfg").unlink()  # the clone is gone
    assert installed.adding_extra("exact") == shlex.join([sys.executable, "-m", "pip", "install", "zstandard>=0.20"])
