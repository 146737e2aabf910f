"""What is looked at or counted while tensors go by, in the same pass; the answers travel home in receipts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.content import TensorHash
from weightkit.core.spec import TensorSpec

__all__ = ["CONTENT", "INFINITE", "Changed", "Content", "Infinite", "Look", "Probe"]


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


INFINITE = "infinite"

EXPONENTS: dict[str, tuple[str, int, int]] = {
    "float16": ("<u2", 0x7FFF, 0x7C00),
    "bfloat16": ("<u2", 0x7FFF, 0x7F80),
    "float32": ("<u4", 0x7FFFFFFF, 0x7F800000),
}
"""Dtype -> how its bits are read, all of them but the sign, and those of infinity: what is larger is NaN."""


@dataclass(frozen=True, slots=True)
class Infinite:
    """How many elements of a tensor are infinite; nothing where none is, or the dtype is no common float."""

    name: str = INFINITE

    def begin(self, *specs: TensorSpec) -> Look:
        """Start counting."""
        return InfiniteLook(EXPONENTS.get(specs[0].dtype.name))

    def held_nbytes(self, *specs: TensorSpec) -> int:
        """Nothing worth counting."""
        return 0


class InfiniteLook:
    """A count under way. Almost every block is done after its largest magnitude is known."""

    def __init__(self, bits: tuple[str, int, int] | None) -> None:
        self.bits = bits
        self.count = 0

    def __call__(self, *blocks: Buffer) -> None:
        if self.bits is None:
            return
        kind, magnitude, infinity = self.bits
        found = np.frombuffer(blocks[0], kind) & np.dtype(kind).type(magnitude)
        if found.size and int(found.max()) >= infinity:
            self.count += int((found == infinity).sum())

    def found(self) -> int | None:
        """The count."""
        return self.count or None
