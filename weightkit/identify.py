"""Says what a file or a folder is: by its digest, where that was published, and by what its bytes tell. Needs no torch.

import weightkit.identify
for line in weightkit.identify.identify_path("some-folder").lines:
    print(line)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from weightkit import catalog
from weightkit.blobs import LocalFolder, ZipFolder, folder_at, is_address, local_path, zip_at
from weightkit.core.blob import Blob
from weightkit.core.digest import CHUNK, Hasher, hash_file
from weightkit.core.errors import PlanError, spoken
from weightkit.core.sizes import format_size
from weightkit.proof.kinds import of_file, of_folder
from weightkit.proof.lists import usable

__all__ = ["Identity", "identify", "identify_path", "published"]

QUICK_NBYTES = 1 << 30
"""Files up to this size are hashed without being asked: about a second."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What was found.

    Attributes:
        path: What was looked at.
        releases: Entries of the catalog that have this very file, or files of this folder.
        lines: For people, the surest first.
    """

    path: Path
    releases: tuple[str, ...]
    lines: tuple[str, ...]


def identify_path(path: str | os.PathLike[str], *, full: bool = False) -> Identity:
    """Say what a file or folder is.

    >>> weightkit.identify_path("base").lines[0]
    "a model; transformers' layout; 1 files; float16; 320 tokens"

    Args:
        path: The file or folder.
        full: Whether to hash large files, too; it takes a second for each gigabyte and a half.

    Raises:
        PlanError: It does not exist.
        FormatError: It cannot be read.
    """
    if is_address(path):
        return on_the_hub(os.fspath(path))
    target = local_path(path, "PATH")
    if (archive := zip_at(target)) is not None:
        return in_archive(target, archive, full=full)
    files = [target] if target.is_file() else sorted(one for one in target.glob("*") if one.is_file())
    releases: dict[str, None] = {}
    skipped: list[str] = []
    lines: list[str] = []
    small: list[str] = []
    for file in files:
        if file.stat().st_size > QUICK_NBYTES and not full:
            skipped.append(file.name)
            continue
        known = sorted(published(file), key=lambda one: (ORDER.index(catalog.load(one[0]).kind), one))
        releases |= dict.fromkeys(name for name, _ in known)
        if known and target.is_dir() and file.stat().st_size < SMALL_NBYTES:
            small.append(f"{file.name} ({known[0][0]}{f' and {len(known) - 1} more' if len(known) > 1 else ''})")
        elif known:
            lines.append(by_digest(file, known))
    if small:
        lines.append(f"small files that were published, too: {', '.join(small)}")
    lines += of_file(target) if target.is_file() else of_folder(LocalFolder(target))
    if skipped:
        lines.append(f"not hashed, larger than {format_size(QUICK_NBYTES)}: {', '.join(skipped[:3])}; --full hashes them, too")
    return Identity(target, tuple(releases), tuple(map(spoken, lines)))


def in_archive(target: Path, archive: ZipFolder, *, full: bool) -> Identity:
    """What a ``.zip`` archive is, by its own digest, and what is in it, by theirs; read where it lies."""
    releases: dict[str, None] = {}
    lines, skipped, small = [f"a zip archive of {len(archive.names())} files, read where it lies"], [], []
    inside: list[tuple[str, Blob]] = [(name, archive.blob(name)) for name in archive.names()]
    for name, blob in ((target.name, archive.archive), *inside):
        if blob.nbytes > QUICK_NBYTES and not full:
            skipped.append(name)
            continue
        known = sorted(published_as(blob), key=lambda one: (ORDER.index(catalog.load(one[0]).kind), one))
        releases |= dict.fromkeys(one for one, _ in known)
        if known and blob.nbytes < SMALL_NBYTES:
            small.append(f"{name} ({known[0][0]}{f' and {len(known) - 1} more' if len(known) > 1 else ''})")
        elif known:
            lines.append(by_digest(Path(name), known))
    if small:
        lines.append(f"small files that were published, too: {', '.join(small)}")
    try:
        lines += of_folder(archive)
    except PlanError as error:
        lines.append(str(error))
    if skipped:
        lines.append(f"not hashed, larger than {format_size(QUICK_NBYTES)}: {', '.join(skipped[:3])}; --full hashes them, too")
    return Identity(target, tuple(releases), tuple(map(spoken, lines)))


def published_as(blob: Blob) -> list[tuple[str, str]]:
    """Entries of the catalog, and what the file is called there, that have a blob's very digest. Raises like ``published``."""
    known = catalog.by_digest()
    hasher = Hasher({digest.algorithm for digest in known if usable(digest)} if blob.nbytes else (), blob.nbytes)
    for at in range(0, blob.nbytes, CHUNK):
        hasher.update(blob.read(at, min(blob.nbytes, at + CHUNK)))
    return list({one: None for digest in hasher.digests().values() for one in known.get(digest, ())})


def on_the_hub(address: str) -> Identity:
    """What lies at an address: by the digests that the Hub states, and by headers; nothing is downloaded whole."""
    folder = folder_at(address, "PATH")
    if isinstance(folder, LocalFolder):  # the client's cache, offline
        return identify_path(folder.path)
    releases: dict[str, None] = {}
    lines = []
    for name in folder.names():
        known = [one for digest in folder.blob(name).stated for one in catalog.by_digest().get(digest, ())]
        known.sort(key=lambda one: (ORDER.index(catalog.load(one[0]).kind), one))
        releases |= dict.fromkeys(one for one, _ in known)
        if known:
            lines.append(by_digest(Path(name), known) + ", as the Hub states")
    return Identity(Path(address), tuple(releases), (*lines, *of_folder(folder)))


identify = identify_path

ORDER = ("raw", "tokenizer", "converted", "lora", "diff", "xor", "result", "whole")
"""Kinds of entries, those first that others took a file from."""

SMALL_NBYTES = 1 << 20
"""Many releases share a config or a tokenizer: in a folder such a file says little."""


def by_digest(file: Path, known: list[tuple[str, str]]) -> str:
    """Which published file this is."""
    name, there = known[0]
    also = f"; the same file is in {', '.join(one for one, _ in known[1:4])}" if len(known) > 1 else ""
    more = f" and {len(known) - 4} more" if len(known) > 4 else ""
    return f"{file.name} is, by its digest, {there} of {name}: {catalog.load(name).title}{also}{more}"


def published(file: Path) -> list[tuple[str, str]]:
    """Entries of the catalog, and what the file is called there, that have a file's very digest.

    Raises:
        FormatError: It cannot be read.
    """
    size = file.stat().st_size
    if not size:
        return []
    known = catalog.by_digest()
    algorithms = {digest.algorithm for digest in known if usable(digest)}
    found: dict[tuple[str, str], None] = {}
    for digest in hash_file(file, algorithms).values():
        found |= dict.fromkeys(known.get(digest, ()))
    return list(found)
