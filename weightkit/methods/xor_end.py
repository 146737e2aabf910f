"""Whether what an XOR decodes to is a sound file of weights, seen while it is written: its end, sizes and checksums.

A wrong base or key may agree with the right one at the beginning; a payload that was cut does. A torch zip tells at its end:
the directory has the CRC-32 of each record. The CRC of all bytes so far is kept wherever a record may begin or end, and that of
a record is computed from the two: crc(AB) = shift(crc(A), len(B)) ^ crc(B).

Source: zlib 1.2.13, ``crc32_combine``; PKWARE APPNOTE 6.3.10, sections 4.3.7 and 4.3.9; safetensors, the format.
"""

from __future__ import annotations

import heapq
import io
import json
import zipfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from isal.isal_zlib import crc32

from weightkit.containers import suffixes
from weightkit.core.buffers import Buffer
from weightkit.core.errors import FormatError
from weightkit.core.needs import Needs
from weightkit.run.plan import Plan, StreamFile
from weightkit.streams import Nested, Stream
from weightkit.streams.xor import Padded, Wrapped

__all__ = ["Sound", "sound"]

TAIL_NBYTES = 1 << 20
"""So much of the end is kept: the directory of 700 tensors has 70 kB."""

LOCAL_NBYTES = 30
LOCAL, DESCRIPTOR, CENTRAL = b"PK\3\4", b"PK\7\x08", b"PK\1\2"
POLYNOMIAL = 0xEDB88320
LARGEST_HEADER = 32 << 20
ADVICE = "the base or key is another one than the publisher's, or the payload is cut or damaged"


def sound(plan: Plan) -> Plan:
    """The plan, whose decoded files of weights are looked at where no digest is known that tells more."""
    files = (
        replace(file, stream=Sound(file.stream, file.path))
        if isinstance(file, StreamFile)
        and isinstance(file.stream, Padded | Wrapped)
        and not file.expect
        and file.path.endswith(suffixes())
        else file
        for file in plan.files
    )
    return replace(plan, files=tuple(files))


@dataclass(frozen=True, slots=True)
class Sound(Nested):
    """A decoded file that must end as a sound file of weights. It raises ``FormatError`` after its last byte.

    Attributes:
        body: The bytes.
        name: What the file is called.
    """

    body: Stream
    name: str

    @property
    def needs(self) -> Needs:
        """The body's, and the end that is kept."""
        return self.body.needs + Needs(held_nbytes=6 * TAIL_NBYTES)

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The bytes."""
        looks: ZipLook | TensorsLook | None = None
        begun = False
        for chunk in self.body.chunks(block_nbytes):
            taken = bytes(chunk)
            if not begun:
                begun = True
                looks = ZipLook() if taken[:4] == LOCAL else TensorsLook() if self.name.endswith(".safetensors") else None
            if looks is not None:
                looks.update(taken)
            yield chunk
        problem = looks.problem() if looks is not None else ""
        if problem:
            raise FormatError(self.name, f"what came out is no sound file of weights: {problem}; {ADVICE}")


class TensorsLook:
    """Looks at a safetensors file: whether it is as long as its header says."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.nbytes = 0

    def update(self, data: bytes) -> None:
        """Take in more."""
        self.nbytes += len(data)
        if len(self.head) < 8 + LARGEST_HEADER:
            wanted = 8 + int.from_bytes(self.head[:8], "little") if len(self.head) >= 8 else 8 + LARGEST_HEADER
            self.head += data[: max(0, wanted - len(self.head))]

    def problem(self) -> str:
        """What is wrong; empty where nothing is, or the header is too large to be looked at."""
        length = int.from_bytes(self.head[:8], "little")
        if length > LARGEST_HEADER:
            return ""
        try:
            header = json.loads(bytes(self.head[8 : 8 + length]))
            ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
            wanted = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return "its header is damaged"
        return "" if wanted == self.nbytes else f"it has {self.nbytes} bytes, and {wanted} by its header"


