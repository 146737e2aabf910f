"""The main job: a base and a published diff give the release.

import weightkit.recover
weightkit.recover.recover_release("llama-13b", "zhixi-diff", "zhixi-13b")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from weightkit import manifests
from weightkit.blobs import Place, folder_at, streaming
from weightkit.catalog.outside import RELEASE_SUMS, is_outside, read_outside
from weightkit.checkpoints import FolderLayout, writer
from weightkit.checkpoints.checkpoint import lone_file
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model
from weightkit.core.arguments import OneOrMore, as_paths, as_tuple
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.probes import NotFinite
from weightkit.manifests import Entry
from weightkit.methods import method_named, recognised, with_role
from weightkit.methods.additive import suspected
from weightkit.methods.base import based, opened
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules
from weightkit.methods.recipes import filled, payloads_by_name, recipe_for, recipe_how, recipe_rules
from weightkit.methods.said import Said, refusal
from weightkit.methods.xor_end import sound
from weightkit.proof.completeness import complete, lacking
from weightkit.proof.counterparts import Counterpart
from weightkit.proof.expecting import expecting
from weightkit.proof.inputs import checked
from weightkit.proof.outside import all_proved, base_is
from weightkit.proof.own_lists import as_listed
from weightkit.proof.sizes import base_fits, counted, made_by, result_fits
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.carried import carried
from weightkit.run.execute import Done, check_out
from weightkit.run.plan import Plan

__all__ = ["Arithmetic", "Done", "Form", "Rules", "Target", "prepare", "recover", "recover_release"]

DIFF, LORA = "--diff", "--lora"
Target = Literal["hf", "gguf"]


def prepare(
    raw: Place,
    diff: Place | None,
    out: str | os.PathLike[str],
    *,
    key: Place | None = None,
    lora: Place | Sequence[Place] = (),
    release: str | None = None,
    converter: str | None = None,
    how: Arithmetic | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
    to: Target | None = None,
    checksums: OneOrMore = (),
    allow_tuned_base: bool = False,
    trust_inputs: bool = False,
    stream: bool = False,
    say: Callable[[str], None] | None = None,
) -> Plan:
    """Open the inputs, tell what kind of diff it is, check that they fit, and plan; touches nothing.

    ``say`` is told, before anything large is fetched, of the licence of what is fetched by its name.

    Raises:
        PlanError: They do not fit together, or the output cannot go where it should.
        FormatError: One of them is damaged.
    """
    layout = writer(to, form or Form())
    lora = as_tuple(lora)
    own = None
    told: list[str] = []
    names = tuple(one.name for one in with_role(DIFF))
    if release is not None and not is_outside(release):
        recipe_for(release, names, "recover")  # what is not rebuilt is said before anything is looked at
    if release is not None and is_outside(release):
        own, release = read_outside(release), None
        diff = own.folder if diff is None else diff
    elif diff is None:
        if release is None:
            raise PlanError(f"{DIFF}: is not named", hint="name the diff, or a release whose diff is fetched by its name")
        folder_at(raw, "--raw")  # what is wrong on this machine is said before the Hub is asked
        diff, named, told = payloads_by_name(release, names, "recover", adapters=not lora, say=say)
        lora = lora or named
    if diff is None:
        raise PlanError(f"--release {release}: the catalog knows no diff of it", hint="name it with --diff")
    keys = [] if key is None else [("--key", key)]
    sources = check_out(Path(out), [("--raw", raw), (DIFF, diff), *keys, *((LORA, one) for one in lora)])
    lists = [(path, manifests.read(path)) for path in as_paths(checksums)]
    said = Said(rules or Rules(), form or Form(), how, allow_tuned_base)
    notes: list[str] = []
    published_key = entry = None
    published: list[tuple[str, Sequence[Entry]]] = []
    if release is not None:
        entry, fill = filled(release, names, "recover", rules=rules, form=form, how=how, converter=converter)
        lists += entry.named()
        published = [(f"--release {release}", entry.entries())]
        said, converter, notes = Said(fill.rules, fill.form, fill.how, allow_tuned_base), fill.converter, fill.notes
        if entry.recipe is not None:
            published_key = entry.recipe.key
            counted(release, entry.recipe, len(lora))
    base = based(raw, "--raw", converter)
    if own is not None:
        listed = Path(f"{own.name}/{RELEASE_SUMS}")
        lists.append((listed, list(own.results)))
        published = [(f"--release {own.name}", own.results)]
        how = recipe_how(own.name, own.recipe, said.how)
        said = Said(recipe_rules(own.recipe, said.rules), said.form, how, allow_tuned_base)
        notes = base_is(own, base)
    role = DIFF if own is None else method_named(own.recipe.method).role
    payload = folder_at(diff, role)
    if stream:
        payload = streaming(payload, role)
    method, seen = recognised(payload, role)
    if own is not None and own.recipe.method != method.name:
        raise PlanError(f"--release {own.name}: says {own.recipe.method}, and its payload is {seen.what}: {seen.saw}")
    if entry is not None:
        made_by(entry, method.name, payload, seen.what)
        if not method.settles:
            base = opened(base)
            notes = [*notes, *base_fits(entry, base)]
    if method.settles and (lora or to == "gguf"):
        raise PlanError(refusal(method, payload, seen))
    key_folder = None if key is None else folder_at(key, "--key")
    opening = said.to(method, payload, seen, key=key_folder, published_key=published_key)
    adapters = tuple(folder_at(one, LORA) for one in lora)
    if role == LORA:  # merged like the others, and before them
        sum_of, adapters = base, (payload, *adapters)
    else:
        sum_of = method.rebuild(base, payload, opening)
    model = said.merged(sum_of, adapters)
    if said.form.tokenizer_from and adapters:  # what the user says goes before what an adapter brings
        model = replace(model, tokenizers=sum_of.tokenizers)
    if entry is not None:
        result_fits(entry, model)
    planned = written(model, layout, said.form, payload.name)
    steps = (f"{role} {payload.name} is {seen.what}: {seen.saw}", *planned.steps)
    planned = replace(planned, steps=steps, notes=(*planned.notes, *told, *notes), sources=sources)
    planned = expecting(planned, lists, Counterpart(model, said.form))
    if own is not None:
        all_proved(own, planned)
    planned = sound(planned)
    if entry is not None:
        planned = checked(planned, entry, base, key_folder, payload, adapters, trust=trust_inputs)
    payloads = dict.fromkeys([(role, payload), *((LORA, one) for one in adapters)])
    planned = as_listed(planned, list(payloads), trust=trust_inputs)
    if not lone_file(payload) or release is not None:
        complete(planned, payload.name, published)
    why = lacking(planned) if model.files is not None else ""
    return replace(planned, notes=(*planned.notes, why)) if why else planned


def written(model: Model, layout: FolderLayout, form: Form, name: str) -> Plan:
    """The plan that writes a model: its files as they were published, or those that a layout makes of it."""
    if model.files is not None:
        return Plan("recover", model.steps, model.files, model.small, model.notes)
    try:
        made = layout.write(model, form)
    except ValueError as error:
        raise PlanError(f"{name}: {error}") from error
    files = suspected(tuple(file.watched_by(NotFinite()) for file in made.files))
    return Plan("recover", model.steps, files, made.small, (*model.notes, *made.notes), tensors=made.named)


def recover_release(
    raw: Place,
    diff: Place | None,
    out: str | os.PathLike[str],
    *,
    key: Place | None = None,
    lora: Place | Sequence[Place] = (),
    release: str | None = None,
    converter: str | None = None,
    how: Arithmetic | None = None,
    rules: Rules | None = None,
    form: Form | None = None,
    to: Target | None = None,
    checksums: OneOrMore = (),
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    verify_raw: bool = False,
    allow_tuned_base: bool = False,
    trust_inputs: bool = False,
    stream: bool = False,
    reclaim_downloads: bool = False,
    progress: bool = False,
    raise_on_mismatch: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Rebuild a released checkpoint from a base and a diff. How it was published, is told from its bytes.

    Bit-exact: an XOR is; else one addition an element in the diff's dtype (or ``rules.dtype``), the same on every machine,
    and files as the torch version that wrote the diff writes them (or ``form.torch_compat``).

    >>> done = weightkit.recover_release("base", "diff", "release", checksums="diff/RELEASE.sha256")
    >>> done.ok
    True

    Args:
        raw: The base: a folder in transformers' layout, or in Meta's, which is converted on the way.
        diff: The diff: a transformers folder, ``.enc`` files, or files XORed with the base's (see ``weightkit.xor``). None with
            a ``release``: what the catalog names on the Hub.
        out: The folder to write; made if it is not there.
        key: For ``.enc`` payloads, the key file; None for ``consolidated.00.pth`` of the base.
        lora: Folders of LoRA adapters to be merged into the sum, in this order.
        release: An entry of the catalog, which fills in what is not said, and whose digests must hold.
        converter: Whose conversion a base in Meta's layout stands for (where nothing says, transformers 4.28.1's); see
            ``weightkit.families.converters``.
        how: How the adapters are added.
        rules: What the user says about tensors that differ in more than their values.
        form: What the user says about the files to write.
        to: ``hf`` (where nothing says), or ``gguf`` for one file for llama.cpp.
        checksums: Lists of digests that the files must have.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names may be replaced.
        keep_mismatched: Whether a file with another digest than wanted is kept as ``NAME.mismatch``, to be examined.
        verify_raw: Whether to check Meta's checklist.chk beside the run; nothing is published before it holds.
        allow_tuned_base: Whether a base that looks tuned already may be used.
        trust_inputs: Whether no digests of inputs are checked, a release's or those of lists beside them; number, order and
            sizes are.
        stream: Whether a diff on the Hub is read as it is needed, and never stored.
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
        to=to,
        checksums=checksums,
        allow_tuned_base=allow_tuned_base,
        trust_inputs=trust_inputs,
        stream=stream,
    )
    return carried(
        planned,
        out,
        "recovering",
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        keep_mismatched=keep_mismatched,
        verify_raw=raw if verify_raw else None,
        reclaim_downloads=reclaim_downloads,
        progress=progress,
        raise_on_mismatch=raise_on_mismatch,
        notify=notify,
    )


recover = recover_release
