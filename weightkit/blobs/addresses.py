"""Addresses of what lies on another machine: ``hf://owner/name[@revision][/path]``, pages of the Hub, ``https://`` files.

Source: huggingface_hub 2.4.0, ``HfFileSystem`` (the form of ``hf://``); a revision with ``/`` in it is written ``%2F`` there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote

from weightkit.core.errors import PlanError

__all__ = ["HubAddress", "WebAddress", "address_of", "is_address"]

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
PART = re.compile(r"[A-Za-z0-9][\w.-]*")
PAGE = re.compile(r"https://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<rest>.+)")
KINDS = ("tree", "blob", "resolve")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """A repository of the Hub, or something in it.

    Attributes:
        repository: ``owner/name``.
        revision: A branch, a tag or a commit; empty for the main branch.
        path: A folder or file in it; empty for all.
    """

    repository: str
    revision: str = ""
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{revision}{f'/{self.path}' if self.path else ''}"


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A file at an ``https://`` address."""

    url: str

    def __str__(self) -> str:
        return self.url.partition("?")[0]


def is_address(place: str | os.PathLike[str]) -> bool:
    """Whether a place is an address, of whatever kind."""
    return ADDRESS.match(os.fspath(place)) is not None


def address_of(place: str, role: str) -> HubAddress | WebAddress:
    """What an address names.

    Args:
        place: The address.
        role: What it is to the caller, for messages: ``--raw``.

    Raises:
        PlanError: It is of another kind, leads elsewhere, or names no repository.
    """
    found = ADDRESS.fullmatch(place)
    scheme, rest = found.groups() if found else ("", place)
    page = PAGE.fullmatch(place)
    if scheme == "hf" or page:
        return hub_address(rest if page is None else from_page(page["rest"]), place, role)
    if scheme == "https" and rest and "@" not in rest.partition("/")[0] and printable(rest):
        return WebAddress(place)
    shown = re.sub(r"//[^/]*@", "//...@", place)[:80]
    raise PlanError(
        f"{role}: {shown!a} is an address of a kind that is not fetched",
        path=shown,
        hint="hf://OWNER/NAME and https:// are; else download it first and name the folder",
    )


def from_page(rest: str) -> str:
    """What follows ``hf://``, of the address of a page: ``owner/name/tree/main/path``."""
    owner, _, more = rest.partition("?")[0].partition("#")[0].strip("/").partition("/")
    name, *parts = more.split("/")
    if len(parts) >= 2 and parts[0] in KINDS:
        return "/".join((owner, f"{name}@{parts[1]}", *parts[2:]))
    return "/".join((owner, name, *parts))


def hub_address(rest: str, place: str, role: str) -> HubAddress:
    """The parts of ``owner/name[@revision][/path]``."""
    owner, _, more = rest.partition("/")
    name, _, path = more.partition("/")
    name, _, revision = name.partition("@")
    path = path.removesuffix("/")
    inside = path.split("/") if path else []
    safe = all(one not in ("", ".", "..") and printable(one) for one in inside)
    if not (PART.fullmatch(owner) and PART.fullmatch(name) and ".." not in name) or not safe:
        raise PlanError(
            f"{role}: {place[:80]!a} names no repository of the Hub, or leads out of it",
            path=place,
            hint="write hf://OWNER/NAME/PATH",
        )
    revision = unquote(revision)
    if revision and (not re.fullmatch(r"[\w./-]+", revision) or ".." in revision):
        raise PlanError(
            f"{role}: {place[:80]!a} has no revision that can be", path=place, hint="write hf://OWNER/NAME@REVISION"
        )
    return HubAddress(f"{owner}/{name}", revision, path)


def printable(text: str) -> bool:
    """Whether nothing in a text is a control character, a backslash or a blank."""
    return text.isprintable() and not set(text) & set("\\ ")
