"""Whether a release's inputs are those that it was made of: number, order, size first, then their published digests.

Sizes are a planner's affair and cost nothing. Digests are taken beside the run; see ``run.gates``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from weightkit import catalog
from weightkit.catalog import UNKNOWN, Recipe, Release
from weightkit.checkpoints import layout_named
from weightkit.checkpoints.checkpoint import lone_file
from weightkit.checkpoints.model import Model
from weightkit.containers import suffixes
from weightkit.core.blob import Folder
from weightkit.core.errors import PlanError
from weightkit.families import llama
from weightkit.manifests import Entry
from weightkit.proof.lists import usable
from weightkit.run.gates import Original
from weightkit.run.plan import Plan

__all__ = ["TRUSTED", "checked", "counted", "sized"]

TRUSTED = "the digests of the inputs were not checked (--trust-inputs)"
EMBEDDING = "model.embed_tokens.weight"


def counted(name: str, recipe: Recipe, given: int) -> None:
    """Refuse another number of adapters than a release was made with.

    Raises:
        PlanError: It is another.
    """
    if given == len(recipe.lora):
        return
    words = [f"--lora {one}" if one != UNKNOWN else "one --lora" for one in recipe.lora]
    wanted = ", then ".join(words) or "no --lora"
    raise PlanError(f"--release {name}: takes {wanted}; --lora was given {given} time{'' if given == 1 else 's'}")


def sized(release: Release, models: Sequence[Model], adapters: Sequence[str] = ()) -> list[str]:
    """See that base and results have the width and the rows that a release's have; notes on what cannot be told.

    Args:
        release: The entry.
        models: The base, then what became of it with each adapter.
        adapters: Their entries.

    Raises:
        PlanError: The base is another size of LLaMA, or has another vocabulary; or adapters are in another order.
    """
    shapes = [model.tensors[EMBEDDING].spec.shape for model in models if model.tensors and EMBEDDING in model.tensors]
    base = original(release)
    if not shapes or len(shapes) != len(models) or base is None:
        return []
    size = llama.SIZES.get(shapes[0][-1])
    if size is None:
        return [f"--release {release.name}: a base of width {shapes[0][-1]} is no LLaMA of a published size"]
    if size.lower() != base.name:
        raise PlanError(f"--release {release.name}: is made of {base.name}, and the base is of the size of {size}")
    wanted = (base.vocabulary, *(catalog.load(one).vocabulary if one != UNKNOWN else None for one in adapters))
    for shape, rows, name in zip(shapes, wanted, (base.name, *adapters), strict=False):
        if isinstance(rows, int) and shape[0] != rows:
            raise PlanError(
                f"--release {release.name}: with {name} there are {rows} rows of vocabulary, and here {shape[0]}"
                f"{llama.named_rows(shape[0])}: adapters in another order, or another input"
            )
    return []


def original(release: Release) -> Release | None:
    """The original weights that a release comes from."""
    while release.base is not None and release.kind != "raw":
        release = catalog.load(release.base)
    return release if release.kind == "raw" else None


def checked(
    plan: Plan,
    release: Release,
    base: Model,
    key: Folder | None = None,
    diff: Folder | None = None,
    adapters: Sequence[Folder] = (),
    *,
    trust: bool = False,
) -> Plan:
    """The plan, with the inputs whose digests were published, and notes on those of which none was.

    Args:
        plan: What is to be written.
        release: The entry.
        base: The base.
        key: The key that was named in its place.
        diff: The diff.
        adapters: The adapters, in order.
        trust: Whether no digest is to be checked.

    Raises:
        PlanError: A file of weights that the publisher lists is not there.
    """
    if trust:
        return replace(plan, notes=(*plan.notes, f"--release {release.name}: {TRUSTED}"))
    recipe = release.recipe
    entries = [] if recipe is None else [(one, folder, "--lora") for one, folder in zip(recipe.lora, adapters, strict=True)]
    if recipe is not None and diff is not None:
        entries.insert(0, (recipe.diff or UNKNOWN, diff, "--diff"))
    parts = [known_payload(release.name, *one) for one in entries]
    parts.insert(0, known_base(release, key or base.source, "--key" if key else base.role))
    inputs = tuple(one for found, _ in parts for one in found)
    notes = [note for _, found in parts for note in found]
    if inputs:
        count = f"{len(inputs)} input file{'' if len(inputs) == 1 else 's'}"
        notes.insert(0, f"--release {release.name}: published digests of {count} must hold before anything is published")
    return replace(plan, inputs=inputs, notes=(*plan.notes, *notes))


def known_payload(release: str, entry: str | None, folder: Folder, role: str) -> tuple[list[Original], list[str]]:
    """The files of a diff or an adapter with their published digests, and a note where there are none.

    Raises:
        PlanError: A file of weights that the publisher lists is not there.
    """
    kind = "adapter" if role == "--lora" else "diff"
    published = [] if entry in (None, UNKNOWN) else usable_of(catalog.load(str(entry)))
    here = {name.rpartition("/")[2]: name for name in folder.names()}
    lacking = [one.path for one in published if one.path.endswith((*suffixes(), ".enc")) and one.path not in here]
    loose = catalog.load(str(entry)).kind == "xor" if published else False
    if lacking and not loose:
        raise PlanError(
            f"--release {release}: {role} {folder.name} is not {entry}, which has {lacking[0]}; name the one that was "
            "published, or say --trust-inputs"
        )
    found = [
        Original(folder.blob(here[one.path]), (one.digest,), f"it is not the file of {entry}; {ADVICE}")
        for one in published
        if one.path in here
    ]
    listed = {one.path for one in published}
    bare = [name for name in here if name.endswith((*suffixes(), ".enc")) and name not in listed]
    notes = [f"{role} {folder.name}: no digest of this {kind} was published"] if bare and not found else []
    if bare and found:
        notes.append(f"{role} {folder.name}: no digest of {', '.join(bare[:4])} was published")
    return found, notes


ADVICE = "name the published one, download it again, or say --trust-inputs"


def known_base(release: Release, folder: Folder, role: str) -> tuple[list[Original], list[str]]:
    """The base's files with their published digests: Meta's own, or those of any conversion that is known."""
    raw = original(release)
    if release.recipe is not None and release.recipe.key:
        return known_key(release.recipe.key, folder)
    if raw is None:
        return [], [f"{role} {folder.name}: no digest of this base was published"]
    if layout_named("meta").recognise(folder):
        sources = [raw]
    else:
        sources = [one for one in catalog.releases().values() if one.kind == "converted" and original(one) == raw]
    found = []
    for name in folder.names():
        digests = tuple(one.digest for source in sources for one in usable_of(source) if one.path == name)
        if name.endswith(suffixes()) and digests:
            what = raw.name if sources == [raw] else f"a conversion of {raw.name} whose digests were published"
            found.append(Original(folder.blob(name), digests, f"it is not the file of {what}; {ADVICE}"))
    return found, [] if found else [f"{role} {folder.name}: no digest of this base was published"]


def known_key(published: str, folder: Folder) -> tuple[list[Original], list[str]]:
    """The key file of an XOR payload, however it is called here, with its published digest.

    Args:
        published: Entry of the catalog, a blank, the file.
        folder: The key, or the folder that it lies in.
    """
    entry, _, name = published.partition(" ")
    digests = tuple(one.digest for one in usable_of(catalog.load(entry)) if one.path == name)
    here = lone_file(folder) or name
    if not digests or not folder.holds(here):
        return [], [f"key {folder.name}: no digest of this key was published"]
    return [Original(folder.blob(here), digests, f"it is not {name} of {entry}; {ADVICE}")], []


def usable_of(release: Release) -> list[Entry]:
    """The first digest of each file that can be taken here; SHA-256 where there is one."""
    found: dict[str, Entry] = {}
    for one in release.entries():
        if usable(one.digest):
            found.setdefault(one.path, one)
    return list(found.values())
