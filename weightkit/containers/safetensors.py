"""Reads and writes safetensors files.

    8 bytes    length of the header, little-endian
    header     JSON: name -> dtype, shape, data_offsets; "__metadata__": text -> text; padded with blanks to 8 bytes
    data       the tensors, one after another without gaps

Source: safetensors 0.8.0, ``tensor.rs`` (limits, order, padding).
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from weightkit.containers.format import Container
from weightkit.containers.layout import Encoding, Layout, one_each
from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BY_SAFETENSORS
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Stored

__all__ = ["SAFETENSORS", "Safetensors", "SafetensorsFile", "SafetensorsFormat"]

MAX_HEADER = 100_000_000
SURROGATE = re.compile("[\ud800-\udfff]")
ORDER = [
    "U64",
    "I64",
    "F64",
    "C64",
    "F32",
    "U32",
    "I32",
    "BF16",
    "F16",
    "U16",
    "I16",
    "F8_E5M2FNUZ",
    "F8_E4M3FNUZ",
    "F8_E8M0",
    "F8_E4M3",
    "F8_E5M2",
    "I8",
    "U8",
    "F6_E3M2",
    "F6_E2M3",
    "F4",
    "BOOL",
]
"""Order of the dtypes in a file that the library wrote; within one, names in order of code points."""


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A safetensors file, as a ``Container``.

    Attributes:
        blob: The file.
        metadata: The header's ``__metadata__``, in the file's order.
        tensors: Name -> where it lies, in the order of the data.
    """

    profile: ClassVar[str] = "safetensors"
    written_by: ClassVar[str] = "safetensors"

    blob: Blob
    metadata: tuple[tuple[str, str], ...]
    tensors: Mapping[str, Stored] = field(hash=False)

    def __repr__(self) -> str:
        return f"<{self.blob.name}: {len(self.tensors)} tensors, {self.profile}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return SafetensorsFile, (self.blob, self.metadata, dict(self.tensors))

    @property
    def format(self) -> SafetensorsFormat:
        """The format ``safetensors``."""
        return SAFETENSORS

    @property
    def layout(self) -> Layout:
        """Each tensor by itself."""
        return one_each((name, one.spec) for name, one in self.tensors.items())

    @property
    def encoding(self) -> Safetensors | None:
        """What writes such a file again."""
        return Safetensors(self.metadata)


@dataclass(frozen=True, slots=True)
class SafetensorsFormat:
    """Safetensors files as a ``Format``."""

    name: ClassVar[str] = "safetensors"
    stem: ClassVar[str] = "model"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)
    ties: ClassVar[bool] = False
    ordered: ClassVar[bool] = False

    def recognise(self, head: bytes, nbytes: int) -> bool:
        """By the length of a header that fits the file, and the brace that opens it."""
        return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(nbytes, MAX_HEADER)

    def open(self, blob: Blob) -> SafetensorsFile:
        """Index a file: reads its header, nothing else."""
        return open_file(blob)

    def encoding(self, path: str, like: Container | None, profile: str | None, *, same: bool) -> Safetensors:
        """What writes a file: the library, whatever its name and whichever torch."""
        if same and isinstance(like, SafetensorsFile) and like.metadata:
            return Safetensors(like.metadata)
        return Safetensors()

    def variants(self, path: str, like: Encoding, *, all_kinds: bool) -> Sequence[Encoding]:
        """None but itself: the library has always written the same."""
        return [like]


SAFETENSORS = SafetensorsFormat()


def compact(value: Any) -> str:
    """JSON without blanks, as the library writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def open_file(blob: Blob) -> SafetensorsFile:
    """Index a safetensors file: reads its header only.

    Raises:
        FormatError: The header is damaged, or does not fit the file.
    """
    size = blob.nbytes
    length = int.from_bytes(blob.read(0, 8), "little") if size >= 8 else 0
    if not 2 <= length <= MAX_HEADER:
        raise FormatError(blob.name, f"its header of {length} bytes is no header of safetensors (2 to {MAX_HEADER})")
    if 8 + length > size:
        raise FormatError(blob.name, f"is cut short in its header: it has {size} bytes, the header alone {length}")
    header = parse_header(blob.name, bytes(blob.read(8, 8 + length)))
    metadata = header.pop("__metadata__", {})
    metadata = metadata._asdict() if isinstance(metadata, Entry) else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(blob.name, "its __metadata__ is no mapping of text to text")
    entries = sorted(
        (entry(blob.name, name, value) for name, value in header.items()), key=lambda one: (one[2], one[2] + one[1].nbytes)
    )
    end = 0
    for name, spec, start in entries:
        if start != end:
            raise FormatError(blob.name, f"{name}: its data begin at {start}, not at {end} where the ones before end")
        end += spec.nbytes
    if 8 + length + end != size:
        found, wanted = size, 8 + length + end
        verb = "is cut short" if found < wanted else "has bytes after its last tensor"
        raise FormatError(blob.name, f"{verb}: it has {found} bytes, its header speaks of {wanted}")
    specs: dict[TensorSpec, TensorSpec] = {}
    tensors = {
        sys.intern(name): Stored(blob, sys.intern(name), specs.setdefault(spec, spec), 8 + length + start)
        for name, spec, start in entries
    }
    return SafetensorsFile(blob, tuple(metadata.items()), MappingProxyType(tensors))


class Entry(NamedTuple):
    """What the header says of a tensor, not looked into yet: a hundred thousand of them take a third of what dicts would."""

    dtype: Any
    shape: Any
    data_offsets: Any


def parse_header(file_name: str, text: bytes) -> dict[str, Any]:
    """The header's JSON, with an ``Entry`` for each object that has just the fields of one."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Entry:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormatError(file_name, "its header has a name twice")
        return Entry(**found) if found.keys() == ENTRY_FIELDS else found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FormatError(file_name, f"its header is no JSON: {error}", 8) from error
    if not isinstance(header, dict):
        raise FormatError(file_name, "its header is no JSON object", 8)
    return header


