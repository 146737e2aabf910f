"""Bytes -> bytes: what a file is made of, said before a byte is read. Streams nest; none of them needs torch.

A stream is a frozen value. It knows its size (or that it does not) and what it needs, and gives its bytes front to back in
blocks, any number of times. The caller may write to the blocks it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from weightkit.core.blob import Blob, Extent
from weightkit.core.buffers import Buffer
from weightkit.core.needs import Needs
from weightkit.core.passes import AHEAD_NBYTES

__all__ = ["FileBytes", "Headed", "Known", "Nested", "Reader", "Stream", "beginning", "whole"]

LOOKING = ContextVar("LOOKING", default=False)
"""Whether only the beginning is looked at, so that no pass is announced, and nothing else is fetched."""

LOOK_NBYTES = 1 << 16


class Stream(Protocol):
    """Bytes to be read or computed."""

    @property
    def nbytes(self) -> int:
        """How many there are; where that is not ``exact``, about how many."""

    @property
    def exact(self) -> bool:
        """Whether ``nbytes`` is known to the byte before they are read."""

    @property
    def needs(self) -> Needs:
        """What reading them takes."""

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The bytes, about ``block_nbytes`` at a time; no chunk is empty."""


class Nested:
    """What a stream made of another has from it, unless it says otherwise: its size, and what it needs."""

    __slots__ = ()
    body: Stream

    @property
    def nbytes(self) -> int:
        """The body's."""
        return self.body.nbytes

    @property
    def exact(self) -> bool:
        """As the body's."""
        return self.body.exact

    @property
    def needs(self) -> Needs:
        """The body's."""
        return self.body.needs


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The bytes of a file from ``start`` on; ``nbytes`` of them."""

    blob: Blob
    start: int
    nbytes: int

    @property
    def exact(self) -> bool:
        """They are counted."""
        return True

    @property
    def needs(self) -> Needs:
        """The file, as far as it is read."""
        return Needs((self.blob,), self.nbytes)

    @property
    def anywhere(self) -> bool:
        """Always."""
        return True

    def read(self, start: int, stop: int) -> Buffer:
        """Some of the bytes, counted from ``self.start``, in fresh memory."""
        return self.blob.read(self.start + start, self.start + stop)

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The bytes in fresh memory; ``FormatError`` where the file has changed."""
        stop = self.start + self.nbytes
        with nullcontext() if LOOKING.get() else self.blob.ahead([Extent(self.start, stop)], AHEAD_NBYTES):
            for at in range(self.start, stop, block_nbytes):
                yield self.blob.read(at, min(at + block_nbytes, stop))


def whole(blob: Blob) -> FileBytes:
    """All bytes of a file."""
    return FileBytes(blob, 0, blob.nbytes)


@dataclass(frozen=True, slots=True)
class Known:
    """Bytes that are known already."""

    content: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self.content)

    @property
    def exact(self) -> bool:
        """They are there."""
        return True

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    @property
    def anywhere(self) -> bool:
        """Always."""
        return True

    def read(self, start: int, stop: int) -> Buffer:
        """A copy of some of them."""
        return bytearray(self.content[start:stop])

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The bytes."""
        for at in range(0, len(self.content), block_nbytes):
            yield self.content[at : at + block_nbytes]


@dataclass(frozen=True, slots=True)
class Headed(Nested):
    """Some known bytes, then a stream."""

    header: bytes
    body: Stream

    @property
    def nbytes(self) -> int:
        """Those of both."""
        return len(self.header) + self.body.nbytes

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The header, then the body."""
        if self.header:
            yield self.header
        yield from self.body.chunks(block_nbytes)


class Reader:
    """A stream from which any number of bytes can be taken at a time."""

    def __init__(self, chunks: Iterator[Buffer]) -> None:
        self.chunks = chunks
        self.left = memoryview(b"")

    def read(self, nbytes: int) -> Buffer:
        """The next bytes; fewer, or none, where the stream ends."""
        if not self.left:
            self.left = memoryview(next(self.chunks, b""))
        if len(self.left) >= nbytes:
            taken, self.left = self.left[:nbytes], self.left[nbytes:]
            return taken
        parts = [self.left]
        missing = nbytes - len(self.left)
        while missing and (chunk := next(self.chunks, b"")):
            view = memoryview(chunk)
            parts.append(view[:missing])
            self.left = view[missing:]
            missing -= len(parts[-1])
        if missing:
            self.left = memoryview(b"")
        return b"".join(parts)


def beginning(stream: Stream, nbytes: int) -> bytes:
    """The first bytes of a stream, for a look: of what lies on another machine only these are fetched."""
    token = LOOKING.set(True)
    try:
        return bytes(Reader(stream.chunks(LOOK_NBYTES)).read(nbytes))
    finally:
        LOOKING.reset(token)
