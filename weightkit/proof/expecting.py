"""The digests that a plan's files must have, and published ones made of them, out of published lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from weightkit.checkpoints.model import Written
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.manifests import Entry
from weightkit.proof.counterparts import Counterpart, unproved
from weightkit.run.plan import OutputFile, Plan, SmallFile
from weightkit.run.proving import taken_from

__all__ = ["expecting", "first_few"]


def expecting(plan: Plan, lists: Sequence[tuple[Path, Sequence[Entry]]], counterpart: Counterpart | None = None) -> Plan:
    """The plan, with the digests that its files must have, and notes on what a list does not cover.

    A list's paths are matched whole, or else by their last part. A list of the same model in other files, where ``counterpart``
    is given, proves what is stored: those are made of it, see ``Plan.proofs``.

    Raises:
        PlanError: A list names none of the files of tensors, nor files that can be made of them, so it is of another release;
            or one file in two folders.
    """
    wanted: dict[str, list[Digest]] = {}
    proofs: dict[str, OutputFile | SmallFile] = {}
    notes = list(plan.notes)
    names = {file.path for file in plan.everything}
    weights = [file.path for file in plan.files]
    for path, entries in lists:
        matched = by_file(path, entries, names)
        asked = weights
        if not set(weights) & set(matched):
            made = None if counterpart is None else otherwise(path, entries, counterpart, plan)
            if made is None:
                raise PlanError(
                    f"{path}: lists none of the files that will be written ({weights[0]} ...) but {entries[0].path} and the "
                    "like: it is the list of another release, dtype or number of shards"
                )
            files = of_its_own(made, plan)
            matched = by_file(path, entries, names | files.keys())
            matched = {files[name].path if name in files else name: found for name, found in matched.items()}
            proofs |= {one.path: proofs.get(one.path, one) for one in files.values() if one.path in matched}
            asked = [file.path for file in made.files]
            notes += [note for note in made.notes if note not in notes]
        for name, found in matched.items():
            wanted.setdefault(name, []).extend(entry.digest for entry in found)
        unlisted = [name for name in asked if name not in matched]
        known = {entry.path for found in matched.values() for entry in found}
        unwritten = sorted({entry.path for entry in entries} - known)
        if unlisted:
            notes.append(f"{path}: has no digest of {first_few(unlisted)}")
        if unwritten:
            notes.append(f"{path}: lists {first_few(unwritten)}, not written here")
    expected = replace(
        plan,
        files=tuple(replace(file, expect=(*file.expect, *wanted.get(file.path, ()))) for file in plan.files),
        small=tuple(replace(file, expect=(*file.expect, *wanted.get(file.path, ()))) for file in plan.small),
        proofs=tuple(replace(file, expect=tuple(wanted[name])) for name, file in proofs.items()),
        sources=(*plan.sources, *(path for path, _ in lists)),
    )
    return replace(expected, notes=(*without_compat(notes, expected), *proof_notes(expected)))


def otherwise(path: Path, entries: Sequence[Entry], counterpart: Counterpart, plan: Plan) -> Written | None:
    """The files that a list names, as they would be made of what a plan stores; None where it names no set that is known."""
    listed: dict[str, list[Digest]] = {}
    for entry in entries:
        listed.setdefault(entry.path.rpartition("/")[2], []).append(entry.digest)
    try:
        made = counterpart.written(plan, listed)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error
    return made if made is not None and any(file.path in listed for file in made.files) else None


def of_its_own(made: Written, plan: Plan) -> dict[str, OutputFile | SmallFile]:
    """By its published name, what was published otherwise than a plan stores it.

    An index of other shards may have the name of that which is stored; here it is called after the published ones.
    """
    stored = {one.path: one for one in plan.everything}
    found: dict[str, OutputFile | SmallFile] = {one.path: one for one in made.files}
    for one in made.small:
        other = stored.get(one.path)
        if other is None:
            found[one.path] = one
        elif isinstance(other, SmallFile) and other.content != one.content:
            found[one.path] = replace(one, path=f"published-{one.path}")
    return found


def proof_notes(plan: Plan) -> list[str]:
    """What is said of published files that are made and not stored."""
    if not plan.proofs:
        return []
    names = [file.path for file in plan.proofs]
    of = (
        "what is stored" if any(taken_from(file) for file in plan.proofs if isinstance(file, OutputFile)) else "the same inputs"
    )
    notes = [f"{first_few(names)}: published, and not stored: made of {of}, and hashed, before anything is published"]
    if left := unproved(plan):
        notes.append(f"{first_few(left)}: in none of the published files that have a digest, so nothing proves them")
    return notes


def without_compat(notes: Sequence[str], plan: Plan) -> list[str]:
    """Notes, without that on a torch that makes no difference to what is stored, where it does to what proves it."""
    return [note for note in notes if not plan.proofs or not note.startswith("--torch-compat: ")]


def by_file(path: Path, entries: Iterable[Entry], names: set[str]) -> dict[str, list[Entry]]:
    """The entries of a list, by the file that each is of.

    Raises:
        PlanError: The list has one file in two folders.
    """
    matched: dict[str, list[Entry]] = {}
    for entry in entries:
        name = entry.path if entry.path in names else entry.path.rpartition("/")[2]
        if name in names:
            matched.setdefault(name, []).append(entry)
    for name, found in matched.items():
        places = sorted({entry.path for entry in found})
        if len(places) > 1:
            raise PlanError(f"{path}: {name} is in it as {' and as '.join(places)}: leave one of them in the list")
    return matched


def first_few(names: Sequence[str]) -> str:
    """Some of the names."""
    return f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
