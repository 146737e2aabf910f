"""One entry of the catalog: what its ``release.toml`` says, and its lists of digests.

    title        for people
    kind         a key of KINDS
    project      whose it is; the list is grouped by it
    aliases      other names
    base         the entry that it is made from
    key          the key file of an XOR payload
    vocabulary   rows of the embedding
    dtype        of the weights
    gotchas      what goes wrong
    sources      where its digests were published
    published_as another name that its digests were collected under
    nowhere      why no place is named where it can be had
    merged_by    of an adapter that weightkit does not merge: what does
    [[where]]    a place: hub (a name on the Hugging Face Hub), perhaps with revision, or url; source (who says so); status
                 (reachable, gone, unknown, as the source says); note
    [recipe]     the fields of Recipe
    [sizes]      file = bytes

Any other word is refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weightkit import manifests
from weightkit.core.errors import FormatError
from weightkit.manifests import Entry

__all__ = ["KINDS", "METHODS", "STATUSES", "UNKNOWN", "Place", "Recipe", "Release", "read"]

KINDS = {
    "raw": "original weights",
    "converted": "original weights, converted",
    "diff": "additive difference",
    "xor": "XOR payload",
    "lora": "LoRA adapter",
    "tokenizer": "tokenizer",
    "result": "rebuilt release",
    "whole": "released whole",
}
"""Kind of an entry -> what it is."""

METHODS = ("additive", "xor-enc", "xor-block", "lora", "convert")
UNKNOWN = "unknown"
"""What stands where something was not found."""

STATUSES = ("reachable", "gone", UNKNOWN)
"""Whether files are at a place: ``reachable`` if its own pages were read for the digests, ``gone`` if a note says whose word
that is."""

LISTS = ("SHA256SUMS", "MD5SUMS", "BLAKE3SUMS")
HUB = re.compile(r"[\w.-]+/[\w.-]+")
REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry's files are, or are asked for: ``hub`` or ``url``, one of them.

    Attributes:
        source: Who says so.
        hub: A name on the Hugging Face Hub, ``owner/name``.
        url: An address.
        revision: The commit there that the digests are of, where a source names it.
        status: One of ``STATUSES``.
        note: What else there is to know.
    """

    source: str
    hub: str | None = None
    url: str | None = None
    revision: str | None = None
    status: str = UNKNOWN
    note: str = ""

    def __post_init__(self) -> None:
        if (self.hub is None) == (self.url is None) or not self.source:
            raise ValueError("a place is a hub or a url, with its source")
        if self.hub is not None and not HUB.fullmatch(self.hub):
            raise ValueError(f"a name on the Hub is OWNER/NAME, not {self.hub!r}")
        if self.url is not None and not self.url.startswith("https://"):
            raise ValueError(f"an address begins with https://, unlike {self.url!r}")
        if self.revision is not None and (self.hub is None or not REVISION.fullmatch(self.revision)):
            raise ValueError(f"a revision is a commit of a repository on the Hub, not {self.revision!r}")
        if self.status not in STATUSES:
            raise ValueError(f"a status is {', '.join(STATUSES)}, not {self.status!r}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a release is rebuilt; None and empty where it does not apply, ``unknown`` where it was not found.

    Attributes:
        method: One of ``METHODS``.
        diff: The entry of the patch that was published.
        lora: The entries of the adapters, in order.
        key: For ``xor-enc``, the key file.
        dtype: What base and diff are cast to.
        new_rows: What rows are that the base lacks.
        whole: Shell patterns of the tensors that are no differences but whole.
        converter: Whose conversion of the base.
        profile: The torch version whose file bytes were published.
        to: The layout.
        order: Of the tensors in Meta's parts.
        rounding: Of a LoRA merge.
        sums: Likewise.
        unfinished: Why it cannot be followed to the end; empty where it can.
    """

    method: str
    diff: str | None = None
    lora: tuple[str, ...] = ()
    key: str | None = None
    dtype: str | None = None
    new_rows: str | None = None
    whole: tuple[str, ...] = ()
    converter: str | None = None
    profile: str | None = None
    to: str | None = None
    order: str | None = None
    rounding: str | None = None
    sums: str | None = None
    unfinished: str = ""

    def payloads(self) -> tuple[str, ...]:
        """The entries that it takes besides the base, in order, as far as known."""
        return tuple(one for one in (self.diff, *self.lora) if one is not None and one != UNKNOWN)


@dataclass(frozen=True, slots=True)
class Release:
    """One entry.

    Attributes:
        name: Of its folder.
        title: For people.
        kind: A key of ``KINDS``.
        base: The entry of what it is made from; None for original weights.
        key: The key file of an XOR payload.
        vocabulary: Rows of the embedding; None where it does not apply, ``unknown`` where it was not found.
        dtype: Of the weights.
        gotchas: What goes wrong.
        sources: Where its digests were published.
        recipe: How it is rebuilt, for results and conversions.
        sizes: File -> size in bytes, as far as known.
        lists: Its lists of digests.
        published_as: Another name that its digests were collected under.
        project: Whose it is.
        aliases: Other names.
        where: Where its files are, or are asked for.
        nowhere: Why no place is named.
        merged_by: What merges an adapter that weightkit does not merge.
    """

    name: str
    title: str
    kind: str
    base: str | None = None
    key: str | None = None
    vocabulary: int | str | None = None
    dtype: str | None = None
    gotchas: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    recipe: Recipe | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    lists: tuple[Path, ...] = ()
    published_as: str | None = None
    project: str = ""
    aliases: tuple[str, ...] = ()
    where: tuple[Place, ...] = ()
    nowhere: str = ""
    merged_by: str = ""

    def entries(self) -> list[Entry]:
        """Its digests, SHA-256 first."""
        return [entry for path in self.lists for entry in manifests.read(path)]

    def named(self) -> list[tuple[Path, list[Entry]]]:
        """Its lists, as ``proof.expecting`` takes them."""
        return [(path, manifests.read(path)) for path in self.lists]

    def hubs(self) -> tuple[str, ...]:
        """Its names on the Hub."""
        return tuple(one.hub for one in self.where if one.hub is not None)


GIVEN = frozenset(one.name for one in fields(Release)) - {"name", "lists"}


def read(path: Path) -> Release:
    """One entry, from its ``release.toml``.

    Raises:
        FormatError: A word is none of those above, or has no meaning.
    """
    try:
        with path.open("rb") as file:
            given: dict[str, Any] = tomllib.load(file)
        if extra := sorted(set(given) - GIVEN):
            raise ValueError(f"no such word: {', '.join(extra)}")
        given = frozen(given)
        if "recipe" in given:
            given["recipe"] = Recipe(**frozen(given["recipe"]))
        given["where"] = tuple(Place(**one) for one in given.get("where", ()))
        given["sizes"] = MappingProxyType(given.get("sizes", {}))
        lists = tuple(path.with_name(name) for name in LISTS if path.with_name(name).is_file())
        return Release(path.parent.name, lists=lists, **given)
    except (ValueError, TypeError) as error:
        raise FormatError(path, str(error)) from error


def frozen(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with tuples for lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