class ZipLook:
    """Looks at a torch zip that goes by: each record's CRC-32 against the directory at its end."""

    def __init__(self) -> None:
        self.carry = b""
        self.scanned = 0
        self.crc = 0
        self.wanted: list[int] = []
        self.crcs: dict[int, int] = {}
        self.payloads: dict[int, int] = {}
        self.ends: deque[bytes] = deque()
        self.kept = 0

    def update(self, data: bytes) -> None:
        """Take in more."""
        self.ends.append(data[-TAIL_NBYTES:])
        self.kept += len(self.ends[-1])
        while self.kept - len(self.ends[0]) >= TAIL_NBYTES:
            self.kept -= len(self.ends.popleft())
        self.carry += data
        self.scan(len(self.carry) - LOCAL_NBYTES)

    def scan(self, upto: int) -> None:
        """Look for signatures that begin before a place in what is carried, and take the bytes before it into the CRC."""
        if upto <= 0:
            return
        held = self.carry
        for at in pairs(held, upto):
            kind = held[at : at + 4]
            if kind in (LOCAL, DESCRIPTOR, CENTRAL):
                heapq.heappush(self.wanted, self.scanned + at)
            if kind == LOCAL:
                lengths = int.from_bytes(held[at + 26 : at + 28], "little") + int.from_bytes(held[at + 28 : at + 30], "little")
                payload = self.scanned + at + LOCAL_NBYTES + lengths
                self.payloads[self.scanned + at] = payload
                heapq.heappush(self.wanted, payload)
        view, done = memoryview(held), 0
        while self.wanted and self.wanted[0] <= self.scanned + upto:
            place = heapq.heappop(self.wanted)
            self.crc = crc32(view[done : place - self.scanned], self.crc)
            self.crcs[place], done = self.crc, place - self.scanned
        self.crc = crc32(view[done:upto], self.crc)
        self.carry, self.scanned = held[upto:], self.scanned + upto

    def problem(self) -> str:
        """What is wrong with the file that went by; empty where nothing is."""
        nbytes = self.scanned + len(self.carry)
        self.scan(len(self.carry))
        try:
            with zipfile.ZipFile(Tail(b"".join(self.ends), nbytes)) as read:
                records = read.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return "it has no zip directory at its end"
        told = any(one.CRC for one in records)  # torch can be told to write none
        for one in records:
            start = self.payloads.get(one.header_offset)
            if start is None:
                return f"record {one.filename!r} has no header where the directory says"
            end = start + one.file_size
            if told and one.compress_type == zipfile.ZIP_STORED and start in self.crcs and end in self.crcs:
                found = self.crcs[end] ^ shifted(self.crcs[start], one.file_size)
                if found != one.CRC:
                    return f"record {one.filename!r} has CRC-32 {found:08x}, and {one.CRC:08x} by the directory"
        return ""


def pairs(held: bytes, upto: int) -> list[int]:
    """Where ``PK`` stands and begins before a place; numpy's comparison is four times as fast as ``bytes.find``."""
    found: list[int] = []
    for odd in (0, 1):
        words = np.frombuffer(held, "<u2", (len(held) - odd) // 2, odd)
        found += (np.flatnonzero(words == int.from_bytes(b"PK", "little")) * 2 + odd).tolist()
    return sorted(at for at in found if at < upto)


class Tail(io.RawIOBase):
    """A file of which only the end is there."""

    def __init__(self, tail: bytes, nbytes: int) -> None:
        super().__init__()
        self.kept, self.nbytes, self.place = tail, nbytes, 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self.place = offset + (0, self.place, self.nbytes)[whence]
        if self.place < 0:
            raise ValueError("before the beginning")
        return self.place

    def tell(self) -> int:
        """Where it is."""
        return self.place

    def read(self, size: int = -1) -> bytes:
        """Bytes of the end; none before it."""
        start = self.place - (self.nbytes - len(self.kept))
        if start < 0:
            return b""
        taken = self.kept[start:] if size < 0 else self.kept[start : start + size]
        self.place += len(taken)
        return taken


def shifted(crc: int, nbytes: int) -> int:
    """What is left of the CRC-32 of some bytes in that of them and ``nbytes`` more."""
    power, square = 1 << 31, 1 << 23  # x^0 and x^8, bits reversed
    while nbytes:
        if nbytes & 1:
            power = times(power, square)
        square = times(square, square)
        nbytes >>= 1
    return times(power, crc)


def times(left: int, right: int) -> int:
    """A product of two polynomials modulo CRC-32's."""
    found, bit = 0, 1 << 31
    while bit:
        if left & bit:
            found ^= right
        bit >>= 1
        right = (right >> 1) ^ POLYNOMIAL if right & 1 else right >> 1
    return found
