"""The receipt: what was run, on what, and what came of it; nothing by which the machine or its user can be told."""

from __future__ import annotations

import datetime
import getpass
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.field.harness import Field, Found

OUTCOMES = ("proved", "partly proved", "rebuilt", "mismatch", "refused", "skipped")
"""Every file of weights has its published digest; those have it that are listed; no digest is published; one is another;
weightkit said no; not run."""

PATHS = re.compile(r"(?<![\w.-])(?:~|[A-Za-z]:\\|/)[\w.~-]+[/\\]|(?<![\w.-])/[\w.~-]+|\\\\\w|file://|@[\w.-]+\.\w")
"""What looks like a path from a root, a home, another machine, or an address of mail."""

LEFT_OUT = "left out: it may name a folder"

KEYS = {
    "": "schema date weightkit commit python torch system machine processors memory_gb inputs releases",
    "inputs": "name ok FAILED missing",
    "releases": "name inputs status seconds peak_memory_bytes outcome kind why files digests differ unproved",
    "files": "path bytes sha256",
    "digests": "ok FAILED missing extra",
    "differ": "path status algorithm expected actual",
}
"""Where -> the keys that may be there."""


def receipt(field: Field, releases: Sequence[Found]) -> Found:
    """The receipt of a visit."""
    return {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "weightkit": installed("weightkit"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": installed("torch"),
        "system": platform.system(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "inputs": list(field.inputs.values()),
        "releases": [told(one) for one in releases],
    }


def installed(distribution: str) -> str | None:
    """The version of what is installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the clone; None where git does not say, or what runs is not what was committed."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    return git("rev-parse", "HEAD") if git("status", "--porcelain", "--untracked-files=no") == "" else None


def texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)


def names_here() -> list[str]:
    """Words by which this machine or its user can be told; the shortest are words of any language."""
    return [one for one in (socket.gethostname(), getpass.getuser(), str(Path.home())) if len(one) > 4]


def private(text: str, names: Sequence[str]) -> bool:
    """Whether a text has one of these names, or what looks like a path or an address."""
    return bool(PATHS.search(text)) or any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)


def told(found: Found) -> Found:
    """What was found of a release, with no message that may tell more than it should."""
    return {**found, "why": LEFT_OUT} if private(found.get("why", ""), names_here()) else found


def checked(found: Found, names: Sequence[str] | None = None) -> Found:
    """A receipt, if nothing in it is private or unknown.

    Args:
        found: It.
        names: What it must not have; None: the names of this machine, its user and home.

    Raises:
        ValueError: Something is.
    """
    for text in texts(found):
        if private(text, names_here() if names is None else names):
            raise ValueError(f"may name a machine or its user: {text!r}")
    keys_are_known(found, "")
    for one in found["releases"]:
        if one["outcome"] not in OUTCOMES:
            raise ValueError(f"no outcome is called {one['outcome']!r}")
    return found


def keys_are_known(value: Found, where: str) -> None:
    """Refuse a key that a receipt does not have."""
    if unknown := set(value) - set(KEYS[where].split()):
        raise ValueError(f"no receipt has {', '.join(sorted(unknown))} {f'in {where}' if where else ''}".strip())
    for key, inside in value.items():
        for one in inside if isinstance(inside, list) else [inside]:
            if isinstance(one, dict):
                keys_are_known(one, key)
