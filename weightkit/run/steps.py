"""Files of tensors computed in step: one pass over the inputs gives the bytes of all, and what probes look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from weightkit.core.buffers import Buffer
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import blocks, reading

if TYPE_CHECKING:
    from weightkit.run.plan import OutputFile

__all__ = ["Watch", "in_step"]

Watch = Callable[[int, int, int, tuple[Buffer, ...]], None]
"""Told of what probes look at, before it goes out: which of ``watched``, the run, the tensor's place in the run, the next
bytes. Of a tensor without elements it is told once, without bytes."""


def in_step(files: Sequence[OutputFile], block_nbytes: int, watch: Watch | None = None) -> Iterator[tuple[Buffer, ...]]:
    """Several files from front to back at once; what their tensors have in common is read and computed once.

    Args:
        files: Their tensors have the same shapes, and their records lie in the same order.
        block_nbytes: About how many bytes of a tensor at a time.
        watch: Told of what the probes of the first file look at; None: nothing is looked at.

    Yields:
        The next chunk of each; empty for one that has ended.

    Raises:
        FormatError: An input is damaged, or (told at the end) has changed.
    """
    first = files[0]
    order = first.encoding.order(first.layout)
    looking = () if watch is None else first.watched
    waiting: list[deque[Buffer]] = [deque() for _ in files]

    def group(run: int, number: int) -> list[LazyTensor]:
        own = [file.tensors[run][number] for file in files]
        return own + [one for each in looking if each.tensors is not None for one in each.tensors[run][number]]

    def tell(run: int, number: int, found: tuple[Buffer, ...]) -> None:
        at = len(files)
        for index, each in enumerate(looking):
            count = 0 if each.tensors is None else len(each.tensors[run][number])
            if watch is not None:
                watch(index, run, number, found[at : at + count] if count else found[:1])
            at += count

    def advance() -> Iterator[None]:
        for run in order:
            for number, tensor in enumerate(first.tensors[run]):
                if not tensor.spec.numel:
                    tell(run, number, ())
                for found in blocks(group(run, number), block_nbytes):
                    tell(run, number, found)
                    for queue, block in zip(waiting, found, strict=False):
                        queue.append(block)
                    yield

    pump = advance()

    def payload(file: OutputFile, queue: deque[Buffer], run: int) -> Iterator[Buffer]:
        left = sum(tensor.spec.nbytes for tensor in file.tensors[run])
        while left:
            while not queue:
                next(pump)
            block = queue.popleft()
            left -= len(block)
            yield block

    def encoded(file: OutputFile, queue: deque[Buffer]) -> Iterator[Buffer]:
        return file.encoding.encode(file.layout, (payload(file, queue, run) for run in order))

    with reading(one for run in order for number in range(len(first.tensors[run])) for one in group(run, number)):
        yield from zip_longest(*map(encoded, files, waiting), fillvalue=b"")
        for _ in pump:  # tensors without elements at the end
            pass
