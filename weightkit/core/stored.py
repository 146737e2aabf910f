"""A leaf of every expression: where a tensor's bytes lie in an object, and how they are read and checked. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from isal.isal_zlib import crc32

from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec
from weightkit.core.strided import gather_rows

__all__ = ["Read", "Record", "Stored"]

Read = Callable[[int, int], Buffer]
"""Bytes of rows ``[start, stop)`` of a tensor, row-major, little-endian.

Asked for in ascending, adjoining ranges from row 0 on, unless only some rows are wanted: so an operation may keep what it
needs of the rows that went by (a running mean), and a CRC can be taken on the way. An operation that holds little may ask for
rows once more. The caller must not write to the result: others may be reading it.
"""


@dataclass(frozen=True, slots=True)
class Record:
    """A run of bytes that a file keeps a CRC-32 of: ``[start, start + nbytes)``."""

    start: int
    nbytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it stands in an object. Equal where the bytes are the same ones: name and record do not count.

    Attributes:
        blob: The object.
        name: What the file calls the tensor.
        spec: Dtype and shape.
        start: Its first byte.
        strides: Of a view that is not contiguous, in elements; None: row-major.
        record: What the file keeps a CRC of, with this tensor in it; None where it keeps none.
    """

    blob: Blob
    name: str = field(compare=False)
    spec: TensorSpec
    start: int
    strides: tuple[int, ...] | None = None
    record: Record | None = field(default=None, compare=False)

    def __hash__(self) -> int:  # expressions are looked up for every tensor: the place tells almost all apart
        return hash((self.start, self.blob))

    def __repr__(self) -> str:
        return f"<{self.name}: {self.spec} in {self.blob.name}>"

    @property
    def whole(self) -> bool:
        """Whether the tensor is its record, from the first byte to the last."""
        record = self.record
        return record is not None and self.strides is None and (self.start, self.spec.nbytes) == (record.start, record.nbytes)

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes of rows ``[start, stop)``, in memory of their own; views that are not contiguous are gathered."""
        if self.strides is None:
            row = self.spec.row_nbytes
            return self.blob.read(self.start + start * row, self.start + stop * row)
        return gather_rows(
            lambda first, nbytes: self.blob.read(self.start + first, self.start + first + nbytes),
            self.spec,
            self.strides,
            start,
            stop,
        )

    def begin(self) -> Read:
        """Start a pass; if all rows go by and the file keeps a CRC of just these bytes, it is checked with the last."""
        wanted = self.record.crc32 if self.record is not None and self.whole else None
        if wanted is None:
            return self.read
        last = self.spec.rows
        crc = seen = 0

        def read(start: int, stop: int) -> Buffer:
            nonlocal crc, seen
            buffer = self.read(start, stop)
            if start == seen:
                crc, seen = crc32(buffer, crc), stop
                if stop == last and crc != wanted:
                    raise FormatError(
                        self.blob.name,
                        f"{self.name} is damaged: its bytes have CRC-32 {crc:08x}, the file itself records {wanted:08x}; "
                        "download the file again",
                    )
            return buffer

        return read
