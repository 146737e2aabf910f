"""What a run tells while it runs. The library prints nothing; whoever calls it passes a ``Notify``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from weightkit.core.digest import Digest

__all__ = ["BytesChecked", "BytesWritten", "Event", "FileFinished", "FileKept", "Notify", "Resumed", "Started", "ignore"]


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


Event = Started | BytesWritten | BytesChecked | FileFinished | FileKept | Resumed
Notify = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A ``Notify`` for those who do not want to know."""
