"""A folder as a stage: each file is written under a hidden name beside its own, and flushed as it grows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from weightkit.core.buffers import Buffer
from weightkit.core.errors import PlanError, WeightkitError
from weightkit.run.ledgers.durable import flush, flush_data, flush_folder
from weightkit.run.ledgers.naming import Version, put

__all__ = [
    "PARTIAL",
    "FolderStage",
    "OpenFile",
    "cannot_write",
    "check_folder",
    "identity_of",
    "mismatch_name",
    "moved",
    "partial_name",
    "token_of",
]

FLUSH_NBYTES = 64 << 20
"""How much is written before what there is of it is sent to the disk."""

PARTIAL = re.compile(r"\..+\.partial", re.DOTALL)
"""Names of files that are being written."""


def partial_name(name: str) -> str:
    """What a file is called while it is being written."""
    return f".{name}.partial"


def mismatch_name(name: str) -> str:
    """What a file is called that is whole and not what was published."""
    return f"{name}.mismatch"


def token_of(state: os.stat_result) -> str:
    """What tells a staged file from another of its name: its inode and size, which it keeps when it is published."""
    return f"{state.st_ino:x}-{state.st_size:x}"


def check_folder(folder: Path) -> None:
    """Refuse what may stand where a sub-folder is needed; touches nothing.

    Raises:
        PlanError: It is a link, which may lead into an input or to where another run works; or it is no folder.
    """
    if folder.is_symlink():
        raise PlanError(f"{folder} is a link, and nothing is written through it; put a folder there, or name another --out")
    if os.path.lexists(folder) and not folder.is_dir():
        raise PlanError(f"{folder} is there already and is no folder; move it away, or name another --out")


def identity_of(state: os.stat_result) -> tuple[int, int]:
    """What tells a folder from another that takes its place."""
    return state.st_dev, state.st_ino


def moved(folder: Path) -> WeightkitError:
    """What is said where a folder is no longer the one that was locked."""
    return WeightkitError(
        f"{folder}: was moved or removed while weightkit worked, and nothing more is written there; leave it, and start again"
    )


def cannot_write(path: Path, error: OSError) -> WeightkitError:
    """What is said when the system refuses."""
    return WeightkitError(f"{path}: cannot be written: {error.strerror}")


class OpenFile:
    """A file under its partial name. It is flushed as it grows, beside the writing, so that little is left to wait for."""

    def __init__(self, final: Path, file: BinaryIO, flusher: Executor, aside: Version | None = None) -> None:
        self.final, self.file, self.flusher, self.aside = final, file, flusher, aside
        self.flushing: Future[None] | None = None
        self.unflushed = 0
        self.sealed = False

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self.file.write(view) :]
            self.unflushed += len(data)
            if self.unflushed >= FLUSH_NBYTES and (self.flushing is None or self.flushing.done()):
                self.settle()
                self.flushing = self.flusher.submit(flush_data, self.file.fileno())
                self.unflushed = 0
        except OSError as error:
            raise cannot_write(self.final, error) from error

    def set_aside(self) -> None:
        aside = self.final.with_name(mismatch_name(self.final.name))
        partial = self.final.with_name(partial_name(self.final.name))
        self.seal()
        self.sealed = False  # whatever happens, nothing is left under the partial name
        try:
            put(partial, aside, self.aside)
            flush_folder(aside.parent)
        except FileExistsError as error:
            raise PlanError(
                f"{aside} is there already, or was changed while weightkit worked, and is not replaced; move it away, or say "
                "--overwrite again"
            ) from error
        except OSError as error:
            raise cannot_write(aside, error) from error

    def settle(self) -> None:
        """Wait for a flush that is under way; an error of the disk is raised here, since the next flush would not see it."""
        if self.flushing is not None:
            self.flushing.result()

    def seal(self) -> str:
        try:
            self.settle()
            flush(self.file.fileno())
            state = os.fstat(self.file.fileno())
        except OSError as error:
            raise cannot_write(self.final, error) from error
        self.sealed = True
        return token_of(state)


@dataclass(frozen=True, slots=True)
class FolderStage:
    """A ``Stage`` in a folder that is there.

    Attributes:
        root: The folder.
        aside: Path -> what stood under ``NAME.mismatch`` when ``--overwrite`` was said, and may be replaced.
        held: Which folder it is: another that takes its place is another run's. None: it is not asked.
    """

    root: Path
    aside: Mapping[str, Version] = field(default_factory=dict)
    held: tuple[int, int] | None = None

    @contextmanager
    def create(self, path: str, nbytes: int | None) -> Iterator[OpenFile]:
        """Write a file under its partial name; what a killed run left there makes room."""
        final = self.root / path
        partial = final.with_name(partial_name(final.name))
        try:
            if self.held is not None and identity_of(self.root.stat()) != self.held:
                raise moved(self.root)
            for folder in reversed(PurePosixPath(path).parents[:-1]):
                check_folder(self.root / folder)
                (self.root / folder).mkdir(exist_ok=True)
            partial.unlink(missing_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise cannot_write(final, error) from error
        with os.fdopen(descriptor, "wb", buffering=0) as file, ThreadPoolExecutor(1) as flusher:
            out = OpenFile(final, file, flusher, self.aside.get(path))
            try:
                yield out
            finally:
                if not out.sealed:
                    remove_own(partial, descriptor)


def remove_own(partial: Path, descriptor: int) -> None:
    """Remove a partial file, unless another run has put its own there meanwhile."""
    try:
        if token_of(partial.lstat()) == token_of(os.fstat(descriptor)):
            partial.unlink()
    except OSError:  # gone with its folder: nothing remains
        pass
