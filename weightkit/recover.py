"""The main job: a base and a published diff give the release.

import weightkit.recover
weightkit.recover.recover("llama-13b", "zhixi-diff", "zhixi-13b")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weightkit import manifests, xor
from weightkit.checkpoints import Checkpoint, converter_for, open_checkpoint
from weightkit.checkpoints.flavour import already_holds, fits_bfloat16, flavour, nothing_but_nan
from weightkit.checkpoints.output import Form, has_tokenizer, output_files, small_files
from weightkit.checkpoints.peft import Adapter, open_adapter
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.lazy import LazyTensor, derive
from weightkit.families.converters import DEFAULT_CONVERTER
from weightkit.methods import exact
from weightkit.methods.lora import Arithmetic, apply_adapters
from weightkit.methods.pairing import Rules, pair
from weightkit.methods.recipes import filled
from weightkit.ops.add import Add, Cast
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import Done, carry_out, check_out, expecting
from weightkit.run.plan import Plan

__all__ = ["Done", "Form", "Rules", "plan", "prepare", "recover"]


def plan(
    base: Checkpoint,
    diff: Checkpoint,
    rules: Rules | None = None,
    form: Form | None = None,
    adapters: Sequence[Adapter] = (),
    how: Arithmetic | None = None,
) -> Plan:
    """Decide all that will be written. Reads headers and a few small tensors only.

    Args:
        base: What the user has.
        diff: An additive diff.
        rules: What the user said about the tensors.
        form: What the user said about the files.
        adapters: LoRAs to be merged into the sum, in this order.
        how: How they are added.

    Raises:
        PlanError: Base and diff, or the adapters, do not fit; every misfit is in it.
    """
    rules, form, how = rules or Rules(), form or Form(), how or Arithmetic()
    pairs = pair(base, diff, rules, other_is="diff")
    release: dict[str, LazyTensor] = {}
    for name, below in pairs.base.items():
        stored = diff.tensors[name]
        dtype = rules.dtype_of(name, stored.spec)
        try:
            if below is not None:
                release[name] = derive(Add(dtype), below, stored)
            else:
                release[name] = stored if dtype == stored.spec.dtype else derive(Cast(dtype), stored)
        except ValueError as error:
            pairs.problems.append(f"{name}: {error}")
    problems = pairs.problems + nan_problems(base, "base") + nan_problems(diff, "diff")
    if problems:
        raise PlanError(f"{base.path} and {diff.path} do not fit together:", problems)
    steps = [f"diff + base, {len(release)} tensors, in {dtypes(release)}"]
    tokenizers = diff if has_tokenizer(diff) else base
    pad_token = None
    try:
        if adapters:
            merged = apply_adapters(release, adapters, how)
            release, tokenizers = merged.tensors, merged.tokenizer or tokenizers
            pad_token = merged.pad_token
            steps += [*merged.steps, str(how)]
            pairs.notes += merged.notes
        files = output_files(diff, release, form, pairs.notes)
    except ValueError as error:
        raise PlanError(f"{diff.path}: {error}") from error
    if form.tokenizer_from:
        tokenizers = base if form.tokenizer_from == "base" else diff
    configs = base if form.config_from == "base" else diff
    small = small_files(diff, configs, tokenizers, files, release, form, pad_token=pad_token)
    return Plan("recover", tuple(steps), files, small, tuple(pairs.notes), tensors=True)


def nan_problems(checkpoint: Checkpoint, role: str) -> list[str]:
    """A line for tensors that hold nothing but NaN."""
    names = nothing_but_nan(checkpoint)
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{names[0]}{more}: the {role} holds nothing but NaN there: it was broken before it was published, or damaged"]


def dtypes(tensors: dict[str, LazyTensor]) -> str:
    """The dtypes that occur, the most frequent first."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.spec.dtype.name] = counts.get(tensor.spec.dtype.name, 0) + 1
    return ", ".join(sorted(counts, key=lambda name: (-counts[name], name)))


def check_flavours(base: Checkpoint, diff: Checkpoint, allow_tuned_base: bool) -> None:
    """Refuse a base that is a diff or tuned already, and a diff that is a model.

    Raises:
        PlanError: One of them is.
    """
    base_is, diff_is = flavour(base), flavour(diff)
    if diff_is and diff_is.is_model:
        raise PlanError(
            f"--diff {diff.path} is a whole model, not a diff: {diff_is.positive:.0%} of its norm weights are positive, their "
            "mean is far from 0; use it as it is, or name the diff"
        )
    if base_is and base_is.is_diff:
        raise PlanError(
            f"--raw {base.path} is itself a diff, not a model: only {base_is.positive:.0%} of its norm weights are positive; "
            "name the original weights"
        )
    if allow_tuned_base:
        return
    reason = tuned(base, diff)
    if reason:
        raise PlanError(
            f"--raw {base.path} is already tuned: {reason}; name the original weights, or say --allow-tuned-base "
            "if this diff was made against a tuned model"
        )


def tuned(base: Checkpoint, diff: Checkpoint) -> str:
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


