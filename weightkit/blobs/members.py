"""One file in a zip archive, stored or deflated, with random access in bounded memory.

Before a byte of a member is handed out, all of it was gone over once: it has the size and the CRC-32 that the directory says.
On the way over a deflated one the decompressor's state is kept at up to 64 places. A read begins at the nearest before it.
"""

from __future__ import annotations

import bisect
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from weightkit.core.blob import Blob, Extent
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError

__all__ = ["DEFLATED", "STORED", "Method", "ZipBlob"]

Method = Literal["stored", "deflated"]
STORED: Method = "stored"
DEFLATED: Method = "deflated"

PACKED_NBYTES = 64 << 10
"""Read of a deflated member at a time."""

BLOCK_NBYTES = 1 << 20
"""What comes out at a time at most."""

MOST_PLACES = 64
LEAST_STEP = 1 << 20
MOST_MEMBERS = 4
"""Members whose places are kept, about 7 MiB each."""


@dataclass(frozen=True, slots=True)
class ZipBlob:
    """A member.

    Attributes:
        archive: The file that it is in.
        member: Its name there.
        nbytes: Its size, as the directory says.
        method: How it is packed.
        start: Offset of its packed bytes in the archive.
        packed_nbytes: Their number.
        crc32: Of its bytes, as the directory says.
    """

    archive: Blob
    member: str
    nbytes: int
    method: Method
    start: int
    packed_nbytes: int
    crc32: int

    def __hash__(self) -> int:
        return hash(self.version)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.nbytes} bytes, {self.method}>"

    @property
    def name(self) -> str:
        """The archive's, and its own."""
        return f"{self.archive.name}/{self.member}"

    @property
    def version(self) -> str:
        """The archive's, and where it lies in it."""
        return f"{self.archive.version}-{self.start:x}"

    @property
    def stated(self) -> tuple[Digest, ...]:
        """None: a CRC-32 is no digest."""
        return ()

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``, of a member that was gone over whole.

        Raises:
            FormatError: It is damaged, or the archive has changed.
        """
        if not 0 <= start <= stop <= self.nbytes:
            raise FormatError(self.name, f"ends too early: wanted bytes {start} to {stop} of {self.nbytes}", start)
        if start == stop:
            return bytearray()
        return PROVED.of(self).read(start, stop)

    def ahead(self, extents: Sequence[Extent], nbytes: int) -> AbstractContextManager[None]:
        """Nothing: the system reads ahead itself."""
        return nullcontext()

    def check(self) -> None:
        """See that the archive still has its version."""
        self.archive.check()


@dataclass(slots=True)
class Inflater:
    """A decompressor at a place of a deflated member.

    Attributes:
        blob: The member.
        at: How many of its bytes came out already.
        packed_at: How many packed bytes went in.
        state: zlib's.
    """

    blob: ZipBlob
    at: int = 0
    packed_at: int = 0
    state: Any = field(default_factory=lambda: zlib.decompressobj(-zlib.MAX_WBITS))

    def copy(self) -> Inflater:
        """The same place once more."""
        return Inflater(self.blob, self.at, self.packed_at, self.state.copy())

    def more(self, most: int) -> bytes:
        """The next bytes, at most so many; none at the end of the stream.

        Raises:
            FormatError: The stream is damaged, or ends too early.
        """
        blob = self.blob
        while not self.state.eof:
            stop = min(blob.packed_nbytes, self.packed_at + PACKED_NBYTES)
            packed = bytes(blob.archive.read(blob.start + self.packed_at, blob.start + stop))
            try:
                found: bytes = self.state.decompress(packed, min(most, BLOCK_NBYTES))
            except zlib.error as error:
                raise FormatError(blob.name, f"is damaged ({error}); download the archive again") from error
            left = len(self.state.unconsumed_tail) + len(self.state.unused_data)
            self.packed_at = stop - left
            self.at += len(found)
            if found:
                return found
            if stop == blob.packed_nbytes and not left and not self.state.eof:
                raise FormatError(blob.name, f"ends after {self.at} of {blob.nbytes} bytes: it is damaged")
        return b""


class Member:
    """A member that was gone over whole, and has the size and the CRC-32 that the directory says.

    Raises:
        FormatError: It has not.
    """

    def __init__(self, blob: ZipBlob) -> None:
        self.blob = blob
        self.lock = threading.Lock()
        self.places: list[Inflater] = []
        self.last: Inflater | None = None
        crc = total = 0
        for block in self.inflated() if blob.method == DEFLATED else self.stored():
            total += len(block)
            if total > blob.nbytes:
                raise FormatError(blob.name, f"holds more than the {blob.nbytes} bytes that the archive says")
            crc = zlib.crc32(block, crc)
        if total != blob.nbytes:
            raise FormatError(blob.name, f"holds {total} bytes, and the archive says {blob.nbytes}: it is damaged")
        if crc != blob.crc32:
            found = f"its bytes have CRC-32 {crc:08x}, and the archive says {blob.crc32:08x}"
            raise FormatError(blob.name, f"{found}: it is damaged; download it again")

    def stored(self) -> Iterator[Buffer]:
        """Its bytes, as they lie there."""
        for at in range(0, self.blob.nbytes, BLOCK_NBYTES):
            yield self.blob.archive.read(self.blob.start + at, self.blob.start + min(self.blob.nbytes, at + BLOCK_NBYTES))

    def inflated(self) -> Iterator[bytes]:
        """Its bytes as they come out, with places kept on the way."""
        blob = self.blob
        step = max(LEAST_STEP, blob.nbytes // MOST_PLACES)
        going = Inflater(blob)
        self.places.append(going.copy())
        while found := going.more(BLOCK_NBYTES):
            yield found
            if going.at >= self.places[-1].at + step and len(self.places) < MOST_PLACES:
                self.places.append(going.copy())
        if going.packed_at != blob.packed_nbytes:
            raise FormatError(blob.name, f"ends {blob.packed_nbytes - going.packed_at} bytes before its packed bytes do")

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``, in fresh memory."""
        blob = self.blob
        if blob.method == STORED:
            return blob.archive.read(blob.start + start, blob.start + stop)
        buffer = np.empty(stop - start, np.uint8).data
        with self.lock:
            going = self.near(start)
            while going.at < stop:
                first = going.at
                found = going.more(start - first if first < start else stop - first)
                if not found:
                    raise FormatError(blob.name, f"ends after {first} of {blob.nbytes} bytes: it has changed")
                if first >= start:
                    buffer[first - start : going.at - start] = found
            self.last = going
        return buffer

    def near(self, start: int) -> Inflater:
        """A decompressor at the nearest place that is not behind: where the last read ended, or one that was kept."""
        kept = self.places[bisect.bisect_right(self.places, start, key=lambda one: one.at) - 1]
        last, self.last = self.last, None
        return last if last is not None and kept.at <= last.at <= start else kept.copy()


class Proved:
    """The members of this process that were gone over, those used last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.members: OrderedDict[str, Member] = OrderedDict()

    def of(self, blob: ZipBlob) -> Member:
        """A member, gone over now if it was not yet. Raises like ``Member``."""
        with self.lock:
            found = self.members.get(blob.version)
            if found is None or found.blob != blob:
                blob.archive.check()
                found = self.members[blob.version] = Member(blob)
            self.members.move_to_end(blob.version)
            while len(self.members) > MOST_MEMBERS:
                self.members.popitem(last=False)
        return found


PROVED = Proved()


def forked() -> None:
    """A child goes over members itself: a lock of its parent may be held."""
    global PROVED
    PROVED = Proved()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)
