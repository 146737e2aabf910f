"""The publisher's side: a base and a tuned model give a diff, proved to restore the model as it is written.

import weightkit.diff
weightkit.diff.make_diff("llama-7b", "my-tuned-7b", "my-diff")
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit.blobs import Place
from weightkit.checkpoints.form import Form
from weightkit.core.arguments import as_nbytes, raise_first, telling
from weightkit.core.dtypes import DType
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.lazy import Derived
from weightkit.core.probes import NOT_FINITE, RECOVERED, Changed
from weightkit.methods import changed, method_named, options_for
from weightkit.methods.base import based, opened
from weightkit.methods.pairing import Rules
from weightkit.ops.add import Cast, rounds
from weightkit.proof.completeness import whole_base, whole_source
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import SUMS_ONLY, Done, carry_out, check_out
from weightkit.run.plan import OutputFile, Plan
from weightkit.run.values import not_finite

__all__ = ["RELEASE_SUMS", "Form", "Made", "Rules", "Tally", "carry", "make_diff", "prepare"]

RELEASE_SUMS = "RELEASE.sha256"
"""Digests of what ``recover`` will give; written beside the diff, to be published with it."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Elements of one tensor, and how many of them come back with other bits."""

    elements: int
    changed: int


@dataclass(frozen=True, slots=True, repr=False)
class Made(Done):
    """A diff that was made."""

    @property
    def tallies(self) -> dict[str, Tally]:
        """Tensor name -> how many of its elements come back with other bits than the tuned model has in the diff's dtype."""
        found = (receipt.found.get("changed", {}) for receipt in self.report.receipts)
        return {name: Tally(**counts) for one in found for name, counts in one.items()}

    @property
    def not_finite(self) -> int:
        """Elements of the difference, and of what recovering gives, that are infinite or NaN."""
        found = (not_finite(self.report, probe) for probe in (NOT_FINITE, RECOVERED))
        return sum(sum(counts.values()) for one in found for counts in one.values())

    @property
    def rounded_to(self) -> DType | None:
        """The type that tensors of the tuned model were rounded to before they were subtracted; None where none was."""
        looks = [look for file in self.plan.files if isinstance(file, OutputFile) for look in file.watched]
        runs = (run for look in looks if isinstance(look.probe, Changed) for run in look.tensors or ())
        casts = (one for run in runs for _, one in run if isinstance(one, Derived) and isinstance(one.op, Cast))
        return next((one.spec.dtype for one in casts if rounds(one.inputs[0].spec.dtype, one.spec.dtype)), None)

    @property
    def elements(self) -> int:
        """Elements in all."""
        return sum(tally.elements for tally in self.tallies.values())

    @property
    def changed(self) -> int:
        """Elements that do not come back."""
        return sum(tally.changed for tally in self.tallies.values())


def make_diff(
    raw: Place,
    tuned: Place,
    out: str | os.PathLike[str],
    *,
    method: str = "additive",
    converter: str | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    progress: bool = False,
    raise_on_mismatch: bool = False,
    notify: Notify = ignore,
) -> Made:
    """Write what rebuilds a tuned model from its base.

    ``additive`` is ``tuned - base`` in the form of the tuned model's files: bit-exact, one subtraction an element.
    ``base + (tuned - base)`` is not always ``tuned``; how often it is not is counted bit by bit, and ``RELEASE.sha256`` holds
    the digests of what comes back, not of the tuned files. Of an ``exact`` difference the tuned files come back byte for byte.

    >>> made = weightkit.make_diff("base", "tuned", "my-diff", rules=weightkit.diff.Rules(dtype="float32"))
    >>> made.ok, made.elements > 0
    (True, True)

    Args:
        raw: The base, in any layout.
        tuned: The tuned model.
        out: The folder to write; made if it is not there.
        method: ``additive``, ``exact``, or that of another package.
        converter: Whose conversion a base in Meta's layout stands for; whoever recovers must name the same.
        rules: What base and tuned model are cast to, and what rows are that the base lacks.
        form: What the files are to be.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names may be replaced.
        keep_mismatched: Whether a file with another digest than wanted is kept as ``NAME.mismatch``, to be examined.
        progress: Whether a bar is drawn, in a terminal or a notebook.
        raise_on_mismatch: Whether a digest that does not hold is raised, the others as its notes, and not only reported.
        notify: Told what happens.

    Raises:
        DigestMismatch: A digest does not hold, and ``raise_on_mismatch`` was said.
        PlanError: The inputs do not fit together, or there is no room.
        FormatError: An input is damaged.
        WeightkitError: zstd, which exact differences need, is not installed.
    """
    planned = prepare(raw, tuned, out, method=method, converter=converter, rules=rules, form=form)
    with telling("making the diff", notify, progress) as notify:
        made = carry(
            planned,
            out,
            jobs=jobs,
            max_memory=as_nbytes(max_memory),
            overwrite=overwrite,
            keep_mismatched=keep_mismatched,
            notify=notify,
        )
    if raise_on_mismatch:
        raise_first(made.report.mismatches)
    return made


def prepare(
    raw: Place,
    tuned: Place,
    out: str | os.PathLike[str],
    *,
    method: str = "additive",
    converter: str | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
) -> Plan:
    """Open the inputs and plan; touches nothing. Raises like ``make_diff``."""
    sources = check_out(Path(out), [("--raw", raw), ("--tuned", tuned)])
    try:
        chosen = method_named(method)
    except ValueError as error:
        raise PlanError(f"--method: {error}") from error
    rules, form = rules or Rules(), form or Form()
    said = changed(rules, form) if chosen.settles else changed(rules)
    refusal = f"--method {method} keeps every bit of TUNED: it goes with none of the options on tensors and files"
    options = options_for(chosen, said, refusal)
    model = based(tuned, "--tuned")
    if (read := opened(model).follows) is not None:
        whole_source(read)
    made = chosen.make(whole_base(based(raw, "--raw", converter)), model, options, form)
    return replace(made, sources=sources)


def carry(
    planned: Plan,
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    notify: Notify = ignore,
) -> Made:
    """Carry out what ``prepare`` planned. Arguments, result and errors are those of ``make_diff``."""
    lists = dict(SUMS_ONLY)
    if any(file.twin for file in planned.files):
        lists = {RELEASE_SUMS: lambda receipt: (receipt.twin or receipt.digests)["sha256"], **SUMS_ONLY}
    done = carry_out(
        planned,
        Path(out),
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        keep_mismatched=keep_mismatched,
        lists=lists,
        notify=notify,
    )
    return Made(done.plan, done.report, done.stood)
