"""The matrix product ``up @ down`` of a LoRA, its sums taken in one documented order.

A BLAS adds up a product in whatever order and with whatever roundings its kernel for this processor has. The merged bytes
of a release hang on that, so the order has a name here:

- ``fma``: from 0, one fused multiply-add after another over ascending rank. What MKL does with AVX-512, and with AVX2 for
  small ranks, and OpenBLAS on the same processors.
- ``mul-add``: from 0, each product rounded to float32 and then added. What MKL does without FMA instructions.
- ``blas``: whatever the installed BLAS does on this machine.

The first two are bit-exact everywhere: of several ways to compute them the quickest is taken that was found, on the very
shapes of the run, to give the order's bits. The slowest is right by construction. All work on blocks of 64 rows, so that
a product does not depend on how it is asked for. Where both matrices hold float16 values the products are exact in float32
and both orders give the same bits.

Source: peer-numerics, section 6; peers-measured ("B@A in fp32").
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

    Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
    """``multiply(up, down, out)``: float32, (64, rank), (rank, width), (64, width)."""

__all__ = ["BLOCK_ROWS", "SUMS", "Kernel", "Sums", "exact_fma", "exact_mul_add", "kernel_for", "scratch_nbytes"]

Sums = Literal["fma", "mul-add", "blas"]
SUMS: tuple[Sums, ...] = get_args(Sums)
"""Orders in which the sums of a product may be taken."""

BLOCK_ROWS = 64
"""Rows of a block of the product. MKL's bits stay the same in blocks of a multiple of 64 rows; an odd tail or a single row
would change them, so the last block is filled up with zeros. Source: peer-numerics, section 6 (measured)."""

COLUMNS = 512
"""Columns that the portable ways take at a time: their scratch space then stays in a processor's cache."""

TIE_MASK, TIE = 0x1FFFFFFF, 0x10000000
"""The bits of a float64 that a float32 has no room for, and what they are half way between two float32."""

SMALLEST_NORMAL = 2.0**-126


@dataclass(frozen=True, slots=True)
class Kernel:
    """A way to compute the product, and how it compares.

    Attributes:
        name: ``blas``, ``addcmul``, or ``portable`` (right by construction).
        multiply: The function.
        seconds: What a block took when it was tried.
        blas_seconds: What the installed BLAS took for the same.
    """

    name: str
    multiply: Multiply
    seconds: float
    blas_seconds: float

    @property
    def times(self) -> float:
        """How many times as long as the installed BLAS it takes."""
        return self.seconds / max(self.blas_seconds, 1e-9)


def blas(up: torch.Tensor, down: torch.Tensor, out: torch.Tensor) -> None:
    """Whatever the installed BLAS does."""
    from weightkit.core.compute import torch

    torch.mm(up, down, out=out)


def addcmul(up: torch.Tensor, down: torch.Tensor, out: torch.Tensor) -> None:
    """torch's elementwise ``out + up * down``, term by term. Its compiler fuses the two where the processor can."""
    for first in range(0, out.shape[1], COLUMNS):
        part, columns = out[:, first : first + COLUMNS], down[:, first : first + COLUMNS]
        part.zero_()
        for k in range(up.shape[1]):
            part.addcmul_(up[:, k : k + 1], columns[k])


def exact_mul_add(up: torch.Tensor, down: torch.Tensor, out: torch.Tensor) -> None:
    """``mul-add`` by construction: two operations, each rounded once."""
    from weightkit.core.compute import torch

    scratch = torch.empty(out.shape[0], min(COLUMNS, out.shape[1]))
    for first in range(0, out.shape[1], COLUMNS):
        part, columns = out[:, first : first + COLUMNS], down[:, first : first + COLUMNS]
        product = scratch[:, : part.shape[1]]
        part.zero_()
        for k in range(up.shape[1]):
            torch.mul(up[:, k : k + 1], columns[k], out=product)
            part.add_(product)


