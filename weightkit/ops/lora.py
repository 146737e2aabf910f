"""Merging a LoRA: ``weight + scale * (up @ down)``, with the roundings of the tool that a release was made with.

The product's sums are taken in a named order (``ops/product.py``); every other step is one IEEE operation, rounded to
nearest even. So ``fma`` and ``mul-add`` are bit-exact everywhere, whatever the processor, BLAS, number of threads, torch
or size of block; ``blas`` is not.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; peft names down ``lora_A``, up ``lora_B``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BFLOAT16, FLOAT32, DType
from weightkit.core.lazy import Read, Rows
from weightkit.core.spec import TensorSpec
from weightkit.ops.product import BLOCK_ROWS, Kernel, Sums, kernel_for, scratch_nbytes

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_ROUNDING", "ROUNDINGS", "MergeLora", "Rounding", "rounding_named"]


@dataclass(frozen=True, slots=True)
class Rounding:
    """Where a merge rounds to the dtype of the weight; elsewhere it computes in float32.

    Attributes:
        adapter: Whether the adapter's matrices are rounded before the product.
        product: Whether the product is, before it is scaled. ``bfloat16``: only where the weight is bfloat16.
        delta: Whether the scaled product is, before it is added. ``embedding``: only where the weight is an embedding.
        scale: What is multiplied by the scale: the product, or one of the matrices before it.
        once: Whether several adapters are added in float32 and the sum rounded at the end, instead of after each.
    """

    adapter: bool = False
    product: bool | Literal["bfloat16"] = False
    delta: bool | Literal["embedding"] = False
    scale: Literal["product", "up", "down"] = "product"
    once: bool = False

    def of(self, dtype: DType, *, embedding: bool) -> Rounding:
        """The same for one weight, with nothing conditional left."""
        product = dtype == BFLOAT16 if self.product == "bfloat16" else self.product
        return replace(self, product=product, delta=embedding if self.delta == "embedding" else self.delta)


DEFAULT_ROUNDING = "per-adapter"

ROUNDINGS: dict[str, Rounding] = {
    "per-adapter": Rounding(),
    "once": Rounding(once=True),
    "peft-0.3": Rounding(),
    "peft-0.6": Rounding(adapter=True, product="bfloat16", delta=True),
    "peft-0.7": Rounding(adapter=True, product="bfloat16", delta=True),
    "peft-0.12": Rounding(),
    "peft-0.16": Rounding(delta="embedding"),
    "peft-safe": Rounding(delta=True),
    "peft-low-memory": Rounding(adapter=True),
    "torchtune": Rounding(scale="up"),
    "unsloth": Rounding(scale="down"),
    "litgpt": Rounding(adapter=True, product=True, delta=True),
}
"""Name -> where it rounds.

``per-adapter``: Chinese-LLaMA-Alpaca's scripts, normal and low-memory; alpaca-lora, KnowLM, FastChat, mergekit.
``once``: axolotl and llama.cpp, which add everything in float32 and round at the end; for one adapter the same.
``peft-0.3``: PEFT 0.2 to 0.5, and 0.6 with one adapter, ``merge_and_unload``: the same as per-adapter.
``peft-0.6``, ``peft-0.7``: PEFT 0.7 to 0.11, and 0.6 once a second adapter is loaded: adapters take the model's dtype.
``peft-0.12``: PEFT 0.12 to 0.15: adapters stay float32: the same as per-adapter.
``peft-0.16``: PEFT 0.16 and later: the same, but for LoRAs of embeddings, whose delta is rounded first.
``peft-safe``: PEFT 0.16 and later with ``safe_merge=True``, which rounds every delta first; before, it changed nothing.
``peft-low-memory``: PEFT 0.13 and later, adapter loaded with ``low_cpu_mem_usage=True``, which takes the model's dtype.
``torchtune``: ``((alpha / rank) * up) @ down``.
``unsloth``: ``addmm`` with alpha, for which MKL scales ``down``.
``litgpt``: every step in the weight's dtype.

