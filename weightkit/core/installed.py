"""How this installation was made, and so the command that adds a package to it.

An installer leaves notes beside a distribution: INSTALLER names it, direct_url.json says where the distribution came from.
Source: packaging.python.org, "Recording installed projects" and "Direct URL Data Structure"; pipx keeps
``pipx_metadata.json`` at the root of an environment.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["EXTRAS", "adding", "adding_extra", "clone", "installer"]

DISTRIBUTION = "weightkit"

EXTRAS = {
    "blake3": "blake3>=0.4",
    "exact": "zstandard>=0.20",
    "gguf": "gguf>=0.17",
    "sign": "cryptography>=43",
    "try": "transformers>=5.23 sentencepiece>=0.2 protobuf>=4",
}
"""What an extra brings that the package itself can do without, with spaces between; as setup.cfg has it."""

UV = ["uv", "pip", "install", "--python", sys.executable]


def note(name: str) -> str:
    """What the installer wrote beside the distribution; empty where there is no such note, or no distribution."""
    try:
        return importlib.metadata.distribution(DISTRIBUTION).read_text(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def clone() -> Path | None:
    """The clone that is installed in place (``pip install -e``); None where what runs is a copy."""
    try:
        written = json.loads(note("direct_url.json") or "{}")
        address = urlsplit(written["url"])
        editable = written["dir_info"]["editable"]
    except (ValueError, KeyError, TypeError):
        return None
    folder = Path(unquote(address.path))
    return folder if editable and address.scheme == "file" and (folder / "setup.cfg").is_file() else None


def installer() -> list[str]:
    """The words before what is to be installed: pip's of this interpreter, uv's or pipx's, another pip's; else none."""
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        return ["pipx", "inject", DISTRIBUTION]
    if note("INSTALLER").strip() == "uv":
        return UV
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    if shutil.which("uv") is not None:
        return UV
    return ["pip", "--python", sys.executable, "install"] if shutil.which("pip") is not None else []


def adding(*requirements: str) -> str:
    """A command, fit for a shell, that installs packages where weightkit runs."""
    words = installer()
    return shlex.join([*words, *requirements]) if words else f"install {shlex.join(requirements)} for {sys.executable}"


def adding_extra(extra: str) -> str:
    """A command that installs what an extra brings: from the clone that is installed in place, else the package itself."""
    folder = clone()
    words = installer()
    if folder is None or words[:1] in ([], ["pipx"]):
        return adding(*EXTRAS[extra].split())
    return shlex.join([*words, "-e", f"{folder}[{extra}]"])
