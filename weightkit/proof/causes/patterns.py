"""What all elements that differ have in common: zeros, signs, NaN, denormals, the order of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import DType
from weightkit.core.lazy import LazyTensor, leaves
from weightkit.core.passes import blocks
from weightkit.proof.differences import EXPONENT, TensorDifference
from weightkit.proof.unchecked import unchecked
from weightkit.streams.planes import UNSIGNED

__all__ = ["in_common", "uncovered"]

Bits = np.ndarray[tuple[int, ...], np.dtype[Any]]

SECTOR_NBYTES = 512
"""No disk or network loses less in one piece."""

DAMAGE = "no checksum in the file can prove it: compare its digest with the published one, and download the file again"


def in_common(others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> str:
    """The sentence of the one pattern that every element that differs follows; empty where there is none.

    Args:
        others: Tensors that differ, of the same dtype and shape on both sides.
        here: Where they lie here.
        there: Likewise.
    """
    shared: set[str] | None = None
    for one in others:
        for left, right in blocks([unchecked(here.tensors[one.name]), unchecked(there.tensors[one.name])]):
            found = patterns(left, right, one.spec.dtype)
            if found is not None:
                shared = found if shared is None else shared & found
            if shared is not None and not shared:
                return ""
    many = f"{sum(one.changed for one in others)} elements of {named(others)}"
    if others and sum(one.changed for one in others) == 1:
        many = f"1 element of {named(others)}"
    return told(shared or set(), many, others, here, there)


def named(others: Sequence[TensorDifference]) -> str:
    """The tensors' names, for people."""
    return ", ".join(one.name for one in others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")


def patterns(one: Buffer, other: Buffer, dtype: DType) -> set[str] | None:
    """The patterns that hold of all elements that differ in a block; None where none differs."""
    width = dtype.itemsize if dtype.itemsize in UNSIGNED else 1
    left, right = np.frombuffer(one, UNSIGNED[width]), np.frombuffer(other, UNSIGNED[width])
    changed = left != right
    left, right = left[changed], right[changed]
    if not left.size:
        return None
    sign = left.dtype.type(1 << (8 * width - 1)) if dtype.kind == "float" else left.dtype.type(0)
    big, large = left & ~sign, right & ~sign
    holds = {"zero here": not big.any(), "zero there": not large.any()}
    holds["signs of zero"] = holds["zero here"] and holds["zero there"]
    if width > 1:
        holds["byte order"] = bool((left.byteswap() == right).all())
    if dtype.name in EXPONENT:
        exponent = left.dtype.type(EXPONENT[dtype.name])
        holds["signs"] = bool((left ^ sign == right).all())
        holds["NaN"] = bool((is_nan(big, exponent) & is_nan(large, exponent)).all())
        holds["flushed here"] = holds["zero here"] and not (right & exponent).any()
        holds["flushed there"] = holds["zero there"] and not (left & exponent).any()
    return {name for name, held in holds.items() if held}


def is_nan(magnitude: Bits, exponent: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which floats without their sign are NaN: beyond infinity."""
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = magnitude > exponent
    return found


def told(shared: set[str], many: str, others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> str:
    """The sentence of the narrowest pattern."""
    verb = "is" if many.startswith("1 ") else "are"
    if "signs of zero" in shared:
        return f"zeros of the other sign: {many} {verb} 0.0 on one side and -0.0 on the other, which are equal in value"
    if "NaN" in shared:
        return f"NaN of other bits: {many} {verb} NaN on both sides, with another sign or payload"
    for side, where, other in ((here, "here", "there"), (there, "there", "here")):
        if f"flushed {where}" in shared:
            return f"denormals flushed to zero: {many} {verb} zero {where}, and {other} smaller than the least normal number"
        if f"zero {where}" in shared:
            return zeros(many, verb, others, side, where, other)
    if "signs" in shared:
        return f"negated: {many} {'has' if verb == 'is' else 'have'} the other sign"
    if "byte order" in shared:
        return f"byte order: in {many} the bytes of each stand in the reverse order, as on a machine of the other kind"
    return ""


def zeros(many: str, verb: str, others: Sequence[TensorDifference], side: Checkpoint, where: str, other: str) -> str:
    """What zeros on one side alone tell: a hole where no CRC covers them, and they are no whole rows."""
    bare = not any(is_covered(side.tensors[one.name]) for one in others)
    if bare and all(is_hole(one, side.tensors[one.name]) for one in others):
        one = others[0]
        more = f" and {len(others) - 1} more tensors" if len(others) > 1 else ""
        place = "" if where == "here" else " in what it was compared with (--against)"
        return f"damage{place}: a hole of zeros, bytes {one.first} to {one.last} of {one.name}{more}; {DAMAGE}"
    low, high = rows_of(others[0])
    rows = "" if len(others) > 1 else f", in row {low}" if low == high else f", in rows {low} to {high}"
    return f"zeros: {many} {verb} zero {where} and not {other}{rows}"


def rows_of(one: TensorDifference) -> tuple[int, int]:
    """The first and the last row that differ."""
    row = max(1, one.spec.row_nbytes)
    return (one.first or 0) // row, (one.last or 0) // row


def is_hole(one: TensorDifference, tensor: LazyTensor) -> bool:
    """Whether zeros look like blocks that were never written: in one run, and no whole rows of a tensor that has others.

    Rows shorter than a sector are no sign: of them a run of whole sectors counts as a hole.
    """
    first, last = one.first or 0, (one.last or 0) + 1
    low, high = rows_of(one)
    row = one.spec.row_nbytes
    if last - first < SECTOR_NBYTES:
        return False
    run, whole_rows, other = scan(tensor, (first, last), (low * row, (high + 1) * row))
    if not run or not other:
        return False
    return not whole_rows or (row < SECTOR_NBYTES and (last - first) % SECTOR_NBYTES in (0, SECTOR_NBYTES - 1))


def scan(tensor: LazyTensor, region: tuple[int, int], rows: tuple[int, int]) -> tuple[bool, bool, bool]:
    """Whether all bytes of a region are zero; of the rows that it touches; and whether any byte of all is not."""
    at, region_zero, rows_zero, other = 0, True, True, False
    for (block,) in blocks([unchecked(tensor)]):
        part = bytes(block)
        region_zero = region_zero and not any(part[max(0, region[0] - at) : max(0, region[1] - at)])
        rows_zero = rows_zero and not any(part[max(0, rows[0] - at) : max(0, rows[1] - at)])
        other = other or any(part)
        at += len(part)
    return region_zero, rows_zero, other


def is_covered(tensor: LazyTensor) -> bool:
    """Whether the tensor's file keeps a CRC-32 of it."""
    return all(one.record is not None for one in leaves([tensor]))


def uncovered(others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> str:
    """What the files' checksums, which were looked at before, say of tensors that differ."""
    sides = [all(is_covered(side.tensors[one.name]) for one in others) for side in (here, there)]
    if all(sides):
        return "; the CRC-32 that each file keeps of them hold: both are as they were written"
    where = "neither file keeps" if not any(sides) else f"the file {'there' if sides[0] else 'here'} does not keep"
    return f"; {where} a checksum of them, so only published digests tell which side is right"