ENTRY_FIELDS = set(Entry._fields)


def entry(file_name: str, name: str, value: Any) -> tuple[str, TensorSpec, int]:
    """Name, spec and first byte (within the data) of one header entry."""
    if isinstance(value, dict) and value.keys() > ENTRY_FIELDS:  # fields of a later version
        value = Entry(**{field: value[field] for field in Entry._fields})
    match value:
        case Entry(str(code), list(shape), [int(start), int(stop)]) if all(
            type(n) is int and n >= 0 for n in (*shape, start, stop)
        ):
            dtype = BY_SAFETENSORS.get(code)
            if dtype is None:
                raise FormatError(file_name, f"{name}: dtype {code} is not read; known: {', '.join(BY_SAFETENSORS)}")
            spec = TensorSpec(dtype, tuple(shape))
            if stop - start != spec.nbytes:
                raise FormatError(file_name, f"{name}: {spec} takes {spec.nbytes} bytes, its entry has {stop - start}")
            return name, spec, start
    raise FormatError(file_name, f"{name}: its header entry is malformed")


@dataclass(frozen=True, slots=True)
class Safetensors:
    """Encodes as ``safetensors.torch.save_file`` does, byte for byte.

    Attributes:
        metadata: ``__metadata__`` in the order in which it is to stand (the library's own order is random from two
            entries on; transformers writes the one entry ``format: pt``).
    """

    profile: ClassVar[str] = "safetensors"
    written_by: ClassVar[str] = "safetensors"

    metadata: tuple[tuple[str, str], ...] = (("format", "pt"),)

    def order(self, layout: Layout) -> Sequence[int]:
        """By dtype, then by name. A run that two items share is refused, as the library does."""
        if len(layout.items) != len(layout.runs):
            raise ValueError("safetensors files hold no tied tensors; leave out all names but one")
        place = {code: number for number, code in enumerate(ORDER)}
        for item in layout.items:
            code = item.spec.dtype.safetensors
            if item.name == "__metadata__" or SURROGATE.search(item.name):
                raise ValueError(f"safetensors files hold no tensor named {item.name!r}")
            if code is None:
                raise ValueError(f"{item.name}: safetensors files hold no {item.spec.dtype}")
        ordered = sorted(layout.items, key=lambda item: (place[item.spec.dtype.safetensors or ""], item.name))
        return [item.run for item in ordered]

    def header(self, layout: Layout) -> bytes:
        """Length and header."""
        text = bytearray(b"{")
        if self.metadata:
            text += f'"__metadata__":{compact(dict(self.metadata))},'.encode()
        items = sorted(layout.items, key=lambda item: item.run)
        start = 0
        for run in self.order(layout):
            spec = items[run].spec
            fields = {"dtype": spec.dtype.safetensors, "shape": spec.shape, "data_offsets": (start, start + spec.nbytes)}
            text += f"{compact(items[run].name)}:{compact(fields)},".encode()
            start += spec.nbytes
        text = text.removesuffix(b",") + b"}"
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER:
            raise ValueError(f"a header of {len(text)} bytes is longer than safetensors allows ({MAX_HEADER})")
        return struct.pack("<Q", len(text)) + text

    def nbytes(self, layout: Layout) -> int:
        """Exact size of the file."""
        return len(self.header(layout)) + sum(run.spec.nbytes for run in layout.runs)

    def encode(self, layout: Layout, payloads: Iterable[Iterable[Buffer]]) -> Iterator[Buffer]:
        """Header, then the tensors."""
        yield self.header(layout)
        for payload in payloads:
            yield from payload
