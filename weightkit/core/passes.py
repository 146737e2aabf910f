"""One pass over tensors: everybody who reads them goes through here.

A pass tells each object which bytes come next, hands rows out a block at a time, computes what expressions have in common
once, and sees at its end that no object has changed. Blocks are small enough for a processor's cache: two passes over a MiB
are cheaper than one over memory. torch is imported only where an operation needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from weightkit.core.blob import Blob, Extent
from weightkit.core.buffers import Buffer
from weightkit.core.lazy import LazyTensor, Rows, leaves
from weightkit.core.stored import Read, Stored

__all__ = ["AHEAD_NBYTES", "BLOCK_NBYTES", "blocks", "open_reads", "reader", "reading"]

BLOCK_NBYTES = 1 << 20
"""Bytes of output in a block, unless a single row has more."""

AHEAD_NBYTES = 32 << 20
"""How much of an object that is not local may be fetched before it is asked for."""


@contextmanager
def reading(tensors: Iterable[LazyTensor]) -> Iterator[None]:
    """Announce a pass over some tensors to the objects that they lie in.

    At its end it is seen that no object has changed, and that no record of which only the beginning went by is damaged.

    Raises:
        FormatError: One has, or is.
    """
    extents: dict[Blob, list[Extent]] = {}
    found = leaves(tensors)
    for leaf in found:
        if leaf.strides is None:
            extents.setdefault(leaf.blob, []).append(Extent(leaf.start, leaf.start + leaf.spec.nbytes))
        else:
            extents.setdefault(leaf.blob, [])
    with ExitStack() as stack:
        for blob, wanted in extents.items():
            stack.enter_context(blob.ahead(wanted, AHEAD_NBYTES))
        yield
    for leaf in found:
        leaf.finish()
    for blob in extents:
        blob.check()


def blocks(tensors: Sequence[LazyTensor], block_nbytes: int = BLOCK_NBYTES) -> Iterator[tuple[Buffer, ...]]:
    """The bytes of lazy tensors of as many rows each, front to back and in step.

    Args:
        tensors: What to compute; usually one. The first says where blocks end.
        block_nbytes: About how many bytes at a time; at least one row.

    Yields:
        The next bytes of each.
    """
    reads = open_reads(tensors)
    for start, stop in tensors[0].spec.blocks(block_nbytes):
        yield tuple(read(start, stop) for read in reads)
    for leaf in leaves(one for one in tensors if not isinstance(one, Stored)):  # those went by to their end
        leaf.finish()


def reader(tensor: LazyTensor) -> Read:
    """Start one pass over a lazy tensor."""
    return open_reads([tensor])[0]


def open_reads(tensors: Sequence[LazyTensor]) -> list[Read]:
    """Start one pass over some lazy tensors, read in step; what they have in common is read and computed once."""
    uses: dict[LazyTensor, int] = {}

    def count(tensor: LazyTensor) -> None:
        uses[tensor] = uses.get(tensor, 0) + 1
        if uses[tensor] == 1 and not isinstance(tensor, Stored):
            for one in tensor.inputs:
                count(one)

    for tensor in tensors:
        count(tensor)
    opened: dict[LazyTensor, Read] = {}

    def open_one(tensor: LazyTensor) -> Read:
        if tensor not in opened:
            if isinstance(tensor, Stored):
                read = tensor.begin()
            else:
                read = tensor.op.begin(*(Rows(one.spec, open_one(one)) for one in tensor.inputs))
            opened[tensor] = remembering(read) if uses[tensor] > 1 else read
        return opened[tensor]

    return [open_one(tensor) for tensor in tensors]


def remembering(read: Read) -> Read:
    """The same rows, for several readers that go along in step: the last block is kept."""
    kept: tuple[int, int, Buffer] | None = None

    def again(start: int, stop: int) -> Buffer:
        nonlocal kept
        if kept is None or kept[:2] != (start, stop):
            kept = (start, stop, read(start, stop))
        return kept[2]

    return again
