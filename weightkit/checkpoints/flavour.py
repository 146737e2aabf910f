"""What a set of weights is, told from a few small tensors: a model, a difference of two, damaged.

The weights of RMS norms are near 1 and almost all positive in a model, near 0 and of both signs in a difference; where a family
stores w of (1 + w), they tell nothing (``families.norms``).
Source: peer-numerics, section 9 (inferred there; seen on the differences in peer-reference).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.core.lazy import LazyTensor, Stored
from weightkit.families import llama
from weightkit.families.norms import norms_around_zero

__all__ = ["Flavour", "already_holds", "fits_bfloat16", "flavour", "nothing_but_nan", "same_start", "values"]

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

SAMPLE = 1024
NORM_SAMPLE = 1 << 16


def values(tensor: LazyTensor, count: int | None = None) -> Array | None:
    """Up to ``count`` first values of a tensor, in float64; None for dtypes that are no common floats.

    Of a tensor that is computed from others (joined from parts), those of the first of them.
    """
    while not isinstance(tensor, Stored):
        tensor = tensor.inputs[0]
    spec = tensor.spec
    rows = spec.rows if count is None else min(spec.rows, -(-count // max(1, spec.width)))
    raw = bytes(tensor.read(0, rows)) if spec.numel else b""
    match spec.dtype.name:
        case "float16" | "float32" | "float64":
            return np.frombuffer(raw, f"<f{spec.dtype.itemsize}")[:count].astype(np.float64)
        case "bfloat16":
            return (np.frombuffer(raw, "<u2")[:count].astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return None


@dataclass(frozen=True, slots=True)
class Flavour:
    """What the norms say.

    Attributes:
        positive: Which part of their values is above zero.
        mean: Their mean.
    """

    positive: float
    mean: float

    @property
    def is_diff(self) -> bool:
        """Zero-centred: a difference of two models."""
        return self.positive < 0.75

    @property
    def is_model(self) -> bool:
        """Ordinary: a model."""
        return self.positive >= 0.9 and self.mean > 0.05


def flavour(checkpoint: Checkpoint) -> Flavour | None:
    """What the norms of a checkpoint say; None where it has none, or its family's are around zero in a model, too."""
    if norms_around_zero(checkpoint.json("config.json")):
        return None
    found = [values(tensor, NORM_SAMPLE) for name, tensor in checkpoint.tensors.items() if llama.is_norm(name)]
    arrays = [one for one in found if one is not None and one.size]
    if not arrays:
        return None
    together = np.concatenate(arrays)
    return Flavour(float((together > 0).mean()), float(np.nan_to_num(together).mean()))


def already_holds(base: Checkpoint, diff: Checkpoint) -> bool:
    """Whether the base is the tuned model already: taking the diff away gives rounder numbers than the base's.

    An original has float16 values; a model tuned in float32 has not, but it has them less the diff. Told from the norms.
    Nothing can be said of a base stored in 16 bits.
    """
    rounder = total = 0
    for name, tensor in base.tensors.items():
        if not llama.is_norm(name) or name not in diff.tensors or base.spec(name).shape != diff.spec(name).shape:
            continue
        have, change = values(tensor, NORM_SAMPLE), values(diff.tensors[name], NORM_SAMPLE)
        if have is None or change is None:
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            before = (have - change).astype(np.float32).astype(np.float64)
            round_before = before.astype(np.float16).astype(np.float64) == before
            round_now = have.astype(np.float16).astype(np.float64) == have
        rounder += int((round_before & ~round_now).sum())
        total += int((change != 0).sum())
    return total > 0 and rounder > total / 2


def same_start(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors are the same expression, or of one shape with the same first values."""
    if one == other:
        return True
    here, there = values(one, SAMPLE), values(other, SAMPLE)
    same = one.spec.shape == other.spec.shape and here is not None and there is not None
    return same and np.array_equal(here, there)  # type: ignore[arg-type]


def nothing_but_nan(checkpoint: Checkpoint) -> list[str]:
    """Names of tensors whose first values are all NaN."""
    found = []
    for name, tensor in checkpoint.tensors.items():
        sample = values(tensor, SAMPLE)
        if sample is not None and sample.size and np.isnan(sample).all():
            found.append(name)
    return found


def fits_bfloat16(checkpoint: Checkpoint) -> int:
    """Of how many values looked at every single one is representable in bfloat16; 0 if one is not.

    Looks at the first rows of every matrix stored in float16 or float32. Of the float16 values of the original LLaMA 87% do
    not fit (peer-numerics, section 3), so a few thousand that do show that weights passed through bfloat16. Zeros tell
    nothing and are left out.
    """
    seen = 0
    for tensor in checkpoint.tensors.values():
        if tensor.spec.dtype.name not in ("float16", "float32") or len(tensor.spec.shape) < 2:
            continue
        sample = values(tensor, SAMPLE)
        if sample is None:
            continue
        bits = sample[sample != 0].astype(np.float32).view(np.uint32)
        if (bits & 0xFFFF).any():
            return 0
        seen += bits.size
    return seen if seen >= SAMPLE else 0
