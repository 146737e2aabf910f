"""What a file is at first sight: its size, its first and last bytes. So a large one need not be hashed to be refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weightkit.containers import sniff, suffixes
from weightkit.manifests import Entry

__all__ = ["at_a_glance", "hint"]

ZIP_TAIL_NBYTES = (1 << 16) + 22
"""A zip archive's directory ends within so many bytes of its end."""


def at_a_glance(file: Path, size: int, wanted: Sequence[Entry]) -> str:
    """What tells, without reading a large file, that it is not the one wanted; empty where nothing does."""
    sizes = sizes_of(wanted)
    if sizes and size not in sizes:
        return another_size(size, sizes)
    with file.open("rb") as stream:
        head = stream.read(64)
        stream.seek(max(0, size - ZIP_TAIL_NBYTES))
        tail = stream.read(ZIP_TAIL_NBYTES)
    if head.startswith(b"PK\3\4") and file.suffix in suffixes() and b"PK\5\6" not in tail:
        return "is cut off: a zip archive without its directory at the end; download it again"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return hint(file, head, wanted)
    return ""


def hint(file: Path, head: bytes, wanted: Sequence[Entry]) -> str:
    """What a file is instead, if size or first bytes tell; empty where they do not."""
    size = file.stat().st_size
    sizes = sizes_of(wanted)
    about = another_size(size, sizes) if sizes - {size} else ""
    if file.suffix not in (*suffixes(), ".model") and head and not head.startswith((b"version https://git-lfs", b"<")):
        return about
    try:
        sniff(head, size)
    except ValueError as error:
        if file.suffix in suffixes() or head.startswith((b"version", b"<")) or not head:
            return str(error)
    return about


def sizes_of(wanted: Sequence[Entry]) -> set[int]:
    """The sizes that the lists say, as far as they do."""
    return {entry.nbytes for entry in wanted if entry.nbytes is not None}


def another_size(size: int, sizes: set[int]) -> str:
    """That a file has another size."""
    return f"has {size} bytes, wanted {' or '.join(str(one) for one in sorted(sizes))}"
