"""Exact differences: a file of the tuned model as what is to be known beside the base, losslessly and compressed.

One ``<file>.wkx`` for each file of weights; config, tokenizer and index go along as they are. What comes back is the tuned
file byte for byte, whatever wrote it: the tensors from the base's and their difference, everything else in the file
(pickle, headers, checksums) as it was. The SHA-256 of the file and of every tensor of the base are inside.

import weightkit.methods.exact
weightkit.methods.exact.make_diff("llama-7b", "my-tuned-7b", "my-diff")

The format is specified in ``docs/exact-diff.md``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from weightkit.checkpoints import Checkpoint, converter_for, open_checkpoint
from weightkit.containers import Container
from weightkit.core.buffers import Buffer, read_extent
from weightkit.core.digest import Digest
from weightkit.core.dtypes import BY_NAME, DType
from weightkit.core.errors import FormatError, PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.lazy import LazyTensor, Stored, reader
from weightkit.core.spec import TensorSpec
from weightkit.families.converters import DEFAULT_CONVERTER
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import Done, carry_out, check_out
from weightkit.run.plan import Plan, SmallFile, StreamFile
from weightkit.streams import FileBytes
from weightkit.streams.planes import cast_bits, compressor, decode, encode

__all__ = ["SUFFIX", "is_exact", "make_diff", "plan_make", "plan_recover", "prepare_make"]

SUFFIX = ".wkx"
MAGIC = b"WKEXACT1"
BLOCK_BYTES = 1 << 20
MAX_DIRECTORY = 256 << 20
SCRATCH_BYTES = 24 * BLOCK_BYTES
"""Memory for the planes of a block, there and back."""


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
    def block(self) -> int:
        """Bytes of a block: whole rows of a tensor."""
        if self.spec is None or not self.spec.row_nbytes:
            return BLOCK_BYTES
        return max(1, BLOCK_BYTES // self.spec.row_nbytes) * self.spec.row_nbytes


def segments(container: Container, base: Checkpoint) -> tuple[Segment, ...]:
    """A file of weights from front to back: the tensors that lie in it whole, and what lies between them."""
    placed = sorted(
        (start, -spec.nbytes, name)
        for name, spec in container.specs.items()
        if (start := container.start_of(name)) is not None and spec.nbytes
    )
    found: list[Segment] = []
    end = 0
    for start, _, name in placed:
        nbytes = container.specs[name].nbytes
        if start < end:
            continue  # a second name for the same bytes, or some of them
        if start > end:
            found.append(Segment(end, start - end))
        found.append(Segment(start, nbytes, name, container.specs[name], in_base(name, container, base)))
        end = start + nbytes
    size = container.path.stat().st_size
    if size > end:
        found.append(Segment(end, size - end))
    return tuple(found)


def in_base(name: str, container: Container, base: Checkpoint) -> LazyTensor | None:
    """What a tensor of the tuned model is predicted from: that of the same name; in other layouts, of the same file, too."""
    spec = container.specs[name]
    found = base.tensors.get(name)
    if found is None and container.path.name in base.files and name in base.files[container.path.name].specs:
        found = Stored(base.files[container.path.name], name)
    return found if found is not None and fits(found.spec, spec) else None


def fits(base: TensorSpec, tuned: TensorSpec) -> bool:
    """Whether one can be predicted from the other: the same but for the number of rows, and both of types that are cast."""
    known = {"float16", "bfloat16", "float32", "float64"}
    same = base.dtype == tuned.dtype or {base.dtype.name, tuned.dtype.name} <= known
    return same and len(base.shape) == len(tuned.shape) and base.shape[1:] == tuned.shape[1:]


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


@dataclass(frozen=True, slots=True)
class OfSegments:
    """What the streams of both directions have in common.

    Attributes:
        path: The file that is read beside the base's.
        segments: What the tuned model's file is made of.
    """

    path: Path
    segments: tuple[Segment, ...]
    held_nbytes: ClassVar[int] = SCRATCH_BYTES

    @property
    def computes(self) -> bool:
        """Whether a tensor of the base is computed from others."""
        return any(one.base is not None and not isinstance(one.base, Stored) for one in self.segments)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and the base's."""
        return (self.path, *base_files(self.segments))


