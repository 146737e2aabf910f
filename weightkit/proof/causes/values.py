"""What differences of tensors tell: damage, sum orders, roundings, bfloat16, rotary pairs, rows, frequencies, other weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.model import Model
from weightkit.core.dtypes import BFLOAT16, BY_NAME, FLOAT16, DType
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import blocks
from weightkit.families import llama
from weightkit.proof.causes.moved import exchanged, same_values, transposed, turned
from weightkit.proof.causes.named import unpaired
from weightkit.proof.causes.patterns import in_common, named, rows_of, uncovered
from weightkit.proof.causes.writings import head_dim
from weightkit.proof.differences import Comparison, TensorDifference, paired_otherwise
from weightkit.proof.unchecked import unchecked
from weightkit.streams.planes import cast_bits

__all__ = ["cause"]

FLOAT64 = BY_NAME["float64"]
ROUNDED = {"float16": 2.0**-8, "bfloat16": 2.0**-5, "float32": 2.0**-21, "float64": 2.0**-50}
"""What some roundings of a sum may come to, of its size."""

FEW = 5e-4
"""Another order of sums changes up to 7e-5 of the elements of a float16 merge, a rounding more or less thousands of times as
many. Source: peer-numerics, sections 5 and 6."""


def cause(found: Comparison, here: Checkpoint, there: Checkpoint, base: Model | None = None) -> tuple[str, str]:
    """The likeliest cause of differences in tensors, and what mends it."""
    different = found.different
    others = [one for one in different if not llama.is_inv_freq(one.name)]
    alone = [name for name in (*found.here, *found.there) if not llama.is_inv_freq(name)]
    if not others and not alone:
        return frequencies_differ(found, different, here, there)
    if not alone and others and all(one.name.endswith(("q_proj.weight", "k_proj.weight")) for one in others):
        dim = head_dim(here, here.tensors[others[0].name]) or head_dim(there, there.tensors[others[0].name])
        sides = {paired_otherwise(here.tensors[one.name], there.tensors[one.name], dim) for one in others} if dim else set()
        if sides in ({"one"}, {"other"}):
            mine, theirs = ("Meta's", "transformers'") if sides == {"one"} else ("transformers'", "Meta's")
            return (
                f"q/k permutation: the rows of {named(others)} are in {mine} order here, in {theirs} there; "
                "all else is right; a conversion of Meta's own files has all q_proj and k_proj in transformers' order",
                "",
            )
    if alone:
        return unpaired(found, here, there), ""
    grown = [one for one in others if llama.is_vocabulary(one.name) and another_height(one)]
    if grown and all(one in grown and not one.changed for one in others):
        one = grown[0]
        rows = one.other.shape[0] - one.spec.shape[0]
        many = f"{abs(rows)} vocabulary row{'s' if abs(rows) > 1 else ''}"
        where = named([one for one in grown if one.other.shape[0] - one.spec.shape[0] == rows])
        return f"{many} {'missing' if rows > 0 else 'too many'} in {where}; all that both have is the same", ""
    apart = [one for one in others if one.spec != one.other]
    if apart and transposed([one.name for one in apart], here.tensors, there.tensors):
        more = (
            f"; {len(others) - len(apart)} other tensors differ as well" if len(others) > len(apart) else "; all else is right"
        )
        return f"{turned(apart[0].name, len(apart))}{more}", ""
    if apart:
        return another_spec(others, apart, here, there), ""
    return values_differ(found, here, there, base)


def another_height(one: TensorDifference) -> bool:
    """Whether a tensor differs in the number of its rows alone."""
    return (
        one.spec.dtype == one.other.dtype
        and one.spec.shape[1:] == one.other.shape[1:]
        and one.spec.shape[:1] != one.other.shape[:1]
    )


def frequencies_differ(
    found: Comparison, different: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint
) -> tuple[str, str]:
    """The cause where nothing but inv_freq differs."""
    if found.there:
        return f"inv_freq is missing here ({len(found.there)} buffers); all else is right", ""
    if found.here:
        return f"inv_freq is stored here ({len(found.here)} buffers), not there; all else is right", ""
    one = different[0]
    if one.spec.dtype != one.other.dtype:
        return f"inv_freq is stored in {one.spec.dtype} here, in {one.other.dtype} there; all else is right", ""
    for a, b in ((here, there), (there, here)):
        if all(is_narrowed(a.tensors[one.name], b.tensors[one.name], FLOAT16) for one in different):
            told = "exact on one side, rounded through float16 on the other"
            return f"inv_freq has other bits: {told}; all else is right (recover takes --inv-freq)", ""
    return f"inv_freq has other values, by {max(one.largest for one in different):.2g} at most; all else is right", ""


def values_differ(found: Comparison, here: Checkpoint, there: Checkpoint, base: Model | None) -> tuple[str, str]:
    """The cause where values differ: in another place, no numbers, a sum order, a rounding; else the facts alone."""
    others = [one for one in found.different if not llama.is_inv_freq(one.name)]
    names = [one.name for one in others]
    rest = "; all else is right" if len(others) < len(found.tensors) else ""
    if found.here or found.there or len(others) < len(found.different):
        rest = "; inv_freq differs as well, or is on one side alone"
    if why := in_another_place(names, here, there) or no_numbers(others) or in_common(others, here, there):
        return why + rest, ""
    changed = sum(one.changed for one in others)
    share = changed / max(1, sum(one.elements for one in others))
    if changed > 2 and nearly(others, changed) and all(len(one.spec.shape) == 2 for one in others):
        if share < FEW:
            return (
                f"another sum order: {changed} elements ({share:.1e}) are one bit off, as the products of a LoRA differ "
                "between processors; if one was merged: merge with --sums mul-add (or fma), or --seek with the published list",
                "",
            )
        return (
            f"one rounding more or less: {share:.2%} of the elements are a last bit off, as if something was rounded once "
            "more, or LoRAs were merged in another order; explain with --base BASE --lora LORA ... tries which",
            "",
        )
    if why := narrowed(others, here, there) or (base and added(names, here, there, base)) or "":
        return why + rest, ""
    return facts(others, share, len(found.tensors), rest) + (uncovered(others, here, there) if share < 0.5 else ""), ""


def in_another_place(names: Sequence[str], here: Checkpoint, there: Checkpoint) -> str:
    """That the right values stand in other places; empty where they do not."""
    head, embedding = llama.LAST[1], llama.FIRST[0]
    for one, where in ((here, "here"), (there, "there")):
        tensors = one.tensors
        if names == [head] and embedding in tensors and same_values(unchecked(tensors[head]), unchecked(tensors[embedding])):
            return f"a tied head {where}: {head} is {embedding} {where}, and has values of its own on the other side"
    if transposed(names, here.tensors, there.tensors):
        return turned(names[0], len(names))
    return exchanged(names, here.tensors, there.tensors)


def no_numbers(others: Sequence[TensorDifference]) -> str:
    """That all that differs is NaN or infinite on one side; empty where it is not."""
    for counts, where, other in (
        ([one.nan for one in others], "here", "there"),
        ([one.nan_there for one in others], "there", "here"),
    ):
        if counts and sum(counts) == sum(one.changed for one in others):
            named = ", ".join(one.name for one in others[:3])
            many = f"{sum(counts)} element{'s' * (sum(counts) > 1)}"
            return f"NaN or infinity: {many} of {named} {'are' if sum(counts) > 1 else 'is'} none {where} but numbers {other}"
    return ""


def narrowed(others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> str:
    """That one side is the other, every element rounded to a narrower type; empty where it is not."""
    for dtype in (FLOAT16, BFLOAT16):
        for one, other, where in ((here, there, "here"), (there, here, "there")):
            if all(is_narrowed(one.tensors[name.name], other.tensors[name.name], dtype) for name in others):
                return f"through {dtype}: the values {where} are the other side's, each rounded to {dtype}"
    return ""


def is_narrowed(one: LazyTensor, other: LazyTensor, dtype: DType) -> bool:
    """Whether one tensor is another rounded to this type and back."""
    own = one.spec.dtype
    if own == dtype or own.kind != "float":
        return False
    for left, right in blocks([unchecked(one), unchecked(other)]):
        narrow = cast_bits(right, own, dtype)
        back = None if narrow is None else cast_bits(narrow, dtype, own)
        if back is None or bytes(back) != bytes(left):
            return False
    return True


def added(names: Sequence[str], here: Checkpoint, there: Checkpoint, base: Model) -> str:
    """That what was added to the base was added twice, or not at all; empty where neither."""
    below = base.tensors or {}
    if any(name not in below or below[name].spec != there.tensors[name].spec for name in names):
        return ""
    if all(same_values(unchecked(here.tensors[name]), unchecked(below[name])) for name in names):
        return "nothing was added: the values here are the base's own"
    if all(is_twice(here.tensors[name], there.tensors[name], below[name]) for name in names):
        return "added twice: the values here are the right ones with their difference from the base once more"
    return ""


def is_twice(one: LazyTensor, other: LazyTensor, below: LazyTensor) -> bool:
    """Whether ``one - other`` is ``other - below``, but for roundings."""
    for parts in blocks([unchecked(one), unchecked(other), unchecked(below)]):
        wide = [cast_bits(part, one.spec.dtype, FLOAT64) for part in parts]
        if any(part is None for part in wide):
            return False
        mine, right, old = (np.frombuffer(part, "<f8") for part in wide if part is not None)
        room = ROUNDED.get(one.spec.dtype.name, 0.0) * np.maximum(np.abs(mine), np.maximum(np.abs(right), np.abs(old)))
        if (np.abs(mine - (2 * right - old)) > room).any():
            return False
    return True


def facts(others: Sequence[TensorDifference], share: float, total: int, rest: str) -> str:
    """What is known where nothing tells the cause."""
    named = ", ".join(one.name for one in others[:2]) + (" ..." if len(others) > 2 else "")
    numbers = f"{len(others)} of {total} tensors differ ({named}), in {of_all(sum(one.changed for one in others), share)}"
    numbers += f", by {max(one.largest for one in others):.2g} at most"
    if any(one.nan or one.nan_there for one in others):
        numbers += f"; {sum(one.nan for one in others)} are NaN or infinite here, {sum(one.nan_there for one in others)} there"
    if share < 0.5:
        one = others[0]
        low, high = rows_of(one)
        rows = f" (row {low})" if low == high else f" (rows {low} to {high})"
        where = f", between bytes {one.first} and {one.last} of it{rows}" if len(others) == 1 else ""
        return f"these tensors differ, and nothing in them tells why: {numbers}{where}{rest}"
    hint = "" if len(others) < 2 else " (with --base BASE it is seen whether a difference was added twice, or not at all)"
    return f"other weights: {numbers}{rest}{hint}"


def nearly(others: Sequence[TensorDifference], changed: int) -> bool:
    """Whether values differ as roundings do: by a last bit, and by a few only here and there, where a sum is almost zero."""
    counts = {label: sum(one.ulps.get(label, 0) for one in others) for label in ("1", "2", "3 to 16")}
    return counts["1"] + counts["2"] >= 0.85 * changed and sum(counts.values()) >= 0.98 * changed


def of_all(changed: int, share: float) -> str:
    """How many elements differ, as a share where that says something."""
    if share >= 5e-4:
        return f"{share:.1%} of their elements"
    return f"{changed} element{'s' if changed > 1 else ''} of theirs"


def another_spec(
    others: Sequence[TensorDifference], apart: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint
) -> str:
    """Another dtype or shape, and whether the values are the same but for it."""
    one = apart[0]
    more = f" (and {len(apart) - 1} more)" if len(apart) > 1 else ""
    values = ""
    if all(each.spec.shape == each.other.shape for each in apart):
        pairs = [(here.tensors[each.name], there.tensors[each.name]) for each in apart]
        if all(same_numbers(left, right) for left, right in pairs):
            values = "; the values are the same"
        elif all(same_numbers(left, right, right.spec.dtype) for left, right in pairs):
            values = "; the values there are those here, rounded"
        elif all(same_numbers(right, left, left.spec.dtype) for left, right in pairs):
            values = "; the values here are those there, rounded"
    elif another_height(one) and one.changed:
        values = "; the rows that both have differ as well"
    if changed := len(others) - len(apart):
        values += f"; {changed} other tensor{'s differ' if changed > 1 else ' differs'} as well"
    return f"another dtype or size: {one.name} is {one.spec} here, {one.other} there{more}{values}"


def same_numbers(one: LazyTensor, other: LazyTensor, through: DType | None = None) -> bool:
    """Whether two tensors of floats are the same numbers, the first rounded to a type before; NaN counts as NaN."""
    for left, right in blocks([unchecked(one), unchecked(other)]):
        own = one.spec.dtype
        rounded = left if through is None else cast_bits(left, own, through)
        if rounded is None:
            return False
        sides = cast_bits(rounded, through or own, FLOAT64), cast_bits(right, other.spec.dtype, FLOAT64)
        if sides[0] is None or sides[1] is None or bytes(sides[0]) != bytes(sides[1]):
            return False
    return True
