"""Streams as objects: bytes that are computed where they are asked for, so that a file is opened before it is written.

A stream that can be read anywhere has ``anywhere`` and ``read``; one that cannot (gzip) is read from front to back alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

from weightkit.core import describe
from weightkit.core.blob import Blob, Extent, Folder
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError
from weightkit.streams import Stream

__all__ = ["Anywhere", "ComputedBlob", "ComputedFolder", "anywhere", "computed"]


class Anywhere(Stream, Protocol):
    """A stream of which any bytes can be had without those before them."""

    @property
    def anywhere(self) -> bool:
        """Whether that is so: it depends on what the stream is made of."""

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``, in memory that may be written to."""


def anywhere(stream: Stream) -> TypeGuard[Anywhere]:
    """Whether a stream can be read anywhere."""
    return bool(getattr(stream, "anywhere", False))


@dataclass(frozen=True, slots=True)
class ComputedBlob:
    """The bytes of a stream as an object. ``computed`` makes one."""

    stream: Anywhere = field(compare=False, repr=False)
    name: str = field(compare=False)
    nbytes: int
    version: str
    blobs: tuple[Blob, ...] = field(compare=False, repr=False)

    @property
    def stated(self) -> tuple[Digest, ...]:
        """None."""
        return ()

    def read(self, start: int, stop: int) -> Buffer:
        """Some of them.

        Raises:
            FormatError: There are not so many, or what they are made of is damaged or has changed.
        """
        if stop > self.nbytes:
            raise FormatError(self.name, f"ends too early: wanted {stop - start} bytes, found {self.nbytes - start}", start)
        return self.stream.read(start, stop)

    def ahead(self, extents: Sequence[Extent], nbytes: int) -> AbstractContextManager[None]:
        """Nothing: what they are made of is read as it is needed."""
        return nullcontext()

    def check(self) -> None:
        """See that what they are made of is as it was."""
        for one in self.blobs:
            one.check()


def computed(name: str, stream: Anywhere) -> ComputedBlob:
    """A stream as an object of this name."""
    return ComputedBlob(stream, name, stream.nbytes, describe.fingerprint(stream), stream.needs.blobs)


@dataclass(frozen=True, slots=True)
class ComputedFolder:
    """Objects by their names, as the folder that they would be written to."""

    name: str
    files: Mapping[str, Blob] = field(repr=False)

    @property
    def single(self) -> bool:
        """Never."""
        return False

    def names(self) -> Sequence[str]:
        """All of them, sorted."""
        return sorted(self.files)

    def holds(self, name: str) -> bool:
        """Whether there is one of this name."""
        return name in self.files

    def blob(self, name: str) -> Blob:
        """One of them."""
        if name not in self.files:
            raise FormatError(f"{self.name}/{name}", "is not there")
        return self.files[name]

    def above(self) -> Folder | None:
        """Nothing."""
        return None
