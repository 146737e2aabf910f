"""The releases that weightkit knows: their published digests, where they are, and what it takes to rebuild them.

Each is a folder of ``checksums/``: ``release.toml`` (its words: ``weightkit.catalog.entry``) beside ``MD5SUMS``,
``SHA256SUMS``, ``BLAKE3SUMS``, whose comment lines say where each digest was published. No digest in it was computed by
weightkit. Needs no torch.

import weightkit.catalog
weightkit.catalog.load("zhixi-13b").base
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from weightkit.catalog.entry import KINDS, METHODS, STATUSES, UNKNOWN, Place, Recipe, Release, read
from weightkit.catalog.names import called, containing, hub_name, like
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError

__all__ = [
    "KINDS",
    "METHODS",
    "STATUSES",
    "UNKNOWN",
    "Place",
    "Recipe",
    "Release",
    "by_digest",
    "called",
    "find",
    "folder",
    "listed",
    "load",
    "made_of",
    "read",
    "rebuilt",
    "releases",
]


def folder() -> Path:
    """``checksums/``: inside the package where that is a copy, beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "checksums"
    return inside if inside.is_dir() else package.parent / "checksums"


@functools.cache
def releases() -> Mapping[str, Release]:
    """All entries by name; read once, the catalog does not change while a program runs."""
    found = {path.parent.name: read(path) for path in sorted(folder().glob("*/release.toml"))}
    return MappingProxyType(found)


def load(name: str, role: str = "--release") -> Release:
    """The entry of this name: its own, an alias, a name or an address on the Hugging Face Hub. Capitals do not matter.

    Args:
        name: The name.
        role: What an error is to call the argument.

    Raises:
        PlanError: None is known, or several are; the message names some.
    """
    known = releases()
    if name in known:
        return known[name]
    found = called(name, known)
    if len(found) == 1:
        return found[0]
    if found:
        raise PlanError(f"{role}: {name} is {listed([one.name for one in found], 'and')}", hint="name one of them")
    near = like(name, known)
    hint = f"did you mean {listed(near)}?" if near else "weightkit releases lists them"
    raise PlanError(f"{role}: no release {name!r} is in the catalog", hint=hint)


def find(word: str) -> list[Release]:
    """The entry of this name; where there is none, those in whose names, project or title the word stands.

    Raises:
        PlanError: There is none; the message names some that are near.
    """
    known = releases()
    return called(word, known) or containing(word, known) or [load(word, "NAME")]


def made_of(payload: Release) -> list[Release]:
    """The releases that are rebuilt from a diff, an XOR payload or an adapter."""
    return [one for one in releases().values() if one.recipe is not None and payload.name in one.recipe.payloads()]


def rebuilt(name: str, methods: Sequence[str] = METHODS) -> Release:
    """The entry that ``--release`` means: for the Hub's name of a payload, the one release that is rebuilt from it.

    Args:
        name: As ``load`` takes it.
        methods: Those of the command that asks.

    Raises:
        PlanError: As ``load``; or several releases are rebuilt from it, and the message names them.
    """
    release = load(name)
    if release.recipe is not None or hub_name(name) is None:
        return release
    made = [one for one in made_of(release) if one.recipe is not None and one.recipe.method in methods]
    if len(made) > 1:
        of = f"{name} is {release.name}, of which {listed([one.name for one in made], 'and')} are made"
        raise PlanError(f"--release: {of}", hint="name one of them")
    return made[0] if made else release


def listed(names: Sequence[str], word: str = "or") -> str:
    """``a, b or c``."""
    return f" {word} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


@functools.cache
def by_digest() -> Mapping[Digest, tuple[tuple[str, str], ...]]:
    """Digest -> entries and files that have it."""
    found: dict[Digest, tuple[tuple[str, str], ...]] = {}
    for release in releases().values():
        for entry in release.entries():
            found[entry.digest] = (*found.get(entry.digest, ()), (release.name, entry.path))
    return MappingProxyType(found)
