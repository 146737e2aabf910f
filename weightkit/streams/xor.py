"""Byte XOR as releases were published in it. Bit-exact: XOR is its own inverse, and the same everywhere.

Two rules for a key that is shorter than the payload, and they are not the same:

- ``Wrapped``, of point-alpaca and BELLE: payload and key are cut into chunks of 10 MiB. Chunk j of the payload goes with
  chunk ``j mod n`` of the n chunks of the key; a last, short chunk of the key is repeated until the payload's chunk is full.
- ``Padded``, of Open-Assistant and Pygmalion: beyond the key's end the payload stays as it is. What the key has more is cut.

Source: peers-measured, "The .enc rule" (point-alpaca ``encrypt.py``, BELLE ``decrypt.py``, both run); Open-Assistant
``xor_codec.py``, run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.needs import Needs
from weightkit.streams import Nested, Reader, Stream
from weightkit.streams.beside import beside
from weightkit.streams.computed import Anywhere, anywhere

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
class Padded(Nested):
    """A payload, ``body``, XORed with a key that counts as zeros beyond its end. As long as the payload."""

    body: Stream
    key: Stream

    @property
    def needs(self) -> Needs:
        """Those of both; the key's bytes as far as they are read."""
        key = self.key.needs
        return self.body.needs + replace(key, read_nbytes=min(key.read_nbytes, self.body.nbytes))

    @property
    def anywhere(self) -> bool:
        """Whether both can be."""
        return anywhere(self.body) and anywhere(self.key)

    def read(self, start: int, stop: int) -> Buffer:
        """Some of the result. Raises ``TypeError`` where it is not ``anywhere``."""
        if not anywhere(self.body) or not anywhere(self.key):
            raise TypeError(f"{type(self.body).__name__} and {type(self.key).__name__} are read from front to back")
        end = self.key.nbytes
        return xor(self.body.read(start, stop), self.key.read(min(start, end), min(stop, end)))

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The result."""
        key = Reader(self.key.chunks(block_nbytes))
        for chunk in self.body.chunks(block_nbytes):
            yield xor(chunk, key.read(len(chunk)))


@dataclass(frozen=True, slots=True)
class Wrapped(Nested):
    """A payload XORed with a key that starts again in chunks of 10 MiB. As long as the payload.

    Attributes:
        body: The payload: what is to be decoded, or encoded.
        key: The key file, or what computes its bytes; its header, if it had one, is key as well. Of known size.
    """

    body: Stream
    key: Stream

    def __post_init__(self) -> None:
        if not self.key.nbytes and self.body.nbytes:
            raise ValueError("the key is empty, and no key")

    @property
    def needs(self) -> Needs:
        """As much of the key as of the payload, and its short last chunk."""
        key = self.key.needs
        return self.body.needs + replace(key, read_nbytes=self.body.nbytes, held_nbytes=key.held_nbytes + CHUNK)

    @property
    def anywhere(self) -> bool:
        """Whether both can be."""
        return anywhere(self.body) and anywhere(self.key)

    def read(self, start: int, stop: int) -> Buffer:
        """Some of the result. Raises ``TypeError`` where it is not ``anywhere``."""
        if not anywhere(self.body) or not anywhere(self.key):
            raise TypeError(f"{type(self.body).__name__} and {type(self.key).__name__} are read from front to back")
        return xor(self.body.read(start, stop), b"".join(self.key_pieces(self.key, start, stop)))

    def key_pieces(self, key: Anywhere, start: int, stop: int) -> Iterator[Buffer]:
        """The key's bytes for some of the payload's, by the rule."""
        chunks = -(-key.nbytes // CHUNK)
        while start < stop:
            number, within = divmod(start, CHUNK)
            first = number % chunks * CHUNK
            length = min(CHUNK, key.nbytes - first)
            taken = min(stop - start, length - within % length, CHUNK - within)
            yield key.read(first + within % length, first + within % length + taken)
            start += taken

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The result. A key that is computed is computed in a thread of its own."""
        keystream = self.keystream(block_nbytes)
        with closing(keystream if anywhere(self.key) else beside(keystream)) as stream:
            key = Reader(stream)
            for chunk in self.body.chunks(block_nbytes):
                yield xor(chunk, key.read(len(chunk)))

    def keystream(self, block_nbytes: int) -> Generator[Buffer]:
        """The key, again and again by the rule, without end."""
        full = self.key.nbytes - self.key.nbytes % CHUNK
        while True:
            left, short = full, bytearray()
            for chunk in self.key.chunks(block_nbytes):
                view = memoryview(chunk)
                if left:
                    yield view[:left]
                short += view[left:]
                left -= min(left, len(view))
            if short:
                yield from repeated(bytes(short), CHUNK, block_nbytes)


def repeated(piece: bytes, nbytes: int, block_nbytes: int) -> Iterator[Buffer]:
    """A few bytes again and again, until there are ``nbytes``."""
    tile = memoryview(piece * max(1, block_nbytes // len(piece)))
    while nbytes:
        yield tile[:nbytes]
        nbytes -= min(nbytes, len(tile))
