"""How much memory a run takes, and how it is cut to fit: known before the run, checked at planning.

The process is measured, with torch in it where torch is needed; what will come on top is counted. What the caller holds in it,
a notebook's arrays, is not weightkit's: no more of a process is counted than can be weightkit's own. Constants are measured
with ``ru_maxrss`` of whole processes; ``benchmarks/recover.py`` prints it, ``tests/test_memory.py`` guards it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from weightkit.core.errors import PlanError
from weightkit.core.needs import Needs
from weightkit.core.sizes import format_size
from weightkit.run.plan import Output, OutputFile

__all__ = ["DEFAULT_MAX_MEMORY", "Budget", "fit", "resident_nbytes"]

DEFAULT_MAX_MEMORY = 1 << 30

FIRST_USE_NBYTES = 8 << 20
"""What threads, hashes and the first blocks add to a process, whatever is written."""

TORCH_FIRST_USE_NBYTES = 24 << 20
"""The same of torch, beside what its import takes."""

OWN_NBYTES = 512 << 20
"""Of this process, what can be weightkit's and torch's; a process with a CPU build of torch has 240 MB, with CUDA's more."""

WORKER_NBYTES = 320 << 20
"""The same of a worker process, which begins without what its caller holds."""

ITEM_NBYTES = 352
"""What a tensor takes while its file is written and put into lists: header, answers of probes, a line of the journal."""

BLOCKS_IN_FLIGHT = 24
"""Blocks of one file that may exist at once: those queued for the hash and for the disk, and operands, which may be twice as
wide as the result; and what the allocator keeps of those let go."""

TORCH_BLOCKS = 20
"""What it keeps beside where torch computes: blocks of several sizes, taken in one thread and let go in others."""

BLOCKS_BESIDE = 8
"""The same of each tensor that is computed in step with the file's own: a twin's, and what is looked at."""

LARGEST_BLOCK = 1 << 20
SMALLEST_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may hold at once.

    Attributes:
        jobs: Files at a time.
        block_nbytes: Bytes of output in a block.
        peak_nbytes: Resident memory at most, of all processes, this one included, but for what the caller holds in it.
        needs: What all files take.
    """

    jobs: int
    block_nbytes: int
    peak_nbytes: int
    needs: Needs


def fit(files: Sequence[Output], jobs: int, max_memory: int = DEFAULT_MAX_MEMORY, processes: int = 0) -> Budget:
    """The largest blocks and the most jobs that fit.

    Args:
        files: What is to be written.
        jobs: Files at a time, if memory allows.
        max_memory: Resident memory allowed, in bytes, torch included, what the caller holds in this process not.
        processes: How many work; 0: this one.

    Raises:
        PlanError: Even one job with the smallest blocks takes more.
    """
    needs = [(file.needs, blocks_in_flight(file)) for file in files]
    total = sum((one for one, _ in needs), Needs())
    blocks_of_torch = TORCH_BLOCKS if total.torch else 0
    resident = resident_nbytes(torch=total.torch)
    first_use = FIRST_USE_NBYTES + (TORCH_FIRST_USE_NBYTES if total.torch else 0)
    tensors = ITEM_NBYTES * sum(len(file.layout.items) for file in files if isinstance(file, OutputFile))
    for count in range(max(1, min(jobs, len(files))), 0, -1):
        block = LARGEST_BLOCK
        while block >= SMALLEST_BLOCK:
            each = max(
                (
                    (blocks + blocks_of_torch) * max(block, one.widest_row_nbytes) + one.held_nbytes + ahead_nbytes(one)
                    for one, blocks in needs
                ),
                default=0,
            )
            working = min(processes, count)
            peak = min(resident, OWN_NBYTES) + working * min(resident, WORKER_NBYTES) + (1 + working) * first_use
            peak += tensors + count * each
            if peak <= max_memory:
                return Budget(count, block, peak, total)
            block //= 2
    raise PlanError(
        f"this takes {format_size(peak)} of memory, and --max-memory allows {format_size(max_memory)}; "
        "the interpreter and torch take most of it: allow more"
    )


def ahead_nbytes(needs: Needs) -> int:
    """Memory of what is fetched early of the inputs that are not on this machine."""
    return sum(getattr(blob, "ahead_nbytes", 0) for blob in needs.blobs)


def blocks_in_flight(file: Output) -> int:
    """Blocks that may exist at once while a file is written."""
    beside = file.in_step - 1 if isinstance(file, OutputFile) else 0
    return BLOCKS_IN_FLIGHT + BLOCKS_BESIDE * beside


def resident_nbytes(*, torch: bool) -> int:
    """Memory of this process, after torch was imported where it will be; where the system does not say, the most it had."""
    if torch:
        import_module("weightkit.core.compute")
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        pass
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
