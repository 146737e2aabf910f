"""Gzip: several members one after another, as RFC 1952 has it. Streaming both ways; by isal where that is quicker."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from isal import isal_zlib
from isal.igzip_lib import IsalError

from weightkit.core.buffers import Buffer
from weightkit.core.errors import FormatError
from weightkit.core.needs import Needs
from weightkit.streams import FileBytes, Nested, Stream

__all__ = ["MAGIC", "Gunzip", "Gzip"]

MAGIC = b"\x1f\x8b\x08"
WBITS = 16 + zlib.MAX_WBITS
STATE_NBYTES = 1 << 20
"""Memory of zlib's window and tables, either way."""
DAMAGE: tuple[type[BaseException], ...] = (IsalError, EOFError)  # type: ignore[assignment]  # isal types it as a value


@dataclass(frozen=True, slots=True)
class Gunzip(Nested):
    """What a gzip file holds. Its checksum and length are checked.

    Attributes:
        body: The file.
        nbytes: What its last four bytes say, which is the size modulo 4 GiB of the last member.
    """

    body: FileBytes
    nbytes: int

    @property
    def exact(self) -> bool:
        """Not where there are several members."""
        return False

    @property
    def needs(self) -> Needs:
        """The compressed bytes, and the decompressor."""
        return self.body.needs + Needs(held_nbytes=STATE_NBYTES)

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The content; ``FormatError`` where the file is damaged or cut off."""
        name = self.body.blob.name
        member = isal_zlib.decompressobj(wbits=WBITS)
        begun = False
        try:
            for chunk in self.body.chunks(block_nbytes):
                data: Buffer = chunk
                while data:
                    if member.eof:
                        if not bytes(data).strip(b"\0"):
                            data = b""  # zeros behind the last member fill up a tape's block
                            continue
                        member = isal_zlib.decompressobj(wbits=WBITS)
                    begun = True
                    out = member.decompress(data, block_nbytes)
                    if out:
                        yield out
                    data = member.unused_data if member.eof else member.unconsumed_tail
        except DAMAGE as error:
            raise FormatError(name, f"is damaged: {error}; download it again") from error
        while begun and not member.eof:
            try:
                out = member.decompress(b"", block_nbytes)
            except DAMAGE as error:
                raise FormatError(name, f"is damaged: {error}; download it again") from error
            if not out:
                raise FormatError(name, "is cut off: its gzip stream does not end; download it again")
            yield out


@dataclass(frozen=True, slots=True)
class Gzip(Nested):
    """A stream compressed with gzip: no name, no time, so that equal content is equal bytes with one zlib."""

    body: Stream
    level: int = 6

    @property
    def nbytes(self) -> int:
        """At most about as many as the content's."""
        return self.body.nbytes + (self.body.nbytes >> 12) + 64

    @property
    def exact(self) -> bool:
        """How far it compresses is seen when it is."""
        return False

    @property
    def needs(self) -> Needs:
        """The content's, and the compressor."""
        return self.body.needs + Needs(held_nbytes=STATE_NBYTES)

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The compressed bytes."""
        member = zlib.compressobj(self.level, zlib.DEFLATED, WBITS)
        for chunk in self.body.chunks(block_nbytes):
            if out := member.compress(chunk):
                yield out
        yield member.flush()
