"""What will be written, decided before anything is: frozen, picklable, and exact to the byte.

An ``OutputFile`` is one independent unit of work. Its size follows from names, dtypes and shapes, so a plan for 10 GB shards
is made in milliseconds, without reading a weight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from weightkit.containers.layout import Encoding, Layout
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.lazy import Derived, LazyTensor, Stored
from weightkit.streams import Stream

__all__ = ["OutputFile", "Plan", "Planned", "SmallFile", "StreamFile", "Twin", "in_step"]


Watch = Callable[[tuple[int, int], Buffer], None]
"""Told of a block of the tensor that lies at a run and offset of the layout."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A file that is computed in step with another and hashed, but not written: the proof of a round trip.

    Its layout is the other's; its tensors have the shapes and dtypes of the other's.
    """

    encoding: Encoding
    tensors: tuple[tuple[LazyTensor, ...], ...]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of tensors to be written.

    Attributes:
        path: Its name in the output folder.
        encoding: What turns the tensors into bytes.
        layout: How they lie in it.
        tensors: For each run of the layout, the lazy tensors that fill it one after another.
        expect: Digests it must have, by whichever algorithms they were published in.
        twin: A second file to compute in step.
    """

    path: str
    encoding: Encoding
    layout: Layout
    tensors: tuple[tuple[LazyTensor, ...], ...]
    expect: tuple[Digest, ...] = ()
    twin: Twin | None = None
    exact: ClassVar[bool] = True
    computes: ClassVar[bool] = True

    @property
    def nbytes(self) -> int:
        """Exact size of the file."""
        return self.encoding.nbytes(self.layout)

    @property
    def widest_row_nbytes(self) -> int:
        """Bytes in the widest row of any tensor: a block can be no smaller."""
        return max((tensor.spec.row_nbytes for run in self.tensors for tensor in run if tensor.spec.numel), default=0)

    @property
    def header_nbytes(self) -> int:
        """Bytes that are no tensor data: pickle, directory, header."""
        return self.nbytes - sum(run.spec.nbytes for run in self.layout.runs)

    @property
    def held_nbytes(self) -> int:
        """Memory that the operations on one tensor hold beside the blocks; the most of any tensor."""
        return max((held_nbytes(tensor) for run in self.tensors for tensor in run), default=0)

    def read_nbytes(self) -> int:
        """Bytes that will be read from inputs; a tensor used twice counts once."""
        seen: dict[int, int] = {}

        def visit(tensor: LazyTensor) -> None:
            if isinstance(tensor, Stored):
                seen[id(tensor)] = tensor.spec.nbytes
            elif isinstance(tensor, Derived):
                for one in tensor.inputs:
                    visit(one)

        for run in self.tensors:
            for tensor in run:
                visit(tensor)
        return sum(seen.values())

    def chunks(self, block_bytes: int, watch: Watch | None = None) -> Iterator[tuple[Buffer, ...]]:
        """The file from front to back; with a twin, its bytes beside it.

        Args:
            block_bytes: About how many bytes at a time.
            watch: Told of every block of a tensor before it goes out; not of a twin's.
        """
        if self.twin is None:
            payloads = (self.payload(run, block_bytes, watch) for run in self.encoding.order(self.layout))
            for chunk in self.encoding.encode(self.layout, payloads):
                yield (chunk,)
        else:
            beside = replace(self, encoding=self.twin.encoding, tensors=self.twin.tensors, twin=None)
            yield from in_step([replace(self, twin=None), beside], block_bytes)

    def payload(self, run: int, block_bytes: int, watch: Watch | None = None) -> Iterator[Buffer]:
        """The bytes of one run."""
        from weightkit.core.compute import blocks

        offset = 0
        for tensor in self.tensors[run]:
            for (block,) in blocks([tensor], block_bytes):
                if watch is not None:
                    watch((run, offset), block)
                yield block
            offset += tensor.spec.numel


def in_step(files: Sequence[OutputFile], block_bytes: int) -> Iterator[tuple[Buffer, ...]]:
    """Several files from front to back at once; what their tensors have in common is read and computed once.

    Args:
        files: Their tensors have the same shapes, and their records lie in the same order.
        block_bytes: About how many bytes of a tensor at a time.

    Yields:
        The next chunk of each; empty for one that has ended.
    """
    from weightkit.core.compute import blocks

    first = files[0]
    order = first.encoding.order(first.layout)
    waiting: list[deque[Buffer]] = [deque() for _ in files]

    def advance() -> Iterator[None]:
        for run in order:
            for number in range(len(first.tensors[run])):
                for found in blocks([file.tensors[run][number] for file in files], block_bytes):
                    for queue, block in zip(waiting, found, strict=True):
                        queue.append(block)
                    yield

    pump = advance()

    def payload(file: OutputFile, queue: deque[Buffer], run: int) -> Iterator[Buffer]:
        left = sum(tensor.spec.nbytes for tensor in file.tensors[run])
        while left:
            while not queue:
                next(pump)
            block = queue.popleft()
            left -= len(block)
            yield block

    def encoded(file: OutputFile, queue: deque[Buffer]) -> Iterator[Buffer]:
        return file.encoding.encode(file.layout, (payload(file, queue, run) for run in order))

    encoders = [encoded(file, queue) for file, queue in zip(files, waiting, strict=True)]
    yield from zip_longest(*encoders, fillvalue=b"")


