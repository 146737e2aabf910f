"""Tensors that were computed rather than read: a source without a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weightkit.core.buffers import Buffer
from weightkit.core.spec import TensorSpec

__all__ = ["InMemory"]


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """A ``TensorSource`` over bytes. ``path`` says for people where the tensors come from."""

    path: Path
    specs: Mapping[str, TensorSpec]
    data: Mapping[str, bytes]

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Rows ``[start, stop)`` of a tensor, in memory of their own."""
        width = self.specs[name].row_nbytes
        return bytearray(self.data[name][start * width : stop * width])

    def crc32(self, name: str) -> int | None:
        """None: nothing is recorded."""
        return None
