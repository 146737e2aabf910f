"""What a caller says where a folder of this machine is wanted, and what to do about something else."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from weightkit.core.errors import PlanError

__all__ = ["local_path"]

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_PAGES = ("huggingface.co/", "hf.co/", "www.huggingface.co/")


def local_path(place: str | os.PathLike[str], role: str, *, there: bool = True) -> Path:
    """A path of this machine.

    Args:
        place: What the caller said.
        role: What it is to the caller, for messages: ``--raw``.
        there: Whether it must exist.

    Raises:
        PlanError: It is empty, an address, or not there. The name of a Hub's repository is told as what it is.
    """
    text = os.fspath(place)
    if not text:
        raise PlanError(f"{role} is empty", hint="name a path; perhaps a variable of the shell is not set")
    refuse_address(text, role)
    path = Path(text)
    if not there or path.exists():
        return path
    near = meant(path)
    if near is None and HUB_NAME.fullmatch(text) and not path.parent.exists():
        raise PlanError(
            f"{role}: {text} does not exist here; it looks like a repository of the Hugging Face Hub",
            path=text,
            hint=f"write hf://{text} where it is fetched, or {fetch(text)}",
        )
    raise PlanError(f"{role}: {path} does not exist", path=path, hint=near)


def meant(path: Path) -> str | None:
    """What a path that leads nowhere was meant to be: with its ``~``, or with one name in it as it is there."""
    if path.parts[:1] == ("~",) and (home := path.expanduser()).exists():
        return f"did you mean {home}? A ~ is for the shell"
    above = next((one for one in path.parents if one.is_dir()), None)
    if above is None:
        return None
    wrong, *rest = path.relative_to(above).parts
    try:
        there = sorted(one.name for one in above.iterdir() if not one.name.startswith("."))
    except OSError:
        return None
    near = (above.joinpath(one, *rest) for one in get_close_matches(wrong, there, cutoff=0.75))
    return next((f"did you mean {one}?" for one in near if one.exists()), None)


def refuse_address(text: str, role: str) -> None:
    """Refuse what lies on another machine.

    Raises:
        PlanError: It does.
    """
    if not (found := ADDRESS.fullmatch(text)):
        return
    scheme, rest = found.groups()
    page = next((page for page in HUB_PAGES if scheme in ("http", "https") and rest.startswith(page)), None)
    name = rest if scheme == "hf" else rest.removeprefix(page) if page else ""
    repository, _, revision = "/".join(name.split("/")[:2]).partition("@")
    if HUB_NAME.fullmatch(repository):
        raise PlanError(
            f"{role}: {text} is on the Hugging Face Hub, and a path of this machine is wanted",
            path=text,
            hint=fetch(repository, revision),
        )
    raise PlanError(
        f"{role}: {text} is an address, and a path of this machine is wanted",
        path=text,
        hint="fetch it first, and name the folder",
    )


def fetch(repository: str, revision: str = "") -> str:
    """What downloads a repository of the Hub."""
    at = f"@{revision}" if revision else ""
    return f"fetch it first: weightkit fetch hf://{repository}{at} --out {repository.rpartition('/')[2]}"