def prepare(
    raw: str | os.PathLike[str],
    diff: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    key: str | os.PathLike[str] | None = None,
    lora: Sequence[str | os.PathLike[str]] = (),
    release: str | None = None,
    converter: str | None = None,
    how: Arithmetic | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
    checksums: Sequence[str | os.PathLike[str]] = (),
    allow_tuned_base: bool = False,
) -> Plan:
    """Open the inputs, tell what kind of diff it is, check that they fit, and plan; touches nothing.

    Raises:
        PlanError: They do not fit together, or the output cannot go where it should.
        FormatError: One of them is damaged.
    """
    check_out(Path(out), [("--raw", Path(raw)), ("--diff", Path(diff)), *(("--lora", Path(one)) for one in lora)])
    lists = [(Path(path), manifests.read(Path(path))) for path in checksums]
    notes: list[str] = []
    entry = None
    if release is not None:
        methods = ("additive", "xor-enc", "xor-block")
        entry, fill = filled(release, methods, "recover", rules=rules, form=form, how=how, converter=converter)
        lists += entry.named()
        rules, form, how, converter, notes = fill.rules, fill.form, fill.how, fill.converter, fill.notes
    rules, form, converter = rules or Rules(), form or Form(), converter or DEFAULT_CONVERTER
    if xor.kind_of(Path(diff)) is not None:
        refuse_options(diff, "an XOR payload", bool(lora), rules, replace(form, max_shard_bytes=None))
        source, role = (raw, "--raw") if key is None else (key, "--key")
        size = form.max_shard_bytes
        if entry is not None and entry.recipe and entry.recipe.key:
            xor.check_key(xor.key_file(Path(source), role), entry)
        planned = xor.plan_decode(Path(diff), Path(source), key_role=role, converter=converter, max_shard_bytes=size)
    elif key is not None:
        raise PlanError(f"--diff {diff} is no XOR payload, and --key is for those alone; leave it out")
    elif exact.is_exact(Path(diff)):
        refuse_options(diff, "an exact difference", bool(lora), rules, form)
        planned = exact.plan_recover(Path(diff), open_checkpoint(Path(raw), "--raw", converter_for(converter)))
    else:
        base = open_checkpoint(Path(raw), "--raw", converter_for(converter))
        change = open_checkpoint(Path(diff), "--diff")
        planned = plan(base, change, rules, form, [open_adapter(Path(one), "--lora") for one in lora], how)
        check_flavours(base, change, allow_tuned_base)
        notes += bfloat16_notes(base)
    return expecting(replace(planned, notes=(*planned.notes, *notes)), lists)


def refuse_options(diff: str | os.PathLike[str], what: str, lora: bool, rules: Rules, form: Form) -> None:
    """Refuse what has no meaning where files come out as they were published.

    Raises:
        PlanError: Something of it was said.
    """
    if lora or rules != Rules() or form != Form():
        raise PlanError(
            f"--diff {diff} is {what}: its files come out as they were published, so nothing is cast, cut or merged on the "
            "way; leave those options out, and merge or convert the result"
        )


def bfloat16_notes(base: Checkpoint) -> list[str]:
    """A note, where a base looks as if it had passed through bfloat16."""
    if not fits_bfloat16(base):
        return []
    return [
        f"{base.path}: every value looked at fits bfloat16: if the original was float16, as LLaMA 1, the base was "
        "converted through bfloat16, and no published digest can come out; take it from Meta's own files"
    ]


def recover(
    raw: str | os.PathLike[str],
    diff: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    key: str | os.PathLike[str] | None = None,
    lora: Sequence[str | os.PathLike[str]] = (),
    release: str | None = None,
    converter: str | None = None,
    how: Arithmetic | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
    checksums: Sequence[str | os.PathLike[str]] = (),
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    verify_raw: bool = False,
    allow_tuned_base: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Rebuild a released checkpoint from a base and a diff: additive, or a byte XOR; which, is told from its bytes.

    Bit-exact: an XOR is; else one addition an element in the diff's dtype (or ``rules.dtype``), the same on every machine,
    and files as the torch version that wrote the diff writes them (or ``form.torch_compat``).

    Args:
        raw: The base: a folder in transformers' layout, or in Meta's, which is converted on the way.
        diff: The diff: a transformers folder, ``.enc`` files, or files XORed with the base's (see ``weightkit.xor``).
        out: The folder to write; made if it is not there.
        key: For ``.enc`` payloads, the key file; None for ``consolidated.00.pth`` of the base.
        release: An entry of the catalog, which fills in what is not said, and whose digests must hold.
        lora: Folders of LoRA adapters to be merged into the sum, in this order.
        converter: Whose conversion a base in Meta's layout stands for (where nothing says, transformers 4.28.1's); see
            ``weightkit.families.converters``.
        how: How the adapters are added.
        rules: What the user says about tensors that differ in more than their values.
        form: What the user says about the files to write.
        checksums: Lists of digests that the files must have.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        verify_raw: Whether to check Meta's checklist.chk beside the run; nothing is published before it holds.
        allow_tuned_base: Whether a base that looks tuned already may be used.
        notify: Told what happens; see ``weightkit.core.events``.

    Returns:
        What was written. Files whose digest did not match are in ``report.mismatches``; they were not published.

    Raises:
        PlanError: The inputs do not fit together, or there is no room.
        FormatError: An input is damaged.
    """
    planned = prepare(
        raw,
        diff,
        out,
        key=key,
        lora=lora,
        release=release,
        converter=converter,
        how=how,
        rules=rules,
        form=form,
        checksums=checksums,
        allow_tuned_base=allow_tuned_base,
    )
    return carry_out(
        planned,
        Path(out),
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        verify_raw=Path(raw) if verify_raw else None,
        notify=notify,
    )
