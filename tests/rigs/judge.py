"""What is in a folder, and whether it may be there. What an undisturbed run wrote is the measure."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.rigs.child import TRACEBACK, Ending, finished
from tests.rigs.jobs import Job

Digests = dict[str, str]
States = dict[str, tuple[int, ...]]

RIGHT = {"success", "clean refusal", "resumed", "killed", "ended before", "interrupted", "terminated"}
"""The endings that may be, alone or several after each other."""


def digests(folder: Path) -> Digests:
    """SHA-256 of every file in a folder, hidden ones too, by path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def final(found: Mapping[str, str]) -> Digests:
    """Those that stand under a final name: weightkit's own are hidden."""
    return {name: one for name, one in found.items() if not name.rpartition("/")[2].startswith(".")}


def states(folder: Path) -> States:
    """What tells that nobody wrote to, replaced, added or removed a file."""
    found = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        found[str(path)] = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_mode, state.st_nlink)
    return found


def how(ending: Ending, *, right: bool) -> str:
    """An ending in two words.

    Args:
        ending: Of a run.
        right: Whether all it was to write stands there, and nothing else of it.
    """
    if ending.status is None:
        return "HANGS"
    if ending.status < 0:
        return f"DIED of signal {-ending.status}"
    if ending.status == TRACEBACK or "Traceback" in ending.text:
        return "TRACEBACK"
    if ending.status == 0:
        return "success" if right else "WRONG SUCCESS"
    if ending.status == 1 and len(ending.lines) == 1 and ending.text.startswith("weightkit:"):
        return "clean refusal"
    return f"EXIT {ending.status} IN {len(ending.lines)} LINES"


@dataclass(frozen=True, slots=True)
class Measure:
    """What an undisturbed run of a job writes."""

    job: Job
    want: Digests
    nbytes: int
    seconds: float

    def wrong(self, out: Path) -> list[str]:
        """Files under a final name that are not what they should be; each is a find."""
        return [name for name, one in final(digests(out)).items() if self.want.get(name) != one]

    def right(self, out: Path) -> bool:
        """Whether all of it stands there and nothing else: no partial file, journal or lock is left."""
        return digests(out) == self.want

    def resume(self, out: Path) -> str:
        """Say the same command again, undisturbed, and how it ended."""
        ending = finished(self.job.into(out))
        if ending.status == 0 and self.right(out):
            return "resumed"
        if ending.status == 0 and final(digests(out)) == self.want:
            return f"RESUMED WITH REMAINS: {sorted(digests(out).keys() - self.want.keys())}"
        return f"NOT RESUMED ({how(ending, right=False)}): {ending.text[-1500:]}"


def measure(job: Job, out: Path) -> Measure:
    """Run a job undisturbed, in a folder that is removed again.

    Raises:
        RuntimeError: It fails.
    """
    start = time.monotonic()
    ending = finished(job.into(out))
    seconds = time.monotonic() - start
    if ending.status != 0 or not digests(out):
        raise RuntimeError(f"{job.name}: exit {ending.status}: {ending.text}")
    nbytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    found = Measure(job, digests(out), nbytes, seconds)
    shutil.rmtree(out)
    return found


@dataclass
class Tally:
    """What came of many trials of one thing.

    Attributes:
        name: What was tried.
        counts: How often each ending came.
        finds: Every ending that must not be, with what is known of it.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    finds: list[str] = field(default_factory=list)

    def count(self, ending: str, told: str = "") -> None:
        """One ending more; any that is not known to be right is a find."""
        self.counts[ending] += 1
        if not set(ending.split(", ")) <= RIGHT:
            self.finds.append(f"{self.name}: {ending}: {told}")

    def __str__(self) -> str:
        counts = "; ".join(f"{ending}: {count}" for ending, count in sorted(self.counts.items()))
        return "\n".join([f"{self.name}: {counts}", *(f"  FIND {one}" for one in self.finds)])
