"""The digests that a plan's files must have, out of published lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.manifests import Entry
from weightkit.run.plan import Plan

__all__ = ["expecting", "first_few"]


def expecting(plan: Plan, lists: Sequence[tuple[Path, Sequence[Entry]]]) -> Plan:
    """The plan, with the digests that its files must have, and notes on what a list does not cover.

    A list's paths are matched whole, or else by their last part.

    Raises:
        PlanError: A list names none of the files of tensors, so it is of another release; or one file in two folders.
    """
    wanted: dict[str, list[Digest]] = {}
    notes = list(plan.notes)
    names = {file.path for file in plan.everything}
    weights = [file.path for file in plan.files]
    for path, entries in lists:
        matched = by_file(path, entries, names)
        if not set(weights) & set(matched):
            raise PlanError(
                f"{path}: lists none of the files that will be written ({weights[0]} ...) but {entries[0].path} and the like: "
                "it is the list of another release, dtype or number of shards"
            )
        for name, found in matched.items():
            wanted.setdefault(name, []).extend(entry.digest for entry in found)
        unlisted = [name for name in weights if name not in matched]
        known = {entry.path for found in matched.values() for entry in found}
        unwritten = sorted({entry.path for entry in entries} - known)
        if unlisted:
            notes.append(f"{path}: has no digest of {first_few(unlisted)}")
        if unwritten:
            notes.append(f"{path}: lists {first_few(unwritten)}, not written here")
    return replace(
        plan,
        files=tuple(replace(file, expect=(*file.expect, *wanted.get(file.path, ()))) for file in plan.files),
        small=tuple(replace(file, expect=(*file.expect, *wanted.get(file.path, ()))) for file in plan.small),
        notes=tuple(notes),
        sources=(*plan.sources, *(path for path, _ in lists)),
    )


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
