"""Growing a vocabulary: rows that the base's embedding or head lacks.

Source: Stanford's ``smart_tokenizer_and_embedding_resize`` (rows of the mean), FastChat's ``apply_delta`` before 0.2.0 (rows
of zeros); peer-numerics, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from weightkit.core.dtypes import DType
from weightkit.core.lazy import Rows
from weightkit.core.spec import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Fill", "GrowRows"]

Fill = Literal["mean", "zero"]


class RunningMean:
    """torch's float32 ``mean(0)`` of n rows, taken from blocks of them as they go by.

    Bit-exact: torch adds the rows of a matrix in a cascade of four accumulators. Each takes ``step = 2**p`` sums of the
    one below, with ``p = max(4, ceil(log2 n) // 4)``, and is then emptied into the next; at the end the four are added,
    lowest first, and divided by n. Source: peer-numerics, section 1 (measured on torch 1.13 to 2.13, any instruction set
    and number of threads); ``aten/src/ATen/native/cpu/SumKernel.cpp``. It holds for widths that are a multiple of 64, as
    those of all LLaMAs are. torch adds the columns left over by other widths in an order that depends on the instruction
    set; here they are added like the others.
    """

    def __init__(self, rows: int, width: int) -> None:
        import torch

        self.rows = rows
        self.step = 1 << max(4, (rows - 1).bit_length() // 4)
        self.levels = [torch.zeros(width) for _ in range(4)]
        self.groups = 0
        self.pending = torch.zeros(0, width)

    def update(self, block: torch.Tensor) -> None:
        """Take in more rows, in order; float32, (any, width)."""
        import torch

        block = torch.cat([self.pending, block]) if len(self.pending) else block
        whole = len(block) // self.step
        grouped = block[: whole * self.step].view(whole, self.step, block.shape[1])
        sums = torch.zeros(whole, block.shape[1])
        for row in range(self.step):
            sums += grouped[:, row]
        for one in sums:
            self.climb(one)
        self.pending = block[whole * self.step :].clone()

    def climb(self, lowest: torch.Tensor) -> None:
        """Empty a full lowest accumulator into the next, that one into its next if it is full now, and so on."""
        self.groups += 1
        self.levels[1] += lowest
        if self.groups % self.step == 0:
            self.levels[2] += self.levels[1]
            self.levels[1].zero_()
            if self.groups % self.step**2 == 0:
                self.levels[3] += self.levels[2]
                self.levels[2].zero_()

    def value(self) -> torch.Tensor:
        """The mean; (width,)."""
        import torch

        total = torch.zeros_like(self.levels[0])
        for row in self.pending:
            total += row
        for level in self.levels[1:]:
            total += level
        return total / self.rows


@dataclass(frozen=True, slots=True)
class GrowRows:
    """The tensor in ``dtype``, with rows appended.

    Shapes: (old, width) -> (new, width). Bit-exact: the rows appended are zeros, or torch's own ``mean(0)`` of the old
    rows in ``dtype``, taken in float32 and cast.

    Attributes:
        old: Rows that there are.
        new: Rows wanted.
        fill: What the rows appended hold.
        dtype: What everything is cast to.
    """

    old: int
    new: int
    fill: Fill
    dtype: DType

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape after growing; ``ValueError`` where there is nothing to grow."""
        if len(tensor.shape) != 2 or tensor.shape[0] != self.old or not 0 < self.old <= self.new:
            raise ValueError(f"{tensor} does not grow from {self.old} to {self.new} rows")
        if tensor.dtype.kind != "float":
            raise ValueError(f"{tensor.dtype} has no mean")
        return TensorSpec(self.dtype, (self.new, tensor.shape[1]))

    def begin(self, tensor: Rows) -> Rows:
        """One pass over the tensor; the mean is gathered from the rows as they go by."""
        import torch

        from weightkit.core.compute import torch_dtype

        dtype = torch_dtype(self.dtype)
        mean: RunningMean | None = None
        width = 0

        def rows(start: int, stop: int) -> torch.Tensor:
            nonlocal mean, width
            parts = []
            if start < self.old:
                block = tensor(start, min(stop, self.old)).to(dtype)
                width = block.shape[1]
                if self.fill == "mean":
                    mean = mean or RunningMean(self.old, width)
                    mean.update(block.float())
                parts.append(block)
            if stop > self.old:
                row = mean.value() if mean else torch.zeros(width)
                parts.append(row.to(dtype).expand(stop - max(start, self.old), -1))
            return torch.cat(parts)

        return rows
