"""The one bridge to torch: blocks of bytes as its tensors, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import DType
from weightkit.core.lazy import Rows
from weightkit.core.torch_here import load

if TYPE_CHECKING:
    import torch
else:
    torch = load()

__all__ = ["as_buffer", "matrix", "one_thread", "torch", "torch_dtype"]


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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matrix(rows: Rows, start: int, stop: int) -> torch.Tensor:
    """Rows ``[start, stop)`` of an input as a tensor (stop - start, width), over its bytes: not to be written to."""
    data, dtype = rows.read(start, stop), torch_dtype(rows.spec.dtype)
    flat = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
    return flat.view(stop - start, rows.spec.width)


def as_buffer(tensor: torch.Tensor) -> Buffer:
    """A tensor's bytes, row-major; copied only where it is not contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