Source: peer-numerics, section 5, and runs of PEFT 0.2.0, 0.3.0, 0.6.2, 0.7.1, 0.11.1, 0.12.0, 0.13.2, 0.17.1 and 0.21.2
(tests/data/peft-golden); of the others the formulas, in torch (tests/ops/test_lora.py). Where these runs and peer-numerics
differ (0.6 with one adapter, embeddings, low_cpu_mem_usage), the runs stand.
"""


def rounding_named(name: str) -> Rounding:
    """The rounding of this name.

    Raises:
        ValueError: None is known.
    """
    if name not in ROUNDINGS:
        raise ValueError(f"{name!r} is no rounding that is known: {', '.join(ROUNDINGS)}")
    return ROUNDINGS[name]


@dataclass(frozen=True, slots=True)
class MergeLora:
    """Fold one LoRA into a weight.

    Shapes: weight (out, in), down (rank, in), up (out, rank) -> (out, in), in ``dtype``.

    Attributes:
        shape: (out, in).
        rank: Columns of ``up``, rows of ``down``.
        scale: What the product is multiplied by, rounded to float32 as torch does; dimensionless.
        rounding: Where it rounds; nothing conditional in it.
        step: What it rounds to.
        dtype: Of the result.
        sums: Order of the product's sums.
    """

    torch: ClassVar[bool] = True

    shape: tuple[int, int]
    rank: int
    scale: float
    rounding: Rounding
    step: DType
    dtype: DType
    sums: Sums = "fma"

    def infer(self, weight: TensorSpec, down: TensorSpec, up: TensorSpec) -> TensorSpec:
        """Dtype and shape of the merged weight; ``ValueError`` where the three do not fit."""
        rows, width = self.shape
        if (weight.shape, down.shape, up.shape) != (self.shape, (self.rank, width), (rows, self.rank)):
            raise ValueError(f"LoRA of {list(up.shape)} times {list(down.shape)} does not fit a weight of {list(weight.shape)}")
        for spec in (weight, down, up):
            if spec.dtype.name not in ("float32", "float16", "bfloat16"):
                raise ValueError(f"{spec.dtype} weights are not merged: float32, float16 and bfloat16 are")
        return TensorSpec(self.dtype, weight.shape)

    def begin(self, weight: Rows, down: Rows, up: Rows) -> Read:
        """One pass over weight and ``up``, in step; ``down`` is read whole first."""
        from weightkit.core.compute import as_buffer, matrix, torch, torch_dtype

        step, dtype = torch_dtype(self.step), torch_dtype(self.dtype)
        update: Product | None = None
        wide = torch.empty(0)
        rounded = self.rounding.product or self.rounding.delta
        at_once = self.rounding.scale == "product" and not rounded and abs(math.frexp(self.scale)[0]) == 0.5

        def read(start: int, stop: int) -> Buffer:
            nonlocal update, wide
            if update is None:
                kernel = kernel_for(self.sums, self.rank, self.shape[1])
                update = Product(self, kernel, prepared(self, matrix(down, 0, self.rank), "down", step), up, step)
                wide = torch.empty(BLOCK_ROWS, self.shape[1])
            before = matrix(weight, start, stop)
            after = torch.empty(before.shape, dtype=dtype)
            done = 0
            for delta in update.rows(start, stop):
                if self.rounding.product:
                    delta = delta.to(step)
                if self.rounding.scale == "product" and not at_once:
                    delta = delta.mul_(self.scale)
                if self.rounding.delta:
                    delta = delta.to(step)
                count = len(delta)
                wide[:count].copy_(before[done : done + count])
                # to scale by a power of two rounds nothing, so it can be done in the same step as the sum
                wide[:count].add_(delta.float(), alpha=self.scale if at_once else 1)
                after[done : done + count] = wide[:count]
                done += count
            return as_buffer(after)

        return read

    def held_nbytes(self, weight: TensorSpec, down: TensorSpec, up: TensorSpec) -> int:
        """``down``, as much for a cast of it, four float32 blocks (product, sum, roundings), what the kernel needs."""
        width = self.shape[1]
        return FLOAT32.itemsize * width * (2 * self.rank + 4 * BLOCK_ROWS) + scratch_nbytes(self.rank, width)


def prepared(op: MergeLora, matrix: torch.Tensor, role: Literal["up", "down"], step: torch.dtype) -> torch.Tensor:
    """One of the adapter's matrices as it goes into the product, in float32: rounded and scaled where the tool did."""
    matrix = matrix.to(step) if op.rounding.adapter else matrix
    return (matrix * op.scale if op.rounding.scale == role else matrix).float()


class Product:
    """The rows of ``up @ down`` as they are asked for, computed in blocks of 64 whose edges never move.

    Every pass holds one block, small enough for a processor's cache, and writes the next over it.
    """

    def __init__(self, op: MergeLora, kernel: Kernel, down: torch.Tensor, up: Rows, step: torch.dtype) -> None:
        from weightkit.core.compute import torch

        self.op, self.kernel, self.down, self.up, self.step = op, kernel, down, up, step
        self.block = torch.empty(BLOCK_ROWS, op.shape[1])
        self.first = self.given = -1
        """The row that the block begins with, once there is one; the row up to which it is a caller's."""

    def rows(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """Rows ``[start, stop)``, a few at a time; float32, each the caller's own until it asks for the next."""
        while start < stop:
            first = start - start % BLOCK_ROWS
            if self.first != first or start < self.given:
                self.compute(first)
            self.given = min(stop, first + BLOCK_ROWS)
            yield self.block[start - first : self.given - first]
            start = self.given

    def compute(self, first: int) -> None:
        """Compute the block that begins with this row; below the last row of the product it holds zeros."""
        from weightkit.core.compute import matrix, torch

        stop = min(first + BLOCK_ROWS, self.op.shape[0])
        up = prepared(self.op, matrix(self.up, first, stop), "up", self.step)
        if len(up) < BLOCK_ROWS:
            up = torch.cat([up, torch.zeros(BLOCK_ROWS - len(up), self.op.rank)])
        self.kernel.multiply(up, self.down, self.block)
        self.first = first
