"""The ledger of a folder that looks complete: everything is made again, compared with what stands there, and nothing written.

A finished folder says nothing of what it was made of, and a hidden file that did would be uploaded with it, or be missing, or
lie. What is made from the inputs as they are now is the only proof, and it is refused at the first byte that differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from weightkit import manifests
from weightkit.blobs import open_local
from weightkit.core.blob import Blob
from weightkit.core.buffers import Buffer
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.core.events import Notify
from weightkit.run.ledgers.stage import token_of
from weightkit.run.plan import Output, Plan, SmallFile
from weightkit.run.receipts import Receipt, Standing

__all__ = ["Compared", "looks_complete"]


def looks_complete(root: Path, plan: Plan, lists: Sequence[str]) -> bool:
    """Whether all files and lists stand in a folder, with the sizes and small contents planned, the last SUMS naming them all.

    Nothing large is read; whether the files are right is seen when they are compared.
    """
    sums = [one for one in lists if one.endswith("SUMS")]
    if not sums or not plan.everything:
        return False
    paths = [*(file.path for file in plan.everything), *lists]
    try:
        if not all((root / path).is_file() and not (root / path).is_symlink() for path in paths):
            return False
        if any(file.exact and (root / file.path).stat().st_size != file.nbytes for file in plan.everything):
            return False
        if any((root / file.path).read_bytes() != file.content for file in plan.small):
            return False
        listed = {entry.path for entry in manifests.read(root / sums[-1])}
    except (OSError, FormatError):
        return False
    return listed - set(lists) == {file.path for file in plan.everything}


class Standard:
    """A file that stands, read in step with what is made."""

    def __init__(self, path: Path, name: str, file: BinaryIO) -> None:
        self.path, self.name, self.file = path, name, file
        self.at = 0

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        try:
            found = self.file.read(len(view))
        except OSError as error:
            raise WeightkitError(f"{self.path}: cannot be read: {error.strerror}") from error
        if found != view:
            raise self.differs()
        self.at += len(view)

    def seal(self) -> str:
        if self.file.read(1):
            raise self.differs()
        return token_of(self.path.lstat())

    def set_aside(self) -> None:
        """It stays where it is."""

    def differs(self) -> PlanError:
        return PlanError(
            f"{self.path} is there already, is not what this command makes (at or after byte {self.at}), and would be "
            "replaced; name another --out, or say --overwrite"
        )


@dataclass(frozen=True, slots=True)
class ComparingStage:
    """A ``Stage`` on which nothing is written."""

    root: Path

    @contextmanager
    def create(self, path: str, nbytes: int | None) -> Iterator[Standard]:
        """Read along in the file that stands under the name."""
        final = self.root / path
        try:
            file = final.open("rb")
        except OSError as error:
            raise WeightkitError(f"{final}: cannot be read: {error.strerror}") from error
        with file:
            yield Standard(final, path, file)


class Compared:
    """A ``Ledger`` of a folder that another one holds locked."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, plan: Plan, lists: Sequence[str]) -> Standing:
        """Nothing is to be taken up."""
        return Standing(whole=True)

    def kept(self, file: Output, notify: Notify) -> Receipt | None:
        """No file has a receipt."""
        return None

    def stage(self) -> ComparingStage:
        """Where files are compared."""
        return ComparingStage(self.root)

    def staged(self, receipt: Receipt) -> Receipt:
        """It is what stood there."""
        return replace(receipt, kept=True)

    def stored(self, path: str) -> Blob:
        """What stands there."""
        return open_local(self.root / path)

    def publish(self, receipt: Receipt) -> None:
        """It has its name."""

    def mismatched(self, path: str) -> None:
        """It stays where it is."""

    def discard(self, receipt: Receipt) -> None:
        """It stays: it is not this run's."""

    def finish(self, lists: Sequence[SmallFile]) -> None:
        """The lists are compared, too."""
        for file in lists:
            with self.stage().create(file.path, file.nbytes) as standard:
                standard.write(file.content)
                standard.seal()

    def close(self) -> None:
        """Nothing was begun."""
