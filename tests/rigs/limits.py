"""Runs that the system or somebody stops: a full disk, a quota, a folder that goes, signals, few files, little memory, two at
once, files in the way, a digest that does not hold, an input that is replaced.

    python -m tests.rigs.limits --seed 1 [--jobs recover,merge] [--rounds 3] [--trials quota,signals]

Judged as the other rigs: no wrong file under a final name, one line where a run ends by itself, the same command then ends
with the same bytes; and what the user had in the folder is as it was. A full disk is a tmpfs of its own where this process
may mount one; elsewhere the limit of a file's size stands for it, and the tally says so.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
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

import safetensors.torch
import torch

from tests.rigs import broken
from tests.rigs.child import Child, Ending, finished
from tests.rigs.jobs import NAMES, SMALLEST, Job, make_jobs
from tests.rigs.judge import Measure, Tally, digests, how, measure, states

MINE = "mine.txt"
"""A file of the user's in the output folder."""

MISMATCH = 3
"""The exit status where a digest does not hold."""

WEIGHTS = {".bin", ".pth", ".safetensors"}


def main() -> int:
    """Run the trials; the exit status says whether there were finds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", default=",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trials", default=",".join(trial.__name__ for trial in TRIALS))
    broken.option(parser)
    said = parser.parse_args()
    drawn = random.Random(said.seed)
    with tempfile.TemporaryDirectory(prefix="weightkit-limits-") as place:
        root = Path(place)
        (root / "inputs").mkdir()
        jobs = make_jobs(root / "inputs", SMALLEST, said.jobs.split(","))
        before = states(root / "inputs")
        measures = [measure(job, root / "out") for job in jobs]
        broken.apply(said.broken)
        trials = [trial for trial in TRIALS if trial.__name__ in said.trials.split(",")]
        tallies = [trial(measured, root, drawn, said.rounds) for measured in measures for trial in trials]
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


def put_there_meanwhile(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """The user puts a file of his own under a name that is still to come: it stays, and is told."""
    tally = Tally(f"{measured.job.name}, put there meanwhile")
    for _ in range(rounds):
        out = root / "out"
        child = Child(measured.job.into(out))
        child.until(lambda out=out: (out / ".weightkit-journal").exists())  # type: ignore[misc]
        with stopped(child):
            name = drawn.choice(sorted(measured.want))
            mine = None if child.poll() or (out / name).exists() else in_the_way(out / name)
        ending = child.wait()
        if mine is None:
            tally.count(how(ending, right=measured.right(out)))
        else:
            stays(measured, out, mine, ending, tally)
        shutil.rmtree(out, ignore_errors=True)
    return tally


def there_before(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """The user has a file of one of the names: it is told before anything is touched."""
    tally = Tally(f"{measured.job.name}, there before")
    for _ in range(rounds):
        out = root / "out"
        mine = in_the_way(out / drawn.choice(sorted(measured.want)))
        ending = finished(measured.job.into(out))
        if len(digests(out)) != 1:
            tally.count("SOMETHING WAS WRITTEN", str(sorted(digests(out))))
        stays(measured, out, mine, ending, tally)
        shutil.rmtree(out, ignore_errors=True)
    return tally


def in_the_way(path: Path) -> Path:
    """A file of the user's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


def stays(measured: Measure, out: Path, mine: Path, ending: Ending, tally: Tally) -> None:
    """See that it is as it was; take it away, and say the command again."""
    first = how(ending, right=False)
    if not mine.is_file() or mine.read_text() != "mine":
        tally.count("USER'S FILE LOST", f"{mine}: {ending.text}")
        return
    mine.unlink()
    wrong = measured.wrong(out)
    tally.count(f"WRONG FILE {wrong}" if wrong else f"{first}, {measured.resume(out)}", ending.text)


