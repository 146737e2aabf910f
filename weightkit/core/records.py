"""What a file keeps a CRC-32 of, and which of that was found sound in this process. No torch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from isal.isal_zlib import crc32

from weightkit.core.blob import Blob
from weightkit.core.errors import FormatError

__all__ = ["Found", "Record", "check", "damaged"]

AT_ONCE_NBYTES = 1 << 20
"""Read at a time where a whole record is looked at."""


class Found:
    """Of the records of one file: which are sound, and which are being read with their end still to come.

    All tensors of a file share one, so that a record is looked at once. A copy in another process begins anew.
    """

    __slots__ = ("lock", "sound", "under_way")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sound: set[int] = set()
        self.under_way: set[int] = set()

    def hold(self, start: int) -> None:
        """The record that begins there is sound."""
        self.sound.add(start)
        self.under_way.discard(start)

    def __reduce__(self) -> tuple[Any, ...]:
        return Found, ()


@dataclass(frozen=True, slots=True)
class Record:
    """A run of bytes that a file keeps a CRC-32 of: ``[start, start + nbytes)``."""

    start: int
    nbytes: int
    crc32: int
    found: Found = field(default_factory=Found, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:  # smaller than by its fields: a file may have 100 000
        return Record, (self.start, self.nbytes, self.crc32, self.found)

    @property
    def sound(self) -> bool:
        """Whether its bytes were found to be those that the file keeps the CRC of."""
        return self.start in self.found.sound


def check(blob: Blob, record: Record, name: str) -> None:
    """Read a record from end to end, once in this process.

    Args:
        blob: The file.
        record: What to read.
        name: A tensor in it, for messages.

    Raises:
        FormatError: It is damaged.
    """
    with record.found.lock:
        if record.sound:
            return
        crc = 0
        for start in range(record.start, record.start + record.nbytes, AT_ONCE_NBYTES):
            crc = crc32(blob.read(start, min(start + AT_ONCE_NBYTES, record.start + record.nbytes)), crc)
        if crc != record.crc32:
            raise damaged(blob, record, crc, f"the record that holds {name}")
        record.found.hold(record.start)


def damaged(blob: Blob, record: Record, crc: int, what: str) -> FormatError:
    """What is said of a record whose bytes are others."""
    record.found.under_way.discard(record.start)
    return FormatError(
        blob.name,
        f"{what} is damaged: its bytes have CRC-32 {crc:08x}, the file itself records {record.crc32:08x}; "
        "download the file again",
    )
