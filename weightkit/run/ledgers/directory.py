"""Files in a folder: each appears under its name only when it is whole, flushed and sealed.

While a run is under way the folder also holds ``.weightkit-journal``: a line of JSON that says which plan this is, then one
for each file about to be published, with its digests. A run of the same plan that was killed is taken up from there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import PlanError, WeightkitError

__all__ = ["JOURNAL", "Directory", "partial_name"]

JOURNAL = ".weightkit-journal"
WEIGHTS = re.compile(r"(pytorch_model|model|consolidated)[-.].*(bin|safetensors|pth|index\.json)")
"""Names under which loaders look for weights."""

FLUSH_BYTES = 64 << 20
"""How much is written before what there is of it is sent to the disk."""


def partial_name(name: str) -> str:
    """What a file is called while it is being written."""
    return f".{name}.partial"


class OpenFile:
    """A file under its partial name. It is flushed as it grows, beside the writing, so that little is left to wait for."""

    def __init__(self, file: BinaryIO, flusher: Executor) -> None:
        self.file, self.flusher = file, flusher
        self.flushing: Future[None] | None = None
        self.unflushed = 0
        self.digests: dict[str, Digest] | None = None

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]
        self.unflushed += len(data)
        if self.unflushed >= FLUSH_BYTES and (self.flushing is None or self.flushing.done()):
            self.settle()
            self.flushing = self.flusher.submit(os.fdatasync, self.file.fileno())
            self.unflushed = 0

    def settle(self) -> None:
        """Wait for a flush that is under way; an error of the disk is raised here, since the next flush would not see it."""
        if self.flushing is not None:
            self.flushing.result()

    def seal(self, digests: dict[str, Digest]) -> None:
        self.digests = digests


class Directory:
    """A ``Sink`` that is a folder.

    Args:
        root: The folder; made when the first file is.
        fingerprint: What tells this plan from others; an interrupted run of another plan is not taken up.
        overwrite: Whether files that are there already may be replaced (each only at the moment its successor is whole).
        names: All names that the run will write, to be checked before work begins.

    Raises:
        PlanError: A file is in the way.
    """

    def __init__(self, root: Path, fingerprint: str, names: list[str], *, overwrite: bool = False) -> None:
        self.root, self.fingerprint, self.overwrite = root, fingerprint, overwrite
        self.journal = root / JOURNAL
        self.lock = threading.Lock()
        self.held: int | None = None
        self.recorded = self.read_journal()
        self.check(names)

    def hold(self) -> None:
        """Let no other process write here until ``release``.

        Raises:
            PlanError: One does.
        """
        if self.held is None:
            descriptor = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                raise PlanError(f"{self.root}: another weightkit writes there; wait, or name another --out") from error
            self.held = descriptor

    def release(self) -> None:
        """Let others write here."""
        if self.held is not None:
            os.close(self.held)
            self.held = None

    def read_journal(self) -> dict[str, dict[str, Digest]]:
        """What an interrupted run of this plan has recorded."""
        try:
            lines = self.journal.read_text().splitlines()
            if not lines or json.loads(lines[0])["plan"] != self.fingerprint:
                return {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        recorded: dict[str, dict[str, Digest]] = {}
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                recorded[entry["path"]] = {name: Digest(name, text) for name, text in entry["digests"].items()}
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the run was killed
        return recorded

    def check(self, names: list[str]) -> None:
        """Refuse to begin where something is in the way, or would stand beside the new files and be taken for them."""
        if os.path.lexists(self.root) and not self.root.is_dir():
            raise PlanError(f"{self.root} is there already and is no folder; name another --out")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PlanError(f"{twice[0]}: two files of that name would be written; rename the one in the input")
        there = [name for name in names if name not in self.recorded and os.path.lexists(self.root / name)]
        folders = [name for name in there if (self.root / name).is_dir()]
        if folders or (there and not self.overwrite):
            name = (folders or there)[0]
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            advice = "" if folders else ", or say --overwrite"
            raise PlanError(f"{self.root / name}{more} is there already and would be replaced; name another --out{advice}")
        if self.root.is_dir():
            beside = sorted(e.name for e in self.root.iterdir() if WEIGHTS.fullmatch(e.name) and e.name not in names)
            if beside:
                raise PlanError(
                    f"{self.root / beside[0]} is there already and would stand beside the new files, to be loaded in their "
                    "place; move it away, or name another --out"
                )

    def finished(self, path: str, nbytes: int | None) -> dict[str, Digest] | None:
        """Digests of a file that an interrupted run published, read again and found to hold."""
        digests = self.recorded.get(path)
        file = self.root / path
        if not digests or not file.is_file() or nbytes not in (None, file.stat().st_size):
            return None
        return digests if hash_file(file, digests) == digests else None

    @contextmanager
    def create(self, path: str) -> Iterator[OpenFile]:
        """Write a file under its partial name, flush it, record it, rename it."""
        final = self.root / path
        partial = final.with_name(partial_name(final.name))
        try:
            self.begin()
            final.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, 0o666), "wb", buffering=0) as file, ThreadPoolExecutor(1) as flusher:
                out = OpenFile(file, flusher)
                yield out
                if out.digests is None:
                    return
                out.settle()
                os.fsync(file.fileno())
            self.record(path, out.digests)
            partial.replace(final)
        except OSError as error:
            raise WeightkitError(f"{final}: cannot be written: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)

    def begin(self) -> None:
        """Make the folder, and start the journal unless this plan's is there."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self.lock:
            self.hold()
            if not self.recorded and not self.started():
                fresh = self.root / partial_name(JOURNAL)
                fresh.write_text(json.dumps({"plan": self.fingerprint}) + "\n")
                fresh.replace(self.journal)

    def started(self) -> bool:
        try:
            return self.fingerprint in self.journal.read_text()
        except OSError:
            return False

    def record(self, path: str, digests: dict[str, Digest]) -> None:
        """Note a file before it is renamed, so that its name never stands for something unknown."""
        line = json.dumps({"path": path, "digests": {name: digest.hex for name, digest in sorted(digests.items())}})
        with self.lock, self.journal.open("a") as file:
            file.write(f"\n{line}\n")  # whatever a full disk left of the line before
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """The run is complete: flush the folder itself and forget the journal."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.journal.unlink(missing_ok=True)
        self.release()
