"""What differences of tensors tell: damage, sum orders, roundings, bfloat16, rotary pairs, rows, frequencies, other weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.flavour import values
from weightkit.core.dtypes import BFLOAT16, FLOAT32
from weightkit.families import llama
from weightkit.proof.causes.writings import head_dim
from weightkit.proof.differences import Comparison, TensorDifference, paired_otherwise
from weightkit.streams.planes import cast_bits

__all__ = ["cause"]

FEW = 5e-4
"""Another order of sums changes up to 7e-5 of the elements of a float16 merge, a rounding more or less thousands of times as
many. Source: peer-numerics, sections 5 and 6."""


def cause(found: Comparison, here: Checkpoint, there: Checkpoint) -> tuple[str, str]:
    """The likeliest cause of differences in tensors, and what mends it."""
    different = found.different
    others = [one for one in different if not llama.is_inv_freq(one.name)]
    alone = [name for name in (*found.here, *found.there) if not llama.is_inv_freq(name)]
    if not others and not alone:
        return frequencies_differ(found, different)
    if not alone and others and all(one.name.endswith(("q_proj.weight", "k_proj.weight")) for one in others):
        dim = head_dim(here, here.tensors[others[0].name]) or head_dim(there, there.tensors[others[0].name])
        if dim and all(paired_otherwise(here.tensors[one.name], there.tensors[one.name], dim) for one in others):
            return (
                "q/k permutation: rows of q_proj and k_proj are in Meta's order on one side, in transformers' on the other; "
                "all else is right",
                "weightkit convert LLaMA/SIZE OUT --to hf",
            )
    if alone:
        return f"another model, or incomplete: tensors are missing on one side ({alone[0]})", ""
    grown = [one for one in others if llama.is_vocabulary(one.name) and another_height(one)]
    if grown and all(one in grown and not one.changed for one in others):
        one = grown[0]
        rows = one.other.shape[0] - one.spec.shape[0]
        many = f"{abs(rows)} vocabulary row{'s' if abs(rows) > 1 else ''}"
        return f"{many} {'missing' if rows > 0 else 'too many'} in {one.name}; all that both have is the same", ""
    if any(one.spec != one.other for one in others):
        one = next(one for one in others if one.spec != one.other)
        return f"another dtype or size: {one.name} is {one.spec} here, {one.other} there", ""
    return values_differ(others, here, there)


def another_height(one: TensorDifference) -> bool:
    """Whether a tensor differs in the number of its rows alone."""
    return (
        one.spec.dtype == one.other.dtype
        and one.spec.shape[1:] == one.other.shape[1:]
        and one.spec.shape[:1] != one.other.shape[:1]
    )


def frequencies_differ(found: Comparison, different: Sequence[TensorDifference]) -> tuple[str, str]:
    """The cause where nothing but inv_freq differs."""
    if found.there:
        return f"inv_freq is missing here ({len(found.there)} buffers); all else is right", ""
    if found.here:
        return f"inv_freq is stored here ({len(found.here)} buffers), not there; all else is right", ""
    one = different[0]
    if one.spec.dtype != one.other.dtype:
        return f"inv_freq is stored in {one.spec.dtype} here, in {one.other.dtype} there; all else is right", ""
    return (
        "inv_freq has other bits: exact on one side, rounded through float16 on the other; all else is right",
        "weightkit recover ... --inv-freq float16 (or float32)",
    )


def values_differ(others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> tuple[str, str]:
    """The cause where values differ: damage, a sum order, a rounding, bfloat16, or other weights."""
    changed = sum(one.changed for one in others)
    near = nearly(others, changed)
    share = changed / max(1, sum(one.elements for one in others))
    if not near and len(others) <= 2 and all(in_one_place(one) for one in others):
        one = others[0]
        return (
            f"damage: a bad region, bytes {one.first} to {one.last} of {one.name}"
            + (f" and {others[1].name}" if len(others) > 1 else "")
            + "; all else is right: download the file again",
            "",
        )
    if near:
        if share < FEW:
            return (
                f"another sum order: {changed} elements ({share:.1e}) are one bit off, as the products of a LoRA differ "
                "between processors",
                "weightkit merge ... --sums mul-add (or fma), or --seek with the published list",
            )
        return (
            f"one rounding more or less: {share:.2%} of the elements are a last bit off, as if something was rounded once "
            "more, or LoRAs were merged in another order",
            "weightkit merge ... --seek with the published list; or explain with --base BASE --lora LORA ...",
        )
    if through_bfloat16(others, here, there):
        return (
            "through bfloat16: one side has the other's values rounded to 8 bits; take the base from Meta's own files",
            "weightkit convert LLaMA/SIZE OUT --to hf",
        )
    return f"other weights: {share:.1%} of the elements of {len(others)} tensors differ, by more than rounding does", ""


def nearly(others: Sequence[TensorDifference], changed: int) -> bool:
    """Whether values differ as roundings do: by a last bit, and by a few only here and there, where a sum is almost zero."""
    counts = {label: sum(one.ulps.get(label, 0) for one in others) for label in ("1", "2", "3 to 16")}
    return counts["1"] + counts["2"] >= 0.85 * changed and sum(counts.values()) >= 0.98 * changed


def in_one_place(one: TensorDifference) -> bool:
    """Whether the bytes that differ lie close together: a tenth of the tensor, or one sector of a disk."""
    span = (one.last or 0) - (one.first or 0) + 1
    return span <= max(4096, one.spec.nbytes // 10) or one.changed > 0.9 * one.elements


def through_bfloat16(others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> bool:
    """Whether one side's first values are the other's rounded to bfloat16."""
    for one in others[:3]:
        if len(one.spec.shape) < 2:
            continue
        left, right = values(here.tensors[one.name], 1024), values(there.tensors[one.name], 1024)
        if left is None or right is None:
            return False
        for first, second in ((left, right), (right, left)):
            raw = cast_bits(first.astype(np.float32).tobytes(), FLOAT32, BFLOAT16)
            if raw is None:
                return False
            rounded = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            if np.array_equal(rounded.astype(np.float64), second):
                return True
        return False
    return False