def held_nbytes(tensor: LazyTensor) -> int:
    """Memory that the operations of an expression hold during a pass, as they say themselves."""
    if isinstance(tensor, Stored):
        return 0
    return int(getattr(tensor.op, "held_nbytes", 0)) + sum(held_nbytes(one) for one in tensor.inputs)


@dataclass(frozen=True, slots=True)
class Planned:
    """The bytes of a file of tensors, computed as they are asked for: a base converted on the way."""

    file: OutputFile
    exact: ClassVar[bool] = True
    computes: ClassVar[bool] = True

    @property
    def nbytes(self) -> int:
        """The file's."""
        return self.file.nbytes

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its tensors lie in."""
        found: dict[Path, None] = {}

        def visit(tensor: LazyTensor) -> None:
            if not isinstance(tensor, Stored):
                for one in tensor.inputs:
                    visit(one)
            elif tensor.source.path.is_file():
                found[tensor.source.path] = None

        for run in self.file.tensors:
            for tensor in run:
                visit(tensor)
        return tuple(found)

    @property
    def read_nbytes(self) -> int:
        """Those of the tensors."""
        return self.file.read_nbytes()

    @property
    def held_nbytes(self) -> int:
        """The file's own, and blocks of its widest tensor."""
        return self.file.held_nbytes + 8 * self.file.widest_row_nbytes + 2 * self.file.header_nbytes

    def chunks(self, block_bytes: int) -> Iterator[Buffer]:
        """The file's."""
        for (chunk,) in self.file.chunks(block_bytes):
            yield chunk


@dataclass(frozen=True, slots=True)
class StreamFile:
    """A file of bytes that are no tensors to us: decoded, encoded, copied.

    Attributes:
        path: Its name in the output folder; may lie in a folder there.
        stream: Its bytes.
        expect: Digests it must have.
    """

    path: str
    stream: Stream
    expect: tuple[Digest, ...] = ()
    twin: ClassVar[None] = None
    widest_row_nbytes: ClassVar[int] = 0
    header_nbytes: ClassVar[int] = 0

    @property
    def nbytes(self) -> int:
        """Its size; about, where the stream does not know it."""
        return self.stream.nbytes

    @property
    def exact(self) -> bool:
        """Whether the size is known to the byte."""
        return self.stream.exact

    @property
    def computes(self) -> bool:
        """Whether tensors are computed on the way, so that torch is needed."""
        return self.stream.computes

    @property
    def held_nbytes(self) -> int:
        """Memory held beside the blocks."""
        return self.stream.held_nbytes

    def read_nbytes(self) -> int:
        """Bytes that will be read from inputs."""
        return self.stream.read_nbytes

    def chunks(self, block_bytes: int, watch: Watch | None = None) -> Iterator[tuple[Buffer, ...]]:
        """The file from front to back; it has no tensors to watch."""
        for chunk in self.stream.chunks(block_bytes):
            yield (chunk,)


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file whose bytes are known already: an index, a config, a tokenizer.

    Attributes:
        path: Its name in the output folder.
        content: Its bytes.
        expect: Digests it must have.
    """

    path: str
    content: bytes
    expect: tuple[Digest, ...] = ()

    @property
    def nbytes(self) -> int:
        """Exact size of the file."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run will write.

    Attributes:
        job: What it does, as ``recover``.
        steps: What is done to the tensors, one line each, for people.
        files: Files of tensors or of streams, in the order of their names.
        small: Small files, written after them.
        notes: What the user should know before the run, one line each.
        tensors: Whether the tensors are a model's under transformers' names, so that their content digests are of use.
    """

    job: str
    steps: tuple[str, ...]
    files: tuple[OutputFile | StreamFile, ...]
    small: tuple[SmallFile, ...]
    notes: tuple[str, ...] = ()
    tensors: bool = False

    @property
    def everything(self) -> tuple[OutputFile | StreamFile | SmallFile, ...]:
        """All files, in the order in which they are written."""
        return *self.files, *self.small

    @property
    def nbytes(self) -> int:
        """Bytes that will be written in all, but for the list of digests."""
        return sum(file.nbytes for file in self.everything)
