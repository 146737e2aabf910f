"""Rows of a tensor that does not lie row-major in its file: transposed, sliced or expanded views."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.spec import TensorSpec

__all__ = ["gather_rows"]

READ_AT_ONCE = 1 << 9
"""Bytes below which it is not worth reading less."""


def gather_rows(
    read: Callable[[int, int], Buffer], spec: TensorSpec, strides: tuple[int, ...], start: int, stop: int
) -> memoryview:
    """Rows ``[start, stop)`` of a strided view, made contiguous.

    Args:
        read: ``read(first, nbytes)`` gives bytes, counted from the view's first one.
        spec: The view's dtype and shape.
        strides: In elements, one for each dimension.
        start: First row (rows as in ``TensorSpec``).
        stop: Row after the last.
    """
    cell = np.dtype((np.void, spec.dtype.itemsize))
    out = np.empty((stop - start, spec.width), cell)
    leading, step = (spec.shape[:-1], strides[-1]) if len(spec.shape) > 1 else (spec.shape, 0)
    if len(leading) <= 1:
        down = strides[0] if strides else 0
        fill(read, out, start * down, (down, step))
    else:
        for row in range(start, stop):
            place = np.unravel_index(row, leading)
            first = sum(int(index) * stride for index, stride in zip(place, strides, strict=False))
            fill(read, out[row - start : row - start + 1], first, (0, step))
    return out.reshape(-1).view(np.uint8).data


def fill(
    read: Callable[[int, int], Buffer], out: np.ndarray[Any, np.dtype[np.void]], offset: int, strides: tuple[int, int]
) -> None:
    """Fill a matrix from a strided view, halving it until what it spans is worth reading at once."""
    if not out.size:
        return
    itemsize = out.dtype.itemsize
    span = (1 + sum((size - 1) * stride for size, stride in zip(out.shape, strides, strict=True))) * itemsize
    if span > max(READ_AT_ONCE, 2 * out.size * itemsize) and out.size > 1:
        axis = max((axis for axis in (0, 1) if out.shape[axis] > 1), key=lambda axis: strides[axis])
        middle = out.shape[axis] // 2
        first, second = (out[:middle], out[middle:]) if axis == 0 else (out[:, :middle], out[:, middle:])
        fill(read, first, offset, strides)
        fill(read, second, offset + middle * strides[axis], strides)
        return
    flat = np.frombuffer(read(offset * itemsize, math.ceil(span)), out.dtype)
    steps = tuple(stride * itemsize for stride in strides)
    out[...] = np.lib.stride_tricks.as_strided(flat, out.shape, steps, writeable=False)