def mismatched(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """A published digest does not hold: the file does not appear, whoever is to blame."""
    tally = Tally(f"{measured.job.name}, a digest that does not hold")
    for _ in range(0 if "make-diff" in measured.job.words else rounds):
        out, listed = root / "out", root / "list"
        name = drawn.choice(sorted(one for one in measured.want if one.endswith((".bin", ".safetensors"))))
        listed.write_text(f"{hashlib.sha256(b'another').hexdigest()}  {name}\n")
        ending = finished([*measured.job.into(out), "--checksums", str(listed)])
        wrong = measured.wrong(out)
        if (out / name).exists() or ending.status != MISMATCH:
            tally.count("PUBLISHED ALL THE SAME" if (out / name).exists() else f"EXIT {ending.status}", ending.text)
        else:
            tally.count(f"WRONG FILE {wrong}" if wrong else f"clean refusal, {measured.resume(out)}", ending.text)
        shutil.rmtree(out, ignore_errors=True)
    return tally


def another_input(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """Between a killed run and the next an input becomes another one of the same name, size and time."""
    tally = Tally(f"{measured.job.name}, another input")
    for _ in range(rounds):
        out, other, copy = root / "out", root / "other", root / "copy"
        shutil.copytree(root / "inputs", copy)
        words = [word.replace(str(root / "inputs"), str(copy)) for word in measured.job.words]
        job = Job(measured.job.name, tuple(words))
        child = Child(job.into(out))
        child.until(lambda out=out: any(path.suffix in WEIGHTS for path in out.rglob("[!.]*")))  # type: ignore[misc]
        child.kill()
        read = [Path(word) for word in words if word.startswith(str(copy))]
        files = [file for path in read for file in (path.rglob("*") if path.is_dir() else [path]) if file.suffix in WEIGHTS]
        changed(drawn.choice(sorted(files)))
        second, fresh = finished(job.into(out)), finished(job.into(other))
        ending = how(second, right=digests(out) == digests(other)) if second.status != MISMATCH else "clean refusal"
        if ending == "clean refusal" and fresh.status == 0:
            third = finished([*job.into(out), "--overwrite"])
            ending += f", {how(third, right=digests(out) == digests(other))}"
        elif ending == "success" and fresh.status != 0:
            ending = f"SUCCESS WHERE A FRESH RUN ENDS {fresh.status}"
        tally.count(ending, second.text + fresh.text)
        for folder in (out, other, copy):
            shutil.rmtree(folder, ignore_errors=True)
    return tally


def changed(file: Path) -> None:
    """Move the numbers of each tensor on by one place; the file's size and time stay."""
    state = file.stat()
    whole = file.suffix == ".safetensors"
    tensors = safetensors.torch.load_file(file) if whole else torch.load(file, weights_only=True)
    moved = {name: one if "rope" in name else one.flatten().roll(1).reshape(one.shape) for name, one in tensors.items()}
    if whole:
        safetensors.torch.save_file(moved, file, metadata={"format": "pt"})
    else:
        torch.save(moved, file)
    if file.stat().st_size != state.st_size:
        raise RuntimeError(f"{file} has another size now")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def moved_away(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """The output folder is moved away while a run stands still; a second run of it is right, and not harmed by the first."""
    tally = Tally(f"{measured.job.name}, moved away")
    for _ in range(rounds):
        out = root / "out"
        child = Child(measured.job.into(out))
        child.until(lambda out=out: (out / ".weightkit-journal").exists())  # type: ignore[misc]
        with stopped(child):
            out.rename(root / "elsewhere")
            second = Child(measured.job.into(out))
            if drawn.random() < 0.5:
                second.until(lambda out=out: (out / ".weightkit-journal").exists())  # type: ignore[misc]
            else:
                second.until_ended(60)
        first, ending = how(child.wait(), right=True), second.wait()
        tally.count(f"{first}, {how(ending, right=measured.right(out))}", ending.text)
        for folder in (out, root / "elsewhere"):
            shutil.rmtree(folder, ignore_errors=True)
    return tally


def damaged_journal(measured: Measure, root: Path, drawn: random.Random, rounds: int) -> Tally:
    """A bit of the journal of a killed run is flipped: it is not believed, and what is right stays."""
    tally = Tally(f"{measured.job.name}, damaged journal")
    for _ in range(rounds):
        out, whole = root / "out", root / "whole"
        child = Child(measured.job.into(out))
        child.until(lambda out=out: len(list(out.glob("[!.]*"))) > 1)  # type: ignore[misc]
        child.kill()
        if (out / ".weightkit-journal").exists():
            out.rename(whole)
            text = (whole / ".weightkit-journal").read_bytes()
            for _ in range(8):
                shutil.copytree(whole, out)
                damaged = bytearray(text)
                damaged[drawn.randrange(len(text))] ^= 1 << drawn.randrange(8)
                (out / ".weightkit-journal").write_bytes(damaged)
                stood = [name for name in digests(out) if (out / name).name[0] != "."]
                ending = finished(measured.job.into(out))
                lost = [name for name in stood if not (out / name).exists()]
                wrong = measured.wrong(out) + lost
                tally.count(f"WRONG FILE {wrong}" if wrong else how(ending, right=measured.right(out)), ending.text)
                shutil.rmtree(out)
        for folder in (out, whole):
            shutil.rmtree(folder, ignore_errors=True)
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


TRIALS = (
    full_disk, quota, few_files, little_memory, signals, removed, two_at_once, put_there_meanwhile, there_before, mismatched,
    another_input, moved_away, damaged_journal,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
