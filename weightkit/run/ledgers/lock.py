"""A folder that one run at a time writes to: by flock, and by a file where flock is missing or is not seen by all."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from pathlib import Path

from weightkit.core.errors import PlanError, WeightkitError
from weightkit.run.ledgers.lockfile import LOCK, LockFile
from weightkit.run.ledgers.stage import cannot_write

__all__ = ["FolderLock", "nearest"]

UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""How flock fails on file systems that have no locks."""

READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}

MOUNTS = Path("/proc/self/mountinfo")

SHARED = {"9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "virtiofs"}
"""File systems that several machines may write to, and FUSE's (sshfs and others). There flock of a folder, where it works at
all, mostly holds on one machine. Source: Linux, fs/nfs/dir.c, ``nfs_dir_operations``, which has no ``flock``."""


class FolderLock:
    """A folder held by this run, made where it is not there.

    Raises:
        PlanError: Another run holds it, or it is no folder.
        WeightkitError: It cannot be made or locked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: list[Path] = []
        self.file: LockFile | None = None
        try:
            self.descriptor = self.acquire()
        except BaseException:
            self.unmake()
            raise

    def acquire(self) -> int:
        """Make, open and lock the folder, until what is locked is what the path leads to."""
        while True:
            self.make()
            try:
                descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # who made it has just found nothing to do
                continue
            except OSError as error:
                raise cannot_write(self.root, error) from error
            try:
                self.lock(descriptor)
                if os.path.samestat(os.fstat(descriptor), self.root.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except BaseException:
                self.drop_file()
                os.close(descriptor)
                raise
            self.drop_file()
            os.close(descriptor)

    def make(self) -> None:
        """Make the folder and those above it, and remember which."""
        there = nearest(self.root)
        missing = itertools.takewhile(lambda one: one != there, (self.root, *self.root.parents))
        for folder in reversed(list(missing)):
            try:
                folder.mkdir()
                self.made.append(folder)
            except FileExistsError:
                pass
            except OSError as error:
                raise cannot_write(folder, error) from error

    def lock(self, descriptor: int) -> None:
        """By flock, and by a file where that is not enough, or where somebody to whom it was not has put one."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            enough = not shared(descriptor) and not os.path.lexists(self.root / LOCK)
        except BlockingIOError as error:
            raise PlanError(f"{self.root}: another weightkit writes there; wait, or name another --out") from error
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise WeightkitError(
                    f"{self.root}: cannot be locked: {error.strerror}; name an --out on a file system that has locks"
                ) from error
            enough = False
        if not enough:
            self.lock_by_file()

    def lock_by_file(self) -> None:
        try:
            self.file = LockFile(self.root)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno not in READ_ONLY:  # then nothing can be written here at all, which the first file says
                raise cannot_write(self.root / LOCK, error) from error

    def drop_file(self) -> None:
        if self.file is not None:
            held, self.file = self.file, None
            held.release()

    def release(self, *, unmake: bool) -> None:
        """Let others write there; with ``unmake``, remove the folders that were made for it and are empty."""
        if self.descriptor >= 0:
            self.drop_file()
            if unmake:
                self.unmake()
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)

    @property
    def there(self) -> bool:
        """Whether the path still leads to what is held: another run may hold what stands there now."""
        try:
            return self.descriptor >= 0 and os.path.samestat(os.fstat(self.descriptor), self.root.stat())
        except OSError:
            return False

    def unmake(self) -> None:
        for folder in reversed(self.made):
            try:
                folder.rmdir()
            except OSError:  # somebody has put something there
                return


def nearest(root: Path) -> Path:
    """The folder, or the first above it that is there.

    Raises:
        PlanError: What is there is no folder, so that none can be made below it.
    """
    folder = next(one for one in (root, *root.parents) if os.path.lexists(one))
    if not folder.is_dir():
        raise PlanError(f"{folder} is there already and is no folder; name another --out")
    return folder


def shared(descriptor: int) -> bool:
    """Whether what is open lies on a file system that several machines may write to. Source: proc_pid_mountinfo(5)."""
    device = os.fstat(descriptor).st_dev
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        return False
    for line in lines:
        place, _, source = line.partition(" - ")
        if place.split(" ")[2:3] == [f"{os.major(device)}:{os.minor(device)}"]:
            kind = source.split(" ")[0]
            return kind in SHARED or kind.startswith("fuse.")
    return False
