"""The base that every method begins with: named, then opened by whoever needs its tensors."""

from __future__ import annotations

from dataclasses import replace

from weightkit.blobs import Place, folder_at
from weightkit.checkpoints import converter_for, open_checkpoint
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.evidence import (
    contradictions,
    dtype_notes,
    like_llama_one,
    llama_two_marks,
    mostly_bfloat16,
    named_llama,
)
from weightkit.checkpoints.flavour import fits_bfloat16, nothing_but_nan
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter
from weightkit.checkpoints.peft_config import CONFIG
from weightkit.checkpoints.quantized import left_over_notes, original_of, quantized
from weightkit.checkpoints.shards import BY_NUMBERS, gaps
from weightkit.core.errors import Incomplete, PlanError
from weightkit.families.converters import DEFAULT_CONVERTER

__all__ = [
    "based",
    "bfloat16_notes",
    "check_adapter",
    "check_configs",
    "nan_problems",
    "opened",
    "opened_from",
    "refuse_conversion",
    "refuse_quantized",
    "without_gaps",
]

BASES = ("--raw", "--base", "--key")
"""What a base is to the caller."""


def based(place: Place, role: str, converter: str | None = None) -> Model:
    """A base that nobody has looked into yet.

    Args:
        place: Where it is.
        role: What it is to the caller, for messages: ``--raw``.
        converter: Whose conversion it stands for where it is in another layout than transformers'; None for the default.

    Raises:
        PlanError: There is nothing, or the converter is not known.
    """
    return Model(folder_at(place, role), role, converter_for(converter or DEFAULT_CONVERTER))


def opened(model: Model) -> Model:
    """The model with its tensors.

    A base that lacks files is no fault in what was published: it is refused as what does not fit is.

    Raises:
        Incomplete: It is a tuned model, and files that belong to it are missing.
        PlanError: It is no checkpoint, or its files are settled already: nothing is merged into those.
        FormatError: A file of it is damaged.
    """
    if model.files is not None:
        raise PlanError(
            f"{model.source.name}: its files come out as they were published, so nothing is merged into them on the way; "
            "merge the result"
        )
    if model.tensors is not None:
        return model
    try:
        return opened_from(model, without_gaps(open_checkpoint(model.source, model.role, model.converter), model.role))
    except Incomplete as error:
        if model.role not in BASES:
            raise
        raise PlanError(error.text()) from error


def without_gaps(checkpoint: Checkpoint, role: str) -> Checkpoint:
    """A checkpoint in shards, if none is missing by the numbers in their names: an index may have been cut with them.

    Raises:
        Incomplete: One is.
    """
    missing = [] if checkpoint.folder.single else gaps(checkpoint.format, checkpoint.files)
    if missing:
        raise Incomplete(f"{role}: {checkpoint.name}", missing, BY_NUMBERS)
    return checkpoint


def opened_from(model: Model, checkpoint: Checkpoint) -> Model:
    """The model with the tensors of a checkpoint, which it follows in everything."""
    return replace(model, tensors=checkpoint.tensors, follows=checkpoint, configs=checkpoint, tokenizers=checkpoint)


def refuse_quantized(base: Checkpoint, role: str) -> None:
    """Refuse quantized weights: nothing can be added to what their integers stand for.

    Raises:
        PlanError: They are.
    """
    if (found := quantized(base)) is not None:
        name = original_of(base)
        original = f"the original, {name} by its config," if name else "the original (unquantized) model"
        raise PlanError(
            f"{role} {base.name} is {found}: nothing is added to quantized weights; take {original} and quantize the result"
        )


def refuse_conversion(source: Checkpoint, role: str) -> None:
    """Refuse to cast quantized weights, or to lay them out otherwise: their integers would no longer be what their scales mean.

    Raises:
        PlanError: They are quantized.
    """
    if (found := quantized(source)) is not None:
        name = original_of(source)
        original = f"the original, {name} by its config" if name else "the original (unquantized) model"
        raise PlanError(
            f"{role} {source.name} is {found}: its weights are copied as they are (--to hf without --dtype), not cast or laid "
            f"out otherwise; take {original}"
        )


def refuse_another_kind(base: Checkpoint, role: str, diff: Checkpoint) -> None:
    """Refuse a base that is quantized where the diff is not, or otherwise, and a diff that is.

    Raises:
        PlanError: One of them is.
    """
    here, there = quantized(base), quantized(diff)
    if here is not None and (there is None or here.method != there.method):
        refuse_quantized(base, role)
    if there is not None and here is None:
        raise PlanError(
            f"--diff {diff.name} is {there}: a quantized model is no difference; use it as it is, or name the diff of "
            "the original"
        )


