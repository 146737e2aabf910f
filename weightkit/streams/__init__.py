"""Bytes -> bytes: what a file is made of, said before a byte is read. Streams nest; none of them needs torch.

A stream is a frozen value. It knows its size (or that it does not), the files it reads, and gives its bytes front to back
in blocks, any number of times. The caller may write to the blocks it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from weightkit.core.buffers import Buffer, read_extent
from weightkit.core.errors import FormatError

__all__ = ["FileBytes", "Headed", "Known", "Reader", "Stream", "whole"]


class Stream(Protocol):
    """Bytes to be read or computed."""

    @property
    def nbytes(self) -> int:
        """How many there are; where that is not ``exact``, about how many."""

    @property
    def exact(self) -> bool:
        """Whether ``nbytes`` is known to the byte before they are read."""

    @property
    def computes(self) -> bool:
        """Whether tensors are computed on the way, so that torch is needed."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it reads."""

    @property
    def read_nbytes(self) -> int:
        """Bytes that it reads from files."""

    @property
    def held_nbytes(self) -> int:
        """Memory that it holds while it is read, beside the blocks."""

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The bytes, about ``block_bytes`` at a time; no chunk is empty."""


@dataclass(frozen=True, slots=True)
class FileBytes:
    """The bytes of a file from ``start`` on; ``nbytes`` of them."""

    path: Path
    start: int
    nbytes: int
    exact: ClassVar[bool] = True
    computes: ClassVar[bool] = False
    held_nbytes: ClassVar[int] = 0

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def read_nbytes(self) -> int:
        """All of them."""
        return self.nbytes

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The bytes in fresh memory; ``FormatError`` where the file has become shorter."""
        stop = self.start + self.nbytes
        for at in range(self.start, stop, block_bytes):
            yield read_extent(self.path, at, min(block_bytes, stop - at))


def whole(path: Path) -> FileBytes:
    """All bytes of a file.

    Raises:
        FormatError: It cannot be read.
    """
    try:
        return FileBytes(path, 0, path.stat().st_size)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Known:
    """Bytes that are known already."""

    content: bytes
    exact: ClassVar[bool] = True
    computes: ClassVar[bool] = False
    files: ClassVar[tuple[Path, ...]] = ()
    read_nbytes: ClassVar[int] = 0
    held_nbytes: ClassVar[int] = 0

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self.content)

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The bytes."""
        for at in range(0, len(self.content), block_bytes):
            yield self.content[at : at + block_bytes]


@dataclass(frozen=True, slots=True)
class Headed:
    """Some known bytes, then a stream."""

    header: bytes
    body: Stream

    @property
    def nbytes(self) -> int:
        """Those of both."""
        return len(self.header) + self.body.nbytes

    @property
    def exact(self) -> bool:
        """As the stream's."""
        return self.body.exact

    @property
    def computes(self) -> bool:
        """As the stream's."""
        return self.body.computes

    @property
    def files(self) -> tuple[Path, ...]:
        """The stream's."""
        return self.body.files

    @property
    def read_nbytes(self) -> int:
        """The stream's."""
        return self.body.read_nbytes

    @property
    def held_nbytes(self) -> int:
        """The stream's."""
        return self.body.held_nbytes

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The header, then the stream's."""
        if self.header:
            yield self.header
        yield from self.body.chunks(block_bytes)


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
