"""How tensors lie in a file: which run of bytes holds each. What a reader found, and what an encoder is to write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from weightkit.core.buffers import Buffer
from weightkit.core.spec import TensorSpec

__all__ = ["Encoding", "Item", "Layout", "Run", "one_each"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of bytes without gaps: a storage of torch, the data of one safetensors entry. ``spec`` is its whole."""

    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Item:
    """A named tensor, contiguous within a run.

    Attributes:
        name: Its name.
        spec: Dtype and shape.
        run: Index of the run that holds it.
        offset: Its first element within the run.
        same_as: Index of an earlier item that is the very same object in the pickle, if any.
    """

    name: str
    spec: TensorSpec
    run: int
    offset: int = 0
    same_as: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of one file, in the order of its pickle or header, and the runs that hold them, in order of first use."""

    items: tuple[Item, ...]
    runs: tuple[Run, ...]


def one_each(named: Iterable[tuple[str, TensorSpec]]) -> Layout:
    """A layout in which each tensor has a run of its own."""
    pairs = tuple(named)
    return Layout(
        tuple(Item(name, spec, index) for index, (name, spec) in enumerate(pairs)),
        tuple(Run(spec) for _, spec in pairs),
    )


class Encoding(Protocol):
    """All that decides the bytes of a file apart from the tensors in it. Equal encodings of equal tensors: equal files."""

    @property
    def profile(self) -> str:
        """The profile of the files that it writes, as a ``Container`` tells it: ``zip-1.13``, ``safetensors``."""

    @property
    def written_by(self) -> str:
        """Who writes such files, for people: ``torch 1.13``, ``safetensors``."""

    def order(self, layout: Layout) -> Sequence[int]:
        """Indices of the runs in the order in which their bytes stand in the file."""

    def nbytes(self, layout: Layout) -> int:
        """Exact size of the file."""

    def encode(self, layout: Layout, payloads: Iterable[Iterable[Buffer]]) -> Iterator[Buffer]:
        """The file from front to back, without seeking; ``payloads`` gives each run's bytes, in ``order``."""
