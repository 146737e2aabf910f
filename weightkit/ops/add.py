"""The arithmetic of additive diffs: one addition or subtraction, in one dtype.

Bit-exact everywhere for all values but NaN: a cast between float types rounds to nearest even, and so does one IEEE
addition. torch adds float16 and bfloat16 on a CPU as the float32 sum rounded once, which is the correctly rounded sum; no
order of operands, number of threads or version changes it. What is NaN stays NaN, but which of its bit patterns comes out
is the processor's own affair (measured: torch 2.13 with and without AVX).

Source: peer-numerics, section 1 (Stanford's and KnowLM's ``weight_diff.py``: ``diff.add_(raw)`` and ``tuned.add_(-raw)``,
both loaded in one dtype; FastChat's ``apply_delta`` and ``make_delta`` likewise, in float16).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import DType
from weightkit.core.lazy import Read, Rows
from weightkit.core.spec import TensorSpec

__all__ = ["Add", "Cast", "Subtract", "rounds"]


UNSIGNED = ("uint16", "uint32", "uint64")
"""Types that torch holds and does not add. Source: torch 2.13, ``add_stub`` "not implemented for 'UInt16'"."""


@dataclass(frozen=True, slots=True)
class Add:
    """``other + base``, both cast to ``dtype`` first. Shapes: equal -> the same.

    Attributes:
        dtype: Of the casts and of the result.
        sign: -1 for ``other - base``.
    """

    torch: ClassVar[bool] = True

    dtype: DType
    sign: Literal[1, -1] = 1

    def infer(self, base: TensorSpec, other: TensorSpec) -> TensorSpec:
        """Dtype and shape of the result; ``ValueError`` where shapes differ, or a type has no such arithmetic."""
        if base.shape != other.shape:
            raise ValueError(f"shapes differ: {list(base.shape)} and {list(other.shape)}")
        for spec in (base, other):
            if spec.dtype != self.dtype and not spec.dtype.kind == self.dtype.kind == "float":
                raise ValueError(f"{spec.dtype} is not turned into {self.dtype}")
        if self.dtype.kind not in ("float", "int") or (self.dtype.itemsize == 1 and self.dtype.kind == "float"):
            raise ValueError(f"{self.dtype} has no addition; if it is no difference, say --whole with its name")
        if self.dtype.name in UNSIGNED:
            raise ValueError(
                f"torch adds no unsigned integers as {self.dtype}; if it is no difference, say --whole with its name"
            )
        return other if other.dtype == self.dtype else TensorSpec(self.dtype, base.shape)

    def begin(self, base: Rows, other: Rows) -> Read:
        """One pass over both."""
        from weightkit.core.compute import as_buffer, matrix, torch, torch_dtype

        dtype = torch_dtype(self.dtype)
        combined = torch.add if self.sign == 1 else torch.sub

        def read(start: int, stop: int) -> Buffer:
            left = matrix(other, start, stop).to(dtype)
            return as_buffer(combined(left, matrix(base, start, stop).to(dtype)))

        return read

    def held_nbytes(self, base: TensorSpec, other: TensorSpec) -> int:
        """Nothing: a cast takes the place of its input's block."""
        return 0


Subtract = partial(Add, sign=-1)
"""``Subtract(dtype)`` of base and tuned is ``tuned - base``."""


def rounds(stored: DType, wanted: DType) -> bool:
    """Whether some value of one float type is none of another."""
    return wanted != stored and (wanted.itemsize <= stored.itemsize or wanted.itemsize < 4)


@dataclass(frozen=True, slots=True)
class Cast:
    """The tensor in another float type, rounded to nearest even. Shapes: any -> the same. Bit-exact."""

    torch: ClassVar[bool] = True

    dtype: DType

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape after the cast; ``ValueError`` for a type that is no float."""
        if not tensor.dtype.kind == self.dtype.kind == "float":
            raise ValueError(f"{tensor.dtype} is not turned into {self.dtype}")
        return TensorSpec(self.dtype, tensor.shape)

    def begin(self, tensor: Rows) -> Read:
        """One pass over the tensor."""
        from weightkit.core.compute import as_buffer, matrix, torch_dtype

        dtype = torch_dtype(self.dtype)
        return lambda start, stop: as_buffer(matrix(tensor, start, stop).to(dtype))

    def held_nbytes(self, tensor: TensorSpec) -> int:
        """Nothing."""
        return 0
