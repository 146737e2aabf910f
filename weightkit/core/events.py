"""What a run tells while it runs. The library prints nothing; whoever calls it passes a ``Notify``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass

from weightkit.core.bound import bound
from weightkit.core.digest import Digest

__all__ = [
    "BytesChecked",
    "BytesFetched",
    "BytesWritten",
    "Event",
    "FileFinished",
    "FileKept",
    "FileProved",
    "Notify",
    "Resumed",
    "Started",
    "hearing",
    "ignore",
    "tell",
]


@dataclass(frozen=True, slots=True)
class Started:
    """Told once, before work: ``nbytes`` bytes are to be made (or, in ``verify``, read)."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class BytesWritten:
    """``nbytes`` more bytes of a file have been made (or, in ``verify``, read)."""

    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class BytesChecked:
    """``nbytes`` more bytes of an input have been read for its digest alone, beside the run."""

    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class BytesFetched:
    """``nbytes`` more bytes of an input of ``total`` have come over the network, beside the run; 0 while it is waited for."""

    path: str
    nbytes: int
    total: int


@dataclass(frozen=True, slots=True)
class FileFinished:
    """A file stands under its name, whole, with these digests."""

    path: str
    nbytes: int
    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class FileKept:
    """A file was there from an earlier, interrupted run, and its digest still holds."""

    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class FileProved:
    """A published file that is not stored was made of those that are, and has its digests."""

    path: str
    nbytes: int
    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Resumed:
    """Told once, before work: files of this plan stand already, from an earlier run. Each is still read and checked.

    Attributes:
        files: How many stand.
        total: How many are planned.
        nbytes: The size of those that stand.
        whole: Whether the earlier run was complete, so that this one only compares.
    """

    files: int
    total: int
    nbytes: int
    whole: bool = False


Event = Started | BytesWritten | BytesChecked | BytesFetched | FileFinished | FileKept | FileProved | Resumed
Notify = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A ``Notify`` for those who do not want to know."""


EAR: ContextVar[Notify] = ContextVar("ear", default=ignore)


def hearing(notify: Notify) -> AbstractContextManager[None]:
    """What inputs tell in this thread, through ``tell``, goes to a ``Notify``; what that raises, ends the work."""
    return bound(EAR, notify)


def tell(event: Event) -> None:
    """Tell whoever listens in this thread: for inputs, which are handed no ``Notify``."""
    EAR.get()(event)
