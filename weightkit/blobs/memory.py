"""Bytes that are known already: computed, or read before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from weightkit.core.blob import Extent
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Stored

__all__ = ["MemoryBlob", "known"]


@dataclass(frozen=True, slots=True)
class MemoryBlob:
    """A ``Blob`` that is its own bytes, under a name: tensors of two names that happen to hold the same are not tied."""

    content: bytes = field(repr=False)
    name: str = "(computed)"

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self.content)

    @property
    def version(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def stated(self) -> tuple[Digest, ...]:
        """None."""
        return ()

    def read(self, start: int, stop: int) -> Buffer:
        """A copy of some of them."""
        return bytearray(self.content[start:stop])

    def ahead(self, extents: Sequence[Extent], nbytes: int) -> AbstractContextManager[None]:
        """Nothing to fetch."""
        return nullcontext()

    def check(self) -> None:
        """They do not change."""


def known(name: str, spec: TensorSpec, content: bytes) -> Stored:
    """A tensor whose bytes are known.

    Raises:
        ValueError: They are not as many as its dtype and shape take.
    """
    if len(content) != spec.nbytes:
        raise ValueError(f"{name}: {spec} takes {spec.nbytes} bytes, not {len(content)}")
    return Stored(MemoryBlob(content, f"(computed) {name}"), name, spec, 0)
