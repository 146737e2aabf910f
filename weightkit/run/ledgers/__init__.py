"""Where finished files go: a ledger keeps the books of one destination, and workers put files on its stage.

The ledger is the coordinator's: it locks, then looks, writes down what was staged, and publishes. The stage travels to the
workers. A file appears under its name whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.events import Notify
from weightkit.run.plan import Output, Plan, SmallFile
from weightkit.run.receipts import Receipt, Standing

__all__ = ["Ledger", "Stage", "Writer"]


class Writer(Protocol):
    """One file being written, front to back."""

    def write(self, data: Buffer) -> object:
        """Append bytes."""

    def seal(self) -> str:
        """The file is whole: see that it stays. Returns the token by which the ledger finds it."""

    def set_aside(self) -> None:
        """The file is whole and wrong: keep it as ``NAME.mismatch``, to be examined.

        Raises:
            PlanError: Something of that name is there that was not when the run began.
        """


class Stage(Protocol):
    """Where workers write files, unseen under their names: frozen, pickles small, holds no secrets."""

    def create(self, path: str, nbytes: int | None) -> AbstractContextManager[Writer]:
        """Start a file of ``nbytes`` bytes, if that is known. When the ``with`` is left without ``seal``, nothing remains.

        Raises:
            WeightkitError: It cannot be written.
        """


class Ledger(Protocol):
    """The books of one plan at one destination. Used by one coordinator."""

    def open(self, plan: Plan, lists: Sequence[str]) -> Standing:
        """Lock the destination, then look at it. Nothing there is touched.

        Args:
            plan: What will be written.
            lists: Names of the lists that will be written beside it.

        Raises:
            PlanError: Another run writes there, or something is in the way.
        """

    def kept(self, file: Output, notify: Notify) -> Receipt | None:
        """Read a file of an earlier try again, once: its receipt if it holds and is what is wanted now; else None.

        For files in ``Standing.receipts``, each once; several threads may do so at once.

        Raises:
            PlanError: Something else stands under its name.
        """

    def stage(self) -> Stage:
        """Where to write; from now on the destination is written to."""

    def staged(self, receipt: Receipt) -> Receipt:
        """Write down that a file is whole, so that it outlives a kill. Returns the receipt with the file's fingerprint."""

    def stored(self, path: str) -> Blob:
        """A file that was staged or kept, to be read again.

        Raises:
            WeightkitError: It cannot be.
        """

    def publish(self, receipt: Receipt) -> None:
        """Give a staged file its name; a file that has it already is left alone.

        Raises:
            PlanError: Something stands there that did not when the run began, and is not replaced.
        """

    def mismatched(self, path: str) -> None:
        """Write down that a file was set aside, if that was wanted, as not what was published: the next try may replace it."""

    def discard(self, receipt: Receipt) -> None:
        """Throw a staged file away that may not be published: what it was made of is not what it should be."""

    def finish(self, lists: Sequence[SmallFile]) -> None:
        """All files stand: see that they stay, then publish the lists in their order, and forget the books."""

    def close(self) -> None:
        """Let others write there. Of what this run created, what is unfinished is removed, and nothing else. Called always."""
