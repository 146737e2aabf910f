"""SIGKILL at random moments; afterwards every file is compared with an undisturbed run's, and the same command resumes.

    python -m tests.rigs.kills --kills 40 --seed 1 [--jobs recover,merge] [--small]

A run is killed after a random part of its time, or once so many files stand. After every second kill the resumed run is killed,
too. Before every third resumption that ends, half of one file that stands is made zeros, as a power cut may leave it.
Judged: no wrong file under a final name at any moment; the resumed run ends with the same bytes and leaves nothing of its own;
what stood whole is kept; inputs are as they were.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.rigs import broken
from tests.rigs.child import Child
from tests.rigs.jobs import LARGER, NAMES, SMALLEST, make_jobs
from tests.rigs.judge import Measure, Tally, digests, final, how, measure, states

EARLY = 0.15
"""Of kills, how many may come before the run has written anything."""


@dataclass
class Kills:
    """Trials of one job.

    Attributes:
        measure: What an undisturbed run wrote.
        random: Decides the moments.
        tally: What came of it: an ending for each kill.
        before_work: Kills at which nothing of the run stood yet.
        kept: Bytes under final names that resumed runs kept, by inode.
        again: Bytes under final names that they made again.
        torn: How many files were torn.
    """

    measure: Measure
    random: random.Random
    tally: Tally = field(init=False)
    before_work: int = 0
    kept: int = 0
    again: int = 0
    torn: int = 0

    def __post_init__(self) -> None:
        self.tally = Tally(self.measure.job.name)

    @property
    def kills(self) -> int:
        """How many runs were killed so far."""
        return self.tally.counts["killed"]

    def trial(self, out: Path, most: int) -> None:
        """Kill runs into one folder, one after another, then let one end."""
        while self.kills < most:
            if not self.kill(out):
                return
            if self.random.random() < 0.5:
                break
        stood = {path: (path.stat().st_ino, path.stat().st_size) for path in self.named(out)}
        torn = self.tear(out, list(stood))
        ending = self.measure.resume(out)
        self.tally.count(ending, f"{torn} was torn" if torn else "")
        for path, (inode, nbytes) in stood.items():
            if path.exists() and path.stat().st_ino == inode:
                self.kept += nbytes
            elif path != torn:
                self.again += nbytes
                self.tally.count("A WHOLE FILE MADE AGAIN", path.name)

    def tear(self, out: Path, stood: list[Path]) -> Path | None:
        """Spoil one of some files, at times; once there is no journal, all is on the disk for good."""
        if not stood or not (out / ".weightkit-journal").exists() or self.random.random() >= 1 / 3:
            return None
        path = self.random.choice(sorted(stood))
        nbytes = path.stat().st_size
        if not nbytes:
            return None
        with path.open("r+b") as file:
            file.seek(nbytes // 2)
            file.write(bytes(nbytes - nbytes // 2))
        self.torn += 1
        return path

    def kill(self, out: Path) -> bool:
        """One run, killed at a moment; whether it was still at work then."""
        child = Child(self.measure.job.into(out))
        journal = out / ".weightkit-journal"
        early = self.random.random() < EARLY
        if not early:
            child.until(journal.exists)
        if not early and self.random.random() < 0.3:
            wanted = self.random.randint(1, len(self.measure.want))
            child.until(lambda: len(self.named(out)) >= wanted)
        else:
            child.until(lambda: False, self.random.random() * self.measure.seconds)
        ending = child.kill()
        if ending.status == -signal.SIGKILL:
            self.tally.count("killed")
            self.before_work += not digests(out)
        else:  # it was quicker
            self.tally.count(
                "ended before" if how(ending, right=self.measure.right(out)) == "success" else "FAILED", ending.text
            )
        for name in self.measure.wrong(out):
            self.tally.count("WRONG FILE", name)
        return ending.status == -signal.SIGKILL

    def named(self, out: Path) -> list[Path]:
        """Files under final names."""
        return [out / name for name in final(dict.fromkeys(self.paths(out), ""))]

    def paths(self, out: Path) -> list[str]:
        return [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]


def main() -> int:
    """Run the rig; 0 if it found nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="for each job")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", default=",".join(NAMES))
    parser.add_argument("--small", action="store_true", help="small inputs, so that a run is over at once")
    broken.option(parser)
    said = parser.parse_args()
    names = said.jobs.split(",")
    found = killed = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "inputs").mkdir()
        jobs = make_jobs(root / "inputs", SMALLEST if said.small else LARGER, names)
        before = states(root / "inputs")
        measures = [measure(job, root / "measure") for job in jobs]
        broken.apply(said.broken)
        for whole in measures:
            kills = Kills(whole, random.Random(f"{said.seed} {whole.job.name}"))
            number = 0
            while kills.kills < said.kills:
                number += 1
                kills.trial(root / "out", said.kills)
                shutil.rmtree(root / "out", ignore_errors=True)
            print(
                f"{kills.tally}; before any work: {kills.before_work}; bytes kept: {kills.kept}, made again: {kills.again}; "
                f"torn: {kills.torn}; {whole.nbytes} bytes in {len(whole.want)} files, {whole.seconds:.2f} s",
                flush=True,
            )
            found += len(kills.tally.finds)
            killed += kills.kills
        if states(root / "inputs") != before:
            print("FIND: inputs were changed")
            found += 1
    print(f"{killed} kills, seed {said.seed}: {found} finds")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
