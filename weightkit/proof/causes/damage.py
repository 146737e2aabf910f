"""Damage, where the file itself says so: a record whose CRC-32 is another than the one recorded, bytes after its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from isal.isal_zlib import crc32

from weightkit.containers import Container
from weightkit.containers.torch_zip import MAGIC
from weightkit.containers.zip_index import END, TAIL_NBYTES, Record, read_index
from weightkit.core.blob import Blob
from weightkit.core.passes import BLOCK_NBYTES

__all__ = ["BadRecord", "bad_records", "end_of"]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record of a zip file whose bytes have another CRC-32 than the directory gives.

    Attributes:
        file: The file's own name.
        record: The record.
        found: The CRC-32 of its bytes.
        tensors: Names of the tensors in it; empty where it holds none.
    """

    file: str
    record: Record
    found: int
    tensors: tuple[str, ...]

    def __str__(self) -> str:
        held = f" ({', '.join(self.tensors[:2])}{' ...' if len(self.tensors) > 2 else ''})" if self.tensors else ""
        return (
            f"record {self.record.name}{held} of {self.file} has CRC-32 {self.found:08x}, "
            f"the file itself records {self.record.crc32:08x}"
        )


def records_of(blob: Blob) -> list[Record]:
    """The records that have bytes and a CRC-32; none for other files than zip, and for those written without any.

    Source: torch ``set_crc32_options(False)``, run: it writes 0 for each. Where any is another, 0 is a CRC-32 like others.
    """
    if bytes(blob.read(0, min(len(MAGIC), blob.nbytes))) != MAGIC:
        return []
    records = [one for one in read_index(blob).values() if one.nbytes]
    return records if any(one.crc32 for one in records) else []


def bad_records(container: Container) -> Iterator[BadRecord]:
    """Records that are not what the file itself says; every one is read.

    Raises:
        FormatError: The file's directory is damaged.
    """
    blob = container.blob
    starts: dict[int, list[str]] = {}
    for name, tensor in container.tensors.items():
        starts.setdefault(tensor.record.start if tensor.record else tensor.start, []).append(name)
    for record in records_of(blob):
        found, stop = 0, record.start + record.nbytes
        for at in range(record.start, stop, BLOCK_NBYTES):
            found = crc32(blob.read(at, min(at + BLOCK_NBYTES, stop)), found)
        if found != record.crc32:
            yield BadRecord(PurePath(blob.name).name, record, found, tuple(starts.get(record.start, ())))


def end_of(blob: Blob) -> int:
    """Where a zip file ends by its own end record; the file's size for other files.

    Source: PKWARE APPNOTE 6.3.10, section 4.3.16.
    """
    if bytes(blob.read(0, min(len(MAGIC), blob.nbytes))) != MAGIC:
        return blob.nbytes
    first = max(0, blob.nbytes - TAIL_NBYTES)
    tail = bytes(blob.read(first, blob.nbytes))
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + END.size > len(tail):
        return blob.nbytes
    return min(blob.nbytes, first + at + END.size + int(END.unpack_from(tail, at)[-1]))
