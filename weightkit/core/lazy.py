"""Tensors named, typed and shaped but not loaded; what a source of tensors and an operation on them are.

A lazy tensor is a nested expression: ``Stored`` leaves, which stand for a tensor in a file, and ``Derived`` nodes, which
apply an ``Op``. It is frozen and picklable, and knows its dtype and shape. ``weightkit.core.compute`` turns it into bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from weightkit.core.buffers import Buffer
from weightkit.core.spec import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Derived", "LazyTensor", "Op", "Rows", "Stored", "TensorSource", "derive", "reader"]

Rows = Callable[[int, int], "torch.Tensor"]
"""Rows ``[start, stop)`` of a tensor, as a matrix (stop - start, width).

Asked for in ascending, adjoining ranges, each once; from row 0 on, unless only some rows are wanted. So an operation may
keep what it needs of the rows that went by (a running mean), and a reader may check a file's CRC on the way. The caller
must not write to the result.
"""


class TensorSource(Protocol):
    """One file as an index of tensors: cheap to hold, safe to share, fit to be pickled to a worker."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Name -> dtype and shape, in the file's own order."""

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Rows ``[start, stop)`` of a tensor, row-major, little-endian; reads just those bytes."""

    def crc32(self, name: str) -> int | None:
        """The CRC-32 that the file records for the tensor's bytes; None where it records none for just these."""


class Op(Protocol):
    """An operation on tensors. It works on paper first; both methods name the inputs as the operation calls them."""

    @property
    def infer(self) -> Callable[..., TensorSpec]:
        """``infer(*specs)``: dtype and shape of the result; ``ValueError`` where the inputs do not fit."""

    @property
    def begin(self) -> Callable[..., Rows]:
        """``begin(*inputs)``: start one pass over the inputs' rows; the answer gives the result's, in ascending order."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor as it stands in a file."""

    source: TensorSource
    name: str

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape, from the file's header."""
        return self.source.specs[self.name]


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """The result of an operation on other lazy tensors. Equal only to itself: one object, one computation."""

    op: Op
    inputs: tuple[LazyTensor, ...]
    spec: TensorSpec


LazyTensor = Stored | Derived


def derive(op: Op, *inputs: LazyTensor) -> Derived:
    """Apply an operation on paper.

    Raises:
        ValueError: The inputs do not fit the operation.
    """
    return Derived(op, inputs, op.infer(*(one.spec for one in inputs)))


def reader(tensor: LazyTensor) -> Callable[[int, int], Buffer]:
    """One pass over a tensor's rows as bytes, in ascending order; torch is needed only where it is computed."""
    if isinstance(tensor, Stored):
        return lambda start, stop: tensor.source.read(tensor.name, start, stop)
    from weightkit.core.compute import open_bytes

    return open_bytes(tensor)
