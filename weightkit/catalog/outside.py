"""Releases that are not in the catalog: a folder, or a repository of the Hub, with a ``release.toml`` of its own.

It is data and checked like any input: its size, every word in it, every name. Nothing in it is run, and it names no file
outside its folder.

    title   for people
    base    what the publisher calls the base
    license, weightkit: for people
    [recipe]
    method  additive, exact, xor-enc, lora
    dtype, new_rows, whole, rounding, sums: as in the catalog

Beside it, and all of it must be there: the payload; ``SHA256SUMS``, digests of these files; ``RELEASE.sha256``, digests of what
comes out; ``BASE.TENSORS``, content digests of the base's tensors. ``TENSORS``, those of what comes out, where they are known.
``model.sig``, where the publisher has signed all these files; ``verify --public-key`` checks it, and recovering does without.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightkit import catalog, manifests
from weightkit.blobs import LocalFolder, folder_at, is_address
from weightkit.blobs.addresses import WebAddress, address_of
from weightkit.catalog.entry import Recipe
from weightkit.catalog.names import called
from weightkit.core.blob import Folder
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import FormatError, Incomplete, PlanError
from weightkit.manifests import Entry
from weightkit.manifests.tensors import parse_text

__all__ = [
    "BASE_TENSORS",
    "CARD",
    "METHODS",
    "OF_ITS_OWN",
    "RECIPE",
    "RELEASE_SUMS",
    "SIGNATURE",
    "SUMS",
    "Outside",
    "about_it",
    "is_outside",
    "read_outside",
]

RECIPE, RELEASE_SUMS, BASE_TENSORS = "release.toml", "RELEASE.sha256", "BASE.TENSORS"
SUMS, CARD, SIGNATURE = "SHA256SUMS", "README.md", "model.sig"
OF_ITS_OWN = frozenset({RECIPE, RELEASE_SUMS, BASE_TENSORS, SUMS, CARD, SIGNATURE, "TENSORS"})
"""Files that tell of a release, and are no part of what comes out."""

LARGEST_RECIPE, LARGEST_SUMS, LARGEST_LIST = 64 << 10, 4 << 20, 16 << 20
MOST_DOTS = 1000
"""In a line of a recipe: ``tomllib`` takes memory for a key with the square of its dots."""

METHODS = {"exact": "exact", "additive": "additive", "enc": "xor-enc", "lora": "lora"}
"""Word of ``publish --method`` -> the method of a recipe."""

WORDS: dict[str, tuple[str, ...] | None] = {
    "method": tuple(METHODS.values()),
    "dtype": ("float16", "bfloat16", "float32"),
    "new_rows": ("mean", "zero", "whole"),
    "whole": None,
    "rounding": None,
    "sums": ("fma", "mul-add"),
}
"""Word of a recipe -> what it may say; None: see ``said``."""

LORA_ONLY = ("rounding", "sums")
SMALL_NBYTES, MOST_SETTINGS = 1 << 20, 64
"""Settings that are checked before they are read, so that one that was edited is not taken for another release's."""

MOST_PATTERNS = 64

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
    """Whether ``--release`` names a place and no entry: an address that the catalog lacks, or a folder with a recipe."""
    if is_address(release):
        return not called(release, catalog.releases())
    return ("/" in release and Path(release).exists()) or (Path(release) / RECIPE).is_file()


def read_outside(release: str) -> Outside:
    """A release from outside the catalog.

    Raises:
        PlanError: There is no recipe there, or it is none that can be followed.
        FormatError: A list beside it is damaged.
    """
    if is_address(release) and isinstance(address_of(release, "--release"), WebAddress):
        raise PlanError(
            f"--release {release[:200]}: a release is a folder with {RECIPE}, its lists and its payload, and this is one file",
            hint="hf://OWNER/NAME, or download the whole folder and name it",
        )
    folder = folder_at(release, "--release")
    if folder.single and folder.names() == [RECIPE]:
        folder = folder.above() or folder
    if not folder.holds(RECIPE):
        raise PlanError(
            f"--release {folder.name}: holds no {RECIPE}",
            hint="name an entry of the catalog (weightkit releases), or such a folder",
        )
    refuse_links(folder)
    given = words_of(folder)
    results = listed(folder, RELEASE_SUMS)
    base = parse_text(text_of(folder, BASE_TENSORS), f"{folder.name}/{BASE_TENSORS}")
    if strange := [name for name in base if not plain(name)]:
        raise FormatError(f"{folder.name}/{BASE_TENSORS}", f"names a tensor that no model has: {strange[0][:80]!a}")
    whole(folder)
    return Outside(folder.name, folder, Recipe(**given["recipe"]), given.get("base", ""), base, tuple(results))