def check_configs(base: Model, diff: Checkpoint, *, allow_tuned_base: bool) -> list[str]:
    """What the configs of base and diff say against each other, as notes.

    Refused is what is surely wrong: a base that is quantized where the diff is not, LLaMA-2 under a diff of LLaMA 1 (two marks
    of it in the base's config, none in the diff's), LLaMA 1 rounded to bfloat16. A single mark may be left over from something
    else: a note.

    Raises:
        PlanError: The base is surely another than the diff's.
    """
    own = base.follows
    if own is None:
        return []
    refuse_another_kind(own, base.role, diff)
    here, there = own.json("config.json"), diff.json("config.json")
    notes = [*left_over_notes(own), *left_over_notes(diff), *dtype_notes(own)]
    marks = llama_two_marks(here)
    if marks and there and not llama_two_marks(there):
        what = f"{base.role} {own.name} looks like LLaMA-2 ({', '.join(marks)} in its config), and the diff's config does not"
        if len(marks) > 1 and not allow_tuned_base:
            raise PlanError(f"{what}: the sum would be of two models; take LLaMA 1, or say --allow-tuned-base if it is right")
        notes.append(what)
    notes += [f"{one} in the diff's: of two models, perhaps" for one in contradictions(here, there)]
    if mostly_bfloat16(own) and not mostly_bfloat16(diff):
        what = f"{own.name}: is stored as bfloat16, and the diff is not"
        if like_llama_one(here) and not allow_tuned_base:
            raise PlanError(
                f"{what}: LLaMA 1 was published in float16, so its values were rounded on the way and the sum is not the "
                "release; take a base in float16, or say --allow-tuned-base if the diff was made against this one"
            )
        notes.append(f"{what}: if the original was float16, its values were rounded and no published digest can come out")
    return notes


def check_adapter(base: Model, adapter: Adapter, *, allow_tuned_base: bool) -> list[str]:
    """What the configs of a base and of an adapter merged into it say against each other, as notes.

    Refused is LLaMA-2 (two marks of it in the base's config) under an adapter that names a repository of LLaMA 1. The other way
    round is a note: the first configs of LLaMA-2 were those of LLaMA 1. A name that may be a path says nothing.

    Raises:
        PlanError: The base is surely another than the adapter's.
    """
    own = base.follows
    if own is None:
        return []
    config, notes = own.json("config.json"), [*left_over_notes(own), *dtype_notes(own)]
    name = adapter.folder.json(CONFIG).get("base_model_name_or_path")
    trained_on, marks = named_llama(name), llama_two_marks(config)
    if trained_on == 1 and marks:
        what = f"{base.role} {own.name} looks like LLaMA-2 ({', '.join(marks)} in its config), and {adapter.name} says it was "
        what += f"trained on LLaMA 1 ({name})"
        if len(marks) > 1 and not allow_tuned_base:
            raise PlanError(f"{what}: take that, or say --allow-tuned-base if the base is right")
        notes.append(what)
    if trained_on == 2 and not marks and like_llama_one(config):
        notes.append(
            f"{base.role} {own.name} looks like LLaMA 1 by its config (2048 positions), and {adapter.name} says it was trained "
            f"on LLaMA-2 ({name})"
        )
    if mostly_bfloat16(own) and (trained_on == 1 or (trained_on is None and like_llama_one(config))):
        notes.append(
            f"{own.name}: is stored as bfloat16, and LLaMA 1 was published in float16: its values were rounded on the way, and "
            "no published digest of a merge can come out; take a base in float16"
        )
    return notes


def nan_problems(checkpoint: Checkpoint, role: str) -> list[str]:
    """A line for tensors that hold nothing but NaN."""
    names = nothing_but_nan(checkpoint)
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{names[0]}{more}: the {role} holds nothing but NaN there: it was broken before it was published, or damaged"]


def bfloat16_notes(checkpoint: Checkpoint) -> list[str]:
    """A note, where a base looks as if it had passed through bfloat16."""
    if not fits_bfloat16(checkpoint):
        return []
    return [
        f"{checkpoint.name}: every value looked at fits bfloat16: if the original was float16, as LLaMA 1, the base was "
        "converted through bfloat16, and no published digest can come out; take it from Meta's own files"
    ]
