"""Counts what does not come back: for the proof that a diff restores the tuned model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weightkit.core.lazy import Rows
from weightkit.core.spec import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["CountChanged", "Tally"]


@dataclass(slots=True)
class Tally:
    """Elements of one tensor, and how many of them came back with other bits."""

    elements: int = 0
    changed: int = 0


@dataclass(frozen=True, slots=True)
class CountChanged:
    """The first tensor, unchanged; how many of its elements differ in any bit from the second goes into ``tally``.

    Shapes: equal -> the same. The second is cast to the first's dtype before it is compared.
    """

    tally: Tally

    def infer(self, restored: TensorSpec, wanted: TensorSpec) -> TensorSpec:
        """Dtype and shape of the first; ``ValueError`` where the second has another shape."""
        if restored.shape != wanted.shape:
            raise ValueError(f"shapes differ: {restored} and {wanted}")
        return restored

    def begin(self, restored: Rows, wanted: Rows) -> Rows:
        """One pass over both."""

        def rows(start: int, stop: int) -> torch.Tensor:
            block = restored(start, stop)
            self.tally.elements += block.numel()
            self.tally.changed += changed(block, wanted(start, stop).to(block.dtype))
            return block

        return rows


def changed(one: torch.Tensor, other: torch.Tensor) -> int:
    """Number of elements whose bits differ."""
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = integers[one.element_size()]
    return int((one.contiguous().view(bits) != other.contiguous().view(bits)).sum())
