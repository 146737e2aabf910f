"""When a file is written, and by whom; never what is in it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Protocol

from weightkit.core.errors import DigestMismatch
from weightkit.core.events import Notify
from weightkit.run.plan import Output
from weightkit.run.receipts import Receipt
from weightkit.run.write import Work

__all__ = ["Executor", "Outcome"]

Outcome = Receipt | DigestMismatch
"""What becomes of a file: it is staged, or it is not what was published. Anything else is an error, and ends the run."""


class Executor(Protocol):
    """Runs the work on files, some at a time."""

    @property
    def jobs(self) -> int:
        """Files at a time."""

    @property
    def processes(self) -> int:
        """Processes that work, each with an interpreter of its own; 0: this one works."""

    def at_most(self, jobs: int) -> Executor:
        """The same, with no more files at a time than memory allows."""

    def run(self, work: Work, files: Iterable[Output], notify: Notify) -> Generator[Outcome, None, None]:
        """Work on files as places get free, which is when they are drawn; give outcomes as they come.

        Progress is told by block where there is a way, else by file. When the generator is closed or raises, what is under
        way is stopped or waited for, and nothing goes on behind the caller's back.

        Raises:
            Exception: What the work raised on a file, other than ``DigestMismatch``.
        """
