"""Whether a release's inputs are those that it was made of: number, order, size first, then their published digests.

All but the digests is a planner's affair and costs nothing. Digests are taken beside the run; see ``run.gates``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from weightkit import catalog
from weightkit.catalog import UNKNOWN, Release
from weightkit.checkpoints import layout_named
from weightkit.checkpoints.model import Model
from weightkit.containers import suffixes
from weightkit.core.blob import Blob, Folder
from weightkit.core.errors import Incomplete, PlanError
from weightkit.manifests import Entry
from weightkit.methods.xor_key import is_computed, is_copy
from weightkit.proof.counterparts import unproved
from weightkit.proof.lists import usable
from weightkit.proof.sizes import original
from weightkit.run.gates import Original
from weightkit.run.plan import Plan

__all__ = ["TRUSTED", "checked"]

TRUSTED = "the digests of the inputs were not checked (--trust-inputs)"
ADVICE = "name the published one, download it again, or say --trust-inputs"
OWN = "name the original, or say --trust-inputs if it is a conversion of your own"
DECIDE = "it may be a conversion of another torch or transformers; the published digests of the result decide"

Found = tuple[list[Original], list[str]]


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

    A base in transformers' layout has as many right bytes as there are versions of its tools. Where every file that is written
    has a published digest, those decide, and a base of unknown bytes is a note.

    Args:
        plan: What is to be written.
        release: The entry.
        base: The base.
        key: The key that was named in its place.
        diff: The diff.
        adapters: The adapters, in order.
        trust: Whether no digest is to be checked; sizes are.

    Raises:
        PlanError: A file of weights that the publisher lists is not there, or has another size than was published.
    """
    recipe = release.recipe
    used = {blob for file in plan.files for blob in file.needs.blobs}
    named = [] if recipe is None else [(one, folder, "--lora") for one, folder in zip(recipe.lora, adapters, strict=True)]
    if recipe is not None and diff is not None:
        named.insert(0, (recipe.diff or UNKNOWN, diff, "--diff"))
    parts = [known_payload(release.name, *one, used, trust=trust) for one in named]
    if recipe is not None and recipe.key:
        parts.insert(0, known_key(release.name, recipe.key, key or base.source, used, plan))
    else:
        parts.insert(0, known_base(release, base, used, proved=proved(plan, release)))
    inputs = tuple(one for found, _ in parts for one in found)
    notes = [note for _, found in parts for note in found]
    if trust:
        return replace(plan, notes=(*plan.notes, f"--release {release.name}: {TRUSTED}"))
    if needed := sum(one.needed for one in inputs):
        count = f"{needed} input file{'' if needed == 1 else 's'}"
        notes.insert(0, f"--release {release.name}: published digests of {count} must hold before anything is published")
    return replace(plan, inputs=inputs, notes=(*plan.notes, *notes))


def proved(plan: Plan, release: Release) -> bool:
    """Whether each file of weights that is written has a digest in the release's own lists."""
    listed = {last(one.path) for one in release.entries() if usable(one.digest)}
    if plan.proofs:
        return not unproved(plan)
    return bool(plan.files) and all(last(file.path) in listed for file in plan.files)


def known_payload(release: str, entry: str, folder: Folder, role: str, used: set[Blob], *, trust: bool) -> Found:
    """The files of a diff or an adapter with their published digests, and a note where there are none.

    Looked at are the files that the plan reads: what else lies in the folder proves nothing.

    Raises:
        PlanError: A file of weights that the publisher lists is not there, or has another size.
        Incomplete: Some of the files that the publisher lists are there, and others not.
    """
    kind = "adapter" if role == "--lora" else "diff"
    source = None if entry == UNKNOWN else catalog.load(entry)
    published = {} if source is None else usable_of(source)
    here = read_of(folder, used)
    names = {last(name) for name in here}
    lacking = [path for path in published if is_weights(path) and path not in names]
    if lacking and names & published.keys() and not trust:
        raise Incomplete(f"--release {release}: {role} {folder.name}", lacking, f"the published list of {entry} names")
    if lacking and source is not None and source.kind != "xor" and not trust:  # of an XOR, completeness says it
        instead = f" and not {', '.join(sorted(names)[:4])}" if names else ""
        raise PlanError(
            f"--release {release}: {role} {folder.name} is not {entry}, which has {lacking[0]}{instead}; name the one that was "
            "published, or say --trust-inputs"
        )
    found = []
    for name, blob in here.items():
        if source is not None and (one := published.get(last(name))):
            sized(release, role, source, one.path, blob)
            found.append(Original(blob, (one.digest,), f"it is not the file of {entry}; {ADVICE}"))
    bare = [name for name in here if is_weights(name) and last(name) not in published]
    notes = []
    if bare:
        what = f"of {', '.join(bare[:4])} " if found else f"of this {kind} "
        notes = [f"{role} {folder.name}: no digest {what}was published"]
    return found, notes


