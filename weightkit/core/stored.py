"""A leaf of every expression: where a tensor's bytes lie in an object, and how they are read and checked. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from isal.isal_zlib import crc32

from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.records import Record, check, damaged
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
        """Start a pass. What the file keeps a CRC of is checked: while it goes by, if all rows do in order, else beforehand.

        A pass that ends before the last row leaves its record to ``finish``.
        """
        record = self.record
        if record is None or record.sound:
            return self.read
        if not self.whole:
            return self.begin_part(record)
        last, row = self.spec.rows, self.spec.row_nbytes
        found, wanted = record.found, record.crc32
        crc = seen = 0

        def read(start: int, stop: int) -> Buffer:
            nonlocal crc, seen
            if start > seen:
                check(self.blob, record, self.name)
                seen = last
            buffer = self.read(start, stop)
            if stop > seen:
                crc, seen = crc32(buffer if start == seen else memoryview(buffer)[(seen - start) * row :], crc), stop
                if stop < last:
                    found.under_way.add(record.start)
                elif crc != wanted:
                    raise damaged(self.blob, record, crc, self.name)
                else:
                    found.hold(record.start)
            return buffer

        return read

    def begin_part(self, record: Record) -> Read:
        """Start a pass over less than the record, or over it in another order."""

        def read(start: int, stop: int) -> Buffer:
            check(self.blob, record, self.name)
            return self.read(start, stop)

        return read

    def finish(self) -> None:
        """See that what passes have used of the record is sound, where none came to its end.

        Raises:
            FormatError: It is damaged.
        """
        record = self.record
        if record is not None and record.start in record.found.under_way:
            check(self.blob, record, self.name)
