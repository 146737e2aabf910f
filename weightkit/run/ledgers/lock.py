"""A folder that one run at a time writes to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from weightkit.core.errors import PlanError, WeightkitError
from weightkit.run.ledgers.stage import cannot_write

__all__ = ["FolderLock"]


class FolderLock:
    """A folder held by this run, made where it is not there.

    Raises:
        PlanError: Another run holds it, or it is no folder.
        WeightkitError: It cannot be made or locked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: list[Path] = []
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
                os.close(descriptor)
                raise
            os.close(descriptor)

    def make(self) -> None:
        """Make the folder and those above it, and remember which."""
        missing = []
        folder = self.root
        while not os.path.lexists(folder):
            missing.append(folder)
            folder = folder.parent
        if not folder.is_dir():
            raise PlanError(f"{folder} is there already and is no folder; name another --out")
        for folder in reversed(missing):
            try:
                folder.mkdir()
                self.made.append(folder)
            except FileExistsError:
                pass
            except OSError as error:
                raise cannot_write(folder, error) from error

    def lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PlanError(f"{self.root}: another weightkit writes there; wait, or name another --out") from error
        except OSError as error:
            raise WeightkitError(
                f"{self.root}: cannot be locked: {error.strerror}; name an --out on a file system that has locks"
            ) from error

    def release(self, *, unmake: bool) -> None:
        """Let others write there; with ``unmake``, remove the folders that were made for it and are empty."""
        if self.descriptor >= 0:
            if unmake:
                self.unmake()
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)

    def unmake(self) -> None:
        for folder in reversed(self.made):
            try:
                folder.rmdir()
            except OSError:  # somebody has put something there
                return