def known_base(release: Release, base: Model, used: set[Blob], *, proved: bool) -> Found:
    """The base's files with their published digests: Meta's own, or those of any conversion that is known.

    Where the release names a conversion, as a byte XOR must, it is that one's alone.

    Raises:
        PlanError: A part of Meta's has another size than was published.
    """
    folder, role = base.source, base.role
    raw, below = original(release), catalog.load(release.base) if release.base else None
    meta = layout_named("meta").recognise(folder)
    if raw is None:
        return [], [f"{role} {folder.name}: no digest of this base was published"]
    if meta:
        sources = [raw]
    elif below is not None and below.kind == "converted":
        sources = [below]
    else:
        sources = [one for one in catalog.releases().values() if one.kind == "converted" and original(one) == raw]
    known = [(source, usable_of(source)) for source in sources]
    what = sources[0].name if len(sources) == 1 else f"a conversion of {raw.name} whose digests were published"
    found, bare = [], []
    for name, blob in read_of(folder, used).items():
        digests = tuple(entries[last(name)].digest for _, entries in known if last(name) in entries)
        if not digests:
            bare.append(name)
            continue
        if meta:
            sized(release.name, role, raw, last(name), blob)
        needed = meta or not proved
        advice = DECIDE if not needed else ADVICE if meta else OWN
        found.append(Original(blob, digests, f"it is not the file of {what}; {advice}", needed))
    if not found:
        return [], [f"{role} {folder.name}: no digest of this base was published"]
    return found, [f"{role} {folder.name}: no digest of {', '.join(bare[:4])} was published"] if bare else []


def known_key(release: str, published: str, folder: Folder, used: set[Blob], plan: Plan) -> Found:
    """The key file of an XOR payload, however it is called here, with its published digest.

    Args:
        release: Its name.
        published: Entry of the catalog, a blank, the file.
        folder: The key, or the folder that it lies in.
        used: What the plan reads.
        plan: The plan.

    Raises:
        PlanError: It has another size than was published.
    """
    entry, _, name = published.partition(" ")
    source = catalog.load(entry)
    if is_copy(folder) or is_computed(plan.files):
        return [], [f"key: {name} of {entry} is computed of {folder.name}, and proved by the digests of what comes out alone"]
    wanted, keys = usable_of(source).get(name), read_of(folder, used)
    if wanted is None or not keys:
        return [], [f"key {folder.name}: no digest of this key was published"]
    for blob in keys.values():
        sized(release, "the key", source, name, blob)
    reason = f"it is not {name} of {entry}, which the release takes as key; {ADVICE}"
    return [Original(blob, (wanted.digest,), reason) for blob in keys.values()], []


def sized(release: str, role: str, source: Release, path: str, blob: Blob) -> None:
    """Refuse a file that has another size than was published.

    Raises:
        PlanError: It has.
    """
    nbytes = source.sizes.get(path)
    if nbytes is not None and blob.nbytes != nbytes:
        raise PlanError(
            f"--release {release}: {role} {blob.name} has {blob.nbytes} bytes, and {path} of {source.name} has {nbytes}: it is "
            "another file, or cut short; name that one, or download it again"
        )


def read_of(folder: Folder, used: set[Blob]) -> dict[str, Blob]:
    """The files of a folder that a plan reads, by name."""
    return {name: blob for name in folder.names() if (blob := folder.blob(name)) in used}


def usable_of(release: Release) -> Mapping[str, Entry]:
    """The first digest of each file that can be taken here; SHA-256 where there is one."""
    found: dict[str, Entry] = {}
    for one in release.entries():
        if usable(one.digest):
            found.setdefault(one.path, one)
    return found


def is_weights(path: str) -> bool:
    """Whether a file is of weights, by its name."""
    return path.endswith((*suffixes(), ".enc"))


def last(path: str) -> str:
    """The last part of a path: lists name files, and folders of repositories hold them."""
    return path.rpartition("/")[2]