def exact_fma(up: torch.Tensor, down: torch.Tensor, out: torch.Tensor) -> None:
    """``fma`` by construction, on any processor.

    The product of two float32 is exact in float64. The sum with the float32 so far is rounded to float64 and then to
    float32, which is the correctly rounded sum unless the float64 lies half way between two float32 (or where float32 are
    subnormal, which has its ties elsewhere). These few sums are rounded to odd first, from their exact error, which makes
    the second rounding right. Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms
    using rounding to odd", 2008.
    """
    from weightkit.core.compute import torch

    wide_up = up.double()
    for first in range(0, out.shape[1], COLUMNS):
        part, columns = out[:, first : first + COLUMNS], down[:, first : first + COLUMNS].double()
        part.zero_()
        total = torch.zeros(part.shape, dtype=torch.float64)
        sums = torch.empty_like(total)
        ties = torch.empty(part.shape, dtype=torch.int64)
        for k in range(up.shape[1]):
            terms = wide_up[:, k : k + 1], columns[k]
            torch.addcmul(total, *terms, out=sums)
            torch.bitwise_and(sums.view(torch.int64), TIE_MASK, out=ties)
            doubtful = ties.eq_(TIE).bool() | (sums.abs() < SMALLEST_NORMAL) & (sums != 0)
            if bool(doubtful.any()):
                product = (terms[0] * terms[1])[doubtful]
                sums[doubtful] = to_odd(total[doubtful], product, sums[doubtful])
            part.copy_(sums)
            total.copy_(part)


def to_odd(left: torch.Tensor, right: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """``left + right``, given rounded to nearest, rounded to odd instead; float64, (n,)."""
    from weightkit.core.compute import torch

    back = total - left
    error = (left - (total - back)) + (right - back)  # exact: Knuth's two-sum
    bits = total.view(torch.int64)
    away = torch.where((error > 0) == (total > 0), 1, -1)
    return torch.where((error != 0) & (bits & 1 == 0), bits + away, bits).view(torch.float64)


PORTABLE: dict[Sums, Multiply] = {"fma": exact_fma, "mul-add": exact_mul_add}
QUICKER: dict[str, Multiply] = {"blas": blas, "addcmul": addcmul}


def kernel_for(sums: Sums, rank: int, width: int) -> Kernel:
    """The quickest way found to give this order's bits on this machine, for one shape of block.

    A BLAS with another number of threads cuts a product at other places, so it counts as another.
    """
    from weightkit.core.compute import torch

    return tried(sums, rank, width, torch.get_num_threads())


def scratch_nbytes(rank: int, width: int) -> int:
    """What a kernel holds at most beside its arguments: in float64, columns of ``down``, the next, eight blocks of them."""
    return 8 * min(COLUMNS, width) * (2 * rank + 8 * BLOCK_ROWS)


@functools.cache
def tried(sums: Sums, rank: int, width: int, threads: int) -> Kernel:
    """What ``kernel_for`` finds, once: it depends on the shape and the machine alone, and trying takes a while."""
    from weightkit.core.compute import torch

    up, down = trial(rank, width)
    timed(blas, up, down)  # the first call of all sets a BLAS up
    blas_seconds = timed(blas, up, down)[0]
    if sums == "blas":
        return Kernel("blas", blas, blas_seconds, blas_seconds)
    seconds, wanted = timed(PORTABLE[sums], up, down)
    slow = Kernel("portable", PORTABLE[sums], seconds, blas_seconds)
    for name, multiply in QUICKER.items():
        seconds, found = timed(multiply, up, down)
        if torch.equal(found.view(torch.int32), wanted.view(torch.int32)) and seconds < slow.seconds:
            return Kernel(name, multiply, seconds, blas_seconds)
    return slow


def trial(rank: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices on which any other order or rounding shows: full mantissas, zeros of both signs, subnormal sums."""
    from weightkit.core.compute import torch

    generator = torch.Generator().manual_seed(rank * 1_000_003 + width)
    up = torch.randn(BLOCK_ROWS, rank, generator=generator)
    down = torch.randn(rank, width, generator=generator)
    up[0], up[1], up[2] = 0.0, -0.0, up[2] * 1e-22
    down[:, 0::61], down[:, 1::61] = -0.0, down[:, 1::61] * 1e-20
    return up, down


def timed(multiply: Multiply, up: torch.Tensor, down: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Seconds, and the product."""
    from weightkit.core.compute import torch

    out = torch.empty(up.shape[0], down.shape[1])
    start = time.perf_counter()
    multiply(up, down, out)
    return time.perf_counter() - start, out
