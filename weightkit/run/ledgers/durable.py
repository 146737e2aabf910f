"""Sees to it that what was written outlives a power cut."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

__all__ = ["flush", "flush_data", "flush_folder"]


def flush(descriptor: int) -> None:
    """Send a file to the disk, and on macOS through the disk's own cache, which ``fsync`` leaves full there."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
        return
    try:
        fcntl.fcntl(descriptor, full)
    except OSError:  # a file system that does not know it
        os.fsync(descriptor)


def flush_data(descriptor: int) -> None:
    """Send what was written so far; the size may follow later. Systems without ``fdatasync`` do the whole."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def flush_folder(folder: Path) -> None:
    """Send the names in a folder to the disk, where it may be opened and the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:  # one that others may write to and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
