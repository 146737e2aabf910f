"""The ledger of a run that writes nothing: its files are made and hashed, and let go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.errors import WeightkitError
from weightkit.core.events import Notify
from weightkit.run.ledgers import Stage, Writer
from weightkit.run.plan import Output, Plan, SmallFile
from weightkit.run.receipts import Receipt, Standing

__all__ = ["Hashed", "Partly"]


class LetGo:
    """A file whose bytes nobody keeps: whoever makes them has hashed them."""

    def write(self, data: Buffer) -> None:
        """They are gone."""

    def seal(self) -> str:
        """Nothing stays."""
        return ""

    def set_aside(self) -> None:
        """There is nothing to be examined."""


@dataclass(frozen=True, slots=True)
class HashingStage:
    """A ``Stage`` on which nothing is written."""

    @contextmanager
    def create(self, path: str, nbytes: int | None) -> Iterator[LetGo]:
        """Begin a file."""
        yield LetGo()


@dataclass(frozen=True, slots=True)
class Partly:
    """A ``Stage`` on which some files are hashed, and all others written.

    Attributes:
        stage: Where the others go.
        hashed: Paths of those.
    """

    stage: Stage
    hashed: frozenset[str]

    def create(self, path: str, nbytes: int | None) -> AbstractContextManager[Writer]:
        """Begin a file."""
        return HashingStage().create(path, nbytes) if path in self.hashed else self.stage.create(path, nbytes)


class Hashed:
    """A ``Ledger`` of no folder."""

    def open(self, plan: Plan, lists: Sequence[str]) -> Standing:
        """Nothing stands anywhere."""
        return Standing()

    def kept(self, file: Output, notify: Notify) -> Receipt | None:
        """Nothing was made before."""
        return None

    def stage(self) -> HashingStage:
        """Where files are hashed."""
        return HashingStage()

    def staged(self, receipt: Receipt) -> Receipt:
        """It is known."""
        return receipt

    def stored(self, path: str) -> Blob:
        """No file can be had."""
        raise WeightkitError(f"{path}: is kept nowhere")

    def publish(self, receipt: Receipt) -> None:
        """There is no name to give."""

    def mismatched(self, path: str) -> None:
        """Nothing is kept."""

    def discard(self, receipt: Receipt) -> None:
        """It is gone."""

    def finish(self, lists: Sequence[SmallFile]) -> None:
        """None are wanted."""

    def close(self) -> None:
        """Nothing was begun."""
