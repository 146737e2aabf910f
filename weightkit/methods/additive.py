"""Additive differences, as of Stanford Alpaca, KnowLM/ZhiXi and Vicuna: ``base + diff``, one addition an element.

Bit-exact but for NaN: see ``ops.add``. A diff may hold rows of the vocabulary, or whole tensors, that the base lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.beside import beside_notes
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.flavour import SAMPLE, already_holds, flavour, values
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.huggingface import HUGGINGFACE
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.output import has_tokenizer
from weightkit.core.blob import Folder
from weightkit.core.errors import PlanError
from weightkit.core.lazy import Derived, LazyTensor, derive
from weightkit.core.probes import ADDED, RECOVERED, Changed, NotFinite, NotZero
from weightkit.methods import Evidence
from weightkit.methods.base import bfloat16_notes, check_configs, nan_problems, opened, without_gaps
from weightkit.methods.pairing import Pairs, Rules, pair
from weightkit.ops.add import Add, Cast, Subtract
from weightkit.run.plan import OutputFile, Plan, Twin, Watched

__all__ = ["METHOD", "Additive", "Options", "suspected"]


@dataclass(frozen=True, slots=True)
class Options(Rules):
    """What may be said of an additive difference.

    Attributes:
        config_from: Whose config.json and generation_config.json go along.
        tokenizer_from: Whose tokenizer files; None for the diff's, or the base's if it has none.
        allow_tuned_base: Whether a base that looks tuned already may be used.
    """

    config_from: Literal["base", "diff"] = "diff"
    tokenizer_from: Literal["base", "diff"] | None = None
    allow_tuned_base: bool = False


@dataclass(frozen=True, slots=True)
class Additive:
    """The method."""

    name: str = "additive"
    role: str = "--diff"
    settles: bool = False
    options: type[Options] = Options

    def recognise(self, payload: Folder) -> Evidence | None:
        """What is nothing else may be a difference to be added; whether it is, its norms say when it is opened."""
        return Evidence("an additive difference", "nothing in it speaks of another kind", sure=False)

    def rebuild(self, base: Model, payload: Folder, options: Options) -> Model:
        """The sum, which follows the diff in its files."""
        base, diff = opened(base), without_gaps(open_checkpoint(payload, self.role), self.role)
        own = of(base)
        contradicting = check_configs(base, diff, allow_tuned_base=options.allow_tuned_base)
        pairs = pair(own, diff, options, other_is="diff")
        release: dict[str, LazyTensor] = {}
        adding = {dtype: Add(dtype) for dtype in {options.dtype_of(name, diff.spec(name)) for name in pairs.base}}
        for name, below in pairs.base.items():
            stored = diff.tensors[name]
            dtype = options.dtype_of(name, stored.spec)
            try:
                release[name] = derive(adding[dtype], below, stored) if below is not None else options.cast(name, stored)
            except ValueError as error:
                pairs.problems.append(f"{name}: {error}")
        refuse_misfits(pairs, own, diff, "diff")
        check_flavours(base, diff, allow_tuned_base=options.allow_tuned_base)
        tokenizers = diff if has_tokenizer(diff) else own
        if options.tokenizer_from:
            tokenizers = own if options.tokenizer_from == "base" else diff
        return replace(
            base,
            tensors=release,
            follows=diff,
            configs=own if options.config_from == "base" else diff,
            tokenizers=tokenizers,
            steps=(*base.steps, f"diff + base, {len(release)} tensors, in {dtypes(release)}"),
            notes=(*base.notes, *pairs.notes, *contradicting, *bfloat16_notes(own), *beside_notes(own), *beside_notes(diff)),
        )

    def make(self, base: Model, tuned: Model, options: Options, form: Form) -> Plan:
        """The difference in the form of the tuned model's files, with the recovery beside it as a twin of each file."""
        own, whole = of(opened(base)), of(opened(tuned))
        pairs = pair(own, whole, options, other_is="tuned model")
        change: dict[str, LazyTensor] = {}
        restored: dict[str, LazyTensor] = {}
        wanted: dict[str, LazyTensor] = {}
        for name, below in pairs.base.items():
            stored = whole.tensors[name]
            dtype = options.dtype_of(name, stored.spec)
            try:
                if below is not None:
                    change[name] = derive(Subtract(dtype), below, stored)
                    restored[name] = derive(Add(dtype), below, change[name])
                else:
                    restored[name] = change[name] = options.cast(name, stored)
                wanted[name] = options.cast(name, stored)
            except ValueError as error:
                pairs.problems.append(f"{name}: {error}")
        refuse_misfits(pairs, own, whole, "tuned model")
        model = replace(
            opened(tuned),
            tensors=change,
            tokenizers=whole if has_tokenizer(whole) else own,
            notes=(*pairs.notes, *beside_notes(own), *beside_notes(whole)),
        )
        try:
            written = HUGGINGFACE.write(model, form)
        except ValueError as error:
            raise PlanError(f"{whole.name}: {error}") from error
        files = tuple(proved(file, change, restored, wanted) for file in written.files)
        steps = (f"tuned - base, {len(change)} tensors, in {dtypes(change)}", "recovered again in the same pass, and compared")
        return Plan("make-diff", steps, files, written.small, (*model.notes, *written.notes))


