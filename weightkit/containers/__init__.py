"""One file <-> named tensors. ``open_file`` tells the format from the bytes; each format has a module of its own.

formats()          all formats: built-in ones first, then those that other packages add
format_named(name) one of them, by the word of ``--format``
open_file(blob)    a file as an index of its tensors: a ``Container``
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from weightkit.containers.bin import BIN
from weightkit.containers.format import Container, Format
from weightkit.containers.safetensors import SAFETENSORS
from weightkit.core.blob import Blob
from weightkit.core.errors import FormatError, WeightkitError
from weightkit.manifests.pointers import TOLD

__all__ = ["Container", "Format", "format_named", "formats", "open_file", "sniff", "suffixes"]

BUILT_IN: tuple[Format, ...] = (BIN, SAFETENSORS)
"""In the order in which they are asked. Where a folder holds both, ``bin`` is read: it may hold ``inv_freq``."""

GROUP = "weightkit.containers"
"""Entry points of other packages: the name of a format, and where its ``Format`` value is."""

HEAD_NBYTES = 64

NOT_WEIGHTS = (
    (b"version https://git-lfs", TOLD),
    (b"<!DOCTYPE", "is a web page, not weights; the download went wrong, perhaps for want of a login"),
    (b"<html", "is a web page, not weights; the download went wrong, perhaps for want of a login"),
    (b"GGUF", "is a GGUF file, which is not read as a checkpoint"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
)


@cache
def formats() -> tuple[Format, ...]:
    """All formats that are known, built-in ones first; other packages' are loaded with the first call.

    Raises:
        WeightkitError: One of another package cannot be loaded.
    """
    found = list(BUILT_IN)
    for entry in sorted(entry_points(group=GROUP)):
        try:
            found.append(entry.load())
        except (ImportError, AttributeError) as error:
            raise WeightkitError(f"the container format {entry.name} ({entry.value}) cannot be loaded: {error}") from error
    return tuple(found)


def format_named(name: str) -> Format:
    """A format by its name.

    Raises:
        ValueError: There is none of this name.
    """
    for one in formats():
        if one.name == name:
            return one
    raise ValueError(f"{name!r} is no container format; known: {', '.join(one.name for one in formats())}")


def suffixes() -> tuple[str, ...]:
    """How files of weights end, in any format: ``.bin``, ``.pth``, ..."""
    return tuple(dict.fromkeys(suffix for one in formats() for suffix in one.suffixes))


def sniff(head: bytes, nbytes: int) -> Format:
    """Which format a file is in.

    Args:
        head: The first 64 bytes of the file (all of it, if it is shorter).
        nbytes: The file's size.

    Raises:
        ValueError: None of them; the text says what it is instead, as far as can be told.
    """
    if not head:
        raise ValueError("is empty; download it again")
    for one in formats():
        if one.recognise(head, nbytes):
            return one
    for magic, problem in NOT_WEIGHTS:
        if head.lower().startswith(magic.lower()):
            raise ValueError(problem)
    if head.count(0) == len(head):
        raise ValueError("begins with zeros only: an XOR payload, or a download that was never filled")
    raise ValueError(f"is no torch checkpoint and no safetensors file: it begins with {head[:8]!r}")


def open_file(blob: Blob) -> Container:
    """Index one file of weights; which format it has is told from its first bytes, not from its name.

    Raises:
        FormatError: It cannot be read, is something else, or is damaged.
    """
    head = bytes(blob.read(0, min(HEAD_NBYTES, blob.nbytes)))
    try:
        return sniff(head, blob.nbytes).open(blob)
    except ValueError as error:
        raise FormatError(blob.name, str(error)) from error
