"""The one bridge to torch: blocks of bytes as its tensors, and back."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import DType
from weightkit.core.lazy import Rows
from weightkit.core.spec import TensorSpec
from weightkit.core.torch_here import load

if TYPE_CHECKING:
    import torch
else:
    torch = load()

__all__ = ["as_buffer", "filled_tensor", "matrix", "one_thread", "torch", "torch_dtype"]


LOCK = threading.Lock()
HELD: list[int] = []
"""Numbers of threads that those who hold torch to one have found, the first first. torch has but one number a process."""


def torch_dtype(dtype: DType) -> torch.dtype:
    """torch's object for a dtype.

    Raises:
        ValueError: The installed torch has none.
    """
    found = getattr(torch, dtype.name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"torch {torch.__version__} has no {dtype}")
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in the calling threads only: forking for every small block costs more than it gives."""
    with LOCK:
        HELD.append(torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with LOCK:
            before = HELD[0]
            HELD.pop()
            if not HELD:  # the last of several threads that hold it
                torch.set_num_threads(before)


def matrix(rows: Rows, start: int, stop: int) -> torch.Tensor:
    """Rows ``[start, stop)`` of an input as a tensor (stop - start, width), over its bytes: not to be written to."""
    data, dtype = rows.read(start, stop), torch_dtype(rows.spec.dtype)
    flat = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
    return flat.view(stop - start, rows.spec.width)


def as_buffer(tensor: torch.Tensor) -> Buffer:
    """A tensor's bytes, row-major; copied only where it is not contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def filled_tensor(spec: TensorSpec, pieces: Iterable[Buffer]) -> torch.Tensor:
    """A tensor in memory of its own, filled with its bytes as they come; memory: the tensor and a piece."""
    found = torch.empty(spec.shape, dtype=torch_dtype(spec.dtype))
    at, out = 0, as_buffer(found) if spec.numel else memoryview(b"")
    for piece in pieces:
        data = memoryview(piece).cast("B")
        memoryview(out)[at : at + len(data)] = data
        at += len(data)
    return found
