"""Byte XOR as releases were published in it. Bit-exact: XOR is its own inverse, and the same everywhere.

Two rules for a key that is shorter than the payload, and they are not the same:

- ``Wrapped``, of point-alpaca and BELLE: payload and key are cut into chunks of 10 MiB. Chunk j of the payload goes with
  chunk ``j mod n`` of the n chunks of the key; a last, short chunk of the key is repeated until the payload's chunk is full.
- ``Padded``, of Open-Assistant and Pygmalion: beyond the key's end the payload stays as it is. What the key has more is cut.

Source: peers-measured, "The .enc rule" (point-alpaca ``encrypt.py``, BELLE ``decrypt.py``, both run); Open-Assistant
``xor_codec.py``, run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weightkit.core.buffers import Buffer, read_extent
from weightkit.streams import FileBytes, Reader, Stream

__all__ = ["CHUNK", "Padded", "Wrapped", "xor"]

CHUNK = 10 << 20
"""Bytes after which the ``Wrapped`` rule takes the next chunk of the key."""


def xor(data: Buffer, mask: Buffer) -> Buffer:
    """``data`` with its first bytes XORed with ``mask``, which is no longer; in place where that can be."""
    left, right = np.frombuffer(data, np.uint8), np.frombuffer(mask, np.uint8)
    if left.flags.writeable:
        np.bitwise_xor(left[: right.size], right, out=left[: right.size])
        return data
    result = left.copy()
    np.bitwise_xor(left[: right.size], right, out=result[: right.size])
    return result.data


@dataclass(frozen=True, slots=True)
class Padded:
    """A payload XORed with a key that counts as zeros beyond its end. As long as the payload."""

    payload: Stream
    key: Stream

    @property
    def nbytes(self) -> int:
        """The payload's."""
        return self.payload.nbytes

    @property
    def exact(self) -> bool:
        """As the payload's."""
        return self.payload.exact

    @property
    def computes(self) -> bool:
        """Whether one of them does."""
        return self.payload.computes or self.key.computes

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of both."""
        return *self.payload.files, *self.key.files

    @property
    def read_nbytes(self) -> int:
        """The payload's, and the key's as far as it is read."""
        return self.payload.read_nbytes + min(self.key.read_nbytes, self.payload.nbytes)

    @property
    def held_nbytes(self) -> int:
        """Those of both."""
        return self.payload.held_nbytes + self.key.held_nbytes

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The result."""
        key = Reader(self.key.chunks(block_bytes))
        for chunk in self.payload.chunks(block_bytes):
            yield xor(chunk, key.read(len(chunk)))


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A payload XORed with a key file that starts again in chunks of 10 MiB. As long as the payload.

    Attributes:
        payload: What is to be decoded, or encoded.
        key: The key file; its header, if it had one, is key as well.
    """

    payload: Stream
    key: FileBytes

    def __post_init__(self) -> None:
        if not self.key.nbytes and self.payload.nbytes:
            raise ValueError(f"{self.key.path} is empty, and no key")

    @property
    def nbytes(self) -> int:
        """The payload's."""
        return self.payload.nbytes

    @property
    def exact(self) -> bool:
        """As the payload's."""
        return self.payload.exact

    @property
    def computes(self) -> bool:
        """Whether one of them does."""
        return self.payload.computes or self.key.computes

    @property
    def files(self) -> tuple[Path, ...]:
        """Payload and key."""
        return *self.payload.files, self.key.path

    @property
    def read_nbytes(self) -> int:
        """As much of the key as of the payload."""
        return self.payload.read_nbytes + self.payload.nbytes

    @property
    def held_nbytes(self) -> int:
        """The key's short last chunk."""
        return self.payload.held_nbytes + CHUNK

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The result."""
        key = Reader(self.keystream(block_bytes))
        for chunk in self.payload.chunks(block_bytes):
            yield xor(chunk, key.read(len(chunk)))

    def keystream(self, block_bytes: int) -> Iterator[Buffer]:
        """The key, again and again by the rule, without end."""
        count = -(-self.key.nbytes // CHUNK)
        last = self.key.nbytes - (count - 1) * CHUNK
        short = b"" if last == CHUNK else bytes(read_extent(self.key.path, (count - 1) * CHUNK, last))
        while True:
            for number in range(count):
                if number < count - 1 or not short:
                    yield from FileBytes(self.key.path, number * CHUNK, CHUNK).chunks(block_bytes)
                else:
                    yield from repeated(short, CHUNK, block_bytes)


def repeated(piece: bytes, nbytes: int, block_bytes: int) -> Iterator[Buffer]:
    """A few bytes again and again, until there are ``nbytes``."""
    tile = memoryview(piece * max(1, block_bytes // len(piece)))
    while nbytes:
        yield tile[:nbytes]
        nbytes -= min(nbytes, len(tile))
