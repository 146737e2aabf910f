"""How the tensors of one file lie in it: as in the file that is followed, each by itself, or tied ones together.

Two names are tied where they are the same bytes by construction: the same place in the same file, the same operations on it.
Equal expressions are just that.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from weightkit.containers.layout import Item, Layout, Run
from weightkit.core.lazy import LazyTensor
from weightkit.core.spec import TensorSpec

__all__ = ["Arranged", "follow", "together", "without_ties"]

Arranged = tuple[Layout, tuple[tuple[LazyTensor, ...], ...]]
"""A layout, and for each of its runs the tensors that fill it one after another."""


def together(placed: Sequence[tuple[str, LazyTensor, Hashable]]) -> Arranged:
    """A layout in which tensors share a run where their keys are equal, and have one of their own elsewhere."""
    runs: dict[Hashable, int] = {}
    tensors: list[tuple[LazyTensor, ...]] = []
    items = []
    for name, tensor, key in placed:
        if key not in runs:
            runs[key] = len(runs)
            tensors.append((tensor,))
        items.append(Item(name, tensor.spec, runs[key]))
    shared: dict[TensorSpec, Run] = {}  # one for all tensors of a shape: a plan holds a hundred thousand
    return Layout(tuple(items), tuple(shared.setdefault(one.spec, Run(one.spec)) for (one,) in tensors)), tuple(tensors)


def without_ties(names: Sequence[str], tensors: Mapping[str, LazyTensor]) -> list[str]:
    """Names, but for those that are tied to an earlier one."""
    first: dict[LazyTensor, str] = {}
    return [name for name in names if first.setdefault(tensors[name], name) == name]


def follow(layout: Layout, release: Mapping[str, LazyTensor]) -> Arranged | None:
    """A file's own layout filled with other tensors.

    None where two that lie on one place are not the same, or two that share a run are of different dtypes now.
    """
    placed: dict[int, dict[int, LazyTensor]] = {run: {} for run in range(len(layout.runs))}
    for item in layout.items:
        if placed[item.run].setdefault(item.offset, release[item.name]) != release[item.name]:
            return None
    if any(len({tensor.spec.dtype for tensor in parts.values()}) > 1 for parts in placed.values()):
        return None
    tensors = tuple(tuple(parts[offset] for offset in sorted(parts)) for parts in placed.values())
    moved: dict[tuple[int, int], int] = {}  # a vocabulary that grew moves what lies behind it
    for run, parts in placed.items():
        starts = accumulate((parts[offset].spec.numel for offset in sorted(parts)), initial=0)
        moved |= {(run, offset): start for offset, start in zip(sorted(parts), starts, strict=False)}
    items = tuple(replace(item, spec=release[item.name].spec, offset=moved[item.run, item.offset]) for item in layout.items)
    runs = tuple(
        Run(parts[0].spec if len(parts) == 1 and run.spec.shape == layout_of[0].spec.shape else flat(parts))
        for run, parts, layout_of in zip(layout.runs, tensors, in_runs(layout), strict=True)
    )
    return Layout(items, runs), tensors


def flat(parts: Sequence[LazyTensor]) -> TensorSpec:
    """A run of several tensors one after another."""
    return TensorSpec(parts[0].spec.dtype, (sum(part.spec.numel for part in parts),))


def in_runs(layout: Layout) -> list[list[Item]]:
    """The items of each run."""
    found: list[list[Item]] = [[] for _ in layout.runs]
    for item in layout.items:
        found[item.run].append(item)
    return found