def about_it(folder: Folder) -> frozenset[str]:
    """Names in a folder that tell of the release and are no part of what comes out; none where it is no release."""
    return OF_ITS_OWN if folder.holds(RECIPE) and folder.holds(BASE_TENSORS) else frozenset()


def listed(folder: Folder, name: str) -> list[Entry]:
    """A list of digests of a release.

    Raises:
        PlanError: It is not there, or too large.
        FormatError: It is none, or names a file outside.
    """
    found = manifests.parse(text_of(folder, name, LARGEST_SUMS).decode("utf-8", "replace"), Path(f"{folder.name}/{name}"))
    for one in found:
        if not one.path.isprintable() or any(part.startswith(".") for part in one.path.split("/")):
            raise FormatError(f"{folder.name}/{name}", f"names a file that no release has: {one.path[:80]!a}")
    return found


def whole(folder: Folder) -> None:
    """See that all files that a release lists of itself are there, and that what tells of it, and its settings, are as listed.

    Raises:
        Incomplete: A file is missing: the copy or the download is not whole.
        FormatError: What tells of it was changed after it was made.
    """
    entries = listed(folder, SUMS)
    there = set(folder.names())
    if lacking := [one.path for one in entries if one.path not in there]:
        raise Incomplete(f"--release {folder.name}", lacking, f"{SUMS} lists")
    digests = {one.path: one.digest for one in entries}
    for name in (RECIPE, BASE_TENSORS):  # RELEASE.sha256 may have been written beside it, when all else was known
        if name not in digests:
            raise FormatError(f"{folder.name}/{SUMS}", f"lists no {name}: it is no list of a release")
    settings = [name for name in sorted(digests) if name.endswith(".json") and folder.blob(name).nbytes <= SMALL_NBYTES]
    for name in (*sorted(OF_ITS_OWN & digests.keys()), *settings[:MOST_SETTINGS]):
        hasher = Hasher([digests[name].algorithm])
        hasher.update(text_of(folder, name))
        if hasher.digests()[digests[name].algorithm] != digests[name]:
            raise FormatError(f"{folder.name}/{name}", f"is not the file that {SUMS} lists: get it again from its publisher")


def refuse_links(folder: Folder) -> None:
    """Refuse a folder with links that lead out of it; those of the Hub's cache lead to its blobs.

    Raises:
        PlanError: There is one.
    """
    if not isinstance(folder, LocalFolder) or folder.single:
        return
    root = folder.path.resolve()
    inside = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    for name in folder.names():
        path = folder.at(name)
        if not any(path.resolve().is_relative_to(one) for one in inside):
            raise PlanError(
                f"--release {folder.name}: {name} is a link that leads out of it; a release has its files in its folder"
            )


def text_of(folder: Folder, name: str, most: int = LARGEST_LIST) -> bytes:
    """A small file of a release.

    Raises:
        PlanError: It is not there, or too large for one.
    """
    if not folder.holds(name):
        raise PlanError(
            f"--release {folder.name}: lacks {name}, so it is not whole and nothing would prove the result",
            hint="get it again from its publisher",
        )
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
        text = text_of(folder, RECIPE, LARGEST_RECIPE).decode()
        if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
            raise ValueError("a line of it nests deeper than any recipe")
        given = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where}: is no TOML: {str(error)[:120]!a}") from error
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
        if (word in LORA_ONLY) > (recipe["method"] == "lora"):
            raise PlanError(f"{where}: {word} means nothing to {str(recipe['method'])[:40]!a}")
        recipe[word] = said(where, word, value)
    return {**given, "recipe": recipe}


def said(where: str, word: str, value: Any) -> str | tuple[str, ...]:
    """What a recipe says under one word: one of the words known, a plain text, or patterns of names.

    Raises:
        PlanError: It is none.
    """
    known = WORDS[word]
    if known is not None and isinstance(value, str) and value in known:
        return value
    if word == "whole" and isinstance(value, list) and len(value) <= MOST_PATTERNS and all(map(plain, value)):
        return tuple(value)
    if known is None and word != "whole" and plain(value):
        return str(value)
    wanted = f"known: {', '.join(known)}" if known else "a plain text is wanted" if word != "whole" else "patterns are wanted"
    raise PlanError(f"{where}: {word} is {str(value)[:40]!a}; {wanted}")


def plain(value: Any) -> bool:
    """Whether a value is a short text that can be printed."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200


def refuse_unknown(where: str, given: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any]) -> None:
    """Refuse words that mean nothing here: a recipe of a later version may mean more than is understood.

    Raises:
        PlanError: There is one.
    """
    if unknown := sorted(set(given) - set(known)):
        raise PlanError(
            f"{where}: {unknown[0][:40]!a} is no word of a recipe; known: {', '.join(known)}; a newer weightkit may know it"
        )