@dataclass(frozen=True, slots=True)
class ExactDiff(OfSegments):
    """The ``.wkx`` of one file: a stream. ``path`` is the tuned model's file."""

    exact: ClassVar[bool] = False

    @property
    def nbytes(self) -> int:
        """At most about as many as the file's."""
        total = sum(one.nbytes for one in self.segments)
        return total + (total >> 10) + 512 * len(self.segments)

    @property
    def read_nbytes(self) -> int:
        """The file's, and the base's tensors."""
        return sum(one.nbytes + (one.base.spec.nbytes if one.base else 0) for one in self.segments)

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """Magic, blocks, directory; each block is decoded again and compared before it is handed out."""
        compress, decompress = compressor()
        yield MAGIC
        whole = hashlib.sha256()
        directory: list[dict[str, Any]] = []
        for one in self.segments:
            prediction = Prediction(one.base, one.spec) if one.base is not None and one.spec is not None else None
            dtype = one.spec.dtype if one.spec else None
            stored = done = 0
            for data in FileBytes(self.path, one.start, one.nbytes).chunks(one.block):
                whole.update(data)
                guess = prediction.block(done, len(data)) if prediction else None
                records = encode(data, guess, dtype, compress)
                back, _ = decode(memoryview(records), len(data), guess, dtype, decompress)
                if bytes(back) != bytes(data):
                    raise FormatError(
                        self.path, f"{one.name}: does not come back; a fault of weightkit", offset=one.start + done
                    )
                stored, done = stored + len(records), done + len(data)
                yield records
            directory.append(entry(one, stored, prediction))
        name = {"name": self.path.name, "bytes": sum(one.nbytes for one in self.segments), "sha256": whole.hexdigest()}
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


def base_files(found: tuple[Segment, ...]) -> tuple[Path, ...]:
    """The files that the base's tensors lie in."""
    paths: dict[Path, None] = {}

    def visit(tensor: LazyTensor) -> None:
        if isinstance(tensor, Stored):
            if tensor.source.path.is_file():
                paths[tensor.source.path] = None
            return
        for one in tensor.inputs:
            visit(one)

    for one in found:
        if one.base is not None:
            visit(one.base)
    return tuple(paths)


