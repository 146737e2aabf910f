"""Growing a vocabulary: rows that the base's embedding or head lacks.

Source: Stanford's ``smart_tokenizer_and_embedding_resize`` (rows of the mean), FastChat's ``apply_delta`` before 0.2.0 (rows
of zeros); peer-numerics, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import FLOAT32, DType
from weightkit.core.lazy import Read, Rows
from weightkit.core.spec import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Fill", "GrowRows"]

Fill = Literal["mean", "zero"]

PIECE_NBYTES = 2 << 20
"""How much of a block is in float32 at a time, to go into a mean: a usual block of 16 bits."""


def step_of(rows: int) -> int:
    """Sums that an accumulator of ``RunningMean`` takes; at the same time rows in a lowest sum."""
    return 1 << max(4, (rows - 1).bit_length() // 4)


def piece_of(rows: int, width: int) -> int:
    """Rows that go into a mean at a time: whole steps."""
    step = step_of(rows)
    return step * max(1, PIECE_NBYTES // max(1, step * width * FLOAT32.itemsize))


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
        from weightkit.core.compute import torch

        self.rows = rows
        self.step = step_of(rows)
        self.levels = [torch.zeros(width) for _ in range(4)]
        self.groups = 0
        self.pending = torch.zeros(0, width)

    def update(self, block: torch.Tensor) -> None:
        """Take in more rows, in order; float32, (any, width)."""
        from weightkit.core.compute import torch

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
        from weightkit.core.compute import torch

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

    torch: ClassVar[bool] = True

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

    def begin(self, tensor: Rows) -> Read:
        """One pass over the tensor; the mean is gathered from the rows as they go by, and from those that were skipped."""
        from weightkit.core.compute import as_buffer, matrix, torch, torch_dtype

        dtype, width = torch_dtype(self.dtype), tensor.spec.width
        mean = RunningMean(self.old, width) if self.fill == "mean" else None
        most = piece_of(self.old, width)
        seen = 0

        def take(start: int, stop: int) -> torch.Tensor:
            nonlocal seen
            block = matrix(tensor, start, stop).to(dtype)
            if mean is not None:
                for low in range(max(start, seen), stop, most):
                    mean.update(block[low - start : low - start + most].float())
            seen = max(seen, stop)
            return block

        def read(start: int, stop: int) -> Buffer:
            while mean and seen < min(start, self.old):
                take(seen, min(seen + most, start, self.old))
            parts = [take(start, min(stop, self.old))] if start < self.old else []
            if stop > self.old:
                row = mean.value() if mean else torch.zeros(width)
                parts.append(row.to(dtype).expand(stop - max(start, self.old), -1))
            return as_buffer(parts[0] if len(parts) == 1 else torch.cat(parts))

        return read

    def held_nbytes(self, tensor: TensorSpec) -> int:
        """The mean's four levels, a step of rows that wait, and a piece in float32, twice while it is put behind those."""
        step, piece = step_of(self.old), piece_of(self.old, tensor.width)
        return FLOAT32.itemsize * tensor.width * (4 + 3 * step + 3 * piece) if self.fill == "mean" else 0
