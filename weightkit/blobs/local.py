"""Files and folders of this machine.

A file's version is its device, inode, size and times of change of content and of state. It is compared whenever the file is
opened, when a handle is closed, and by ``check``: a file that was replaced or written to is an error, never a torn result.
Handles are kept open in a bounded pool, so that a block costs no ``open``, and 200 shards need no 200 handles.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weightkit.core.blob import Blob, Extent, Folder
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError

__all__ = ["LocalBlob", "LocalFolder", "open_local"]

LARGEST_POOL = 128


def version_of(state: os.stat_result) -> str:
    """What tells a file's content from another's, as far as the system does."""
    return f"{state.st_dev:x}-{state.st_ino:x}-{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}"


class Handles:
    """Open files by their version, a bounded number of them; one that is in use is not closed.

    A read that finds the pool full waits for another one to end, so that a low limit of the system is never met.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.open: OrderedDict[str, int] = OrderedDict()
        self.uses: dict[str, int] = {}

    def limit(self) -> int:
        """How many may be open: a tenth of what the system allows this process."""
        try:
            import resource
        except ImportError:  # not a POSIX system
            return LARGEST_POOL
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return LARGEST_POOL if allowed < 0 else max(2, min(LARGEST_POOL, allowed // 10))

    @contextmanager
    def lease(self, blob: LocalBlob) -> Iterator[int]:
        """A descriptor of a file, open at the blob's version."""
        key = blob.version
        with self.changed:
            while key not in self.open and not self.room():
                self.changed.wait()
            if key not in self.open:
                self.open[key] = open_at(blob)
            self.open.move_to_end(key)
            self.uses[key] = self.uses.get(key, 0) + 1
            descriptor = self.open[key]
        try:
            yield descriptor
        finally:
            with self.changed:
                self.uses[key] -= 1
                if not self.uses[key]:
                    del self.uses[key]
                self.changed.notify_all()

    def room(self) -> bool:
        """Whether one more may be opened; closes the one that was idle longest where it must."""
        if len(self.open) < self.limit():
            return True
        idle = next((key for key in self.open if key not in self.uses), None)
        if idle is None:
            return False
        os.close(self.open.pop(idle))
        return True

    def close(self, blob: LocalBlob) -> None:
        """Close a file, unless somebody is reading it."""
        with self.changed:
            if blob.version in self.open and blob.version not in self.uses:
                os.close(self.open.pop(blob.version))


HANDLES = Handles()
"""The process's: its limit of open files is the process's, too."""


def forked() -> None:
    """A child has handles of its own; those of its parent are left alone, a lock may be held in them."""
    global HANDLES
    HANDLES = Handles()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


def open_at(blob: LocalBlob) -> int:
    """Open a file at the version that was seen.

    Raises:
        FormatError: It has another one now, or cannot be opened.
    """
    try:
        descriptor = os.open(blob.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise FormatError(blob.name, f"cannot be read: {error.strerror}") from error
    if version_of(os.fstat(descriptor)) != blob.version:
        os.close(descriptor)
        raise changed(blob)
    return descriptor


def changed(blob: LocalBlob) -> FormatError:
    """What is said of a file that is no longer the one that was looked at."""
    return FormatError(
        blob.name,
        "has changed since it was opened: it was replaced or written to meanwhile; let nothing write it, and start again",
    )


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """A file, at one version. ``open_local`` makes one."""

    path: Path
    nbytes: int
    version: str

    def __hash__(self) -> int:
        return hash(self.version)

    def __repr__(self) -> str:
        return f"<{self.path}: {self.nbytes} bytes>"

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def stated(self) -> tuple[Digest, ...]:
        """None: a file system states no digests."""
        return ()

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``, in fresh memory."""
        nbytes = stop - start
        buffer = np.empty(nbytes, np.uint8).data
        got = 0
        with HANDLES.lease(self) as descriptor:
            try:
                while got < nbytes:
                    step = os.preadv(descriptor, [buffer[got:]], start + got)
                    if not step:
                        break
                    got += step
            except OSError as error:
                raise FormatError(self.name, f"cannot be read: {error.strerror}", start) from error
        if got != nbytes:
            self.check()
            raise FormatError(self.name, f"ends too early: wanted {nbytes} bytes, found {got}", start)
        return buffer

    def ahead(self, extents: Sequence[Extent], nbytes: int) -> AbstractContextManager[None]:
        """Nothing: the system reads ahead itself."""
        return nullcontext()

    def check(self) -> None:
        """See that the path still leads to this version, and close the idle handle."""
        HANDLES.close(self)
        try:
            state = self.path.stat()
        except OSError as error:
            raise FormatError(self.name, f"cannot be read any more: {error.strerror}") from error
        if version_of(state) != self.version:
            raise changed(self)


def open_local(path: Path) -> LocalBlob:
    """A file, at the version that it has now.

    Raises:
        FormatError: It is not there, is no regular file, or cannot be looked at.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(state.st_mode):
        raise FormatError(path, f"cannot be read: {os.strerror(errno.EISDIR)}")
    if not stat.S_ISREG(state.st_mode):
        raise FormatError(path, "is no regular file")
    return LocalBlob(path, state.st_size, version_of(state))


def unreadable(error: OSError) -> None:
    """A folder that cannot be listed is not taken for an empty one."""
    raise FormatError(str(error.filename), f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of this machine, or a single file as a folder of itself."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def single(self) -> bool:
        """Whether it is one file."""
        return self.path.is_file()

    def names(self) -> Sequence[str]:
        """All files below it, sorted, hidden ones and what lies in hidden folders left out."""
        if self.single:
            return [self.path.name]
        found = []
        for root, folders, files in os.walk(self.path, onerror=unreadable):
            folders[:] = [one for one in folders if not one.startswith(".")]
            place = Path(root)
            inside = place.relative_to(self.path)
            found += [(inside / name).as_posix() for name in files if not name.startswith(".") and (place / name).is_file()]
        return sorted(found)

    def holds(self, name: str) -> bool:
        """Whether something of this name is there; whether it is a file, ``blob`` says."""
        return self.at(name).exists()

    def at(self, name: str) -> Path:
        """The path of a file in it."""
        return self.path.with_name(name) if self.single else self.path / name

    def blob(self, name: str) -> Blob:
        """A file, at the version that it has now."""
        return open_local(self.at(name))

    def above(self) -> Folder | None:
        """The folder that holds this one, whatever links lead here."""
        parent = self.path.resolve().parent
        return None if parent == self.path.resolve() else LocalFolder(parent)
