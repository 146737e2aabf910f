"""An object's bytes as a file to read and to seek in, for those who want a little here and a little there."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

from weightkit.core.blob import Blob

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["seekable"]


class BlobFile(io.RawIOBase):
    """A position in an object. ``io.BufferedReader`` does the rest."""

    def __init__(self, blob: Blob) -> None:
        self.blob, self.position = blob, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.blob.nbytes}[whence]
        self.position = start + offset
        return self.position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        stop = max(self.position, min(self.position + len(target), self.blob.nbytes))
        got = stop - self.position
        target[:got] = self.blob.read(self.position, stop)
        self.position = stop
        return got


def seekable(blob: Blob, at_once_nbytes: int) -> BinaryIO:
    """A file object over an object's bytes.

    Args:
        blob: The object.
        at_once_nbytes: How many bytes a read of fewer fetches: neighbours then cost no further one.
    """
    return io.BufferedReader(BlobFile(blob), at_once_nbytes)
