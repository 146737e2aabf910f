"""One failing system call at a time, each call of a run in turn; then the same command once more, undisturbed.

    python -m tests.rigs.faults --seed 1 [--jobs recover,merge] [--kinds write,fsync] [--sample 40] [--patched]

A counting run first, then a child for each call and each error that it may fail with. Judged: the answer is the right result,
where no write or flush failed, or exit status 1 with one line; no wrong file stands under a final name; the same command then
ends with the same bytes and leaves nothing of its own; inputs are as they were.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.rigs import broken, inject
from tests.rigs.child import Child, Ending
from tests.rigs.inject import ERRORS, KINDS, Fault, Injector
from tests.rigs.jobs import NAMES, SMALLEST, Job, make_jobs
from tests.rigs.judge import Measure, Tally, how, measure, states

MODULE = "tests.rigs.faults"

NEEDED = {"write", "fsync", "fdatasync"}
"""Calls without which nobody can say that a file is on the disk: there is no success where one has failed."""


def run(job: Job, out: Path, injector: Injector, root: Path, fault: Fault | None) -> Ending:
    """A run with a fault in it."""
    return Child(job.into(out), before=lambda: injector.start(root, fault), after=injector.stop).wait()


def faults_of(job: Job, root: Path, injector: Injector, kinds: Iterable[str], *, from_then_on: bool) -> list[Fault]:
    """Every way in which one call of a run may fail, by a counting run."""
    ending = run(job, root / "out", injector, root, None)
    shutil.rmtree(root / "out")
    counts = ending.facts["counts"]
    return [
        Fault(kind, number, error, from_then_on)
        for kind in kinds
        for number in range(1, counts[kind] + 1)
        for error in ERRORS[kind]
        if not (from_then_on and error == inject.SHORT)
    ]


def trial(whole: Measure, out: Path, injector: Injector, root: Path, fault: Fault) -> tuple[str, str]:
    """One fault: how it ended, and what is to be known if that is a find."""
    ending = run(whole.job, out, injector, root, fault)
    steps = [how(ending, right=whole.right(out))]
    wrong = whole.wrong(out)
    if wrong:
        steps.append(f"WRONG FILE {wrong}")
    if steps == ["success"] and ending.facts.get("where") and fault.kind in NEEDED and fault.error != inject.SHORT:
        steps = ["SUCCESS IN SPITE OF IT"]
    if steps != ["success"]:
        steps.append(whole.resume(out))
    shutil.rmtree(out, ignore_errors=True)
    return ", ".join(steps), f"{fault} at {ending.facts.get('where')}: {ending.text[-1500:]}"


def main() -> int:
    """Run the rig; 0 if it found nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the sample's choice, and of the order")
    parser.add_argument("--sample", type=int, help="so many faults of all jobs together, instead of all")
    parser.add_argument("--jobs", default=",".join(NAMES))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--from-then-on", action="store_true", help="let all later calls of the kind fail, too")
    parser.add_argument("--patched", action="store_true", help="do without the shim")
    broken.option(parser)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        if not said.patched:
            inject.preload(root, MODULE)
        injector = inject.injector()
        (root / "inputs").mkdir()
        jobs = make_jobs(root / "inputs", SMALLEST, said.jobs.split(","), jobs=1)
        before = states(root / "inputs")
        measures = [measure(job, root / "measure") for job in jobs]
        broken.apply(said.broken)
        chosen = []
        for whole in measures:
            faults = faults_of(whole.job, root, injector, said.kinds.split(","), from_then_on=said.from_then_on)
            chosen += [(whole, fault) for fault in faults]
        total = len(chosen)
        random.Random(said.seed).shuffle(chosen)
        tallies = {job.name: Tally(job.name) for job in jobs}
        kinds: Counter[str] = Counter()
        for whole, fault in chosen[: said.sample]:
            ending, told = trial(whole, root / "out", injector, root, fault)
            tally = tallies[whole.job.name]
            known = len(tally.finds)
            tally.count(ending, told)
            kinds[fault.kind] += 1
            for find in tally.finds[known:]:
                print(f"FIND {find}", flush=True)
        for tally in tallies.values():
            print(tally)
        print("by kind: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
        found = sum(len(tally.finds) for tally in tallies.values())
        if states(root / "inputs") != before:
            print("FIND: inputs were changed")
            found += 1
        print(f"{kinds.total()} faults of {total}, through {injector.name}, seed {said.seed}: {found} finds")
    return found > 0


if __name__ == "__main__":
    sys.exit(main())
