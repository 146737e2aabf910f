"""LoRA adapters folded into a base, in order, with the roundings of the tool that the release was made with.

import weightkit.merge
weightkit.merge.merge_lora("llama-7b-hf", ["chinese-llama-plus-lora-7b", "chinese-alpaca-plus-lora-7b"], "chinese-alpaca-plus")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

from weightkit import manifests
from weightkit.blobs import Place, folder_at
from weightkit.catalog.outside import is_outside
from weightkit.checkpoints import layout_named, writer
from weightkit.checkpoints.form import Form, Order
from weightkit.core.arguments import OneOrMore, as_paths, as_tuple
from weightkit.core.dtypes import DType, dtype_named
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.probes import NotFinite
from weightkit.manifests import Entry
from weightkit.methods import with_role
from weightkit.methods.base import based, opened
from weightkit.methods.lora import Arithmetic
from weightkit.methods.recipes import filled, payloads_by_name, recipe_for
from weightkit.methods.said import Said
from weightkit.proof.completeness import complete
from weightkit.proof.counterparts import Counterpart, of_what_is_stored
from weightkit.proof.expecting import expecting
from weightkit.proof.inputs import checked
from weightkit.proof.own_lists import as_listed
from weightkit.proof.sizes import base_fits, counted, in_order, result_fits
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.carried import carried
from weightkit.run.execute import Done, check_out
from weightkit.run.plan import Plan

__all__ = ["Arithmetic", "Done", "Form", "Target", "merge_lora", "prepare"]

Target = Literal["hf", "meta", "gguf"]
LORA = "--lora"


def prepare(
    base: Place,
    adapters: Place | Sequence[Place] | None,
    out: str | os.PathLike[str],
    *,
    how: Arithmetic | None = None,
    seek: bool = False,
    release: str | None = None,
    converter: str | None = None,
    form: Form | None = None,
    dtype: DType | str | None = None,
    to: Target | None = None,
    parts: int | None = None,
    order: Order | None = None,
    checksums: OneOrMore = (),
    allow_tuned_base: bool = False,
    trust_inputs: bool = False,
    notify: Notify = ignore,
    say: Callable[[str], None] | None = None,
) -> Plan:
    """Open the inputs, check what they are, and plan; writes nothing. Raises like ``merge_lora``.

    ``say`` is told, before anything large is fetched, of the licence of what is fetched by its name.
    """
    writer(to, form or Form())
    names = tuple(one.name for one in with_role(LORA))
    told: list[str] = []
    adapters = () if adapters is None else as_tuple(adapters)
    cast_to = None if dtype is None else dtype_named(dtype)
    if release is not None and is_outside(release):
        raise PlanError(
            f"--release {release}: is no entry of the catalog but a release with a recipe of its own",
            hint=f"weightkit recover --release {release} --raw BASE --out OUT rebuilds it, whatever its method",
        )
    if release is not None:
        recipe_for(release, names, "merge")  # what is not rebuilt is said before anything is looked at
    if not adapters:
        if release is None:
            raise PlanError(
                f"{LORA}: is not named", hint="name the adapters, or a release whose own are fetched by their names"
            )
        folder_at(base, "--base")  # what is wrong on this machine is said before the Hub is asked
        _, adapters, told = payloads_by_name(release, names, "merge", say=say)
    sources = check_out(Path(out), [("--base", base), *((LORA, one) for one in adapters)])
    lists = [(path, manifests.read(path)) for path in as_paths(checksums)]
    notes: list[str] = []
    published: list[tuple[str, Sequence[Entry]]] = []
    entry = None
    if release is not None:
        entry, fill = filled(release, names, "merge", form=form, how=how, converter=converter)
        if entry.recipe is not None:
            counted(release, entry.recipe, len(adapters))
        lists += entry.named()
        published = [(f"--release {release}", entry.entries())]
        form, how, converter, notes = fill.form, fill.how, fill.converter, fill.notes
        to, order = to or cast(Target, fill.to), order or fill.order
    below = opened(based(base, "--base", converter))
    payloads = tuple(folder_at(one, LORA) for one in adapters)
    if entry is not None:
        notes = [*notes, *base_fits(entry, below)]
        in_order(entry, below, payloads)
    asked = how or Arithmetic()
    form = replace(form or Form(), parts=parts, order=order or "chinese-llama")

    def planned(how: Arithmetic, *, direct: bool = False) -> Plan:
        said = Said(form=form, how=how, allow_tuned_base=allow_tuned_base, dtype=cast_to)
        model = said.merged(below, payloads)
        if entry is not None:
            result_fits(entry, model)
        try:
            made = layout_named(to or "hf").write(model, form)
        except ValueError as error:
            raise PlanError(f"{below.source.name}: {error}") from error
        notes_of = (*model.notes, *made.notes, *told, *notes)
        files = tuple(file.watched_by(NotFinite()) for file in made.files)
        found = Plan("merge", model.steps, files, made.small, notes_of, tensors=made.named, listings=made.listings)
        found = expecting(replace(found, sources=sources), lists, Counterpart(model, form, direct))
        if entry is not None:
            found = checked(found, entry, below, adapters=payloads, trust=trust_inputs)
        found = as_listed(found, [(LORA, one) for one in payloads], trust=trust_inputs)
        return complete(found, below.source.name, published)

    if not seek:
        return planned(asked)
    from weightkit.proof.seek import seek_digest

    sought = partial(planned, direct=True)
    return of_what_is_stored(seek_digest(sought(asked), asked, sought, notify))


def merge_lora(
    base: Place,
    adapters: Place | Sequence[Place] | None,
    out: str | os.PathLike[str],
    *,
    how: Arithmetic | None = None,
    seek: bool = False,
    release: str | None = None,
    converter: str | None = None,
    form: Form | None = None,
    dtype: DType | str | None = None,
    to: Target | None = None,
    parts: int | None = None,
    order: Order | None = None,
    checksums: OneOrMore = (),
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    verify_raw: bool = False,
    allow_tuned_base: bool = False,
    trust_inputs: bool = False,
    reclaim_downloads: bool = False,
    progress: bool = False,
    raise_on_mismatch: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Merge LoRA adapters into a base: ``weight + scale * (up @ down)``, one after another.

    Bit-exact with the sums ``fma`` and ``mul-add``: the same bytes on every machine. With the default roundings the tensors
    are those of Chinese-LLaMA-Alpaca's scripts and of PEFT's ``merge_and_unload``; see ``weightkit.ops.lora.ROUNDINGS``.

    >>> done = weightkit.merge_lora("base", "lora", "merged", dtype="float32")
    >>> done.ok
    True

    Args:
        base: A folder in transformers' layout, or in Meta's, which is converted on the way.
        adapters: Folders as PEFT writes them, in the order in which they are merged. None with a ``release``: what the catalog
            names on the Hub.
        out: The folder to write; made if it is not there.
        how: Roundings and order of sums.
        seek: Where a digest is known, find the rounding, order of sums and torch profile that give it.
        release: An entry of the catalog, which fills in what is not said, and whose digests must hold.
        converter: Whose conversion a base in Meta's layout stands for; see ``weightkit.families.converters``.
        form: What the user says about the files to write.
        dtype: What the base's floats are cast to before anything is added; None for as they are.
        to: ``hf`` (where nothing says), ``meta`` for ``consolidated.NN.pth``, or ``gguf``.
        parts: Number of Meta's parts; None for as many as Meta published of this size.
        order: Order of the tensors in Meta's parts.
        checksums: Lists of digests that the files must have.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names may be replaced.
        keep_mismatched: Whether a file with another digest than wanted is kept as ``NAME.mismatch``, to be examined.
        verify_raw: Whether to check Meta's checklist.chk beside the run; nothing is published before it holds.
        allow_tuned_base: Whether a base that looks merged already, or like a diff, may be used.
        trust_inputs: Whether no digests of inputs are checked, a release's or those of lists beside them; number, order and
            sizes are.
        reclaim_downloads: Whether a file that this run downloads is removed from the client's cache once all that is made of it
            stands.
        progress: Whether a bar is drawn, in a terminal or a notebook.
        raise_on_mismatch: Whether a digest that does not hold is raised, the others as its notes, and not only reported.
        notify: Told what happens; see ``weightkit.core.events``.

    Returns:
        What was written. Files whose digest did not match are in ``report.mismatches``; they were not published.

    Raises:
        DigestMismatch: A digest does not hold, and ``raise_on_mismatch`` was said.
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
        trust_inputs=trust_inputs,
        notify=notify,
    )
    return carried(
        planned,
        out,
        "merging",
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        keep_mismatched=keep_mismatched,
        verify_raw=base if verify_raw else None,
        reclaim_downloads=reclaim_downloads,
        progress=progress,
        raise_on_mismatch=raise_on_mismatch,
        notify=notify,
    )
