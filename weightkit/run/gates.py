"""What must hold before anything is published: digests of inputs, as Meta's ``checklist.chk``, the MD5 of the original files.

The check runs in threads of its own while the weights are converted, over pages that are in memory for both. Small files are
hashed before any work is done. A file that is whole before the check is through waits on the stage.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from weightkit import catalog, manifests
from weightkit.blobs import Place, folder_at
from weightkit.core.blob import Blob, Extent, Folder
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import DigestMismatch, FormatError, PlanError
from weightkit.core.events import BytesChecked, Notify, ignore
from weightkit.core.passes import AHEAD_NBYTES
from weightkit.run.receipts import Receipt

__all__ = ["CHECKLIST", "SMALL_NBYTES", "Checklist", "Gate", "Inputs", "Original"]

CHECKLIST = "checklist.chk"
READ_NBYTES = 1 << 20
SMALL_NBYTES = 16 << 20
"""Files up to this size are hashed before any work."""

LARGEST_LIST = 1 << 20


class Gate(Protocol):
    """Something that must hold before anything is published. Asked before work and between files."""

    def passed(self, receipt: Receipt) -> None:
        """Take in what a receipt says of the inputs."""

    def ask(self, wait: bool) -> bool:
        """Whether it holds; False: it is not known yet, which is no answer with ``wait``.

        Raises:
            DigestMismatch: It does not.
        """


@dataclass(frozen=True, slots=True)
class Original:
    """An input, and the digests of which it must have one.

    Attributes:
        blob: The file.
        digests: Several where the file was published several times.
        reason: What it is if it has none of them, and what to do.
        needed: Whether nothing is published if it has none of them. Else that is said, and the results' digests decide.
    """

    blob: Blob
    digests: tuple[Digest, ...]
    reason: str
    needed: bool = True


class Inputs:
    """The ``Gate`` of some files; hashes beside the run from ``with`` on.

    Attributes:
        others: Those that have none of their digests and need not, with what was found.
    """

    def __init__(self, originals: Sequence[Original], notify: Notify = ignore) -> None:
        self.originals = sorted(originals, key=lambda one: one.blob.nbytes)
        self.notify = notify
        self.others: dict[Original, DigestMismatch] = {}
        self.stop = threading.Event()
        self.pool = ThreadPoolExecutor(2)
        self.hashed: list[tuple[Original, Future[Mapping[str, Digest]]]] = []

    def __enter__(self) -> Self:
        self.hashed = [(one, self.pool.submit(self.hash, one)) for one in self.originals]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop.set()
        self.pool.shutdown(cancel_futures=True)

    @property
    def nbytes(self) -> int:
        """How many bytes are read for it, beside what the run reads."""
        return sum(one.blob.nbytes for one in self.originals if not settled(one))

    def hash(self, original: Original) -> Mapping[str, Digest]:
        """The digests of a file; of no use once the run has ended."""
        blob = original.blob
        if settled(original):
            return {one.algorithm: one for one in blob.stated}
        hasher = Hasher((one.algorithm for one in original.digests), blob.nbytes)
        with blob.ahead([Extent(0, blob.nbytes)], AHEAD_NBYTES) if blob.nbytes > SMALL_NBYTES else nullcontext():
            for start in range(0, blob.nbytes, READ_NBYTES):
                if self.stop.is_set():
                    raise CancelledError
                taken = blob.read(start, min(start + READ_NBYTES, blob.nbytes))
                hasher.update(taken)
                self.notify(BytesChecked(blob.name, len(taken)))
        blob.check()
        return hasher.digests()

    def passed(self, receipt: Receipt) -> None:
        """Nothing: what is listed is hashed here, whatever went by in the run."""

    def ask(self, wait: bool) -> bool:
        """Whether all files are the originals, as far as they are hashed; small ones are waited for."""
        known = True
        for original, future in self.hashed:
            if not (wait or original.blob.nbytes <= SMALL_NBYTES or settled(original) or future.done()):
                known = False
                continue
            actual = future.result()
            if any(actual[one.algorithm] == one for one in original.digests):
                continue
            error = another(original, actual)
            if original.needed:
                raise error
            self.others[original] = error
        return known


def settled(original: Original) -> bool:
    """Whether a large file's place states the digest, so that a pass uses no byte of it before that holds: nothing to read."""
    stated = {one.algorithm for one in original.blob.stated}
    return original.blob.nbytes > SMALL_NBYTES and all(one.algorithm in stated for one in original.digests)


def another(original: Original, actual: Mapping[str, Digest]) -> DigestMismatch:
    """A file that has none of its digests; which published file it is instead, where the catalog knows it."""
    wanted = original.digests[0]
    known = (place for digest in actual.values() for place in catalog.by_digest().get(digest, ()))
    named = next((f"it is {file} of {release}; " for release, file in known), "")
    found = actual[wanted.algorithm]
    return DigestMismatch(original.blob.name, wanted.algorithm, wanted.hex, found.hex, named + original.reason)


class Checklist(Inputs):
    """The ``Gate`` of a folder of Meta's.

    tokenizer.model may stand in the folder above, as in Meta's own tree.

    Args:
        place: The folder.
        notify: Told of bytes read.

    Raises:
        PlanError: There is no checklist, or a file that it lists is missing.
    """

    def __init__(self, place: Place, notify: Notify = ignore) -> None:
        self.folder = folder = folder_at(place, "--verify-raw")
        if not folder.holds(CHECKLIST):
            raise PlanError(f"--verify-raw: {folder.name} has no {CHECKLIST}; leave it out, or fetch the file")
        super().__init__(originals(folder, folder.blob(CHECKLIST)), notify)

    def covers(self, used: set[Blob]) -> None:
        """See that it names every file of the folder that a run reads.

        Raises:
            PlanError: It does not: what holds would say nothing of the weights.
        """
        listed = {one.blob.version for one in self.originals}
        read = {name: blob for name in self.folder.names() if (blob := self.folder.blob(name)) in used}
        bare = [name for name, blob in read.items() if blob.version not in listed]
        if bare:
            raise PlanError(
                f"--verify-raw: {CHECKLIST} of {self.folder.name} has no digest of {', '.join(bare[:4])}, which is read: it "
                "would prove nothing of the weights; leave it out, or fetch Meta's own list"
            )

    def held(self) -> str:
        """What was checked, for people."""
        names = sorted(one.blob.name.rpartition("/")[2] for one in self.originals)
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return f"--verify-raw: {CHECKLIST} holds for {', '.join(names[:4])}{more}"


def originals(folder: Folder, listed: Blob) -> list[Original]:
    """The files of a checklist.

    Raises:
        PlanError: One is missing.
        FormatError: It is no list.
    """
    if listed.nbytes > LARGEST_LIST:
        raise FormatError(listed.name, f"has {listed.nbytes} bytes: no list of Meta's")
    try:
        text = bytes(listed.read(0, listed.nbytes)).decode()
    except UnicodeDecodeError as error:
        raise FormatError(listed.name, "is no text in UTF-8") from error
    found = []
    for entry in manifests.parse(text, Path(listed.name)):
        places = [place for place in (folder, folder.above()) if place is not None and place.holds(entry.path)]
        if not places:
            raise PlanError(f"--verify-raw: {folder.name}/{entry.path} is in {CHECKLIST} and not there")
        reason = f"it is not the file that Meta published, by {listed.name}; download it again"
        found.append(Original(places[0].blob(entry.path), (entry.digest,), reason))
    return found
