"""Gives files that are whole their names: in one step, and never over a file that one does not know."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

__all__ = ["Version", "give_name", "put", "version_of"]

Version = tuple[int, int, int, int, int]

UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

NO_REPLACE, EXCHANGE = (4, 2) if sys.platform == "darwin" else (1, 2)
"""Source: renameat2(2) of Linux, RENAME_NOREPLACE, RENAME_EXCHANGE; renamex_np(2) of macOS, RENAME_EXCL, RENAME_SWAP."""

AT_FDCWD = -100


def version_of(path: Path) -> Version | None:
    """What tells one file under a name from another; None where there is none."""
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def put(partial: Path, final: Path, known: Version | None) -> None:
    """Give a file its name, over another only if that is the one known.

    Raises:
        FileExistsError: There is another.
    """
    if known is None or version_of(final) != known:
        give_name(partial, final)
    elif not renamed(partial, final, EXCHANGE):
        partial.replace(final)
    elif (replaced := version_of(partial)) is None or replaced[:4] != known[:4]:  # without the time of the exchange itself
        renamed(partial, final, EXCHANGE)
        raise FileExistsError(errno.EEXIST, "changed meanwhile", str(final))
    else:
        partial.unlink()


def give_name(partial: Path, final: Path) -> None:
    """Rename a file, but never over another.

    Raises:
        FileExistsError: There is one.
    """
    try:
        os.link(partial, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if not renamed(partial, final, NO_REPLACE):
            if os.path.lexists(final):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
            partial.rename(final)
        return
    partial.unlink()


def renamed(one: Path, two: Path, flag: int) -> bool:
    """Rename in a way that only the kernel can; False where it, or the file system, cannot.

    Raises:
        OSError: It was refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(os.fsencode(one), os.fsencode(two), flag)
        else:
            failed = libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(two), flag)
    except AttributeError:  # an old C library
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(two))
