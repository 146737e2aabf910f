"""Releases that are not in the catalog: a folder, or a repository of the Hub, with a ``release.toml`` of its own.

It is data and checked like any input: its size, every word in it, every name. Nothing in it is run, and it names no file
outside its folder.

    title   for people
    base    what the publisher calls the base
    [recipe]
    method  additive, exact, xor-enc
    dtype, new_rows: as in the catalog

Beside it: the payload; ``SHA256SUMS``, digests of these files; ``RELEASE.sha256``, digests of what comes out; ``BASE.TENSORS``,
content digests of the base's tensors; ``TENSORS``, those of what comes out, where they are known.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightkit import manifests
from weightkit.blobs import folder_at, is_address
from weightkit.catalog.entry import Recipe
from weightkit.core.blob import Folder
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.manifests import Entry
from weightkit.manifests.tensors import parse_text

__all__ = ["BASE_TENSORS", "METHODS", "RECIPE", "RELEASE_SUMS", "Outside", "is_outside", "read_outside"]

RECIPE, RELEASE_SUMS, BASE_TENSORS = "release.toml", "RELEASE.sha256", "BASE.TENSORS"
LARGEST_RECIPE, LARGEST_LIST = 64 << 10, 64 << 20
METHODS = {"exact": "exact", "additive": "additive", "enc": "xor-enc"}
"""Word of ``publish --method`` -> the method of a recipe."""

WORDS: dict[str, tuple[str, ...] | None] = {
    "method": tuple(METHODS.values()),
    "dtype": ("float16", "bfloat16", "float32"),
    "new_rows": ("mean", "zero", "whole"),
}
"""Word of a recipe -> what it may say."""

PLAIN = ("title", "base", "license", "weightkit")


@dataclass(frozen=True, slots=True)
class Outside:
    """A release as its publisher describes it.

    Attributes:
        name: Where it was found.
        folder: Its payload.
        recipe: How it is rebuilt.
        base_name: What the publisher calls the base.
        base: Content digests of the base's tensors, by name.
        results: Digests of the files that come out.
    """

    name: str
    folder: Folder
    recipe: Recipe
    base_name: str = ""
    base: Mapping[str, Digest] = field(default_factory=dict, hash=False)
    results: tuple[Entry, ...] = ()


def is_outside(release: str) -> bool:
    """Whether ``--release`` names a place and no entry: an address, a path with a slash, or a folder with a recipe."""
    return is_address(release) or ("/" in release and Path(release).exists()) or (Path(release) / RECIPE).is_file()


def read_outside(release: str) -> Outside:
    """A release from outside the catalog.

    Raises:
        PlanError: There is no recipe there, or it is none that can be followed.
        FormatError: A list beside it is damaged.
    """
    folder = folder_at(release, "--release")
    if folder.single and folder.names() == [RECIPE]:
        folder = folder.above() or folder
    if not folder.holds(RECIPE):
        raise PlanError(
            f"--release {folder.name}: holds no {RECIPE}",
            hint="name an entry of the catalog (weightkit releases), or such a folder",
        )
    given = words_of(folder)
    results = manifests.parse(text_of(folder, RELEASE_SUMS).decode("utf-8", "replace"), Path(f"{folder.name}/{RELEASE_SUMS}"))
    for one in results:
        if one.path.startswith("/") or {"", ".", ".."} & set(one.path.split("/")):
            raise PlanError(f"--release {folder.name}: {RELEASE_SUMS} names a file outside the release: {one.path[:80]!a}")
    base = parse_text(text_of(folder, BASE_TENSORS), f"{folder.name}/{BASE_TENSORS}") if folder.holds(BASE_TENSORS) else {}
    return Outside(folder.name, folder, Recipe(**given["recipe"]), given.get("base", ""), base, tuple(results))


def text_of(folder: Folder, name: str, most: int = LARGEST_LIST) -> bytes:
    """A small file of a release.

    Raises:
        PlanError: It is not there, or too large for one.
    """
    if not folder.holds(name):
        raise PlanError(f"--release {folder.name}: lacks {name}, so nothing would prove the result")
    blob = folder.blob(name)
    if blob.nbytes > most:
        raise PlanError(f"--release {blob.name}: has {blob.nbytes} bytes; a {name} has at most {most}")
    return bytes(blob.read(0, blob.nbytes))


def words_of(folder: Folder) -> dict[str, Any]:
    """What a recipe says, every word of it understood.

    Raises:
        PlanError: It is too large, no TOML, or says what cannot be followed.
    """
    where = f"--release {folder.name}/{RECIPE}"
    try:
        given = tomllib.loads(text_of(folder, RECIPE, LARGEST_RECIPE).decode())
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where}: is no TOML: {str(error)[:120]}") from error
    recipe = given.pop("recipe", None)
    if not isinstance(recipe, dict):
        raise PlanError(f"{where}: has no [recipe]")
    refuse_unknown(where, given, PLAIN)
    refuse_unknown(where, recipe, WORDS)
    for word, value in given.items():
        if not isinstance(value, str) or not value.isprintable() or len(value) > 400:
            raise PlanError(f"{where}: {word} is no plain text")
    if "method" not in recipe:
        raise PlanError(f"{where}: names no method; known: {', '.join(METHODS.values())}")
    for word, value in recipe.items():
        known = WORDS[word] or ()
        if value not in known:
            raise PlanError(f"{where}: {word} is {str(value)[:40]!a}; known: {', '.join(known)}")
    return {**given, "recipe": recipe}


def refuse_unknown(where: str, given: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    """Refuse words that mean nothing here: a recipe of a later version may mean more than is understood.

    Raises:
        PlanError: There is one.
    """
    if unknown := sorted(set(given) - set(known)):
        raise PlanError(
            f"{where}: {unknown[0][:40]!a} is no word of a recipe; known: {', '.join(known)}; a newer weightkit may know it"
        )
