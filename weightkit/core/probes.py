"""What is looked at or counted while tensors go by, in the same pass; the answers travel home in receipts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.content import TensorHash
from weightkit.core.spec import TensorSpec

__all__ = [
    "ADDED",
    "CONTENT",
    "NOT_FINITE",
    "NOT_ZERO",
    "RECOVERED",
    "Changed",
    "Content",
    "Look",
    "NotFinite",
    "NotZero",
    "Probe",
]


class Look(Protocol):
    """One tensor being looked at."""

    def __call__(self, *blocks: Buffer) -> None:
        """Take in the next bytes of each tensor that is looked at."""

    def found(self) -> Any:
        """What was seen: JSON; None where there is nothing to tell."""


class Probe(Protocol):
    """Looks at tensors in the pass that writes them: a frozen value."""

    @property
    def name(self) -> str:
        """Under which its answers stand in a receipt."""

    def begin(self, *specs: TensorSpec) -> Look:
        """Start looking at one tensor, or at several in step."""

    def held_nbytes(self, *specs: TensorSpec) -> int:
        """Memory held while it looks."""


CONTENT = "content"


@dataclass(frozen=True, slots=True)
class Content:
    """The content digest of each tensor, in hexadecimal."""

    name: str = CONTENT

    def begin(self, *specs: TensorSpec) -> Look:
        """Start a digest."""
        return ContentLook(TensorHash(specs[0]))

    def held_nbytes(self, *specs: TensorSpec) -> int:
        """Nothing worth counting."""
        return 0


@dataclass(frozen=True, slots=True)
class ContentLook:
    """A digest under way."""

    hash: TensorHash

    def __call__(self, *blocks: Buffer) -> None:
        self.hash.update(blocks[0])

    def found(self) -> str:
        """The digest."""
        return self.hash.digest().hex


@dataclass(frozen=True, slots=True)
class Changed:
    """How many elements of two tensors of one dtype and shape differ in any bit: ``{"elements": n, "changed": m}``."""

    name: str = "changed"

    def begin(self, *specs: TensorSpec) -> Look:
        """Start counting."""
        return ChangedLook(specs[0].dtype.itemsize)

    def held_nbytes(self, *specs: TensorSpec) -> int:
        """Nothing worth counting."""
        return 0


class ChangedLook:
    """A count under way."""

    def __init__(self, itemsize: int) -> None:
        self.width = itemsize if itemsize in (1, 2, 4, 8) else 1
        self.parts = itemsize // self.width
        self.elements = self.changed = 0

    def __call__(self, *blocks: Buffer) -> None:
        one, other = (np.frombuffer(block, f"<u{self.width}").reshape(-1, self.parts) for block in blocks)
        self.elements += len(one)
        self.changed += int((one != other).any(axis=1).sum())

    def found(self) -> dict[str, int]:
        """The counts."""
        return {"elements": self.elements, "changed": self.changed}


NOT_FINITE, RECOVERED = "not finite", "not finite when recovered"
"""Of what is written; of what a difference gives."""


@dataclass(frozen=True, slots=True)
class Bits:
    """How infinities and NaN are told by the bits of a float.

    Attributes:
        width: Bytes of a float.
        infinity: The bits of infinity; larger ones but for the sign are NaN.
    """

    width: int
    infinity: int


WIDE = {
    "float16": Bits(2, 0x7C00),
    "bfloat16": Bits(2, 0x7F80),
    "float32": Bits(4, 0x7F800000),
    "float64": Bits(8, 0x7FF << 52),
    "complex64": Bits(4, 0x7F800000),
    "complex128": Bits(8, 0x7FF << 52),
}
"""Dtype -> its floats, of which a complex element has two. Source: IEEE 754; bfloat16 is the upper half of float32."""

NARROW: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "float8_e4m3fn": ((), (0x7F, 0xFF)),
    "float8_e5m2": ((0x7C, 0xFC), (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)),
    "float8_e4m3fnuz": ((), (0x80,)),
    "float8_e5m2fnuz": ((), (0x80,)),
    "float8_e8m0fnu": ((), (0xFF,)),
}
"""Dtype of 8 bits -> its infinities, its NaN. Source: Micikevicius et al. 2022, arXiv:2209.05433; for fnuz Noune et al. 2022,
arXiv:2206.02915; for e8m0 OCP Microscaling Formats 1.0."""


@dataclass(frozen=True, slots=True)
class NotFinite:
    """How many elements are infinite, how many NaN: ``{"infinite": n, "nan": m}``; nothing where all are numbers.

    Of quantized tensors the scales are looked at, so blocks are counted.
    """

    name: str = NOT_FINITE

    def begin(self, *specs: TensorSpec) -> Look:
        """Start counting."""
        return NotFiniteLook(specs[0])

    def held_nbytes(self, *specs: TensorSpec) -> int:
        """Nothing worth counting."""
        return 0


class NotFiniteLook:
    """A count under way. Almost every block is done after the largest of its bits is known, with sign and without."""

    def __init__(self, spec: TensorSpec) -> None:
        self.bits, self.bytes = WIDE.get(spec.dtype.name), NARROW.get(spec.dtype.name)
        self.block_nbytes = spec.dtype.itemsize if spec.dtype.kind == "quantized" else 0
        self.parts = spec.dtype.itemsize // self.bits.width if self.bits else 1
        self.infinite = self.nan = 0

    def __call__(self, *blocks: Buffer) -> None:
        if self.block_nbytes:  # a block in which an element is not finite has such a scale
            scales = np.frombuffer(blocks[0], np.uint8).reshape(-1, self.block_nbytes)[:, :2]
            self.wide(np.ascontiguousarray(scales).view("<u2").reshape(-1), WIDE["float16"])
        elif self.bits is not None:
            self.wide(np.frombuffer(blocks[0], f"<u{self.bits.width}"), self.bits)
        elif self.bytes is not None:
            found = np.frombuffer(blocks[0], np.uint8)
            infinite, nan = (sum(int(np.count_nonzero(found == one)) for one in each) for each in self.bytes)
            self.infinite, self.nan = self.infinite + infinite, self.nan + nan

    def wide(self, found: Any, bits: Bits) -> None:
        """Count in floats of 16 bits and more. As signed numbers the positive ones are the larger the more they are."""
        sign = 1 << (8 * bits.width - 1)
        if not found.size or (
            int(found.view(f"<i{bits.width}").max()) < bits.infinity and int(found.max()) < sign + bits.infinity
        ):
            return
        magnitude = (found & found.dtype.type(sign - 1)).reshape(-1, self.parts)
        infinite = (magnitude == bits.infinity).any(axis=1)
        self.infinite += int(infinite.sum())
        self.nan += int(((magnitude > bits.infinity).any(axis=1) & ~infinite).sum())

    def found(self) -> dict[str, int] | None:
        """The counts."""
        return {"infinite": self.infinite, "nan": self.nan} if self.infinite or self.nan else None


NOT_ZERO, ADDED = "not zero", "added is not zero"
"""Of what is written; of a difference while it is added."""


@dataclass(frozen=True, slots=True)
class NotZero:
    """Whether any element is another than zero, of either sign; nothing where none is."""

    name: str = NOT_ZERO

    def begin(self, *specs: TensorSpec) -> Look:
        """Start looking."""
        return NotZeroLook(specs[0])

    def held_nbytes(self, *specs: TensorSpec) -> int:
        """Nothing worth counting."""
        return 0


class NotZeroLook:
    """A look under way, over with the first block that holds something."""

    def __init__(self, spec: TensorSpec) -> None:
        self.bits = WIDE.get(spec.dtype.name) or Bits(1, 0)
        self.signed = spec.dtype.kind in ("float", "complex")
        self.seen = False

    def __call__(self, *blocks: Buffer) -> None:
        if not self.seen:
            found = np.frombuffer(blocks[0], f"<u{self.bits.width}")
            self.seen = bool(found.any()) and (not self.signed or bool((found << found.dtype.type(1)).any()))

    def found(self) -> bool | None:
        """The answer."""
        return self.seen or None
