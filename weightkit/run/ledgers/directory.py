"""The ledger of a folder: each file appears under its name only when it is whole, flushed and written down.

While a run is under way the folder also holds ``.weightkit-journal``. The folder is looked at under the lock, and once more
when a file is published: nothing is replaced that was not there when ``--overwrite`` was said, or is not this plan's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from weightkit.blobs import open_local
from weightkit.core.blob import Blob
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import PlanError, WeightkitError
from weightkit.core.events import BytesWritten, FileKept, Notify, ignore
from weightkit.run.ledgers.compared import looks_complete
from weightkit.run.ledgers.durable import flush_folder
from weightkit.run.ledgers.journal import Journal, set_aside
from weightkit.run.ledgers.lock import FolderLock
from weightkit.run.ledgers.look import folders_of, in_the_way, look, partial_of
from weightkit.run.ledgers.naming import Version, put, version_of
from weightkit.run.ledgers.stage import FolderStage, cannot_write, identity_of, mismatch_name, moved, token_of
from weightkit.run.plan import Output, Plan, SmallFile
from weightkit.run.receipts import DIGEST, Receipt, Standing

__all__ = ["Directory"]

READ_NBYTES = 1 << 20


class Directory:
    """A ``Ledger`` of a folder of this machine.

    Args:
        root: The folder; made when it is opened.
        overwrite: Whether files that are there already may be replaced, each only at the moment its successor is whole.
        keep_mismatched: Whether files with another digest than wanted will be kept beside it, as ``NAME.mismatch``.
    """

    def __init__(self, root: Path, *, overwrite: bool = False, keep_mismatched: bool = False) -> None:
        self.root, self.overwrite, self.keep_mismatched = root, overwrite, keep_mismatched
        self.lock: FolderLock | None = None
        self.below: list[FolderLock] = []
        self.journal: Journal | None = None
        self.finished = False
        self.held: tuple[int, int] | None = None
        self.fingerprints: dict[str, str] = {}
        self.names: tuple[str, ...] = ()
        self.weights: tuple[str, ...] = ()
        self.receipts: dict[str, Receipt] = {}
        self.partials: dict[str, Version] = {}
        self.replaceable: dict[str, Version] = {}
        self.aside: dict[str, Version] = {}
        self.marks: dict[str, str] = {}
        self.published: set[str] = set()

    def preview(self, plan: Plan, lists: Sequence[str]) -> Standing:
        """What ``open`` would find and refuse; the folder is neither locked nor made."""
        self.weights = tuple(file.path for file in plan.files)
        self.names = (*(file.path for file in plan.everything), *lists)
        self.fingerprints = {file.path: file.fingerprint() for file in plan.everything}
        return self.look(plan, lists)

    def look(self, plan: Plan, lists: Sequence[str]) -> Standing:
        """Look at the folder."""
        weights = {path: self.fingerprints[path] for path in self.weights}
        whole = not self.overwrite and looks_complete(self.root, plan, lists)
        seen = look(self.root, self.names, weights, overwrite=self.overwrite or whole)
        self.marks = dict(seen.aside)
        self.aside = self.stand_aside(plan) if self.keep_mismatched else {}
        self.receipts, self.partials = dict(seen.receipts), dict(seen.partials)
        self.replaceable = dict(seen.there) if self.overwrite else {}
        changed = frozenset(path for path, one in self.receipts.items() if one.fingerprint != self.fingerprints.get(path))
        if whole and not self.receipts:
            return Standing(notes=seen.notes, stands={file.path: file.nbytes for file in plan.everything}, whole=True)
        return Standing(self.receipts, changed, seen.notes, self.standing(changed))

    def stand_aside(self, plan: Plan) -> dict[str, Version]:
        """What stands under the names of files that may be set aside; what an earlier try has put there is replaced."""
        names = {file.path: mismatch_name(file.path) for file in plan.hashed if file.expect}
        found = {path: there for path, name in names.items() if (there := version_of(self.root / name)) is not None}
        folders = [names[path] for path in found if (self.root / names[path]).is_dir()]
        strangers = [names[path] for path, there in found.items() if mark_of(there) != self.marks.get(path)]
        if folders or (strangers and not self.overwrite):
            raise in_the_way(self.root, folders or strangers, folder=bool(folders))
        return found

    def standing(self, changed: frozenset[str]) -> dict[str, int]:
        """Files with a receipt that holds for this plan, whole by their size, published or not."""
        found = {}
        for path, receipt in self.receipts.items():
            there = version_of(self.root / path) or version_of(partial_of(self.root, path))
            if path in self.fingerprints and path not in changed and there is not None and there[2] == receipt.nbytes:
                found[path] = receipt.nbytes
        return found

    def open(self, plan: Plan, lists: Sequence[str]) -> Standing:
        """Lock the folder, then look at it; the same with those below it that files go to, which may be another run's."""
        self.lock = FolderLock(self.root)
        try:
            standing = self.preview(plan, lists)
            for folder in folders_of(self.root, self.names):
                self.below.append(FolderLock(folder))
            return self.look(plan, lists) if self.below else standing
        except BaseException:
            self.close()
            raise

    def kept(self, file: Output, notify: Notify) -> Receipt | None:
        """Read a file again that the journal names, under its own name or, where it was not published yet, as a partial."""
        receipt = self.receipts[file.path]
        final, partial = self.root / file.path, partial_of(self.root, file.path)
        wanted = receipt.fingerprint == self.fingerprints[file.path]
        there = version_of(final)
        if there is None and not wanted:
            return None
        algorithms = {*receipt.digests, *file.also, *(digest.algorithm for digest in file.expect)}
        digests = read_again(final if there is not None else partial, receipt, algorithms, notify)
        if there is not None and (digests is None or not wanted):
            damaged = wanted and token_of(final.lstat()) == receipt.token
            if file.path not in self.replaceable and digests is None and not damaged:
                raise in_the_way(self.root, [file.path])
            self.replaceable.setdefault(file.path, there)
            return None
        if digests is None:
            return None
        if there is not None:
            self.published.add(file.path)
            partial.unlink(missing_ok=True)  # the second name of a file that was being published
        notify(FileKept(file.path, receipt.nbytes))
        token = token_of((partial if there is None else final).stat())
        return replace(receipt, digests=digests, token=token, checked=bool(file.expect), kept=True)

    def stage(self) -> FolderStage:
        """The folder itself; its journal is begun."""
        if self.journal is None:
            for folder in self.lock.made if self.lock is not None else ():
                flush_folder(folder.parent)
            weights = {path: self.fingerprints[path] for path in self.weights}
            self.journal = Journal(self.root, weights, self.receipts.values(), self.marks)
            self.held = None if self.lock is None else identity_of(os.fstat(self.lock.descriptor))
        return FolderStage(self.root, self.aside, self.held)

    def staged(self, receipt: Receipt) -> Receipt:
        """A line of the journal."""
        if self.journal is None:
            raise ValueError("nothing can be staged before there is a stage")
        receipt = replace(receipt, fingerprint=self.fingerprints[receipt.path])
        self.journal.record(receipt.encode())
        self.receipts[receipt.path] = receipt
        return receipt

    def stored(self, path: str) -> Blob:
        """A staged file, or one that has its name already."""
        return open_local(self.root / path if path in self.published else partial_of(self.root, path))

    def mismatched(self, path: str) -> None:
        """A line of the journal on what stands as ``NAME.mismatch`` now."""
        there = version_of(self.root / mismatch_name(path)) if self.keep_mismatched else None
        if there is not None and there != self.aside.get(path) and self.journal is not None:
            self.marks[path] = mark_of(there)
            self.journal.record(set_aside(path, self.marks[path]))

    def publish(self, receipt: Receipt) -> None:
        """Rename the partial file, after one more look at what stands under its name."""
        path = receipt.path
        if path in self.published:
            return
        self.see_that_it_is_there()
        final, partial = self.root / path, partial_of(self.root, path)
        try:
            if token_of(partial.lstat()) != receipt.token and read_again(partial, receipt, receipt.digests, ignore) is None:
                raise WeightkitError(f"{partial} was replaced while weightkit worked; let nothing write there, and start again")
            put(partial, final, self.replaceable.get(path))
        except FileExistsError as error:
            raise PlanError(
                f"{final} was put there or changed while weightkit worked, and is not replaced; move it away and say the same "
                "again: what was made is kept"
            ) from error
        except OSError as error:
            raise cannot_write(final, error) from error
        self.published.add(path)

    def see_that_it_is_there(self) -> None:
        if self.lock is not None and not self.lock.there:
            raise moved(self.root)

    def discard(self, receipt: Receipt) -> None:
        """Remove a staged file: what it was made of is not what it should be."""
        if receipt.path not in self.published:
            partial_of(self.root, receipt.path).unlink(missing_ok=True)
            self.receipts.pop(receipt.path, None)

    def finish(self, lists: Sequence[SmallFile]) -> None:
        """Flush the folders, innermost first; then the lists; then the journal goes."""
        stage = self.stage()
        self.flush(self.published)
        for file in lists:
            self.fingerprints[file.path] = file.fingerprint()
            receipt = self.kept(file, ignore) if file.path in self.receipts else None
            if receipt is None:
                receipt = write_list(stage, file)
                receipt = self.staged(receipt)
            self.publish(receipt)
        self.flush(file.path for file in lists)
        self.see_that_it_is_there()
        if self.journal is not None:
            self.journal.remove()
        self.finished = True

    def flush(self, paths: Iterable[str]) -> None:
        """Send the folders that hold some files to the disk, innermost first."""
        folders = {self.root} | {folder for path in paths for folder in self.above(path)}
        for folder in sorted(folders, key=lambda one: -len(one.parts)):
            try:
                flush_folder(folder)
            except OSError as error:
                raise cannot_write(folder, error) from error

    def above(self, path: str) -> Iterable[Path]:
        """The folders between the root and a file."""
        return (self.root / path).parents[: len(Path(path).parts) - 1]

    def close(self) -> None:
        """Remove partial files that this run made and that no line of the journal stands for; unlock."""
        if self.lock is None:
            return
        try:
            if self.journal is not None and not self.finished:
                self.journal.close()
                for path in self.names if self.lock.there else ():
                    self.remove_unfinished(path)
        finally:
            for lock in reversed(self.below):
                lock.release(unmake=True)
            self.lock.release(unmake=self.journal is None)

    def remove_unfinished(self, path: str) -> None:
        partial = partial_of(self.root, path)
        there, recorded = version_of(partial), self.receipts.get(path)
        if there is None or there == self.partials.get(path):
            return
        if recorded is None or token_of(partial.lstat()) != recorded.token:
            partial.unlink(missing_ok=True)


