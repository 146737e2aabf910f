"""What will be written, decided before anything is: frozen, picklable, and exact to the byte.

An ``OutputFile`` is one independent unit of work. Its size follows from names, dtypes and shapes, so a plan for 10 GB shards
is made in milliseconds, without reading a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol

from weightkit.containers.layout import Encoding, Layout
from weightkit.core import describe
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.errors import spoken
from weightkit.core.lazy import LazyTensor, Stored, leaves, needs
from weightkit.core.needs import Needs
from weightkit.core.probes import CONTENT, Content, Probe
from weightkit.core.sizes import format_size
from weightkit.run.gates import Original
from weightkit.run.steps import Watch, in_step
from weightkit.streams import Stream

__all__ = [
    "Listing",
    "Output",
    "OutputFile",
    "Plan",
    "Planned",
    "SmallFile",
    "StreamFile",
    "Twin",
    "Watch",
    "Watched",
    "in_step",
]


class Output(Protocol):
    """Something to be written: a frozen value that pickles small."""

    @property
    def path(self) -> str:
        """Its name in the output folder, with ``/`` between."""

    @property
    def nbytes(self) -> int:
        """Its size; where that is not ``exact``, about."""

    @property
    def exact(self) -> bool:
        """Whether the size is known to the byte."""

    @property
    def expect(self) -> tuple[Digest, ...]:
        """Digests it must have, by whichever algorithms they were published in."""

    @property
    def also(self) -> tuple[str, ...]:
        """Algorithms of digests that are wanted of it besides."""

    @property
    def needs(self) -> Needs:
        """What making it takes."""

    def fingerprint(self) -> str:
        """What tells its bytes from others': expressions, encoding, versions of what is read; its name does not count."""

    def chunks(self, block_nbytes: int, watch: Watch | None = None) -> Iterator[tuple[Buffer, ...]]:
        """The file from front to back, and beside it its twin, if it has one.

        Args:
            block_nbytes: About how many bytes at a time.
            watch: Told of what probes look at; None: nothing is looked at.

        Raises:
            FormatError: An input is damaged, or (told at the end) has changed since it was planned with.
        """


