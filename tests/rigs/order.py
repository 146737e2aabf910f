"""What a power cut may not overtake, by the order of a run's system calls: what no kill of a process can show.

    python -m tests.rigs.order [--jobs recover,merge]

The preloaded shim writes down all calls of an undisturbed run; without a C compiler there is nothing to see. Judged: a file's
bytes are on the disk before the journal has its receipt, the receipt before the file has its name, all names before the list
that says so, that before the journal goes; and of a new folder, the name in the one above it before the journal is begun.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.rigs import broken, inject
from tests.rigs.child import Child
from tests.rigs.inject import Shim, calls
from tests.rigs.jobs import NAMES, SMALLEST, Job, make_jobs
from tests.rigs.judge import measure, states

MODULE = "tests.rigs.order"
JOURNAL = ".weightkit-journal"
LISTS = {"TENSORS", "SHA256SUMS", "RELEASE.sha256"}
RECEIPT = '{"path": "'


class Disk:
    """What would outlive a power cut, call by call.

    Attributes:
        finds: What came too early.
        named: How many files were given a final name.
    """

    def __init__(self, root: Path, lists: frozenset[str]) -> None:
        self.root, self.lists = root, lists
        self.dirty: set[Path] = set()
        self.waiting: dict[Path, set[str]] = {}
        self.receipts: set[str] = set()
        self.finds: list[str] = []
        self.named = 0

    @property
    def journal(self) -> Path:
        """Its path."""
        return self.root / JOURNAL

    def see(self, kind: str, path: Path, more: str) -> None:
        """One call."""
        if kind == "write":
            self.dirty.add(path)
            if path == self.journal:
                self.recorded(more)
        elif kind in ("fsync", "fdatasync"):
            self.dirty.discard(path)
            self.waiting.pop(path, None)
        elif kind == "mkdir":
            self.waiting.setdefault(path.parent, set()).add(path.name)
        elif kind in ("link", "rename"):
            self.given(Path(more), path)
        elif kind == "unlink" and path == self.journal:
            self.must_be(not self.pending(), f"the journal goes, and names in {self.pending()} may not last")

    def recorded(self, line: str) -> None:
        """A receipt."""
        name = line.partition(RECEIPT)[2].partition('"')[0]
        if name:
            final = self.root / name
            partial = final.with_name(f".{final.name}.partial")
            self.must_be(partial not in self.dirty, f"the journal has {name}, whose bytes may not last")
            self.receipts.add(name)

    def given(self, source: Path, path: Path) -> None:
        """A name."""
        self.must_be(source not in self.dirty, f"{path.name} has its name, and its bytes may not last")
        if path == self.journal:
            self.must_be(self.root.parent not in self.waiting, "there is a journal, and its folder's name may not last")
        elif not path.name.startswith("."):
            name = path.relative_to(self.root).as_posix()
            self.named += 1
            self.must_be(self.journal not in self.dirty, f"{name} has its name, and its receipt may not last")
            self.must_be(name in self.receipts, f"{name} has its name and no receipt")
            self.must_be(JOURNAL not in self.waiting.get(self.root, ()), f"{name} has its name, the journal's may not last")
            if name in self.lists:
                others = self.pending(but=self.lists)
                self.must_be(not others, f"{name} is there, and names in {others} may not last")
        self.waiting.setdefault(path.parent, set()).add(path.name)

    def pending(self, but: Iterable[str] = ()) -> list[str]:
        """The folders in which a name may not last."""
        return sorted(folder.name for folder, names in self.waiting.items() if names - set(but))

    def must_be(self, right: bool, otherwise: str) -> None:
        """Judge."""
        if not right:
            self.finds.append(otherwise)


def trial(job: Job, root: Path, out: Path, lists: frozenset[str]) -> Disk:
    """Watch one run."""
    shim, log = Shim(), os.memfd_create("calls")

    def before() -> None:
        shim.write_down(log)
        shim.start(root, None)

    ending = Child(job.into(out), before=before, after=shim.stop).wait()
    disk = Disk(out, lists)
    if ending.status != 0:
        disk.finds.append(ending.text)
    for kind, path, more in calls(os.pread(log, os.lseek(log, 0, os.SEEK_END), 0)):
        disk.see(kind, Path(path), more)
    os.close(log)
    shutil.rmtree(out)
    return disk


def main() -> int:
    """Run the rig; 0 if it found nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of no effect: nothing is drawn")
    parser.add_argument("--jobs", default=",".join(NAMES))
    broken.option(parser)
    said = parser.parse_args()
    found = named = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        inject.preload(root, MODULE)
        if inject.SHIM not in os.environ:
            print("no C compiler: nothing can be seen")
            return 0
        (root / "inputs").mkdir()
        jobs = make_jobs(root / "inputs", SMALLEST, said.jobs.split(","), jobs=1)
        measures = [measure(job, root / "measure") for job in jobs]
        before = states(root / "inputs")
        broken.apply(said.broken)
        for whole in measures:
            lists = frozenset(whole.want.keys() & LISTS)
            disk = trial(whole.job, root, root / "new" / "out", lists)
            files = len(whole.want)
            if disk.named != files:
                disk.finds.append(f"{disk.named} names were given, and {files} files stand")
            print(f"{whole.job.name}: {disk.named} files, {len(lists)} of them lists, {len(disk.finds)} finds", flush=True)
            for find in disk.finds:
                print(f"  FIND {find}")
            found += len(disk.finds)
            named += disk.named
        if states(root / "inputs") != before:
            print("FIND: inputs were changed")
            found += 1
    print(f"{named} files in order, {found} finds")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
