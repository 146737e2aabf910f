"""The central directory of a zip file: where each stored record lies. Nothing is decompressed, nothing is trusted.

    local header, name, extra, payload, [descriptor]   (once a record)
    central directory: one entry a record
    [zip64 end record, zip64 locator], end record

Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3; torch's departures from it: torch-golden, section 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from weightkit.containers.seekable import seekable
from weightkit.core.blob import Blob
from weightkit.core.errors import FormatError

__all__ = ["Record", "read_index"]

MAX_DIRECTORY = 64 << 20
HEAD_NBYTES = 1 << 12
"""Read at once where the head of a record is wanted."""

END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
TAIL_NBYTES = END.size + 0xFFFF


@dataclass(frozen=True, slots=True)
class Record:
    """One stored file in the zip: payload bytes ``[start, start + nbytes)``, with the CRC-32 that the directory gives."""

    name: str
    start: int
    nbytes: int
    crc32: int


def read_index(blob: Blob) -> dict[str, Record]:
    """The records of a zip file by name, in the order of its directory.

    Reads the file's end, and a little at the head of each record; small records that are neighbours share a read.

    Raises:
        FormatError: It is cut short, damaged, compressed or encrypted.
    """
    first = max(0, blob.nbytes - TAIL_NBYTES)
    tail = bytes(blob.read(first, blob.nbytes))

    def read(start: int, stop: int) -> bytes:
        return tail[start - first : stop - first] if start >= first else bytes(blob.read(start, stop))

    count, length, start = find_directory(blob, tail, read)
    if length > MAX_DIRECTORY or start + length > blob.nbytes:
        raise FormatError(blob.name, f"its zip directory of {length} bytes does not lie in the file of {blob.nbytes}", start)
    directory, heads = read(start, start + length), seekable(blob, HEAD_NBYTES)
    records: dict[str, Record] = {}
    position = 0
    for _ in range(count):
        record, position = read_entry(blob.name, heads, directory, position, start)
        if record.name in records:
            raise FormatError(blob.name, f"holds two records named {record.name!r}")
        records[record.name] = record
    check_disjoint(blob.name, list(records.values()), start)
    return records


def find_directory(blob: Blob, tail: bytes, read: Callable[[int, int], bytes]) -> tuple[int, int, int]:
    """Number of entries, length and offset of the central directory."""
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + END.size > len(tail):
        raise FormatError(blob.name, "has no zip directory at its end: it is cut short; download it again")
    _, _, _, _, count, length, start, _ = END.unpack_from(tail, at)
    locator = at - LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\6\7":
        end64 = LOCATOR.unpack_from(tail, locator)[2]
        if end64 + END64.size > blob.nbytes:
            raise FormatError(blob.name, "its zip64 end record lies outside the file: it is cut short or damaged")
        fields = END64.unpack(read(end64, end64 + END64.size))
        if fields[0] != b"PK\6\6":
            raise FormatError(blob.name, "its zip64 end record is damaged", end64)
        count, length, start = fields[7], fields[8], fields[9]
    if count * ENTRY.size > length:
        raise FormatError(blob.name, f"its zip directory of {length} bytes cannot hold {count} records")
    return count, length, start


def read_entry(file_name: str, heads: BinaryIO, directory: bytes, position: int, directory_start: int) -> tuple[Record, int]:
    """One entry of the central directory, and the position after it."""
    where = directory_start + position
    try:
        entry = ENTRY.unpack_from(directory, position)
    except struct.error as error:
        raise FormatError(file_name, "its zip directory ends in the middle of an entry", where) from error
    signature, _, _, flags, method, _, _, crc, packed, nbytes, *lengths, _, _, offset = entry
    name_nbytes, extra_nbytes, comment_nbytes = lengths[:3]
    if signature != b"PK\1\2":
        raise FormatError(file_name, "its zip directory is damaged", where)
    position += ENTRY.size
    try:
        name = directory[position : position + name_nbytes].decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(file_name, "a record's name is not UTF-8", where) from error
    extra = directory[position + name_nbytes : position + name_nbytes + extra_nbytes]
    nbytes, packed, offset = widen(extra, nbytes, packed, offset)
    if method or flags & 1 or packed != nbytes:
        raise FormatError(file_name, f"record {name!r} is compressed or encrypted; torch stores its records plain", where)
    if offset + LOCAL.size + nbytes > directory_start:
        raise FormatError(file_name, f"record {name!r} does not lie in the file", where)
    heads.seek(offset)
    signature, *_, local_name_nbytes, local_extra_nbytes = LOCAL.unpack(heads.read(LOCAL.size))
    start = offset + LOCAL.size + local_name_nbytes + local_extra_nbytes
    if signature != b"PK\3\4" or start + nbytes > directory_start:
        raise FormatError(file_name, f"record {name!r} has no sound header", offset)
    return Record(name, start, nbytes, crc), position + name_nbytes + extra_nbytes + comment_nbytes


def widen(extra: bytes, nbytes: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Replace the fields that are 0xFFFFFFFF by those of the zip64 extra field, where there is one."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 1:
            wide = [int.from_bytes(extra[at + 4 + i : at + 12 + i], "little") for i in range(0, length - 7, 8)]
            values = [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in (nbytes, packed, offset)]
            return values[0], values[1], values[2]
        at += 4 + length
    return nbytes, packed, offset


def check_disjoint(file_name: str, records: list[Record], limit: int) -> None:
    """Refuse a zip whose payloads overlap (a sound one never does; a zip bomb does)."""
    end = 0
    for record in sorted(records, key=lambda record: (record.start, record.nbytes)):
        if record.start < end:
            raise FormatError(file_name, f"record {record.name!r} overlaps another", record.start)
        end = record.start + record.nbytes
    if end > limit:
        raise FormatError(file_name, "a record reaches into the zip directory", end)
