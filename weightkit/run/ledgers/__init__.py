"""Where finished files go. A sink publishes a file whole or not at all."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest

__all__ = ["Sink", "Writer"]


class Writer(Protocol):
    """One file being written, front to back."""

    def write(self, data: Buffer) -> object:
        """Append bytes."""

    def seal(self, digests: dict[str, Digest]) -> None:
        """Say that the file is whole and what it hashes to; without this, leaving the ``with`` publishes nothing."""


class Sink(Protocol):
    """Where the files of one run go."""

    def finished(self, path: str, nbytes: int | None) -> dict[str, Digest] | None:
        """Digests of a file that an earlier, interrupted run of the same plan has published, if it still holds."""

    def create(self, path: str) -> AbstractContextManager[Writer]:
        """Start a file. It appears under its name when the ``with`` is left after ``seal``."""

    def close(self) -> None:
        """All files of the run stand; forget what was kept for a next try."""
