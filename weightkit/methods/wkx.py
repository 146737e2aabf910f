"""The file of an exact difference: one file of a tuned model as what is to be known beside the base.

    WKEXACT1   records of segment 0, 1, 2, ...   directory (JSON)   its length, 8 bytes   WKEXACT1

The segments are the tuned file from front to back: a tensor's bytes, or bytes between tensors (pickle, headers, checksums). The
SHA-256 of the file, and of every tensor of the base that is used, are inside. ``docs/exact-diff.md`` specifies it;
``streams.planes`` says what a record is.
"""

from __future__ import annotations

import hashlib
import json
import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from isal.isal_zlib import crc32

from weightkit.blobs import MemoryBlob
from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.dtypes import BY_NAME, DType
from weightkit.core.errors import FormatError
from weightkit.core.lazy import LazyTensor, leaves, needs
from weightkit.core.needs import Needs
from weightkit.core.passes import reader, reading
from weightkit.core.records import check, damaged
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Stored
from weightkit.manifests.pointers import TOLD, is_pointer
from weightkit.streams import FileBytes, Reader
from weightkit.streams.planes import cast_bits, compressor, decode, encode

__all__ = ["SUFFIX", "Difference", "Restored", "Segment", "is_wkx", "predicts", "read_directory", "spec_of"]

