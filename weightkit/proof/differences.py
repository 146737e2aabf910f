"""Two models, tensor by tensor: which differ, in how many elements, by how much, and where. Bounded memory.

A difference of floats is counted in ULPs: how many numbers of the type lie between the two (zeros of both signs count as
neighbours), so 1 is a last bit that was rounded the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BY_NAME, DType
from weightkit.core.events import BytesWritten, Notify, Started, ignore
from weightkit.core.lazy import LazyTensor, derive
from weightkit.core.passes import BLOCK_NBYTES, blocks, open_reads, reading
from weightkit.core.spec import TensorSpec
from weightkit.ops.move import PairRows
from weightkit.proof.unchecked import unchecked
from weightkit.streams.planes import SIGNED, UNSIGNED, cast_bits, in_order

__all__ = ["EXPONENT", "Comparison", "TensorDifference", "compare", "paired_otherwise", "same_bytes"]

Tensors = Mapping[str, LazyTensor]
Bits = np.ndarray[tuple[int, ...], np.dtype[Any]]

FLOAT64 = BY_NAME["float64"]
EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}
"""The bits of the exponent. Source: IEEE 754-2019, section 3.4; bfloat16 has float32's."""


@dataclass(slots=True)
class TensorDifference:
    """How one tensor differs from its counterpart.

    Attributes:
        name: Its name.
        spec: Dtype and shape here.
        other: Dtype and shape there.
        elements: Elements compared: of the rows that both have.
        changed: Elements whose bits differ.
        ulps: Differences in ULPs: 1, 2, up to 16, more -> how many elements. Only for floats of 16 and 32 bits.
        first: The first byte of the tensor that differs.
        last: The last one.
        nan: Elements that are NaN or infinite here and numbers there.
        nan_there: The other way round.
        largest: The largest difference of two numbers; 0 where none were compared.
    """

    name: str
    spec: TensorSpec
    other: TensorSpec
    elements: int = 0
    changed: int = 0
    ulps: dict[str, int] = field(default_factory=dict)
    first: int | None = None
    last: int | None = None
    nan: int = 0
    nan_there: int = 0
    largest: float = 0.0

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.spec == self.other and not self.changed


@dataclass(slots=True)
class Comparison:
    """Two models.

    Attributes:
        here: Names that only the first has.
        there: Names that only the second has.
        tensors: The others.
    """

    here: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)

    @property
    def different(self) -> list[TensorDifference]:
        """Tensors that are not the same."""
        return [one for one in self.tensors if not one.same]


def compare(one: Tensors, other: Tensors, notify: Notify = ignore) -> Comparison:
    """Compare all tensors; each is read once."""
    found = Comparison([name for name in one if name not in other], [name for name in other if name not in one])
    both = [(name, tensor, other[name]) for name, tensor in one.items() if name in other]
    notify(Started(sum(left.spec.nbytes for _, left, _ in both)))
    with reading([side for _, *sides in both for side in sides]):
        for name, left, right in both:
            found.tensors.append(compare_tensors(name, left, right))
            notify(BytesWritten(name, left.spec.nbytes))
    return found


def compare_tensors(name: str, one: LazyTensor, other: LazyTensor) -> TensorDifference:
    """Compare two tensors; of rows, those that both have. Of different dtypes or widths nothing is compared."""
    found = TensorDifference(name, one.spec, other.spec)
    if one.spec.dtype != other.spec.dtype or one.spec.shape[1:] != other.spec.shape[1:]:
        return found
    left, right = open_reads([unchecked(one), unchecked(other)])
    shorter = min(one.spec, other.spec, key=lambda spec: spec.rows)
    for start, stop in shorter.blocks(BLOCK_NBYTES):
        tally(found, start * shorter.row_nbytes, left(start, stop), right(start, stop))
    return found


def tally(found: TensorDifference, at: int, one: Buffer, other: Buffer) -> None:
    """Count the differences of a block that begins at byte ``at``."""
    width = found.spec.dtype.itemsize if found.spec.dtype.itemsize in UNSIGNED else 1
    left, right = np.frombuffer(one, UNSIGNED[width]), np.frombuffer(other, UNSIGNED[width])
    found.elements += left.size
    changed = np.flatnonzero(left != right)
    if not changed.size:
        return
    found.changed += int(changed.size)
    bytes_changed = np.flatnonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))
    if found.first is None:
        found.first = at + int(bytes_changed[0])
    found.last = at + int(bytes_changed[-1])
    measure(found, left[changed], right[changed])
    if found.spec.dtype.kind == "float" and width in (2, 4):
        ordered = [in_order(side[changed], width).view(SIGNED[width]).astype(np.int64) for side in (left, right)]
        distance = np.abs(ordered[0] - ordered[1])
        for label, count in (
            ("1", int((distance == 1).sum())),
            ("2", int((distance == 2).sum())),
            ("3 to 16", int(((distance > 2) & (distance <= 16)).sum())),
            ("more", int((distance > 16).sum())),
        ):
            if count:
                found.ulps[label] = found.ulps.get(label, 0) + count


def measure(found: TensorDifference, left: Bits, right: Bits) -> None:
    """Count what is no number on one side, and keep the largest difference of numbers."""
    here, there = (cast_bits(side.tobytes(), found.spec.dtype, FLOAT64) for side in (left, right))
    if here is None or there is None:
        return
    numbers, others = (is_number(side, found.spec.dtype) for side in (left, right))
    found.nan += int((~numbers & others).sum())
    found.nan_there += int((numbers & ~others).sum())
    both = numbers & others
    if both.any():
        distance = np.abs(np.frombuffer(here, "<f8")[both] - np.frombuffer(there, "<f8")[both])
        found.largest = max(found.largest, float(distance.max()))


def is_number(bits: Bits, dtype: DType) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which elements are neither NaN nor infinite: those whose exponent is not all ones."""
    mask = EXPONENT[dtype.name]
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (bits & bits.dtype.type(mask)) != mask
    return found


def same_bytes(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors are the same; stops at the first block that differs."""
    if one.spec != other.spec:
        return False
    with reading([one, other]):
        return all(bytes(left) == bytes(right) for left, right in blocks([unchecked(one), unchecked(other)]))


def paired_otherwise(one: LazyTensor, other: LazyTensor, head: int) -> str:
    """Whose rotary pairs lie as Meta has them, ``one``'s or ``other``'s, where that alone differs; empty where it does not."""
    try:
        if same_bytes(derive(PairRows(head, halves=True), one), other):
            return "one"
        return "other" if same_bytes(derive(PairRows(head, halves=False), one), other) else ""
    except ValueError:
        return ""