@dataclass(frozen=True, slots=True)
class Twin:
    """A file that is computed in step with another and hashed, but not written: the proof of a round trip.

    Its layout is the other's; its tensors have the shapes and dtypes of the other's.
    """

    encoding: Encoding
    tensors: tuple[tuple[LazyTensor, ...], ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """What a probe looks at in the pass that writes a file.

    Attributes:
        probe: Who looks.
        tensors: For each tensor of each run what is looked at: read in step with it, so of as many rows. None: the file's
            own tensors.
    """

    probe: Probe
    tensors: tuple[tuple[tuple[LazyTensor, ...], ...], ...] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class OutputFile:
    """A file of tensors to be written.

    Attributes:
        path: Its name in the output folder.
        encoding: What turns the tensors into bytes.
        layout: How they lie in it.
        tensors: For each run of the layout, the lazy tensors that fill it one after another.
        expect: Digests it must have.
        twin: A second file to compute in step.
        watched: What is looked at on the way.
        also: Algorithms of digests that are wanted besides.
        nbytes: Exact size of the file.
    """

    path: str
    encoding: Encoding
    layout: Layout
    tensors: tuple[tuple[LazyTensor, ...], ...]
    expect: tuple[Digest, ...] = ()
    twin: Twin | None = None
    watched: tuple[Watched, ...] = ()
    also: tuple[str, ...] = ()
    nbytes: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", self.encoding.nbytes(self.layout))

    def __repr__(self) -> str:
        return f"<{self.path}: {len(self.layout.items)} tensors, {format_size(self.nbytes)}>"

    @property
    def exact(self) -> bool:
        """Always."""
        return True

    @property
    def header_nbytes(self) -> int:
        """Bytes that are no tensor data: pickle, directory, header."""
        return self.nbytes - sum(run.spec.nbytes for run in self.layout.runs)

    @property
    def needs(self) -> Needs:
        """Inputs of all its tensors, each counted once; memory of the pass that holds most, with the header twice."""
        read: dict[Stored, None] = {}
        held = widest = 0
        torch = False
        for run, number in self.places():
            group = self.group(run, number)
            one = needs(group)
            looks = sum(
                watched.probe.held_nbytes(*(tensor.spec for tensor in self.looked_at(watched, run, number)))
                for watched in self.watched
            )
            held, widest = max(held, one.held_nbytes + looks), max(widest, one.widest_row_nbytes)
            torch = torch or one.torch
            read |= dict.fromkeys(leaves(group))
        blobs = tuple(dict.fromkeys(one.blob for one in read))
        return Needs(blobs, sum(one.spec.nbytes for one in read), held + 2 * self.header_nbytes, widest, torch)

    def fingerprint(self) -> str:
        """Of the encoding, the layout, all that is computed and looked at, and the versions of what is read."""
        return describe.fingerprint(self.encoding, self.layout, self.tensors, self.twin, self.watched)

    def watched_by(self, *probes: Probe) -> OutputFile:
        """The same file, with its tensors looked at on the way."""
        return replace(self, watched=(*self.watched, *map(Watched, probes)))

    def with_content(self) -> OutputFile:
        """The same file, with the content digests of its tensors taken on the way."""
        if any(watched.probe.name == CONTENT for watched in self.watched):
            return self
        return self.watched_by(Content())

    def places(self) -> Iterator[tuple[int, int]]:
        """Each of its tensors: the run, and its place in the run."""
        for run, tensors in enumerate(self.tensors):
            for number in range(len(tensors)):
                yield run, number

    def looked_at(self, watched: Watched, run: int, number: int) -> tuple[LazyTensor, ...]:
        """What one probe looks at while a tensor is written."""
        return (self.tensors[run][number],) if watched.tensors is None else watched.tensors[run][number]

    def group(self, run: int, number: int) -> list[LazyTensor]:
        """All that is computed in step with a tensor: the tensor, its twin, what is looked at."""
        twin = [] if self.twin is None else [self.twin.tensors[run][number]]
        more = [one for watched in self.watched if watched.tensors is not None for one in watched.tensors[run][number]]
        return [self.tensors[run][number], *twin, *more]

    @property
    def in_step(self) -> int:
        """How many tensors are computed at once at most: one, its twin, what is looked at beside it."""
        return max((len(self.group(run, number)) for run, number in self.places()), default=0)

    def chunks(self, block_nbytes: int, watch: Watch | None = None) -> Iterator[tuple[Buffer, ...]]:
        """The file from front to back; with a twin, its bytes beside it."""
        if self.twin is None:
            return in_step([self], block_nbytes, watch)
        return in_step([self, OutputFile(self.path, self.twin.encoding, self.layout, self.twin.tensors)], block_nbytes, watch)


@dataclass(frozen=True, slots=True)
class Planned:
    """The bytes of a file of tensors as a stream, computed as they are asked for: a base converted on the way."""

    file: OutputFile

    @property
    def nbytes(self) -> int:
        """The file's."""
        return self.file.nbytes

    @property
    def exact(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """The file's."""
        return self.file.needs

    def chunks(self, block_nbytes: int) -> Iterator[Buffer]:
        """The file's."""
        for (chunk,) in self.file.chunks(block_nbytes):
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
    also: ClassVar[tuple[str, ...]] = ()
    twin: ClassVar[None] = None

    @property
    def nbytes(self) -> int:
        """Its size; about, where the stream does not know it."""
        return self.stream.nbytes

    @property
    def exact(self) -> bool:
        """Whether the size is known to the byte."""
        return self.stream.exact

    @property
    def needs(self) -> Needs:
        """The stream's."""
        return self.stream.needs

    def fingerprint(self) -> str:
        """Of the stream, with the versions of what it reads."""
        return describe.fingerprint(self.stream)

    def chunks(self, block_nbytes: int, watch: Watch | None = None) -> Iterator[tuple[Buffer, ...]]:
        """The file from front to back; it has no tensors to look at."""
        for chunk in self.stream.chunks(block_nbytes):
            yield (chunk,)
        for blob in self.needs.blobs:
            blob.check()


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file whose bytes are known already: an index, a config, a tokenizer.

    Attributes:
        path: Its name in the output folder.
        content: Its bytes.
        expect: Digests it must have.
        also: Algorithms of digests that are wanted besides.
    """

    path: str
    content: bytes = field(repr=False)
    expect: tuple[Digest, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Exact size of the file."""
        return len(self.content)

    @property
    def exact(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def fingerprint(self) -> str:
        """Of its bytes."""
        return describe.fingerprint(self.content)

    def chunks(self, block_nbytes: int, watch: Watch | None = None) -> Iterator[tuple[Buffer, ...]]:
        """All of it at once."""
        if self.content:
            yield (self.content,)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of digests that belongs to the files: Meta's ``checklist.chk``.

    Attributes:
        path: Its name in the output folder.
        algorithm: Of its digests.
        files: The files that it lists.
    """

    path: str
    algorithm: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """All that a run will write.

    Attributes:
        job: What it does, as ``recover``.
        steps: What is done to the tensors, one line each, for people.
        files: Files of tensors or of streams, in the order of their names.
        small: Small files, written after them.
        notes: What the user should know before the run, one line each.
        tensors: Whether the tensors are a model's under transformers' names, so that their content digests are of use.
        inputs: Inputs whose published digests must hold before anything is published.
        sources: Paths of all that was given: folders, files, lists. No file there is written to.
        listings: Lists of digests that are written when all else stands.
        proofs: Published files that are not stored: made of those that are, see ``run.proving``, and hashed. Nothing is
            published before each has its digests.
    """

    job: str
    steps: tuple[str, ...]
    files: tuple[OutputFile | StreamFile, ...]
    small: tuple[SmallFile, ...]
    notes: tuple[str, ...] = ()
    tensors: bool = False
    inputs: tuple[Original, ...] = ()
    sources: tuple[Path, ...] = ()
    listings: tuple[Listing, ...] = ()
    proofs: tuple[OutputFile | SmallFile, ...] = ()

    def __post_init__(self) -> None:
        for told in ("steps", "notes"):
            object.__setattr__(self, told, tuple(map(spoken, getattr(self, told))))

    def __repr__(self) -> str:
        return f"<{self.job}: {len(self.files)} files of weights, {len(self.small)} small ones, {format_size(self.nbytes)}>"

    @property
    def everything(self) -> tuple[OutputFile | StreamFile | SmallFile, ...]:
        """All files, in the order in which they are written."""
        return *self.files, *self.small

    @property
    def hashed(self) -> tuple[OutputFile | StreamFile | SmallFile, ...]:
        """All files that are made, stored or not."""
        return *self.everything, *self.proofs

    @property
    def nbytes(self) -> int:
        """Bytes that will be written in all, but for the list of digests."""
        return sum(file.nbytes for file in self.everything)