SUFFIX = ".wkx"
MAGIC = b"WKEXACT1"
BLOCK_NBYTES = 1 << 20
MAX_DIRECTORY = 256 << 20
SCRATCH_BLOCKS = 24
"""Blocks that the planes of one block take, there and back."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a file: one tensor's bytes, or bytes between them.

    Attributes:
        start: Its first byte in the file.
        nbytes: How many.
        name: The tensor's name; empty for other bytes.
        spec: The tensor's dtype and shape; None for other bytes.
        base: What it is predicted from; None for nothing.
    """

    start: int
    nbytes: int
    name: str = ""
    spec: TensorSpec | None = None
    base: LazyTensor | None = field(default=None, repr=False)

    @property
    def dtype(self) -> DType | None:
        """The tensor's; None for other bytes."""
        return None if self.spec is None else self.spec.dtype

    @property
    def block_nbytes(self) -> int:
        """Bytes of a block: whole rows of a tensor."""
        if self.spec is None or not self.spec.row_nbytes:
            return BLOCK_NBYTES
        return max(1, BLOCK_NBYTES // self.spec.row_nbytes) * self.spec.row_nbytes

    def prediction(self) -> Prediction | None:
        """Start to predict its bytes; None where there is nothing to predict them from."""
        return None if self.base is None or self.spec is None else Prediction(self.base, self.spec)


class Prediction:
    """The base's bytes for a tensor, block by block, in the tensor's dtype; zeros for rows that the base lacks."""

    def __init__(self, base: LazyTensor, spec: TensorSpec) -> None:
        self.read = reader(base)
        self.base, self.spec = base.spec, spec
        self.rows = min(base.spec.rows, spec.rows)
        self.sha256 = hashlib.sha256()

    def block(self, start: int, nbytes: int) -> Buffer:
        """The prediction for the bytes from ``start`` on, which are whole rows."""
        first, last = start // self.spec.row_nbytes, (start + nbytes) // self.spec.row_nbytes
        stop = min(last, self.rows)
        if first >= stop:
            return bytes(nbytes)
        raw = self.read(first, stop)
        self.sha256.update(raw)
        found = cast_bits(raw, self.base.dtype, self.spec.dtype) or raw
        return found if len(found) == nbytes else bytes(found).ljust(nbytes, b"\0")


def predicts(base: TensorSpec, tuned: TensorSpec) -> bool:
    """Whether one can be predicted from the other: the same but for the number of rows, and both of types that are cast."""
    known = {"float16", "bfloat16", "float32", "float64"}
    same = base.dtype == tuned.dtype or {base.dtype.name, tuned.dtype.name} <= known
    return same and len(base.shape) == len(tuned.shape) and base.shape[1:] == tuned.shape[1:]


def bases(segments: Sequence[Segment]) -> list[LazyTensor]:
    """What they are predicted from."""
    return [one.base for one in segments if one.base is not None]


def needs_of(blob: Blob, read_nbytes: int, segments: Sequence[Segment]) -> Needs:
    """What either direction takes; the base's tensors are read one after another, so that the largest says what is held."""
    held = max((needs([one]).held_nbytes for one in bases(segments)), default=0)
    scratch = SCRATCH_BLOCKS * max((one.block_nbytes for one in segments), default=0)
    return Needs((blob,), read_nbytes) + replace(needs(bases(segments)), held_nbytes=held + scratch)


@dataclass(frozen=True, slots=True)
class Difference:
    """The ``.wkx`` of one file: a stream.

    Attributes:
        blob: The tuned model's file.
        name: What it is called in its folder.
        segments: What it is made of.
        tensors: Its tensors, for the CRCs that the file keeps of them.
    """

    blob: Blob
    name: str
    segments: tuple[Segment, ...] = field(repr=False)
    tensors: tuple[Stored, ...] = field(default=(), compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """At most about as many as the file's."""
        total = sum(one.nbytes for one in self.segments)
        return total + (total >> 10) + 512 * len(self.segments)

    @property
    def exact(self) -> bool:
        """How far it compresses is seen when it is."""
        return False

    @property
    def needs(self) -> Needs:
        """The file, and the base's tensors."""
        return needs_of(self.blob, sum(one.nbytes for one in self.segments), self.segments)

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """Magic, blocks, directory; each block is decoded again and compared before it is handed out.

        Raises:
            FormatError: A record of the file is damaged, by the CRC that it keeps.
        """
        compress, decompress = compressor()
        records = {one.start: one.record for one in self.tensors if one.whole}
        for tensor in self.tensors:
            if tensor.record is not None and tensor.record.start not in records:
                check(self.blob, tensor.record, tensor.name)
        yield MAGIC
        whole = hashlib.sha256()
        directory: list[dict[str, Any]] = []
        with reading(bases(self.segments)):
            for one in self.segments:
                prediction = one.prediction()
                stored = done = crc = 0
                for data in FileBytes(self.blob, one.start, one.nbytes).chunks(one.block_nbytes):
                    whole.update(data)
                    crc = crc32(data, crc)
                    guess = prediction.block(done, len(data)) if prediction else None
                    encoded = encode(data, guess, one.dtype, compress)
                    back, _ = decode(memoryview(encoded), len(data), guess, one.dtype, decompress)
                    if bytes(back) != bytes(data):
                        raise FormatError(
                            self.blob.name, f"{one.name}: does not come back; a fault of weightkit", offset=one.start + done
                        )
                    stored, done = stored + len(encoded), done + len(data)
                    yield encoded
                record = records.get(one.start) if one.spec is not None else None
                if record is not None and crc != record.crc32:
                    raise damaged(self.blob, record, crc, one.name)
                directory.append(entry(one, stored, prediction))
        name = {"name": self.name, "bytes": sum(one.nbytes for one in self.segments), "sha256": whole.hexdigest()}
        text = json.dumps({"version": 1, "file": name, "segments": directory}, separators=(",", ":")).encode()
        yield text + len(text).to_bytes(8, "little") + MAGIC


def entry(segment: Segment, stored: int, prediction: Prediction | None) -> dict[str, Any]:
    """A segment as the directory has it."""
    found: dict[str, Any] = {"bytes": segment.nbytes, "stored": stored}
    if segment.spec is not None:
        found |= {"tensor": segment.name, "dtype": segment.spec.dtype.name, "shape": list(segment.spec.shape)}
    if prediction is not None:
        base = prediction.base
        found["base"] = {"dtype": base.dtype.name, "shape": list(base.shape), "sha256": prediction.sha256.hexdigest()}
    return found


@dataclass(frozen=True, slots=True)
class Restored:
    """A file of the tuned model, from its ``.wkx`` and the base: a stream.

    Attributes:
        blob: The ``.wkx``.
        segments: What the file is made of.
        stored: For each segment, bytes in the ``.wkx``.
        wanted: For each, SHA-256 of what it is predicted from; empty for nothing.
        first: Where in the ``.wkx`` the first segment's records begin.
    """

    blob: Blob
    segments: tuple[Segment, ...] = field(repr=False)
    stored: tuple[int, ...] = field(repr=False)
    wanted: tuple[str, ...] = field(repr=False)
    first: int = len(MAGIC)

    @property
    def nbytes(self) -> int:
        """The file's."""
        return sum(one.nbytes for one in self.segments)

    @property
    def anywhere(self) -> bool:
        """Each segment can be read without those before it."""
        return True

    def read(self, start: int, stop: int) -> Buffer:
        """Some of the file's bytes. Segments are decoded from their beginning, or from where this thread left off.

        Raises:
            FormatError: As ``chunks``; that a base's tensor is another is told when the segment is read to its end.
        """
        taken = bytearray()
        number = max(0, bisect_right(self.segments, start, key=lambda one: one.start) - 1)
        while len(taken) < stop - start and number < len(self.segments):
            one = self.segments[number]
            low = start + len(taken) - one.start
            taken += CURSOR.read(self.part(number), low, min(one.nbytes, stop - one.start)) if low < one.nbytes else b""
            number += 1
        return taken

    def part(self, number: int) -> Restored:
        """A single segment."""
        first = self.first + sum(self.stored[:number])
        here = slice(number, number + 1)
        return Restored(self.blob, self.segments[here], self.stored[here], self.wanted[here], first)

    @property
    def exact(self) -> bool:
        """The directory says it."""
        return True

    @property
    def needs(self) -> Needs:
        """What is stored, and the base's tensors."""
        return needs_of(self.blob, sum(self.stored), self.segments)

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The file.

        Raises:
            FormatError: The ``.wkx`` is damaged, or a tensor of the base is not the one that the diff was made with.
        """
        _, decompress = compressor()
        at = end = self.first
        records = Reader(FileBytes(self.blob, at, sum(self.stored)).chunks(BLOCK_NBYTES))
        ahead = memoryview(b"")
        with reading(bases(self.segments)):
            for one, stored, wanted in zip(self.segments, self.stored, self.wanted, strict=True):
                prediction = one.prediction()
                end += stored
                for done in range(0, one.nbytes, one.block_nbytes):
                    nbytes = min(one.block_nbytes, one.nbytes - done)
                    guess = prediction.block(done, nbytes) if prediction else None
                    room = min(end - at, nbytes + 64 + 5 * (one.dtype.itemsize if one.dtype else 1))
                    if len(ahead) < room:
                        ahead = memoryview(bytes(ahead) + records.read(room - len(ahead)))
                    try:
                        data, taken = decode(ahead[:room], nbytes, guess, one.dtype, decompress)
                    except ValueError as error:
                        raise self.damaged(one, f"{error}; download it again", at) from error
                    at, ahead = at + taken, ahead[taken:]
                    yield data
                if at != end:
                    raise self.damaged(one, f"has {end - at} bytes too many", at)
                if prediction is not None and prediction.sha256.hexdigest() != wanted:
                    raise self.another_base(one, prediction.sha256.hexdigest(), wanted)

    def damaged(self, segment: Segment, problem: str, at: int) -> FormatError:
        """What is said of records that give no block."""
        return FormatError(self.blob.name, f"{segment.name or 'other bytes'}: {problem}", offset=at)

    def another_base(self, segment: Segment, found: str, wanted: str) -> FormatError:
        """What is said of a base that only looks like the right one; of the file that the tensor lies in, if it is in one."""
        places = [leaf.blob for leaf in leaves(bases([segment])) if not isinstance(leaf.blob, MemoryBlob)]
        return FormatError(
            places[0].name if places else self.blob.name,
            f"{segment.name} is not the one that the diff was made with: SHA-256 {found[:16]}..., wanted {wanted[:16]}...; "
            "take the publisher's base",
        )


class Cursor(threading.local):
    """Where each thread is in the segment that it read last: passes go on from block to block."""

    part: Restored | None = None
    at = 0
    rest = Reader(iter(()))

    def read(self, part: Restored, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)`` of a segment."""
        if self.part != part or start < self.at:
            self.part, self.at, self.rest = part, 0, Reader(part.chunks(BLOCK_NBYTES))
        try:
            while self.at < start:
                self.at += len(self.rest.read(min(BLOCK_NBYTES, start - self.at)))
            found = self.rest.read(stop - start)
            self.at = stop
            if stop == part.nbytes:
                self.rest.read(1)  # beyond the end: what is said of the whole segment
        except BaseException:
            self.part = None
            raise
        if stop == part.nbytes:
            self.part = None
        return found


CURSOR = Cursor()


def is_wkx(blob: Blob) -> bool:
    """Whether a file begins as a ``.wkx`` does."""
    return bytes(blob.read(0, min(len(MAGIC), blob.nbytes))) == MAGIC


def read_directory(blob: Blob) -> dict[str, Any]:
    """The directory at the end of a ``.wkx``.

    Raises:
        FormatError: It is none, or a pointer to one, or cut off.
    """
    size = blob.nbytes
    if is_pointer(blob):
        raise FormatError(blob.name, TOLD)
    if size < 32 or not is_wkx(blob):
        raise FormatError(blob.name, f"is no exact difference: wanted {MAGIC!r} at its beginning")
    tail = bytes(blob.read(size - 16, size))
    length = int.from_bytes(tail[:8], "little")
    if tail[8:] != MAGIC or not 0 < length <= min(MAX_DIRECTORY, size - 24):
        raise FormatError(blob.name, "is cut off: its directory is missing; download it again")
    try:
        found = json.loads(bytes(blob.read(size - 16 - length, size - 16)))
        if found["version"] != 1:
            raise FormatError(blob.name, f"is of version {found['version']!r}, and 1 is read here: a newer weightkit wrote it")
        stored = sum(one["stored"] for one in found["segments"])
        sizes = [one[key] for one in found["segments"] for key in ("bytes", "stored")]
        if any(type(one) is not int or one < 0 for one in sizes) or stored + 24 + length != size:
            raise FormatError(blob.name, "its directory does not fit its size; download it again")
        Digest("sha256", found["file"]["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(blob.name, f"its directory is damaged ({error}); download it again") from error
    return dict(found)


def spec_of(one: Mapping[str, Any]) -> TensorSpec:
    """Dtype and shape from a directory; ``ValueError`` where they are none."""
    shape = tuple(one["shape"])
    if any(type(size) is not int or size < 0 for size in shape) or one["dtype"] not in BY_NAME:
        raise ValueError(f"{one['dtype']} {list(shape)} is no tensor")
    return TensorSpec(BY_NAME[one["dtype"]], shape)
