"""Probes at work on one file: a look begins with the first bytes of its tensor and is an answer with the last."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from weightkit.containers.layout import Item
from weightkit.core.buffers import Buffer
from weightkit.core.probes import Look
from weightkit.core.spec import TensorSpec
from weightkit.run.plan import OutputFile

__all__ = ["Looks"]

Part = tuple[int, int, int, tuple[Buffer, ...]]
"""What a ``Watch`` is told."""


class Looks:
    """All that is looked at in a file. Holds no more than the looks of the tensors that are under way, and the answers.

    Names that lie on one place with one dtype and shape share a look.
    """

    def __init__(self, file: OutputFile) -> None:
        self.file = file
        items = file.layout.items
        self.by_run = array("q", sorted(range(len(items)), key=lambda at: items[at].run))
        self.open: dict[tuple[int, int, int], Begun] = {}
        self.found: dict[str, dict[str, Any]] = {watched.probe.name: {} for watched in file.watched}

    def update(self, part: Part) -> None:
        """Take in the next bytes of what one probe looks at."""
        index, run, number, blocks = part
        place = index, run, number
        begun = self.open.get(place) or self.open.setdefault(place, self.begin(*place))
        if blocks:
            for look in begun.looks.values():
                look(*blocks)
            begun.left -= len(blocks[0])
        if begun.left == 0:
            self.end(index, self.open.pop(place))

    def begin(self, index: int, run: int, number: int) -> Begun:
        """Start looking at a tensor, once for each dtype and shape that the file gives it."""
        watched = self.file.watched[index]
        seen = self.file.looked_at(watched, run, number)
        offset = sum(tensor.spec.numel for tensor in self.file.tensors[run][:number])
        begun = Begun(seen[0].spec.nbytes)
        for item in self.items_in(run):
            if item.offset == offset and (item.spec.numel > 0) == (seen[0].spec.numel > 0):
                begun.names.setdefault(item.spec, []).append(item.name)
        for spec in begun.names:
            specs = (spec,) if watched.tensors is None else tuple(tensor.spec for tensor in seen)
            begun.looks[spec] = watched.probe.begin(*specs)
        return begun

    def items_in(self, run: int) -> Iterator[Item]:
        """The named tensors of a run."""
        items = self.file.layout.items
        start = bisect_left(self.by_run, run, key=lambda at: items[at].run)
        for place in range(start, len(items)):
            item = items[self.by_run[place]]
            if item.run != run:
                return
            yield item

    def end(self, index: int, begun: Begun) -> None:
        """Ask for the answers."""
        answers = self.found[self.file.watched[index].probe.name]
        for spec, names in begun.names.items():
            answer = begun.looks[spec].found()
            if answer is not None:
                answers |= dict.fromkeys(names, answer)


class Begun:
    """The looks at one tensor: bytes to come, names by dtype and shape, looks."""

    def __init__(self, nbytes: int) -> None:
        self.left = nbytes
        self.names: dict[TensorSpec, list[str]] = {}
        self.looks: dict[TensorSpec, Look] = {}
