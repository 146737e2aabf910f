"""What is known of a tensor before its data: dtype and shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from weightkit.core.dtypes import DType

__all__ = ["TensorSpec"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Dtype and shape of a tensor, and how it is cut into rows.

    Everything that streams sees a tensor as a matrix: a tensor of two or more dimensions has ``width`` elements of its
    last axis in each row, a vector or scalar has one element a row. So a row is never more than one line of a weight.
    """

    dtype: DType
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(size < 0 for size in self.shape):
            raise ValueError(f"a shape has no negative sizes: {list(self.shape)}")
        if self.dtype.block > 1 and self.width % self.dtype.block:
            raise ValueError(f"{self.dtype} lies in blocks of {self.dtype.block}, and a row of {list(self.shape)} is no such")

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes when contiguous."""
        return self.numel // self.dtype.block * self.dtype.itemsize

    @property
    def width(self) -> int:
        """Elements in one row."""
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def rows(self) -> int:
        """Number of rows; ``rows * width == numel``."""
        return math.prod(self.shape[:-1]) if len(self.shape) > 1 else self.numel

    @property
    def row_nbytes(self) -> int:
        """Bytes in one row."""
        return self.width // self.dtype.block * self.dtype.itemsize

    def blocks(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """Ranges of rows [start, stop) that cover the tensor front to back, each of about ``nbytes`` and at least one row."""
        step = max(1, nbytes // max(1, self.row_nbytes))
        for start in range(0, self.rows if self.width else 0, step):
            yield start, min(start + step, self.rows)

    def strides(self) -> tuple[int, ...]:
        """Strides in elements of a contiguous tensor, as torch counts them: a size of 0 counts as 1.

        Source: torch-golden, an empty (0, 4) tensor has strides (4, 1).
        """
        strides: list[int] = []
        step = 1
        for size in reversed(self.shape):
            strides.append(step)
            step *= max(size, 1)
        return tuple(reversed(strides))