def proved(
    file: OutputFile,
    change: Mapping[str, LazyTensor],
    restored: Mapping[str, LazyTensor],
    wanted: Mapping[str, LazyTensor],
) -> OutputFile:
    """A file of the difference with what recovering gives beside it, counted against the tuned model bit by bit."""
    back = {change[name]: (restored[name], wanted[name]) for name in reversed(list(change))}
    pairs = tuple(tuple(back[one] for one in run) for run in file.tensors)
    twin = Twin(file.encoding, tuple(tuple(one[0] for one in run) for run in pairs))
    recovered = Watched(NotFinite(RECOVERED), tuple(tuple((one[0],) for one in run) for run in pairs))
    return replace(file, twin=twin, watched=(Watched(Changed(), pairs), recovered)).watched_by(NotFinite(), NotZero())


def suspected(files: tuple[OutputFile, ...]) -> tuple[OutputFile, ...]:
    """Files of sums; where every difference in them begins with zeros, with the differences looked at on the way.

    Others are not: a look costs a block more of memory.
    """
    added = [tuple(tuple(difference(one) for one in run) for run in file.tensors) for file in files]
    for one in (one for file in added for run in file for one in run):
        sample = values(one, SAMPLE) if one is not None else None
        if sample is None or sample.any():
            return files
    looked = [tuple(tuple((one,) for one in run if one is not None) for run in file) for file in added]
    looks = (Watched(NotZero(ADDED), one) for one in looked)
    return tuple(replace(file, watched=(*file.watched, look)) for file, look in zip(files, looks, strict=True))


def difference(tensor: LazyTensor) -> LazyTensor | None:
    """What was added to a base; what stands whole is its own. None where more was done to it."""
    if not isinstance(tensor, Derived) or isinstance(tensor.op, Cast):
        return tensor
    return tensor.inputs[1] if isinstance(tensor.op, Add) else None


def of(model: Model) -> Checkpoint:
    """The checkpoint that an opened model is."""
    if model.follows is None:
        raise PlanError(f"{model.source.name}: is no checkpoint")
    return model.follows


def refuse_misfits(pairs: Pairs, base: Checkpoint, other: Checkpoint, other_is: str) -> None:
    """Refuse what does not fit.

    Raises:
        PlanError: Something does not; every misfit is in it.
    """
    problems = pairs.problems + nan_problems(base, "base") + nan_problems(other, other_is)
    if problems:
        raise PlanError(f"{base.name} and {other.name} do not fit together:", problems)


def dtypes(tensors: Mapping[str, LazyTensor]) -> str:
    """The dtypes that occur, the most frequent first."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.spec.dtype.name] = counts.get(tensor.spec.dtype.name, 0) + 1
    return ", ".join(sorted(counts, key=lambda name: (-counts[name], name)))


def check_flavours(base: Model, diff: Checkpoint, *, allow_tuned_base: bool) -> None:
    """Refuse a base that is a diff or tuned already, and a diff that is a model.

    Raises:
        PlanError: One of them is.
    """
    own = of(base)
    base_is, diff_is = flavour(own), flavour(diff)
    if diff_is and diff_is.is_model:
        raise PlanError(
            f"--diff {diff.name} is a whole model, not a diff: {diff_is.positive:.0%} of its norm weights are positive, their "
            "mean is far from 0; use it as it is, or name the diff"
        )
    if base_is and base_is.is_diff:
        raise PlanError(
            f"{base.role} {own.name} is itself a diff, not a model: only {base_is.positive:.0%} of its norm weights are "
            "positive; name the original weights"
        )
    reason = "" if allow_tuned_base else tuned_already(own, diff)
    if reason:
        raise PlanError(
            f"{base.role} {own.name} is already tuned: {reason}; name the original weights, or say --allow-tuned-base "
            "if this diff was made against a tuned model"
        )


def tuned_already(base: Checkpoint, diff: Checkpoint) -> str:
    """Why the base looks like the result already; empty where it does not."""
    if already_holds(base, diff):
        return "less the diff its norm weights are rounder numbers than as they are"
    added = [number for number in diff.json("added_tokens.json").values() if type(number) is int]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if not added or name not in base.tensors or name not in diff.tensors:
            continue
        rows = base.spec(name).shape[0]
        if diff.spec(name).shape[0] == rows > min(added):
            return f"its {name} has row {min(added)} already, a token that the diff adds (added_tokens.json)"
    return ""


METHOD: Any = Additive()
