"""Files at ``https://`` addresses, read in ranges; nothing states a digest of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from weightkit.blobs.addresses import WebAddress
from weightkit.blobs.client import client, told
from weightkit.blobs.reads import BLOCK, fetched_range, flowing, looked_at
from weightkit.blobs.window import WINDOW_NBYTES, Window, Windows
from weightkit.blobs.witness import Piece
from weightkit.core.blob import Blob, Extent, Folder
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError, PlanError

__all__ = ["WebBlob", "WebFolder", "open_web"]


@dataclass(frozen=True, slots=True)
class WebBlob:
    """A file at an address, as it was when it was looked at.

    Attributes:
        address: Where.
        nbytes: Its size.
        etag: What the server says changes with its bytes.
    """

    address: WebAddress
    nbytes: int
    etag: str

    @property
    def name(self) -> str:
        """The address, without what may be a signature."""
        return str(self.address)

    @property
    def version(self) -> str:
        """Address, size and the server's word."""
        return f"{self.address.url}:{self.nbytes}:{self.etag}"

    @property
    def stated(self) -> tuple[Digest, ...]:
        """None."""
        return ()

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``: of what was fetched ahead, else in a range of their own."""
        if (window := OPEN.get(self.version)) is not None and (found := window.read(start, stop)) is not None:
            return found
        return OPEN.witness(self.version).read(self.source, start, stop)

    @property
    def ahead_nbytes(self) -> int:
        """Memory that a pass over it holds beside its blocks."""
        return WINDOW_NBYTES + 4 * BLOCK

    @property
    def source(self) -> Piece:
        """How its bytes are fetched."""
        return Piece(self.name, self.nbytes, self.ranged, self.flow)

    def ranged(self, start: int, stop: int) -> bytearray:
        """Bytes of the network."""
        with told(self.name):
            return fetched_range(self.address.url, self.headers, start, stop, self.name)

    def flow(self, start: int, stop: int) -> Iterator[bytearray]:
        """Bytes of the network, a block at a time."""
        with told(self.name):
            yield from flowing(self.address.url, self.headers, start, stop, self.name)

    @property
    def headers(self) -> dict[str, str]:
        """The server is to answer only while it has this version."""
        return {"If-Match": self.etag} if self.etag else {}

    @contextmanager
    def ahead(self, extents: Sequence[Extent], nbytes: int) -> Iterator[None]:
        """A pass begins: the file is fetched early, from front to back."""
        if not extents:
            yield
            return
        first, last = min(one.start for one in extents), max(one.stop for one in extents)
        window = Window(self.source, None, OPEN.witness(self.version), min(nbytes, WINDOW_NBYTES), last)
        with OPEN.reading(self.version, first, window):
            yield

    def check(self) -> None:
        """See that the server still has this version.

        Raises:
            FormatError: It has not.
        """
        if blob_at(self.address) != self:
            raise FormatError(self.name, "has changed since it was opened; start again")


OPEN = Windows()


def forked() -> None:
    """A child has streams of its own."""
    global OPEN
    OPEN = Windows()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


@dataclass(frozen=True, slots=True)
class WebFolder:
    """A file at an address, as a folder of itself."""

    file: WebBlob
    single: bool = True

    @property
    def name(self) -> str:
        """The address."""
        return self.file.name

    def names(self) -> Sequence[str]:
        """Its own."""
        return [PurePosixPath(unquote(urlsplit(self.file.address.url).path)).name or "file"]

    def holds(self, name: str) -> bool:
        """Itself alone."""
        return name in self.names()

    def blob(self, name: str) -> Blob:
        """The file."""
        if not self.holds(name):
            raise FormatError(f"{self.name}/{name}", "is not there: an address is one file")
        return self.file

    def above(self) -> Folder | None:
        """None: a server has no folders."""
        return None


def open_web(address: WebAddress, role: str) -> Folder:
    """The file at an address.

    Raises:
        PlanError: It may not be had.
        FormatError: The server is not reached, or gives no ranges.
    """
    return WebFolder(blob_at(address))


def blob_at(address: WebAddress) -> WebBlob:
    """The file that is there now."""
    if client().constants.HF_HUB_OFFLINE:
        raise PlanError(f"{address}: nothing is fetched, since HF_HUB_OFFLINE is set", hint="unset it, or name a local file")
    with told(str(address)):
        nbytes, etag = looked_at(address.url, str(address))
    return WebBlob(address, nbytes, etag)
