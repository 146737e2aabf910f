"""LoRA adapters folded into a base, in order, with the roundings of the tool that the release was made with.

import weightkit.merge
weightkit.merge.merge_lora("llama-7b-hf", ["chinese-llama-plus-lora-7b", "chinese-alpaca-plus-lora-7b"], "chinese-alpaca-plus")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

from weightkit import manifests
from weightkit.checkpoints import Checkpoint, converter_for, open_checkpoint
from weightkit.checkpoints.flavour import flavour
from weightkit.checkpoints.layouts import Order, to_huggingface, to_meta
from weightkit.checkpoints.output import Form
from weightkit.checkpoints.peft import Adapter, open_adapter
from weightkit.core.dtypes import DType
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.families.converters import DEFAULT_CONVERTER
from weightkit.methods.lora import Arithmetic, apply_adapters, merged_already
from weightkit.methods.recipes import filled
from weightkit.recover import bfloat16_notes
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import Done, carry_out, check_out, expecting
from weightkit.run.plan import Plan

__all__ = ["Arithmetic", "Done", "Form", "Target", "merge_lora", "plan", "prepare"]

Target = Literal["hf", "meta"]


def plan(
    base: Checkpoint,
    adapters: Sequence[Adapter],
    how: Arithmetic | None = None,
    *,
    form: Form | None = None,
    dtype: DType | None = None,
    to: Target = "hf",
    parts: int | None = None,
    order: Order = "chinese-llama",
) -> Plan:
    """Decide all that will be written. Reads headers and small files only.

    Args:
        base: What the user has, in any layout.
        adapters: In the order in which they are merged.
        how: Roundings and order of sums.
        form: What the user said about the files.
        dtype: What the base's floats are cast to first.
        to: The layout wanted.
        parts: For Meta's layout, the number of parts.
        order: For Meta's layout, the order of the tensors.

    Raises:
        PlanError: Something does not fit; every misfit is in it.
    """
    how, form = how or Arithmetic(), form or Form()
    notes: list[str] = []
    try:
        merged = apply_adapters(base.tensors, adapters, how, dtype=dtype)
        if to == "hf":
            files, small = to_huggingface(
                base, merged.tensors, form, notes, patch=True, tokenizers=merged.tokenizer, pad_token=merged.pad_token
            )
        else:
            files, small = to_meta(base, merged.tensors, form, parts, order, tokenizers=merged.tokenizer)
    except ValueError as error:
        raise PlanError(f"{base.path}: {error}") from error
    return Plan("merge", (*merged.steps, str(how)), files, small, (*merged.notes, *notes), tensors=to == "hf")


def check_base(base: Checkpoint, adapters: Sequence[Adapter], allow_tuned_base: bool) -> None:
    """Refuse a base that is a diff, or has one of the adapters in it already, unless the user has said that it is right.

    Raises:
        PlanError: It is or has.
    """
    if allow_tuned_base:
        return
    found = flavour(base)
    if found and found.is_diff:
        raise PlanError(
            f"--base {base.path} is a diff, not a model: only {found.positive:.0%} of its norm weights are positive; recover "
            "the model first, or do both at once with weightkit recover --raw BASE --diff DIFF --lora LORA (--allow-tuned-base "
            "if it is a model)"
        )
    reason = merged_already(base.tensors, adapters)
    if reason:
        raise PlanError(
            f"--base {base.path} is merged already: {reason}; name the original, or say --allow-tuned-base if it is not so"
        )


def prepare(
    base: str | os.PathLike[str],
    adapters: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    how: Arithmetic | None = None,
    seek: bool = False,
    release: str | None = None,
    converter: str | None = None,
    form: Form | None = None,
    dtype: DType | None = None,
    to: Target | None = None,
    parts: int | None = None,
    order: Order | None = None,
    checksums: Sequence[str | os.PathLike[str]] = (),
    allow_tuned_base: bool = False,
    notify: Notify = ignore,
) -> Plan:
    """Open the inputs, check what they are, and plan; writes nothing. Raises like ``merge_lora``."""
    check_out(Path(out), [("--base", Path(base)), *(("--lora", Path(one)) for one in adapters)])
    lists = [(Path(path), manifests.read(Path(path))) for path in checksums]
    notes: list[str] = []
    if release is not None:
        entry, fill = filled(release, ("lora",), "merge", form=form, how=how, converter=converter)
        lists += entry.named()
        form, how, converter, notes = fill.form, fill.how, fill.converter, fill.notes
        to, order = to or cast(Target, fill.to), order or fill.order
    below = open_checkpoint(Path(base), "--base", converter_for(converter or DEFAULT_CONVERTER))
    opened = [open_adapter(Path(one), "--lora") for one in adapters]
    asked = how or Arithmetic()

    def planned(how: Arithmetic) -> Plan:
        found = plan(below, opened, how, form=form, dtype=dtype, to=to or "hf", parts=parts, order=order or "chinese-llama")
        return expecting(found, lists)

    result = planned(asked)
    check_base(below, opened, allow_tuned_base)
    result = replace(result, notes=(*result.notes, *notes, *bfloat16_notes(below)))
    if seek:
        from weightkit.proof.seek import seek_digest

        result = seek_digest(result, asked, planned, notify)
    return result


def merge_lora(
    base: str | os.PathLike[str],
    adapters: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    how: Arithmetic | None = None,
    seek: bool = False,
    release: str | None = None,
    converter: str | None = None,
    form: Form | None = None,
    dtype: DType | None = None,
    to: Target | None = None,
    parts: int | None = None,
    order: Order | None = None,
    checksums: Sequence[str | os.PathLike[str]] = (),
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    verify_raw: bool = False,
    allow_tuned_base: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Merge LoRA adapters into a base: ``weight + scale * (up @ down)``, one after another.

    Bit-exact with the sums ``fma`` and ``mul-add``: the same bytes on every machine. With the default roundings the tensors
    are those of Chinese-LLaMA-Alpaca's scripts and of PEFT's ``merge_and_unload``; see ``weightkit.ops.lora.ROUNDINGS``.

    Args:
        base: A folder in transformers' layout, or in Meta's, which is converted on the way.
        adapters: Folders as PEFT writes them, in the order in which they are merged.
        out: The folder to write; made if it is not there.
        how: Roundings and order of sums.
        seek: Where a digest is known, find the rounding, order of sums and torch profile that give it.
        release: An entry of the catalog, which fills in what is not said, and whose digests must hold.
        converter: Whose conversion a base in Meta's layout stands for; see ``weightkit.families.converters``.
        form: What the user says about the files to write.
        dtype: What the base's floats are cast to before anything is added; None for as they are.
        to: ``hf`` (where nothing says), or ``meta`` for ``consolidated.NN.pth``.
        parts: Number of Meta's parts; None for as many as Meta published of this size.
        order: Order of the tensors in Meta's parts.
        checksums: Lists of digests that the files must have.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        verify_raw: Whether to check Meta's checklist.chk beside the run; nothing is published before it holds.
        allow_tuned_base: Whether a base that looks merged already, or like a diff, may be used.
        notify: Told what happens; see ``weightkit.core.events``.

    Returns:
        What was written. Files whose digest did not match are in ``report.mismatches``; they were not published.

    Raises:
        PlanError: The inputs do not fit together, or there is no room.
        FormatError: An input is damaged.
    """
    planned = prepare(
        base,
        adapters,
        out,
        how=how,
        seek=seek,
        release=release,
        converter=converter,
        form=form,
        dtype=dtype,
        to=to,
        parts=parts,
        order=order,
        checksums=checksums,
        allow_tuned_base=allow_tuned_base,
        notify=notify,
    )
    return carry_out(
        planned,
        Path(out),
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        verify_raw=Path(base) if verify_raw else None,
        notify=notify,
    )
