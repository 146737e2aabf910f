"""One file <-> named tensors. ``open_file`` tells the format from the bytes; each format has a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from weightkit.containers import safetensors, torch_legacy, torch_zip
from weightkit.containers.safetensors import SafetensorsFile
from weightkit.containers.torch_file import TorchFile
from weightkit.core.errors import FormatError

__all__ = ["SUFFIXES", "Container", "open_file", "sniff"]

Container = TorchFile | SafetensorsFile

OPENERS: dict[str, Callable[[Path], Container]] = {
    "torch-zip": torch_zip.open_file,
    "torch-legacy": torch_legacy.open_file,
    "safetensors": safetensors.open_file,
}

SUFFIXES = (".bin", ".pth", ".pt", ".safetensors")
"""How files of weights are called."""

NOT_WEIGHTS = (
    (b"version https://git-lfs", "is a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"<!DOCTYPE", "is a web page, not weights; the download went wrong, perhaps for want of a login"),
    (b"<html", "is a web page, not weights; the download went wrong, perhaps for want of a login"),
    (b"GGUF", "is a GGUF file, which is not read as a checkpoint"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
)


def sniff(head: bytes, size: int) -> str:
    """Which container begins with these bytes: a key of ``OPENERS``.

    Args:
        head: The first 64 bytes of the file (all of it, if it is shorter).
        size: The file's size in bytes.

    Raises:
        ValueError: None of them; the text says what it is instead, as far as can be told.
    """
    if not head:
        raise ValueError("is empty; download it again")
    for magic, problem in NOT_WEIGHTS:
        if head.lower().startswith(magic.lower()):
            raise ValueError(problem)
    if head.startswith(b"PK\3\4"):
        return "torch-zip"
    if head.startswith(torch_legacy.MAGIC[: len(head)]):
        return "torch-legacy"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return "safetensors"
    if head.count(0) == len(head):
        raise ValueError("begins with zeros only: an XOR payload, or a download that was never filled")
    raise ValueError(f"is no torch checkpoint and no safetensors file: it begins with {head[:8]!r}")


def open_file(path: Path) -> Container:
    """Index one file of weights; which format it has is told from its first bytes, not from its name.

    Raises:
        FormatError: It cannot be read, is something else, or is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
        return OPENERS[sniff(head, path.stat().st_size)](path)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(path, str(error)) from error
