"""Tensors named, typed and shaped but not loaded: nested expressions, and what an operation in one is.

``Stored`` leaves stand for a tensor in a file, ``Derived`` nodes apply an ``Op``. All are frozen values that pickle: equal
expressions are the same bytes by construction. ``core.passes`` turns them into bytes. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from weightkit.core.needs import Needs
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Read, Stored

__all__ = ["Derived", "LazyTensor", "Op", "Read", "Rows", "Stored", "derive", "leaves", "needs", "walk"]


@dataclass(frozen=True, slots=True)
class Rows:
    """One input of an operation that has begun: what its bytes mean, and how to get at them.

    Attributes:
        spec: Dtype and shape.
        read: Bytes of rows ``[start, stop)``; see ``Read``.
    """

    spec: TensorSpec
    read: Read


class Op(Protocol):
    """An operation on tensors: a frozen value. It works on paper first; methods name the inputs as the operation calls them."""

    @property
    def torch(self) -> bool:
        """Whether ``begin`` imports torch."""

    @property
    def infer(self) -> Callable[..., TensorSpec]:
        """``infer(*specs)``: dtype and shape of the result; ``ValueError`` where the inputs do not fit."""

    @property
    def begin(self) -> Callable[..., Read]:
        """``begin(*inputs: Rows)``: start one pass over the inputs' rows; the answer gives the result's, ascending."""

    @property
    def held_nbytes(self) -> Callable[..., int]:
        """``held_nbytes(*specs)``: memory held during a pass beside the blocks, one of which each node may keep."""


@dataclass(frozen=True, slots=True)
class Derived:
    """The result of an operation on other lazy tensors."""

    op: Op
    inputs: tuple[LazyTensor, ...]
    spec: TensorSpec

    def __hash__(self) -> int:  # the inputs tell almost all apart
        return hash((type(self.op), self.inputs))

    def __repr__(self) -> str:
        return f"<{type(self.op).__name__} of {len(self.inputs)}: {self.spec}>"


LazyTensor = Stored | Derived


def derive(op: Op, *inputs: LazyTensor) -> Derived:
    """Apply an operation on paper.

    Raises:
        ValueError: The inputs do not fit the operation.
    """
    return Derived(op, inputs, op.infer(*(one.spec for one in inputs)))


def walk(tensors: Iterable[LazyTensor]) -> Iterator[LazyTensor]:
    """Every node of some expressions once, an input before what is made of it."""
    seen: set[LazyTensor] = set()

    def visit(tensor: LazyTensor) -> Iterator[LazyTensor]:
        if tensor in seen:
            return
        seen.add(tensor)
        if isinstance(tensor, Derived):
            for one in tensor.inputs:
                yield from visit(one)
        yield tensor

    for tensor in tensors:
        yield from visit(tensor)


def leaves(tensors: Iterable[LazyTensor]) -> list[Stored]:
    """The tensors in files that some expressions are made of, each once."""
    return [one for one in walk(tensors) if isinstance(one, Stored)]


def needs(tensors: Iterable[LazyTensor]) -> Needs:
    """What one pass over some expressions at once takes; a tensor used twice is read once."""
    nodes = list(walk(tensors))
    blobs = dict.fromkeys(one.blob for one in nodes if isinstance(one, Stored))
    derived = [one for one in nodes if isinstance(one, Derived)]
    return Needs(
        tuple(blobs),
        sum(one.spec.nbytes for one in nodes if isinstance(one, Stored)),
        sum(one.op.held_nbytes(*(each.spec for each in one.inputs)) for one in derived),
        max((one.spec.row_nbytes for one in nodes if one.spec.numel), default=0),
        any(one.op.torch for one in derived),
    )
