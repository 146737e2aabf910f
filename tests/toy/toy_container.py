"""A container format of somebody else, in one file: a line of JSON, then the tensors one after another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from weightkit.containers import Container
from weightkit.containers.layout import Encoding, Layout, one_each
from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BY_NAME
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Stored

MAGIC = b"TOY1 "


@dataclass(frozen=True, slots=True)
class ToyFile:
    blob: Blob
    tensors: Mapping[str, Stored]
    layout: Layout

    profile = "toy"
    written_by = "the toy package"

    @property
    def format(self) -> ToyFormat:
        return FORMAT

    @property
    def encoding(self) -> Encoding:
        return ToyEncoding()


@dataclass(frozen=True, slots=True)
class ToyEncoding:
    profile: str = "toy"
    written_by: str = "the toy package"

    def order(self, layout: Layout) -> Sequence[int]:
        if len(layout.items) != len(layout.runs):
            raise ValueError("toy files hold no tied tensors")
        return range(len(layout.runs))

    def header(self, layout: Layout) -> bytes:
        found = [[item.name, item.spec.dtype.name, list(item.spec.shape)] for item in layout.items]
        return MAGIC + json.dumps(found).encode() + b"\n"

    def nbytes(self, layout: Layout) -> int:
        return len(self.header(layout)) + sum(run.spec.nbytes for run in layout.runs)

    def encode(self, layout: Layout, payloads: Iterable[Iterable[Buffer]]) -> Iterator[Buffer]:
        yield self.header(layout)
        for payload in payloads:
            yield from payload


@dataclass(frozen=True, slots=True)
class ToyFormat:
    name: str = "toy"
    stem: str = "toys"
    suffixes: tuple[str, ...] = (".toy",)
    ties: bool = False
    ordered: bool = True

    def recognise(self, head: bytes, nbytes: int) -> bool:
        return head.startswith(MAGIC)

    def open(self, blob: Blob) -> Container:
        head = bytes(blob.read(0, min(blob.nbytes, 1 << 20)))
        line, found, _ = head.partition(b"\n")
        if not found:
            raise FormatError(blob.name, "its first line does not end")
        tensors: dict[str, Stored] = {}
        start = len(line) + 1
        for name, dtype, shape in json.loads(line.removeprefix(MAGIC)):
            spec = TensorSpec(BY_NAME[dtype], tuple(shape))
            tensors[name] = Stored(blob, name, spec, start)
            start += spec.nbytes
        return ToyFile(blob, tensors, one_each((name, one.spec) for name, one in tensors.items()))

    def encoding(self, path: str, like: Container | None, profile: str | None, *, same: bool) -> Encoding:
        return ToyEncoding()

    def variants(self, path: str, like: Encoding, *, all_kinds: bool) -> Sequence[Encoding]:
        return (like,)


FORMAT = ToyFormat()
