"""The publisher's side: a base and a tuned model give a diff, proved to restore the model as it is written.

import weightkit.diff
weightkit.diff.make_diff("llama-7b", "my-tuned-7b", "my-diff")
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit.checkpoints import Checkpoint, open_checkpoint
from weightkit.checkpoints.output import Form, has_tokenizer, output_files, small_files
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.lazy import LazyTensor, derive
from weightkit.methods.pairing import Rules, pair
from weightkit.ops.add import Add, Cast, Subtract
from weightkit.ops.compare import CountChanged, Tally
from weightkit.recover import dtypes, nan_problems
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import SUMS_ONLY, carry_out, check_out
from weightkit.run.executors.threads import Report
from weightkit.run.plan import Plan, Twin

__all__ = ["RELEASE_SUMS", "Made", "carry", "make_diff", "plan", "prepare"]

RELEASE_SUMS = "RELEASE.sha256"
"""Digests of what ``recover`` will give; written beside the diff, to be published with it."""


@dataclass(frozen=True, slots=True)
class Made:
    """A diff that was made.

    Attributes:
        plan: What was to be written.
        report: What was.
        tallies: Tensor name -> how many of its elements come back with other bits than the tuned model has in the diff's
            dtype.
    """

    plan: Plan
    report: Report
    tallies: dict[str, Tally]

    @property
    def elements(self) -> int:
        """Elements in all."""
        return sum(tally.elements for tally in self.tallies.values())

    @property
    def changed(self) -> int:
        """Elements that do not come back."""
        return sum(tally.changed for tally in self.tallies.values())


def plan(
    base: Checkpoint, tuned: Checkpoint, rules: Rules | None = None, form: Form | None = None
) -> tuple[Plan, dict[str, Tally]]:
    """Decide all that will be written, with the recovery beside it as a twin of each file.

    Returns:
        The plan, and the tallies that will be filled as it is carried out.

    Raises:
        PlanError: Base and tuned model do not fit.
    """
    rules, form = rules or Rules(), form or Form()
    pairs = pair(base, tuned, rules, other_is="tuned model")
    change: dict[str, LazyTensor] = {}
    restored: dict[str, LazyTensor] = {}
    tallies = {name: Tally() for name in pairs.base}
    for name, below in pairs.base.items():
        stored = tuned.tensors[name]
        dtype = rules.dtype_of(name, stored.spec)
        try:
            if below is not None:
                change[name] = derive(Subtract(dtype), below, stored)
                back: LazyTensor = derive(Add(dtype), below, change[name])
            else:
                back = change[name] = stored if dtype == stored.spec.dtype else derive(Cast(dtype), stored)
            restored[name] = derive(CountChanged(tallies[name]), back, stored)
        except ValueError as error:
            pairs.problems.append(f"{name}: {error}")
    problems = pairs.problems + nan_problems(base, "base") + nan_problems(tuned, "tuned model")
    if problems:
        raise PlanError(f"{base.path} and {tuned.path} do not fit together:", problems)
    try:
        files = output_files(tuned, change, form, pairs.notes)
    except ValueError as error:
        raise PlanError(f"{tuned.path}: {error}") from error
    by_change = {id(change[name]): restored[name] for name in reversed(change)}
    files = tuple(
        replace(
            file,
            twin=Twin(file.encoding, tuple(tuple(by_change[id(one)] for one in run) for run in file.tensors)),
        )
        for file in files
    )
    small = small_files(tuned, tuned, tuned if has_tokenizer(tuned) else base, files, change, form)
    steps = (f"tuned - base, {len(change)} tensors, in {dtypes(change)}", "recovered again in the same pass, and compared")
    return Plan("make-diff", steps, files, small, tuple(pairs.notes)), tallies


def make_diff(
    raw: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rules: Rules | None = None,
    form: Form | None = None,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    notify: Notify = ignore,
) -> Made:
    """Write ``tuned - base`` in the form of the tuned model's files, with the digests of what recovering gives.

    Bit-exact: one subtraction an element. ``base + (tuned - base)`` is not always ``tuned``; how often it is not is
    counted bit by bit, and ``RELEASE.sha256`` holds the digests of what comes back, not of the tuned files.

    Args:
        raw: The base: a transformers folder.
        tuned: The tuned model: a transformers folder.
        out: The folder to write; made if it is not there.
        rules: What base and tuned model are cast to, and what rows are that the base lacks.
        form: What the files are to be.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        notify: Told what happens.

    Raises:
        PlanError: The inputs do not fit together, or there is no room.
        FormatError: An input is damaged.
    """
    planned, tallies = prepare(raw, tuned, out, rules=rules, form=form)
    return carry(planned, tallies, out, jobs=jobs, max_memory=max_memory, overwrite=overwrite, notify=notify)


def prepare(
    raw: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rules: Rules | None = None,
    form: Form | None = None,
) -> tuple[Plan, dict[str, Tally]]:
    """Open the inputs and plan; touches nothing. Raises like ``make_diff``."""
    check_out(Path(out), [("--raw", Path(raw)), ("--tuned", Path(tuned))])
    return plan(open_checkpoint(Path(raw), "--raw"), open_checkpoint(Path(tuned), "--tuned"), rules, form)


def carry(
    planned: Plan,
    tallies: dict[str, Tally],
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    notify: Notify = ignore,
) -> Made:
    """Carry out what ``prepare`` planned. Arguments, result and errors are those of ``make_diff``."""
    done = carry_out(
        planned,
        Path(out),
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        lists={RELEASE_SUMS: lambda receipt: (receipt.twin or receipt.digests)["sha256"], **SUMS_ONLY},
        notify=notify,
    )
    return Made(done.plan, done.report, tallies)
