"""The releases that weightkit knows: their published digests, and what it takes to rebuild them.

Each is a folder of ``checksums/``: ``release.toml`` beside ``MD5SUMS``, ``SHA256SUMS``, ``BLAKE3SUMS``, whose comment lines say
where each digest was published. No digest in it was computed by weightkit. Needs no torch.

import weightkit.catalog
weightkit.catalog.load("zhixi-13b").base
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weightkit import manifests
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.manifests import Entry

__all__ = ["KINDS", "METHODS", "UNKNOWN", "Recipe", "Release", "by_digest", "load", "releases"]

KINDS = {
    "raw": "original weights",
    "converted": "original weights, converted",
    "diff": "additive difference",
    "xor": "XOR payload",
    "lora": "LoRA adapter",
    "tokenizer": "tokenizer",
    "result": "rebuilt release",
}
"""Kind of an entry -> what it is."""

METHODS = ("additive", "xor-enc", "xor-block", "lora", "convert")
UNKNOWN = "unknown"
"""What stands where something was not found."""

LISTS = ("SHA256SUMS", "MD5SUMS", "BLAKE3SUMS")


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
    converter: str | None = None
    profile: str | None = None
    to: str | None = None
    order: str | None = None
    rounding: str | None = None
    sums: str | None = None
    unfinished: str = ""


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
    """

    name: str
    title: str
    kind: str
    base: str | None
    key: str | None
    vocabulary: int | str | None
    dtype: str | None
    gotchas: tuple[str, ...]
    sources: tuple[str, ...]
    recipe: Recipe | None
    sizes: Mapping[str, int] = field(default_factory=dict)
    lists: tuple[Path, ...] = ()
    published_as: str | None = None

    def entries(self) -> list[Entry]:
        """Its digests, SHA-256 first."""
        return [entry for path in self.lists for entry in manifests.read(path)]

    def named(self) -> list[tuple[Path, list[Entry]]]:
        """Its lists, as ``proof.expecting`` takes them."""
        return [(path, manifests.read(path)) for path in self.lists]


@functools.cache
def releases() -> Mapping[str, Release]:
    """All entries by name; read once, the catalog does not change while a program runs."""
    root = Path(str(files("weightkit.checksums") / ""))
    found = {path.parent.name: read(path) for path in sorted(root.glob("*/release.toml"))}
    return MappingProxyType(found)


def read(path: Path) -> Release:
    """One entry, from its ``release.toml``."""
    with path.open("rb") as file:
        given: dict[str, Any] = tomllib.load(file)
    recipe = given.pop("recipe", None)
    if recipe is not None:
        recipe = Recipe(**{**recipe, "lora": tuple(recipe.get("lora", ()))})
    lists = tuple(path.with_name(name) for name in LISTS if path.with_name(name).is_file())
    return Release(
        path.parent.name,
        given.pop("title"),
        given.pop("kind"),
        given.pop("base", None),
        given.pop("key", None),
        given.pop("vocabulary", None),
        given.pop("dtype", None),
        tuple(given.pop("gotchas", ())),
        tuple(given.pop("sources", ())),
        recipe,
        MappingProxyType(given.pop("sizes", {})),
        lists,
        given.pop("published_as", None),
    )


def load(name: str) -> Release:
    """The entry of this name.

    Raises:
        PlanError: None is known; the message names some that are near.
    """
    known = releases()
    if name in known:
        return known[name]
    for release in known.values():
        if release.published_as == name:
            return release
    import difflib

    near = difflib.get_close_matches(name, known, 3, 0.4) or [one for one in known if one.startswith(name)][:3]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise PlanError(f"--release: no release {name!r} is in the catalog{hint} (weightkit releases lists them)")


@functools.cache
def by_digest() -> Mapping[Digest, tuple[tuple[str, str], ...]]:
    """Digest -> entries and files that have it."""
    found: dict[Digest, tuple[tuple[str, str], ...]] = {}
    for release in releases().values():
        for entry in release.entries():
            found[entry.digest] = (*found.get(entry.digest, ()), (release.name, entry.path))
    return MappingProxyType(found)
