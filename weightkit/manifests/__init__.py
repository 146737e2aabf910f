"""Text <-> digests by path. ``read`` tells the format from the text."""

from __future__ import annotations

from pathlib import Path

from weightkit.core.errors import FormatError
from weightkit.manifests import markdown, pointers
from weightkit.manifests.sums import Entry, encode, parse

__all__ = ["Entry", "encode", "parse", "read"]

MAX_BYTES = 64 << 20
ENDINGS = ("SUMS", ".sha256", ".md5", ".sha512", "checklist.chk")
"""How lists of digests are called."""


def read(path: Path) -> list[Entry]:
    """The digests in a file: a list as coreutils write it, Meta's checklist, a Git-LFS pointer, a README or model card.

    Raises:
        FormatError: It cannot be read, or holds none.
    """
    try:
        if path.is_dir():
            there = sorted(one.name for one in path.iterdir() if one.name.endswith(ENDINGS))
            raise FormatError(path, f"is a folder; name a list of digests{f' in it, as {there[0]}' if there else ''}")
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(path, f"has more than {MAX_BYTES} bytes: no list of digests")
        text = path.read_text("utf-8")
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(path, "is no text in UTF-8") from error
    if found := pointers.pointer(text, path):
        return found
    return markdown.parse(text, path) if markdown.looks_like(path, text) else parse(text, path)
