"""Bytes in memory: what a reader hands out and an encoder yields."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from weightkit.core.errors import FormatError

__all__ = ["Buffer", "read_extent", "zeros"]

Buffer = bytes | bytearray | memoryview
"""A flat run of bytes. A memoryview is one-dimensional with itemsize 1, so that ``len`` is its size in bytes."""

ZEROS = bytes(1 << 16)


def zeros(nbytes: int) -> Buffer:
    """``nbytes`` zero bytes, without a new allocation for short runs."""
    return memoryview(ZEROS)[:nbytes] if nbytes <= len(ZEROS) else bytes(nbytes)


def read_extent(path: Path, start: int, nbytes: int) -> memoryview:
    """Read ``nbytes`` bytes from byte ``start`` of a file into fresh, writable memory.

    Raises:
        FormatError: The file ends before, or cannot be read.
    """
    buffer = np.empty(nbytes, np.uint8).data
    got = 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while got < nbytes:
                step = os.preadv(descriptor, [buffer[got:]], start + got)
                if not step:
                    break
                got += step
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}", start) from error
    if got != nbytes:
        raise FormatError(path, f"ends too early: wanted {nbytes} bytes, found {got}", start)
    return buffer
