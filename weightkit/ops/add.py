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
from typing import TYPE_CHECKING

from weightkit.core.dtypes import DType
from weightkit.core.lazy import Rows
from weightkit.core.spec import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Add", "Cast", "Subtract"]


def common(dtype: DType, *inputs: TensorSpec) -> TensorSpec:
    """The result of an elementwise operation in ``dtype``.

    Raises:
        ValueError: Shapes differ, or a type has no such arithmetic.
    """
    shapes = {spec.shape for spec in inputs}
    if len(shapes) != 1:
        raise ValueError("shapes differ: " + " and ".join(str(list(spec.shape)) for spec in inputs))
    for spec in inputs:
        if spec.dtype != dtype and not spec.dtype.kind == dtype.kind == "float":
            raise ValueError(f"{spec.dtype} is not turned into {dtype}")
    if dtype.kind not in ("float", "int") or (dtype.itemsize == 1 and dtype.kind == "float"):
        raise ValueError(f"{dtype} has no addition; if it is no difference, say --whole with its name")
    return TensorSpec(dtype, inputs[0].shape)


@dataclass(frozen=True, slots=True)
class Add:
    """``diff + base``, both cast to ``dtype`` first. Shapes: equal -> the same."""

    dtype: DType

    def infer(self, base: TensorSpec, diff: TensorSpec) -> TensorSpec:
        """Dtype and shape of the sum; ``ValueError`` where it makes none."""
        return common(self.dtype, base, diff)

    def begin(self, base: Rows, diff: Rows) -> Rows:
        """One pass over both."""
        from weightkit.core.compute import torch_dtype

        dtype = torch_dtype(self.dtype)

        def rows(start: int, stop: int) -> torch.Tensor:
            return diff(start, stop).to(dtype) + base(start, stop).to(dtype)

        return rows


@dataclass(frozen=True, slots=True)
class Subtract:
    """``tuned - base``, both cast to ``dtype`` first. Shapes: equal -> the same."""

    dtype: DType

    def infer(self, base: TensorSpec, tuned: TensorSpec) -> TensorSpec:
        """Dtype and shape of the difference; ``ValueError`` where it makes none."""
        return common(self.dtype, base, tuned)

    def begin(self, base: Rows, tuned: Rows) -> Rows:
        """One pass over both."""
        from weightkit.core.compute import torch_dtype

        dtype = torch_dtype(self.dtype)

        def rows(start: int, stop: int) -> torch.Tensor:
            return tuned(start, stop).to(dtype) - base(start, stop).to(dtype)

        return rows


@dataclass(frozen=True, slots=True)
class Cast:
    """The tensor in another float type, rounded to nearest even. Shapes: any -> the same. Bit-exact."""

    dtype: DType

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape after the cast; ``ValueError`` for a type that is no float."""
        if not tensor.dtype.kind == self.dtype.kind == "float":
            raise ValueError(f"{tensor.dtype} is not turned into {self.dtype}")
        return TensorSpec(self.dtype, tensor.shape)

    def begin(self, tensor: Rows) -> Rows:
        """One pass over the tensor."""
        from weightkit.core.compute import torch_dtype

        dtype = torch_dtype(self.dtype)
        return lambda start, stop: tensor(start, stop).to(dtype)
