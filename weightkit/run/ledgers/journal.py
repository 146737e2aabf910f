"""``.weightkit-journal``: what a run under way has made, so that one that was killed is taken up where it stopped.

    {"weightkit": "0.1.0", "plan": {"model-00001-of-00002.safetensors": "<fingerprint>", ...}}
    {"path": "model-00001-of-00002.safetensors", "fingerprint": ..., "digests": {...}, ...}      a receipt a line

A receipt is flushed before its file is published. The last one of a path counts; a line that was being written when the run
was killed counts for nothing. A journal belongs to a plan if any file of weights was planned as it is now.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from weightkit import __version__
from weightkit.run.ledgers.durable import flush, flush_folder
from weightkit.run.ledgers.stage import cannot_write, partial_name
from weightkit.run.receipts import Receipt

__all__ = ["JOURNAL", "Journal", "Recorded", "read_journal"]

JOURNAL = ".weightkit-journal"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a journal says.

    Attributes:
        planned: Path -> fingerprint, of the files of weights that were planned.
        receipts: Path -> the last receipt of it.
    """

    planned: Mapping[str, str]
    receipts: Mapping[str, Receipt]

    def of(self, fingerprints: Mapping[str, str]) -> bool:
        """Whether it is the journal of a plan with these files of weights: any of them was planned so."""
        return any(self.planned.get(path) == one for path, one in fingerprints.items())


def read_journal(root: Path) -> Recorded | None:
    """The journal of a folder; None where there is none, or none that this version could have written.

    Raises:
        ValueError: It is damaged.
    """
    try:
        if not stat.S_ISREG((root / JOURNAL).lstat().st_mode):
            raise ValueError("it is no regular file")
        first, *lines = (root / JOURNAL).read_bytes().splitlines() or [b""]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror) from error
    try:
        head = json.loads(first)
    except RecursionError as error:
        raise ValueError("its first line is nested too deep") from error
    match head:
        case {"weightkit": str(version), "plan": dict(planned)} if all(isinstance(one, str) for one in planned.values()):
            pass
        case {"plan": str()}:  # written before the version was
            return None
        case _:
            raise ValueError("its first line names no plan")
    if version != __version__:
        return None
    receipts: dict[str, Receipt] = {}
    for line in lines:
        try:
            receipt = Receipt.decode(line)
        except ValueError:
            continue
        receipts[receipt.path] = receipt
    return Recorded(planned, receipts)


class Journal:
    """The journal of the run under way, open for more.

    Args:
        root: The folder that it lies in.
        fingerprints: Path -> fingerprint, of the files of weights that are planned.
        receipts: What is known from before, and stays.

    Raises:
        WeightkitError: It cannot be written.
    """

    def __init__(self, root: Path, fingerprints: Mapping[str, str], receipts: Iterable[Receipt]) -> None:
        self.path = root / JOURNAL
        fresh = root / partial_name(JOURNAL)
        head = json.dumps({"weightkit": __version__, "plan": dict(fingerprints)})
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            fresh.unlink(missing_ok=True)
            self.descriptor = os.open(fresh, flags, 0o666)
            try:
                self.append([head, *(one.encode() for one in receipts)])
                fresh.replace(self.path)
                flush_folder(root)
            except BaseException:
                fresh.unlink(missing_ok=True)
                self.close()
                raise
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def append(self, lines: Iterable[str]) -> None:
        for line in lines:
            view = memoryview(f"{line}\n".encode())
            while view:
                view = view[os.write(self.descriptor, view) :]
        flush(self.descriptor)

    def record(self, receipt: Receipt) -> None:
        """Write a receipt down; it is on the disk when this returns."""
        try:
            self.append(["\n" + receipt.encode()])  # whatever a full disk left of the line before
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave it there for the next try."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)
