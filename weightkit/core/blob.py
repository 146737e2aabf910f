"""Where bytes come from: an object at one version, and a folder of objects. Protocols alone; the places are in ``blobs/``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest

__all__ = ["Blob", "Extent", "Folder"]


@dataclass(frozen=True, slots=True)
class Extent:
    """A half-open range of bytes, ``[start, stop)``, in one object."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"extent runs backwards: [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start


class Blob(Protocol):
    """An object's bytes, at one version.

    A value: equal where place and version are. It pickles without a handle or a secret, and opens itself where it arrives.
    """

    @property
    def name(self) -> str:
        """For people and errors; holds no token and no signed address."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    @property
    def version(self) -> str:
        """What changes whenever the bytes may have: of a local file device, inode, size, mtime and ctime."""

    @property
    def stated(self) -> tuple[Digest, ...]:
        """Digests that the place itself states of the bytes; empty where it states none."""

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``, in memory that is the caller's own and may be written to.

        Raises:
            FormatError: The object has another version now, is shorter, or cannot be read.
        """

    def ahead(self, extents: Sequence[Extent], nbytes: int) -> AbstractContextManager[None]:
        """Say which bytes come next, in this order, so that up to ``nbytes`` of them may be fetched early."""

    def check(self) -> None:
        """See that what lies there now still has this version.

        Raises:
            FormatError: It has not, or is gone.
        """


class Folder(Protocol):
    """Named objects in one place. A single file is a folder of itself."""

    @property
    def name(self) -> str:
        """For people and errors."""

    @property
    def single(self) -> bool:
        """Whether it is one file."""

    def names(self) -> Sequence[str]:
        """Names of all files below it, sorted, with ``/`` between; hidden ones left out. Of a single file, its own."""

    def holds(self, name: str) -> bool:
        """Whether something of this name is there; does not walk the folder."""

    def blob(self, name: str) -> Blob:
        """A file, at the version that it has now.

        Raises:
            FormatError: It is not there, is no file, or cannot be looked at.
        """

    def above(self) -> Folder | None:
        """The folder that holds this one; None where there is none. Meta keeps ``tokenizer.model`` there."""
