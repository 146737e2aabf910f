"""Whether a copy of LLaMA can give the key of ``.enc`` files: its values must be, bit for bit, those that Meta published."""

from __future__ import annotations

import numpy as np

from weightkit.checkpoints.checkpoint import Checkpoint, lone_file
from weightkit.checkpoints.evidence import llama_two_marks, mostly_bfloat16
from weightkit.checkpoints.flavour import fits_bfloat16, values
from weightkit.checkpoints.params import LLAMA_TOKENS
from weightkit.checkpoints.shards import numbered
from weightkit.containers import formats
from weightkit.core.errors import PlanError
from weightkit.families import llama

__all__ = ["refuse_changed", "refuse_grown", "refuse_shard"]

SAMPLE = 1024
ENOUGH = 256
"""So many values that all fit bfloat16 show a rounding: of the original's seven in eight do not fit."""

SMALLEST_NORMAL = 2.0**-14
"""Of float16. What is smaller has fewer bits, as the row of ``<unk>``, and may fit bfloat16 as it was published."""

ADVICE = "Meta's file cannot be computed of it; name a copy that was float16 all the way, or Meta's own file"


def refuse_shard(checkpoint: Checkpoint, what: str) -> None:
    """Refuse one of several files in the place of all.

    Raises:
        PlanError: It is.
    """
    name = lone_file(checkpoint.folder)
    of = next((count for one in formats() for count in numbered(one, [name or ""]).values()), 1)
    if name is not None and of > 1:
        raise PlanError(f"{what}: is one of {of} files of a copy; name the folder that holds them all")


def refuse_changed(checkpoint: Checkpoint, what: str) -> None:
    """Refuse a copy whose values are not the original's any more, or that is of LLaMA-2.

    Told from the first values of each tensor, so a change may pass: what is decoded proves the key, or shows another.

    Raises:
        PlanError: It is.
    """
    if mostly_bfloat16(checkpoint) or fits_bfloat16(checkpoint):
        raise PlanError(f"{what}: went through bfloat16, which rounded its values: {ADVICE}")
    matrices = [name for name, one in checkpoint.tensors.items() if len(one.spec.shape) == 2]
    if rounded := [name for name in matrices if through_bfloat16(checkpoint, name)]:
        of = f"{len(rounded)} of its {len(matrices)} matrices, as {rounded[0]},"
        raise PlanError(f"{what}: {of} went through bfloat16, which rounded their values: {ADVICE}")
    if wide := next((name for name in checkpoint.tensors if not fits_float16(checkpoint, name)), None):
        kind = checkpoint.spec(wide).dtype.name
        raise PlanError(
            f"{what}: has values in {kind} that float16 does not hold, as {wide}, and the original has none: {ADVICE}"
        )
    if len(marks := llama_two_marks(checkpoint.json("config.json"))) > 1:
        raise PlanError(
            f"{what}: is LLaMA-2 ({', '.join(marks)} in its config), and .enc files were made with LLaMA 1's; name that"
        )


def through_bfloat16(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a matrix is stored in bfloat16, or as if it had been."""
    tensor = checkpoint.tensors[name]
    if tensor.spec.dtype.name == "bfloat16":
        return True
    found = values(tensor, SAMPLE)
    if found is None:
        return False
    telling = found[np.isfinite(found) & (np.abs(found) >= SMALLEST_NORMAL)].astype(np.float32)
    return telling.size >= ENOUGH and len(np.unique(telling)) > 1 and not (telling.view(np.uint32) & 0xFFFF).any()


def fits_float16(checkpoint: Checkpoint, name: str) -> bool:
    """Whether the first values of a tensor are the same in float16; rotary buffers are computed, and tell nothing."""
    tensor = checkpoint.tensors[name]
    if llama.is_inv_freq(name) or tensor.spec.dtype.name not in ("float32", "float64"):
        return True
    found = values(tensor, SAMPLE)
    with np.errstate(over="ignore"):
        return found is None or np.array_equal(found.astype(np.float16).astype(np.float64), found, equal_nan=True)


def refuse_grown(checkpoint: Checkpoint, what: str) -> None:
    """Refuse a copy of LLaMA with another vocabulary than Meta's.

    Raises:
        PlanError: It has.
    """
    rows, width = checkpoint.spec("model.embed_tokens.weight").shape
    if width in llama.SIZES and rows != LLAMA_TOKENS:
        raise PlanError(
            f"{what}: has {rows} tokens{llama.named_rows(rows)}, and Meta's {llama.SIZES[width]} {LLAMA_TOKENS}: it was tuned "
            "or merged already; name a copy of the original"
        )
