"""Writes GGUF files, front to back; llama.cpp and what is built on it read them. They are not read here as weights.

    "GGUF"     then version 3 (uint32), how many tensors, how many facts (uint64 each)
    facts      key, type of value (uint32), value; a text is its length (uint64) and its UTF-8, an array the type of its
               elements, their number and the elements
    tensors    name, number of dimensions (uint32), dimensions with the last axis first (uint64), type (uint32), where its
               data begin within the data (uint64)
    data       the tensors, each filled up with zeros to a multiple of 32 bytes; so is what stands before

All little-endian. Source: ggml ``docs/gguf.md``; gguf 0.19.0 ``gguf_writer.py`` (padding after the last tensor, too),
``constants.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from weightkit.containers.layout import Layout
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, Q4_0, Q8_0

__all__ = ["Fact", "Gguf", "Scalar", "encode_facts"]

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
MAX_NAME_NBYTES = 63
"""Of a tensor's name. Source: ggml.h, ``GGML_MAX_NAME`` 64 with the zero at its end."""

TYPES = {FLOAT32.name: 0, FLOAT16.name: 1, Q4_0.name: 2, Q8_0.name: 8, BFLOAT16.name: 30}
"""ggml's number of a type. Source: gguf 0.19.0 ``constants.py``, ``GGMLQuantizationType``."""

Scalar = str | bytes | bool | int | float
Fact = tuple[str, Scalar | Sequence[Scalar]]
"""``uint32``, ``int32``, ``float32``, ``bool`` or ``string``, and a value; ``uint32[]`` and so on for a sequence of them."""

KINDS = {"uint32": 4, "int32": 5, "float32": 6, "bool": 7, "string": 8}
PACKING = {"uint32": "<I", "int32": "<i", "float32": "<f", "bool": "<?"}
ARRAY = 9


def encode_facts(facts: Mapping[str, Fact]) -> bytes:
    """Keys, types and values, in this order."""
    return b"".join(text(key) + value(*fact) for key, fact in facts.items())


def text(content: str | bytes) -> bytes:
    """A text with its length."""
    raw = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, content: Scalar | Sequence[Scalar]) -> bytes:
    """A value with its type."""
    if not kind.endswith("[]"):
        return struct.pack("<I", KINDS[kind]) + scalar(kind, content)
    kind = kind.removesuffix("[]")
    assert not isinstance(content, bool | int | float)
    return struct.pack("<IIQ", ARRAY, KINDS[kind], len(content)) + b"".join(scalar(kind, one) for one in content)


def scalar(kind: str, content: Scalar | Sequence[Scalar]) -> bytes:
    """A value without its type."""
    return text(content) if isinstance(content, str | bytes) else struct.pack(PACKING[kind], content)


def padding(nbytes: int) -> int:
    """Bytes lacking to a whole number of alignments."""
    return -nbytes % ALIGNMENT


@dataclass(frozen=True, slots=True)
class Gguf:
    """Encodes as llama.cpp's own Python package does.

    Attributes:
        facts: What stands before the tensors, encoded.
        count: How many facts.
    """

    profile: ClassVar[str] = "gguf"
    written_by: ClassVar[str] = "llama.cpp's converter"

    facts: bytes = field(repr=False)
    count: int

    def order(self, layout: Layout) -> Sequence[int]:
        """As the tensors come. A run that two items share is refused, and a type that ggml has no number for."""
        if [item.run for item in layout.items] != list(range(len(layout.runs))):
            raise ValueError("GGUF files hold no tied tensors; leave out all names but one")
        for item in layout.items:
            if item.spec.dtype.name not in TYPES:
                raise ValueError(f"{item.name}: GGUF files hold no {item.spec.dtype} here; known: {', '.join(TYPES)}")
            if len(item.name.encode()) > MAX_NAME_NBYTES:
                raise ValueError(f"{item.name[:80]}: a GGUF file's tensors have names of {MAX_NAME_NBYTES} bytes at most")
        return range(len(layout.runs))

    def header(self, layout: Layout) -> bytes:
        """All that stands before the data."""
        self.order(layout)
        out = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(layout.items), self.count) + self.facts)
        start = 0
        for item in layout.items:
            shape = item.spec.shape[::-1]
            out += text(item.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            out += struct.pack("<IQ", TYPES[item.spec.dtype.name], start)
            start += item.spec.nbytes + padding(item.spec.nbytes)
        return bytes(out + bytes(padding(len(out))))

    def nbytes(self, layout: Layout) -> int:
        """Exact size of the file."""
        sizes = (run.spec.nbytes for run in layout.runs)
        return len(self.header(layout)) + sum(size + padding(size) for size in sizes)

    def encode(self, layout: Layout, payloads: Iterable[Iterable[Buffer]]) -> Iterator[Buffer]:
        """Header, then each tensor with what fills it up."""
        yield self.header(layout)
        for run, payload in zip(layout.runs, payloads, strict=True):
            yield from payload
            if filling := padding(run.spec.nbytes):
                yield bytes(filling)