def mark_of(there: Version) -> str:
    """What tells a file that was set aside from one that somebody else put there, or has changed."""
    return "-".join(f"{one:x}" for one in there[1:4])


def read_again(path: Path, receipt: Receipt, algorithms: Iterable[str], notify: Notify) -> dict[str, Digest] | None:
    """The digests of a file, read once; None where it is not the one that the receipt speaks of."""
    hasher = Hasher(algorithms, receipt.nbytes)
    buffer = memoryview(bytearray(READ_NBYTES))
    try:
        if not path.is_file() or path.stat().st_size != receipt.nbytes:
            return None
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                hasher.update(buffer[:got])
                notify(BytesWritten(receipt.path, got))
    except OSError as error:
        raise WeightkitError(f"{path}: cannot be read: {error.strerror}") from error
    digests = hasher.digests()
    return digests if all(digests[name] == one for name, one in receipt.digests.items()) else None


def write_list(stage: FolderStage, file: SmallFile) -> Receipt:
    """Stage a list of digests."""
    hasher = Hasher([DIGEST])
    hasher.update(file.content)
    with stage.create(file.path, file.nbytes) as out:
        out.write(file.content)
        token = out.seal()
    return Receipt(file.path, file.fingerprint(), file.nbytes, hasher.digests(), token=token)
