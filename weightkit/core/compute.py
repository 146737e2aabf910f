"""The bridge to torch: from lazy tensors to bytes, a block of rows at a time.

Blocks are small enough for a processor's cache: two passes over a MiB are cheaper than one over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from isal.isal_zlib import crc32

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import DType
from weightkit.core.errors import FormatError
from weightkit.core.lazy import LazyTensor, Rows, Stored

__all__ = ["BLOCK_BYTES", "blocks", "one_thread", "open_bytes", "open_tensors", "torch_dtype"]

BLOCK_BYTES = 1 << 20
"""Bytes of output in a block, unless a single row has more."""


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


def stored_bytes(tensor: Stored) -> Callable[[int, int], Buffer]:
    """Bytes of a tensor in a file; if all its rows go by, their CRC, where the file has one, is checked with the last."""
    source, name, last = tensor.source, tensor.name, tensor.spec.rows
    wanted = source.crc32(name)
    crc = seen = 0

    def read(start: int, stop: int) -> Buffer:
        nonlocal crc, seen
        buffer = source.read(name, start, stop)
        if wanted is not None and start == seen:
            crc, seen = crc32(buffer, crc), stop
            if stop == last and crc != wanted:
                raise FormatError(
                    source.path,
                    f"{name} is damaged: its bytes have CRC-32 {crc:08x}, the file itself records {wanted:08x}; "
                    "download the file again",
                )
        return buffer

    return read


def stored_rows(tensor: Stored) -> Rows:
    """Rows of a tensor in a file."""
    read, width, dtype = stored_bytes(tensor), tensor.spec.width, torch_dtype(tensor.spec.dtype)

    def rows(start: int, stop: int) -> torch.Tensor:
        buffer = read(start, stop)
        flat = torch.frombuffer(buffer, dtype=dtype) if len(buffer) else torch.empty(0, dtype=dtype)
        return flat.view(stop - start, width)

    return rows


def remembering(rows: Rows) -> Rows:
    """The same rows, for several readers that go along in step: the last block is kept."""
    kept: tuple[int, int, torch.Tensor] | None = None

    def again(start: int, stop: int) -> torch.Tensor:
        nonlocal kept
        if kept is None or kept[:2] != (start, stop):
            kept = (start, stop, rows(start, stop))
        return kept[2]

    return again


def open_tensors(tensors: Sequence[LazyTensor]) -> list[Rows]:
    """Start one pass over some lazy tensors, read in step; what they have in common is read and computed once."""
    uses: dict[int, int] = {}

    def count(tensor: LazyTensor) -> None:
        uses[id(tensor)] = uses.get(id(tensor), 0) + 1
        if uses[id(tensor)] == 1 and not isinstance(tensor, Stored):
            for one in tensor.inputs:
                count(one)

    for tensor in tensors:
        count(tensor)
    opened: dict[int, Rows] = {}

    def open_one(tensor: LazyTensor) -> Rows:
        if id(tensor) not in opened:
            if isinstance(tensor, Stored):
                rows = stored_rows(tensor)
            else:
                rows = tensor.op.begin(*(open_one(one) for one in tensor.inputs))
            opened[id(tensor)] = remembering(rows) if uses[id(tensor)] > 1 else rows
        return opened[id(tensor)]

    return [open_one(tensor) for tensor in tensors]


def blocks(tensors: Sequence[LazyTensor], block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[Buffer, ...]]:
    """The bytes of lazy tensors of one shape, front to back and in step.

    Args:
        tensors: What to compute; usually one.
        block_bytes: About how many bytes at a time; at least one row.

    Yields:
        The next bytes of each.
    """
    readers: list[Callable[[int, int], Buffer]]
    if len(tensors) == 1 and isinstance(tensors[0], Stored):
        readers = [stored_bytes(tensors[0])]
    else:
        readers = [as_bytes(rows) for rows in open_tensors(tensors)]
    for start, stop in tensors[0].spec.blocks(block_bytes):
        yield tuple(read(start, stop) for read in readers)


def open_bytes(tensor: LazyTensor) -> Callable[[int, int], Buffer]:
    """Start one pass over a lazy tensor, as bytes."""
    return as_bytes(open_tensors([tensor])[0])


def as_bytes(rows: Rows) -> Callable[[int, int], Buffer]:
    """The same rows as bytes, row-major."""
    return lambda start, stop: rows(start, stop).contiguous().view(-1).view(torch.uint8).numpy().data
