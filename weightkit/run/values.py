"""What a run says of values that are no numbers, or of differences that are nothing: counted while they were written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from weightkit.core.dtypes import DType
from weightkit.core.errors import WeightkitError
from weightkit.core.lazy import LazyTensor, Stored, leaves
from weightkit.core.passes import blocks
from weightkit.core.probes import ADDED, NOT_FINITE, NOT_ZERO, RECOVERED, NotFinite
from weightkit.run.plan import OutputFile, Plan
from weightkit.run.receipts import Report

__all__ = ["not_finite", "values_notes"]

LARGEST = {"float16": "65504", "bfloat16": "3.39e+38", "float32": "3.4e+38", "float64": "1.8e+308"}
"""Dtype -> its largest number."""

LOOK_NBYTES = 1 << 29
"""How much of the inputs is read once more at most, to tell what they held already."""

Counts = Mapping[str, Mapping[str, int]]


def not_finite(report: Report, probe: str = NOT_FINITE) -> dict[str, dict[str, int]]:
    """Tensor name -> how many elements are infinite, how many NaN; where all are numbers, nothing."""
    return {name: n for receipt in report.receipts for name, n in receipt.found.get(probe, {}).items()}


def values_notes(plan: Plan, report: Report) -> list[str]:
    """What is said of infinities, NaN and zeros that came by."""
    notes = []
    if counts := not_finite(report):
        of = " of the difference" if plan.job == "make-diff" else ""
        notes.append(f"{counted(counts, of)}: {cause(plan, counts)}")
    if counts := not_finite(report, RECOVERED):
        nan = any(one["nan"] for one in counts.values())
        bits = ", and which bits a NaN has is the processor's affair: RELEASE.sha256 may not hold elsewhere" if nan else ""
        notes.append(f"{counted(counts, ' that recovering gives')}: whoever recovers gets no number there{bits}")
    return notes + zeros(plan, report)


def counted(counts: Counts, of: str = "") -> str:
    """``w and 2 more tensors: 3 elements are infinite and 1 is NaN``."""
    first, more = next(iter(counts)), len(counts) - 1
    others = f" and {more} more tensor{'s' * (more > 1)}" if more else ""
    found = [(sum(one[kind] for one in counts.values()), word) for kind, word in (("infinite", "infinite"), ("nan", "NaN"))]
    (n, word), *rest = [(n, word) for n, word in found if n]
    text = f"{n} element{'s' * (n > 1)}{of} {are(n)} {word}"
    return f"{first}{others}: " + " and ".join([text, *(f"{n} {are(n)} {word}" for n, word in rest)])


def are(n: int) -> str:
    """The verb."""
    return "is" if n == 1 else "are"


def cause(plan: Plan, counts: Counts) -> str:
    """Where they come from, and what to do. Inputs are looked at again, a bounded part of them."""
    tensors = written(plan)
    found = [tensors[name] for name in counts if name in tensors]
    total = sum(one["infinite"] + one["nan"] for one in counts.values())
    large = too_large(plan.job, found[0].spec.dtype, total) if found else "a value is too large"
    first, held, whole = held_by_inputs(found)
    if first is None:
        return large if whole else f"{large}, or an input was so already"
    text = f"{first.blob.name} holds such values already, in {first.name}: look whether that download is whole"
    return text if held >= total else f"{text}; or {large}"


def too_large(job: str, dtype: DType, count: int) -> str:
    """What became too large for its type."""
    what = {"convert": "a value is", "make-diff": "it is" if count == 1 else "they are"}.get(job, "a sum is")
    text = f"{what} larger than {dtype} holds ({LARGEST.get(dtype.name, 'its largest number')})"
    if dtype.name == "float16":
        return f"{text}; --dtype float32 holds more"
    return f"{text}: no weights are so large; look at the inputs" if dtype.name in LARGEST else text


def written(plan: Plan) -> dict[str, LazyTensor]:
    """By name, what fills the tensors that a plan writes; those that lie in a run of others first come alone."""
    found: dict[str, LazyTensor] = {}
    for file in plan.files:
        if isinstance(file, OutputFile):
            for item in file.layout.items:
                at = 0
                for tensor in file.tensors[item.run]:
                    if at == item.offset:
                        found[item.name] = tensor
                        break
                    at += tensor.spec.numel
    return found


def held_by_inputs(tensors: Iterable[LazyTensor]) -> tuple[Stored | None, int, bool]:
    """The first input that has infinities or NaN itself, how many they have in all, and whether all was looked at."""
    first, count, left = None, 0, LOOK_NBYTES
    for leaf in leaves(tensors):
        left -= leaf.spec.nbytes
        if left < 0:
            return first, count, False
        look = NotFinite().begin(leaf.spec)
        try:
            for (block,) in blocks([leaf]):
                look(block)
        except WeightkitError:  # it has changed since, or is gone: nothing can be said of it
            return first, count, False
        if found := look.found():
            first, count = first or leaf, count + sum(found.values())
    return first, count, True


def zeros(plan: Plan, report: Report) -> list[str]:
    """A note, where a difference is zero everywhere."""
    seen = {one.path: one.found for one in report.receipts}
    files = [file for file in plan.files if isinstance(file, OutputFile)]
    for probe in (NOT_ZERO, ADDED):
        looked = [file for file in files if any(one.probe.name == probe for one in file.watched)]
        number = sum(len(file.layout.items) for file in looked)
        if not number or len(looked) < len(files) or any(seen.get(file.path, {}).get(probe, True) for file in looked):
            continue
        if probe == NOT_ZERO:
            what = f"the difference is zero in all {number} tensors: --raw and --tuned have the same values"
            return [f"{what}; see that they name two models"]
        what = f"the diff is zero in all {number} tensors: what comes out has the base's values"
        return [f"{what}; see that the file is the one that was published"]
    return []
