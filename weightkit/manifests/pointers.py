"""Digests that a download left behind: Git-LFS pointers, and the Hub's own notes beside the files.

A pointer is three lines of text in the place of a large file::

    version https://git-lfs.github.com/spec/v1
    oid sha256:9f86d081...
    size 13476939516

``huggingface_hub`` keeps ``.cache/huggingface/download/<file>.metadata`` in a folder that it downloads to: commit, etag, time.
The etag of a large file is its SHA-256, that of a small one git's SHA-1 of the blob.

Source: git-lfs, ``docs/spec.md``; huggingface_hub, ``_local_folder.py``; git, the hash of a blob.
"""

from __future__ import annotations

import re
from pathlib import Path

from weightkit.core.blob import Blob
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError
from weightkit.manifests.sums import Entry, inside

__all__ = ["HUB_NOTES", "TOLD", "cache", "hub", "is_pointer", "pointer"]

HUB_NOTES = Path(".cache") / "huggingface" / "download"
TOLD = "is a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`"
"""What is said of one that lies in the place of a file."""

BEGINNING = b"version https://git-lfs"
LARGEST = 1024
"""A pointer is smaller. Source: git-lfs, ``docs/spec.md``."""

POINTER = re.compile(r"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n?")


def is_pointer(blob: Blob) -> bool:
    """Whether a Git-LFS pointer lies where a file should. Of a large file nothing is read."""
    return len(BEGINNING) <= blob.nbytes < LARGEST and bytes(blob.read(0, len(BEGINNING))) == BEGINNING


def pointer(text: str, path: Path) -> list[Entry]:
    """What a pointer says of the file of its name; none for another text."""
    match = POINTER.fullmatch(text.replace("\r\n", "\n"))
    if not match:
        return []
    return [Entry(path.name, Digest("sha256", match[1]), int(match[2]))]


def cache(folder: Path) -> list[Entry]:
    """What the Hub's cache says of itself: in ``blobs/`` each file is named by its digest, and ``snapshots/`` leads there.

    Args:
        folder: The cache of a repository (``models--owner--name``), or a snapshot in it; None of them: no entries.
    """
    blobs = folder / "blobs"
    files = sorted(blobs.iterdir()) if blobs.is_dir() and (folder / "snapshots").is_dir() else []
    named = [(f"blobs/{one.name}", one.name) for one in files]
    if folder.parent.name == "snapshots" and (folder.parents[1] / "blobs").is_dir():
        links = (one for one in sorted(folder.rglob("*")) if one.is_symlink())
        named = [(one.relative_to(folder).as_posix(), one.resolve().name) for one in links]
    found = []
    for path, name in named:
        algorithm = {64: "sha256", 40: "gitsha1"}.get(len(name))
        if algorithm is not None and set(name) <= set("0123456789abcdef"):
            found.append(Entry(path, Digest(algorithm, name)))
    return found


def hub(folder: Path) -> list[Entry]:
    """What the Hub's notes in a folder say of its files; none where there are no notes.

    Raises:
        FormatError: A note's etag is no digest.
    """
    found = []
    root = folder / HUB_NOTES
    for note in sorted(root.rglob("*.metadata")):
        lines = note.read_text("utf-8", errors="replace").splitlines()
        etag = lines[1].strip().strip('"') if len(lines) > 1 else ""
        name = inside(note.relative_to(root).as_posix().removesuffix(".metadata"))
        algorithm = {64: "sha256", 40: "gitsha1"}.get(len(etag))
        try:
            found.append(Entry(name, Digest(algorithm or "", etag)))
        except ValueError as error:
            raise FormatError(
                note,
                f"its etag {etag[:80]!r} is neither a SHA-256 nor git's SHA-1, so nothing is known of {name}; download the "
                "file again, or name a list with --checksums",
            ) from error
    return found
