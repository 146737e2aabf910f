"""Weights in few bits, as ggml lays them out: 32 at a time, with a scale.

Bit-exact everywhere, and equal to ggml's own reference (``quantize_row_q8_0_ref``, ``quantize_row_q4_0_ref``; llama.cpp 0.25.3,
``ggml-quants.c``): absolute values, divisions, products and roundings an element, each in float32. Packages of llama.cpp before
gguf 0.19 rounded q4_0 otherwise, so the arithmetic is our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import DType
from weightkit.core.lazy import Read, Rows
from weightkit.core.spec import TensorSpec

__all__ = ["Quantize"]

PIECE_WEIGHTS = 1 << 16
"""Taken at a time, or a row: what they are computed in stays in a processor's cache."""

HELD_BYTES_A_WEIGHT = 40
"""Memory of the computation for each weight of a piece: some ten arrays of float32."""

FROM = ("float16", "bfloat16", "float32", "float64")

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

ZERO, HALF, MIDDLE = np.float32(0), np.float32(0.5), np.float32(8)


def as_float32(data: Buffer, dtype: DType) -> Floats:
    """Values in float32; exact, but of float64."""
    if dtype.name == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, f"<f{dtype.itemsize}").astype(np.float32)


def put_scale(scale: Floats, out: Bytes) -> Floats:
    """A block's scale into its first two bytes; the inverse, by which weights are multiplied."""
    out[:, :2] = scale.astype("<f2").view(np.uint8)
    return np.where(scale == 0, ZERO, np.float32(1) / scale)


def q8_0(blocks: Floats, out: Bytes) -> None:
    """Blocks of 32 weights into 34 bytes each: the scale, then whole numbers from -127 to 127, halves away from zero."""
    scaled = blocks * put_scale(np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127), out)
    magnitude = np.abs(scaled)
    whole = np.floor(magnitude)
    whole += (magnitude - whole) >= HALF
    out[:, 2:] = np.copysign(whole, scaled).astype(np.int8).view(np.uint8)


def q4_0(blocks: Floats, out: Bytes) -> None:
    """Blocks of 32 weights into 18 bytes each: the scale, then numbers from 0 to 15 that stand for -8 to 7.

    The first sixteen of them are the lower halves of the bytes.
    """
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scaled = blocks * put_scale(largest / -MIDDLE, out)
    scaled += MIDDLE + HALF
    numbers = np.minimum(scaled.astype(np.uint8), 15)
    out[:, 2:] = numbers[:, :16] | numbers[:, 16:] << 4


WAYS: dict[str, Callable[[Floats, Bytes], None]] = {"q8_0": q8_0, "q4_0": q4_0}


@dataclass(frozen=True, slots=True)
class Quantize:
    """The tensor in blocks of few bits. Shapes: (n, width) -> the same; rows are whole blocks.

    Attributes:
        dtype: Of the result: ``q8_0`` or ``q4_0``.
    """

    torch: ClassVar[bool] = False

    dtype: DType

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape of the result; ``ValueError`` where it is no matrix of floats with rows of whole blocks."""
        if len(tensor.shape) < 2 or tensor.dtype.name not in FROM:
            raise ValueError(f"{tensor} is not turned into {self.dtype}")
        return TensorSpec(self.dtype, tensor.shape)

    def begin(self, tensor: Rows) -> Read:
        """One pass over the tensor, a few rows at a time."""
        quantized = WAYS[self.dtype.name]
        step = max(1, PIECE_WEIGHTS // max(1, tensor.spec.width))
        in_row = tensor.spec.width // self.dtype.block

        def read(start: int, stop: int) -> Buffer:
            out = np.empty(((stop - start) * in_row, self.dtype.itemsize), np.uint8)
            with np.errstate(all="ignore"):  # what is not finite is counted by who looks for it
                for low in range(start, stop, step):
                    high = min(low + step, stop)
                    blocks = as_float32(tensor.read(low, high), tensor.spec.dtype).reshape(-1, self.dtype.block)
                    quantized(blocks, out[(low - start) * in_row : (high - start) * in_row])
            return out.reshape(-1).data

        return read

    def held_nbytes(self, tensor: TensorSpec) -> int:
        """What a piece is computed in."""
        return HELD_BYTES_A_WEIGHT * max(PIECE_WEIGHTS, tensor.width)