@dataclass(frozen=True, slots=True)
class Restored(OfSegments):
    """A file of the tuned model, from its ``.wkx``, which is ``path``, and the base: a stream.

    Attributes:
        stored: For each segment, bytes in the ``.wkx``.
        wanted: For each, SHA-256 of what it is predicted from; empty for nothing.
    """

    stored: tuple[int, ...]
    wanted: tuple[str, ...]
    exact: ClassVar[bool] = True

    @property
    def nbytes(self) -> int:
        """The file's."""
        return sum(one.nbytes for one in self.segments)

    @property
    def read_nbytes(self) -> int:
        """What is stored, and the base's tensors."""
        return sum(self.stored) + sum(one.base.spec.nbytes for one in self.segments if one.base)

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The file.

        Raises:
            FormatError: The ``.wkx`` is damaged, or a tensor of the base is not the one that the diff was made with.
        """
        _, decompress = compressor()
        at = len(MAGIC)
        for one, stored, wanted in zip(self.segments, self.stored, self.wanted, strict=True):
            prediction = Prediction(one.base, one.spec) if one.base is not None and one.spec is not None else None
            dtype = one.spec.dtype if one.spec else None
            end = at + stored
            for done in range(0, one.nbytes, one.block):
                nbytes = min(one.block, one.nbytes - done)
                guess = prediction.block(done, nbytes) if prediction else None
                room = min(end - at, nbytes + 64 + 5 * (dtype.itemsize if dtype else 1))
                records = memoryview(read_extent(self.path, at, room))
                try:
                    data, taken = decode(records, nbytes, guess, dtype, decompress)
                except ValueError as error:
                    raise FormatError(
                        self.path, f"{one.name or 'other bytes'}: {error}; download it again", offset=at
                    ) from error
                at += taken
                yield data
            if at != end:
                raise FormatError(self.path, f"{one.name or 'other bytes'}: has {end - at} bytes too many", offset=at)
            if prediction is not None and prediction.sha256.hexdigest() != wanted:
                raise FormatError(
                    base_files((one,))[0] if base_files((one,)) else self.path,
                    f"{one.name} is not the one that the diff was made with: SHA-256 {prediction.sha256.hexdigest()[:16]}..., "
                    f"wanted {wanted[:16]}...; take the publisher's base",
                )


def is_exact(path: Path) -> bool:
    """Whether a folder holds exact differences."""
    return path.is_dir() and any(path.glob(f"*{SUFFIX}"))


def is_exact_file(path: Path) -> bool:
    """Whether a file is an exact difference."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_directory(path: Path) -> dict[str, Any]:
    """The directory at the end of a ``.wkx``.

    Raises:
        FormatError: It is none, or cut off.
    """
    size = path.stat().st_size
    if size < 32 or bytes(read_extent(path, 0, 8)) != MAGIC:
        raise FormatError(path, f"is no exact difference: wanted {MAGIC!r} at its beginning")
    tail = bytes(read_extent(path, size - 16, 16))
    length = int.from_bytes(tail[:8], "little")
    if tail[8:] != MAGIC or not 0 < length <= min(MAX_DIRECTORY, size - 24):
        raise FormatError(path, "is cut off: its directory is missing; download it again")
    try:
        found = json.loads(bytes(read_extent(path, size - 16 - length, length)))
        if found["version"] != 1:
            raise FormatError(path, f"is of version {found['version']!r}, and 1 is read here: a newer weightkit wrote it")
        stored = sum(one["stored"] for one in found["segments"])
        sizes = [one[key] for one in found["segments"] for key in ("bytes", "stored")]
        if any(type(one) is not int or one < 0 for one in sizes) or stored + 24 + length != size:
            raise FormatError(path, "its directory does not fit its size; download it again")
        Digest("sha256", found["file"]["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(path, f"its directory is damaged ({error}); download it again") from error
    return dict(found)


def restored(path: Path, base: Checkpoint, problems: list[str]) -> StreamFile | None:
    """What a ``.wkx`` gives with a base; None, and problems, where the base does not fit."""
    directory = read_directory(path)
    name = path.name.removesuffix(SUFFIX)
    if directory["file"]["name"] != name:
        problems.append(f"{path.name}: says it is of {directory['file']['name']!r}: it was renamed")
        return None
    found: list[Segment] = []
    at = 0
    for one in directory["segments"]:
        try:
            found.append(segment_of(one, at, name, base))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{name}: {error}")
        at += one["bytes"]
    if problems:
        return None
    stored = tuple(one["stored"] for one in directory["segments"])
    wanted = tuple(one["base"]["sha256"] if "base" in one else "" for one in directory["segments"])
    stream = Restored(path, tuple(found), stored, wanted)
    if stream.nbytes != directory["file"]["bytes"]:
        problems.append(f"{name}: its segments have {stream.nbytes} bytes, the file {directory['file']['bytes']}")
        return None
    return StreamFile(name, stream, (Digest("sha256", directory["file"]["sha256"]),))


def segment_of(one: Mapping[str, Any], at: int, file: str, base: Checkpoint) -> Segment:
    """A segment from the directory, with its side of the base.

    Raises:
        ValueError: The base has not what it is predicted from.
    """
    if "tensor" not in one:
        return Segment(at, one["bytes"])
    spec = spec_of(one)
    if spec.nbytes != one["bytes"]:
        raise ValueError(f"{one['tensor']}: {spec} has not {one['bytes']} bytes")
    if "base" not in one:
        return Segment(at, one["bytes"], one["tensor"], spec)
    wanted = spec_of(one["base"])
    tensor = base.tensors.get(one["tensor"])
    if tensor is None and file in base.files and one["tensor"] in base.files[file].specs:
        tensor = Stored(base.files[file], one["tensor"])
    if tensor is None:
        raise ValueError(f"{one['tensor']}: not in the base")
    if tensor.spec != wanted or not fits(wanted, spec):
        raise ValueError(f"{one['tensor']}: the base has {tensor.spec}, the diff was made with {wanted}")
    return Segment(at, one["bytes"], one["tensor"], spec, tensor)


def spec_of(one: Mapping[str, Any]) -> TensorSpec:
    """Dtype and shape from a directory."""
    shape = tuple(one["shape"])
    if any(type(size) is not int or size < 0 for size in shape) or one["dtype"] not in BY_NAME:
        raise ValueError(f"{one['dtype']} {list(shape)} is no tensor")
    dtype: DType = BY_NAME[one["dtype"]]
    return TensorSpec(dtype, shape)


def plan_recover(diff: Path, base: Checkpoint) -> Plan:
    """Decide all that ``recover`` will write.

    Raises:
        PlanError: The base is not the one that the diff was made with, as far as names and shapes tell.
        FormatError: A file of the diff is damaged.
    """
    problems: list[str] = []
    files = []
    for path in sorted(diff.glob(f"*{SUFFIX}")):
        if (file := restored(path, base, problems)) is not None:
            files.append(file)
    if problems:
        raise PlanError(f"{base.path} is not the base of {diff}:", problems)
    folder = Checkpoint(diff, "huggingface", "bin", {}, {})
    small = plain_files(folder)
    return Plan("recover", (f"base + exact difference, {len(files)} files, bit for bit",), tuple(files), small)


def plain_files(folder: Checkpoint) -> tuple[SmallFile, ...]:
    """Config, tokenizer and index files, as they are."""
    names = [*folder.small_files(), *(path.name for path in sorted(folder.path.glob("*.index.json")))]
    return tuple(SmallFile(name, folder.small(name) or b"") for name in sorted(names))


def plan_make(base: Checkpoint, tuned: Checkpoint) -> Plan:
    """Decide all that ``make_diff`` will write.

    Raises:
        PlanError: The two have no tensor in common.
    """
    files = []
    known = total = 0
    for name, container in tuned.files.items():
        found = segments(container, base)
        known += sum(one.nbytes for one in found if one.base is not None)
        total += sum(one.nbytes for one in found if one.spec is not None)
        files.append(StreamFile(f"{name}{SUFFIX}", ExactDiff(container.path, found)))
    if not known:
        raise PlanError(f"{base.path} and {tuned.path} do not fit together: they have no tensor in common")
    step = f"exact difference of the bits, {known / total:.0%} of the tensors' bytes predicted from the base"
    notes = (
        [] if known == total else ["tensors that the base lacks are stored whole, compressed: whoever has the diff has them"]
    )
    return Plan(
        "make-diff", (step, "restored again in the same pass, and compared"), tuple(files), plain_files(tuned), tuple(notes)
    )


def prepare_make(
    raw: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    converter: str = DEFAULT_CONVERTER,
) -> Plan:
    """Open the inputs and plan; touches nothing. Raises like ``make_diff``."""
    check_out(Path(out), [("--raw", Path(raw)), ("--tuned", Path(tuned))])
    compressor()
    base = open_checkpoint(Path(raw), "--raw", converter_for(converter))
    return plan_make(base, open_checkpoint(Path(tuned), "--tuned"))


def make_diff(
    raw: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    converter: str = DEFAULT_CONVERTER,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Write the exact difference of a tuned model and its base. What ``recover`` makes of it is the tuned files, bit for bit.

    Args:
        raw: The base, in any layout.
        tuned: The tuned model.
        out: The folder to write; made if it is not there.
        converter: Whose conversion a base in Meta's layout stands for; whoever recovers must name the same.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        notify: Told what happens.

    Raises:
        PlanError: The two have no tensor in common, or there is no room.
        FormatError: An input is damaged.
        WeightkitError: zstd is not installed.
    """
    planned = prepare_make(raw, tuned, out, converter=converter)
    return carry_out(planned, Path(out), jobs=jobs, max_memory=max_memory, overwrite=overwrite, notify=notify)
