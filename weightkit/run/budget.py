"""How much memory a run takes, and how it is cut to fit: known before the run, checked at planning.

Measured with ``ru_maxrss`` of whole processes; ``benchmarks/recover.py`` prints it, ``tests/test_memory.py`` guards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weightkit.core.errors import PlanError
from weightkit.core.sizes import format_size
from weightkit.run.plan import OutputFile, StreamFile

__all__ = ["DEFAULT_MAX_MEMORY", "Budget", "fit"]

DEFAULT_MAX_MEMORY = 1 << 30

PROCESS_BYTES = 300 << 20
"""Python, numpy and torch once imported, before any block; the largest seen of torch 2.1 to 2.13 on CPU."""

PLAIN_PROCESS_BYTES = 64 << 20
"""The same where no tensors are computed: without torch."""

BLOCKS_IN_FLIGHT = 24
"""Blocks of one file that may exist at once: those queued for the hash and for the disk, and operands of the arithmetic,
which may be twice as wide as the result."""

LARGEST_BLOCK = 1 << 20
SMALLEST_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may hold at once.

    Attributes:
        jobs: Files at a time.
        block_bytes: Bytes of output in a block.
        peak_bytes: Resident memory at most, the process itself included.
    """

    jobs: int
    block_bytes: int
    peak_bytes: int


def fit(files: Sequence[OutputFile | StreamFile], jobs: int, max_memory: int = DEFAULT_MAX_MEMORY) -> Budget:
    """The largest blocks and the most jobs that fit.

    Args:
        files: What is to be written.
        jobs: Files at a time, if memory allows.
        max_memory: Resident memory allowed, in bytes, torch included.

    Raises:
        PlanError: Even one job with the smallest blocks takes more.
    """
    widest = max((file.widest_row_nbytes for file in files), default=0)
    beside = 2 * max((file.header_nbytes for file in files), default=0) + max((file.held_nbytes for file in files), default=0)
    process = PROCESS_BYTES if any(file.computes for file in files) else PLAIN_PROCESS_BYTES
    for count in range(max(1, min(jobs, len(files))), 0, -1):
        block = LARGEST_BLOCK
        while block >= SMALLEST_BLOCK:
            peak = process + count * (BLOCKS_IN_FLIGHT * max(block, widest) + beside)
            if peak <= max_memory:
                return Budget(count, block, peak)
            block //= 2
    raise PlanError(
        f"this takes {format_size(peak)} of memory, and --max-memory allows {format_size(max_memory)}; "
        "the interpreter and torch take most of it: allow more"
    )
