"""Bytes that are read of a file of the network beside any stream of it, in requests of their own.

What they bring is remembered by a hash until a stream whose digest is right has gone over the same bytes: so no byte is used
that the digest does not vouch for.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from weightkit.blobs.reads import BLOCK
from weightkit.core.buffers import Buffer
from weightkit.core.errors import DigestMismatch

__all__ = ["Marks", "Piece", "Witness"]

PIECE = 16 << 10
"""Headers are read by the piece; several that lie together in one request."""

SMALL_READ = 16 * PIECE
READ_ON = 4
"""Blocks of one request beside the stream."""

KEPT_NBYTES = 16 << 20
"""Of all files together, what was read beside their streams and may be wanted again."""


@dataclass(frozen=True, slots=True)
class Piece:
    """How bytes of an object are fetched.

    Attributes:
        name: For people.
        nbytes: The object's size.
        fetch: ``fetch(start, stop)``, in one request.
        flow: ``flow(start, stop)``, ``BLOCK`` at a time.
    """

    name: str
    nbytes: int
    fetch: Callable[[int, int], bytearray]
    flow: Callable[[int, int], Iterator[bytearray]]


class Kept:
    """What was read last beside the streams, by version, unit and number."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parts: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self.nbytes = 0

    def get(self, key: tuple[str, int, int]) -> bytes | None:
        """A part, if it is still there."""
        with self.lock:
            if key in self.parts:
                self.parts.move_to_end(key)
            return self.parts.get(key)

    def put(self, key: tuple[str, int, int], part: bytes) -> None:
        """Keep a part; the one that was idle longest goes."""
        with self.lock:
            self.nbytes += len(part) - len(self.parts.pop(key, b""))
            self.parts[key] = part
            while self.nbytes > KEPT_NBYTES:
                self.nbytes -= len(self.parts.popitem(last=False)[1])


KEPT = Kept()


def forked() -> None:
    """A child keeps its own: a lock may be held in its parent's."""
    global KEPT
    KEPT = Kept()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


Marks = tuple[tuple[int, int, int, bytes], ...]
"""Number of a block, where in it, and the hash of what came."""


def mark_of(part: Buffer) -> bytes:
    """What tells bytes from others."""
    return hashlib.blake2b(part, digest_size=16).digest()


class Witness:
    """What was read of an object beside any stream of it, until a stream vouches for it."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.lock = threading.Lock()
        self.open: dict[int, dict[tuple[int, int], bytes]] = {}
        """Number of a block -> where in it, and the hash of what came."""
        self.heard: dict[tuple[int, int, int], bytes] = {}
        """What another process read, as it was told here."""
        self.torn: int | None = None
        """Where two processes read, and other bytes came to each."""

    def read(self, source: Piece, start: int, stop: int) -> bytearray:
        """Bytes ``[start, stop)`` in a request of their own, if they are not kept."""
        if start >= stop:
            return bytearray()
        unit = PIECE if stop - start <= SMALL_READ else BLOCK
        numbers = range(start // unit, (stop - 1) // unit + 1)
        parts = {number: part for number in numbers if (part := KEPT.get((self.version, unit, number))) is not None}
        if missing := [number for number in numbers if number not in parts]:
            low, high = missing[0] * unit, (missing[-1] + 1) * unit
            high = min(source.nbytes, max(high, low + READ_ON * BLOCK) if unit == BLOCK else high)
            found = memoryview(source.fetch(low, high))
            for at in range(low, high, unit):
                part = bytes(found[at - low : at - low + unit])
                self.saw(source.name, at, part)
                KEPT.put((self.version, unit, at // unit), part)
                parts[at // unit] = part
        first = numbers.start * unit
        return bytearray(b"".join(parts[number] for number in numbers)[start - first : stop - first])

    def saw(self, name: str, at: int, part: bytes) -> None:
        """Remember what came."""
        number, mark = at // BLOCK, mark_of(part)
        with self.lock:
            known = self.open.setdefault(number, {}).setdefault((at % BLOCK, at % BLOCK + len(part)), mark)
        if known != mark:
            raise differs(name, at)

    def marks(self) -> Marks:
        """What is still open, to be told to another process."""
        with self.lock:
            return tuple((number, *place, mark) for number, parts in self.open.items() for place, mark in parts.items())

    def hear(self, marks: Marks) -> None:
        """Take in what another process read and no stream has vouched for there."""
        with self.lock:
            for number, start, stop, mark in marks:
                place = (number, start, stop)
                known = self.heard.get(place) or self.open.setdefault(number, {}).setdefault((start, stop), mark)
                self.heard[place] = mark
                if known != mark:
                    self.torn = number * BLOCK + start

    def compare(self, name: str, number: int, block: Buffer) -> list[tuple[int, int, int]]:
        """Compare a block of a stream with what was read of it beside; which parts those are.

        Raises:
            DigestMismatch: Other bytes came.
        """
        with self.lock:
            parts, torn = dict(self.open.get(number, {})), self.torn
        if torn is not None:
            raise differs(name, torn)
        view = memoryview(block)
        for (start, stop), mark in parts.items():
            if mark_of(view[start:stop]) != mark:
                raise differs(name, number * BLOCK + start)
        return [(number, start, stop) for start, stop in parts]

    def vouched(self, source: Piece, read: Callable[[int, int], Buffer]) -> None:
        """Compare all with a copy of the object whose digest holds.

        Raises:
            DigestMismatch: Other bytes came.
        """
        with self.lock:
            numbers = list(self.open)
        for number in numbers:
            block = read(number * BLOCK, min(source.nbytes, (number + 1) * BLOCK))
            self.settle(self.compare(source.name, number, block))

    def settle(self, parts: list[tuple[int, int, int]]) -> None:
        """Forget what a stream vouches for."""
        with self.lock:
            for number, start, stop in parts:
                self.open.get(number, {}).pop((start, stop), None)
                if not self.open.get(number, True):
                    del self.open[number]

    @property
    def settled(self) -> bool:
        """Whether nothing is left."""
        with self.lock:
            return not self.open and self.torn is None


def differs(name: str, at: int) -> DigestMismatch:
    """What is said where the same bytes were read twice and are two."""
    reason = f"the bytes at {at} came twice, and differ; the same command fetches them again"
    return DigestMismatch(name, "blake2b", "the same twice", "two", reason)
