"""``.weightkit-journal``: what a run under way has made, so that one that was killed is taken up where it stopped.

    9f86d081884c7d65 {"weightkit": "0.1.0", "plan": {"model-00001-of-00002.safetensors": "<fingerprint>", ...}}
    60303ae22b998861 {"path": "model-00001-of-00002.safetensors", "fingerprint": ..., "digests": {...}, ...}

A receipt a line, each after the first digits of its own SHA-256, and flushed before its file is published. The last one of a
path counts; a line that was being written when the run was killed, or is damaged, counts for nothing. A journal belongs to a
plan if any file of weights was planned as it is now.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weightkit import __version__
from weightkit.run.ledgers.durable import flush, flush_folder
from weightkit.run.ledgers.stage import cannot_write, partial_name
from weightkit.run.receipts import Receipt

__all__ = ["JOURNAL", "Journal", "Recorded", "read_journal", "sealed", "set_aside", "unsealed"]

JOURNAL = ".weightkit-journal"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a journal says.

    Attributes:
        planned: Path -> fingerprint, of the files of weights that were planned.
        receipts: Path -> the last receipt of it.
        damaged: How many whole lines count for nothing.
        aside: Path -> the mark of what was kept of it as ``NAME.mismatch``.
    """

    planned: Mapping[str, str]
    receipts: Mapping[str, Receipt]
    damaged: int = 0
    aside: Mapping[str, str] = field(default_factory=dict)

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
        first, *lines = (root / JOURNAL).read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror) from error
    try:
        head = json.loads(unsealed(first))
    except ValueError as error:
        raise ValueError("its first line is not as it was written") from error
    match head:
        case {"weightkit": str(version), "plan": dict(planned)}:
            pass
        case _:
            raise ValueError("its first line names no plan")
    if version != __version__:
        return None
    receipts: dict[str, Receipt] = {}
    aside: dict[str, str] = {}
    damaged = 0
    for number, line in enumerate(lines, 1):
        try:
            text = unsealed(line)
            match json.loads(text):
                case {"aside": str(path), "mark": str(mark)}:
                    aside[path] = mark
                    continue
            receipt = Receipt.decode(text)
        except (ValueError, RecursionError):
            damaged += line != b"" and number < len(lines)  # the last one has no end: it was being written
            continue
        receipts[receipt.path] = receipt
    return Recorded(planned, receipts, damaged, aside)


def sealed(text: str) -> bytes:
    """A line of a journal."""
    return f"{seal_of(text.encode())} {text}\n".encode()


def unsealed(line: bytes) -> bytes:
    """What was sealed.

    Raises:
        ValueError: It is not as it was written.
    """
    seal, _, text = line.partition(b" ")
    if seal != seal_of(text).encode():
        raise ValueError("not as it was written")
    return text


def seal_of(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def set_aside(path: str, mark: str) -> str:
    """What a journal says of a file that was kept as ``NAME.mismatch``."""
    return json.dumps({"aside": path, "mark": mark})


class Journal:
    """The journal of the run under way, open for more.

    Args:
        root: The folder that it lies in.
        fingerprints: Path -> fingerprint, of the files of weights that are planned.
        receipts: What is known from before, and stays.
        aside: What was kept as ``NAME.mismatch``, by path.

    Raises:
        WeightkitError: It cannot be written.
    """

    def __init__(
        self, root: Path, fingerprints: Mapping[str, str], receipts: Iterable[Receipt], aside: Mapping[str, str]
    ) -> None:
        self.path = root / JOURNAL
        fresh = root / partial_name(JOURNAL)
        head = json.dumps({"weightkit": __version__, "plan": dict(fingerprints)})
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            fresh.unlink(missing_ok=True)
            self.descriptor = os.open(fresh, flags, 0o666)
            try:
                lines = [head, *(one.encode() for one in receipts), *(set_aside(path, mark) for path, mark in aside.items())]
                self.append(map(sealed, lines))
                fresh.replace(self.path)
                flush_folder(root)
            except BaseException:
                fresh.unlink(missing_ok=True)
                self.close()
                raise
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def append(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            view = memoryview(line)
            while view:
                view = view[os.write(self.descriptor, view) :]
        flush(self.descriptor)

    def record(self, line: str) -> None:
        """Write a receipt down, or what was set aside; it is on the disk when this returns."""
        try:
            self.append([b"\n" + sealed(line)])  # whatever a full disk left of the line before
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
