"""Runs that the system stops: a full disk, a quota, a folder that goes, signals, few files, little memory, two at once.

    python -m tests.rigs.limits --seed 1 [--jobs recover,merge] [--rounds 3]

Judged as the other rigs: no wrong file under a final name, one line where a run ends by itself, the same command then ends
with the same bytes; and what the user had in the folder is as it was. A full disk is a tmpfs of its own where this process
may mount one; elsewhere the limit of a file's size stands for it, and the tally says so.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.rigs.child import Child, Ending, finished
from tests.rigs.jobs import NAMES, SMALLEST, make_jobs
from tests.rigs.judge import Measure, Tally, digests, how, measure, states

MINE = "mine.txt"
"""A file of the user's in the output folder."""


def main() -> int:
    """Run the trials; the exit status says whether there were finds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=1)
    said = parser.parse_args()
    drawn = random.Random(said.seed)
    with tempfile.TemporaryDirectory(prefix="weightkit-limits-") as place:
        root = Path(place)
        (root / "inputs").mkdir()
        jobs = make_jobs(root / "inputs", SMALLEST, said.jobs.split(","))
        before = states(root / "inputs")
        tallies = []
        for job in jobs:
            measured = measure(job, root / "out")
            tallies += [trial(measured, root, drawn, said.rounds) for trial in TRIALS]
        changed = sorted(set(before.items()) ^ set(states(root / "inputs").items()))
    for tally in tallies:
        print(tally)
    finds = [find for tally in tallies for find in tally.finds] + [f"input changed: {one}" for one in changed]
    count = sum(sum(tally.counts.values()) for tally in tallies)
    print(f"{count} limits, seed {said.seed}: {len(finds)} finds")
    return bool(finds)


def judged(measured: Measure, out: Path, ending: Ending, tally: Tally, *, may_die_of: int = 0) -> None:
    """Look at the folder, take away what was in the way, say the command again, and count."""
    mine = out / MINE
    kept = mine.is_file()
    if kept:
        mine.unlink()
    wrong = measured.wrong(out) if out.is_dir() else []
    first = how(ending, right=out.is_dir() and measured.right(out))
    if may_die_of and ending.status == -may_die_of:
        first = "terminated"
    elif ending.status == 130:
        first = "interrupted"
    told = ending.text[-1000:]
    if wrong:
        tally.count("WRONG FILE", f"{wrong}: {told}")
    elif not kept:
        tally.count("USER'S FILE LOST", told)
    elif first == "success":
        tally.count(first)
    else:
        tally.count(f"{first}, {measured.resume(out)}", told)
    shutil.rmtree(out, ignore_errors=True)


def begun(out: Path) -> Path:
    """An output folder in which the user has a file."""
    out.mkdir()
    (out / MINE).write_text("mine")
    return out


def full_disk(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """The disk is full after a part of what is to be written; then there is room."""
    mounts = mounted(root / "disk", 1 << 20) is not None
    tally = Tally(f"{measured.job.name}, full disk{'' if mounts else ' (RLIMIT_FSIZE in its place)'}")
    if not mounts:
        return limited(
            tally, measured, root, rounds, resource.RLIMIT_FSIZE, lambda: drawn.randrange(4096, measured.nbytes // 4)
        )
    unmounted(root / "disk")
    for _ in range(rounds):
        room = (16 << 20) + 2 * measured.nbytes  # more than the plan asks for; somebody else fills the disk then
        disk = mounted(root / "disk", room)
        assert disk is not None
        out = begun(disk / "out")
        filler = disk / "filler"
        child = Child(measured.job.into(out))
        child.until(lambda out=out: (out / ".weightkit-journal").exists())  # type: ignore[misc]
        child.send(signal.SIGSTOP)
        left = drawn.randrange(0, measured.nbytes)
        with contextlib.suppress(OSError), filler.open("wb") as file:
            free = shutil.disk_usage(disk).free
            file.truncate(0)
            for _ in range(max(0, free - left) >> 12):
                file.write(bytes(4096))
        child.send(signal.SIGCONT)
        ending = child.wait()
        filler.unlink(missing_ok=True)
        judged(measured, out, ending, tally)
        unmounted(disk)
    return tally


def mounted(place: Path, nbytes: int) -> Path | None:
    """A disk of so many bytes; None where this process may not mount one."""
    place.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "weightkit-rig", str(place)]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
    except OSError:
        return None
    return place if done.returncode == 0 else None


def unmounted(place: Path) -> None:
    subprocess.run(["umount", str(place)], check=True, capture_output=True)


def limited(tally: Tally, measured: Measure, root: Path, rounds: int, what: int, limit: Callable[[], int]) -> Tally:
    """Run under a limit of the system."""
    for _ in range(rounds):
        out, value = begun(root / "out"), limit()

        def under(value: int = value) -> None:
            resource.setrlimit(what, (value, resource.getrlimit(what)[1]))

        judged(measured, out, finished(measured.job.into(out), before=under), tally)
    return tally


def quota(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """No file may be larger than a part of the largest."""
    tally = Tally(f"{measured.job.name}, RLIMIT_FSIZE")
    return limited(tally, measured, root, rounds, resource.RLIMIT_FSIZE, lambda: drawn.randrange(2048, measured.nbytes // 4))


def few_files(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """Few files may be open."""
    tally = Tally(f"{measured.job.name}, RLIMIT_NOFILE")
    return limited(tally, measured, root, rounds, resource.RLIMIT_NOFILE, lambda: drawn.randrange(8, 40))


def little_memory(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """The address space has little room beside what the process has already. A death inside a library is no find: nothing
    of the user's may be lost by it.
    """
    tally = Tally(f"{measured.job.name}, RLIMIT_AS")
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for _ in range(rounds):
        out, value = begun(root / "out"), now + drawn.randrange(1 << 20, 64 << 20)

        def under(value: int = value) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (value, resource.getrlimit(resource.RLIMIT_AS)[1]))

        ending = finished(measured.job.into(out), before=under)
        if ending.status is not None and (ending.status < 0 or ending.status not in (0, 1)):
            ending = Ending(-signal.SIGKILL, ending.text)
        judged(measured, out, ending, tally, may_die_of=signal.SIGKILL)
    return tally


def signals(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """INT, TERM and HUP at a random moment."""
    tally = Tally(f"{measured.job.name}, signals")
    for number in [one for _ in range(rounds) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]:
        out = begun(root / "out")
        child = Child(measured.job.into(out))
        child.until(lambda out=out: (out / ".weightkit-journal").exists())  # type: ignore[misc]
        time.sleep(drawn.random() * measured.seconds / 2)
        child.send(number)
        judged(measured, out, child.wait(), tally, may_die_of=number)
    return tally


def removed(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """The output folder is removed, with all that is in it, while the run is under way."""
    tally = Tally(f"{measured.job.name}, removed folder")
    for _ in range(rounds):
        out = root / "out"
        child = Child(measured.job.into(out))
        child.until(lambda out=out: (out / ".weightkit-journal").exists())  # type: ignore[misc]
        with stopped(child):
            shutil.rmtree(out, ignore_errors=True)
        ending = child.wait()
        if not out.is_dir():
            begun(out)  # nothing of the user's was there; the same command makes the folder again
        else:
            (out / MINE).write_text("mine")
        judged(measured, out, ending, tally)
    return tally


def two_at_once(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """A second run with the same folder: it is refused, and the first is not harmed."""
    tally = Tally(f"{measured.job.name}, two at once")
    for _ in range(rounds):
        out = begun(root / "out")
        child = Child(measured.job.into(out))
        reached = child.until(lambda out=out: (out / ".weightkit-journal").exists())  # type: ignore[misc]
        time.sleep(drawn.random() * measured.seconds / 4)
        with stopped(child):
            alive = not child.poll()
            there = digests(out)
            second = finished(measured.job.into(out)) if alive else None
            if second is not None and digests(out) != there:
                tally.count("THE SECOND RUN TOUCHED SOMETHING", second.text)
        if second is not None and reached:
            tally.count(how(second, right=False) if second.status else "THE SECOND RUN WAS LET IN", second.text)
        judged(measured, out, child.wait(), tally)
    return tally


def at_rest(pid: int) -> bool:
    """Whether all threads of a process stand still: a call under way is first finished."""
    try:
        states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return True
    return set(states) <= {"T", "Z", "X"}


@contextlib.contextmanager
def stopped(child: Child) -> Iterator[None]:
    """The child stands still meanwhile."""
    child.send(signal.SIGSTOP)
    child.until(lambda: at_rest(child.pid), 5)
    yield
    child.send(signal.SIGCONT)


TRIALS = (full_disk, quota, few_files, little_memory, signals, removed, two_at_once)

if __name__ == "__main__":
    sys.exit(main())
