"""Gzip: several members one after another, as RFC 1952 has it. Streaming both ways; by isal where that is quicker."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from isal import isal_zlib
from isal.igzip_lib import IsalError

from weightkit.core.buffers import Buffer
from weightkit.core.errors import FormatError
from weightkit.streams import FileBytes, Stream

__all__ = ["MAGIC", "Gunzip", "Gzip"]

MAGIC = b"\x1f\x8b\x08"
WBITS = 16 + zlib.MAX_WBITS
STATE_BYTES = 1 << 20
DAMAGE: tuple[type[BaseException], ...] = (IsalError, EOFError)  # type: ignore[assignment]  # isal types it as a value


@dataclass(frozen=True, slots=True)
class Gunzip:
    """What a gzip file holds. Its checksum and length are checked.

    Attributes:
        file: The file.
        nbytes: What its last four bytes say, which is the size modulo 4 GiB of the last member.
    """

    file: FileBytes
    nbytes: int
    exact: ClassVar[bool] = False
    computes: ClassVar[bool] = False
    held_nbytes: ClassVar[int] = STATE_BYTES

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return self.file.files

    @property
    def read_nbytes(self) -> int:
        """The compressed ones."""
        return self.file.nbytes

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The content; ``FormatError`` where the file is damaged or cut off."""
        path = self.file.path
        member = isal_zlib.decompressobj(wbits=WBITS)
        begun = False
        try:
            for chunk in self.file.chunks(block_bytes):
                data: Buffer = chunk
                while data:
                    if member.eof:
                        if not bytes(data).strip(b"\0"):
                            data = b""  # zeros behind the last member fill up a tape's block
                            continue
                        member = isal_zlib.decompressobj(wbits=WBITS)
                    begun = True
                    out = member.decompress(data, block_bytes)
                    if out:
                        yield out
                    data = member.unused_data if member.eof else member.unconsumed_tail
        except DAMAGE as error:
            raise FormatError(path, f"is damaged: {error}; download it again") from error
        while begun and not member.eof:
            try:
                out = member.decompress(b"", block_bytes)
            except DAMAGE as error:
                raise FormatError(path, f"is damaged: {error}; download it again") from error
            if not out:
                raise FormatError(path, "is cut off: its gzip stream does not end; download it again")
            yield out


@dataclass(frozen=True, slots=True)
class Gzip:
    """A stream compressed with gzip: no name, no time, so that equal content is equal bytes with one zlib."""

    body: Stream
    level: int = 6
    exact: ClassVar[bool] = False
    held_nbytes: ClassVar[int] = STATE_BYTES

    @property
    def computes(self) -> bool:
        """As the content."""
        return self.body.computes

    @property
    def nbytes(self) -> int:
        """At most about as many as the content's."""
        return self.body.nbytes + (self.body.nbytes >> 12) + 64

    @property
    def files(self) -> tuple[Path, ...]:
        """The content's."""
        return self.body.files

    @property
    def read_nbytes(self) -> int:
        """The content's."""
        return self.body.read_nbytes

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The compressed bytes."""
        member = zlib.compressobj(self.level, zlib.DEFLATED, WBITS)
        for chunk in self.body.chunks(block_bytes):
            if out := member.compress(chunk):
                yield out
        yield member.flush()
