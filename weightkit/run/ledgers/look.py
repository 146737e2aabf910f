"""What lies in a folder before it is written to, and whether that is in the way."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weightkit.core.errors import PlanError
from weightkit.run.ledgers.journal import JOURNAL, read_journal
from weightkit.run.ledgers.lockfile import LOCK
from weightkit.run.ledgers.naming import Version, version_of
from weightkit.run.ledgers.stage import PARTIAL, check_folder, partial_name
from weightkit.run.receipts import Receipt

__all__ = ["Seen", "folders_of", "in_the_way", "look", "partial_of"]

WEIGHTS = re.compile(r"(pytorch_model|model|consolidated)[-.].*(bin|safetensors|pth|index\.json)")
"""Names under which loaders look for weights."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was there.

    Attributes:
        receipts: By path: what an earlier try of the same plan has written down.
        there: By path: files under names that will be written.
        partials: By path: what a killed run left of files that will be written.
        notes: What the user should know.
        aside: By path: the mark of what an earlier try of the same plan has set aside.
    """

    receipts: Mapping[str, Receipt]
    there: Mapping[str, Version]
    partials: Mapping[str, Version]
    notes: tuple[str, ...]
    aside: Mapping[str, str]


def look(root: Path, names: Sequence[str], fingerprints: Mapping[str, str], *, overwrite: bool) -> Seen:
    """Look at a folder; touches nothing.

    Args:
        root: The folder; it need not be there.
        names: All that will be written.
        fingerprints: Path -> fingerprint, of the files of weights among them.
        overwrite: Whether files of the same names may be replaced.

    Raises:
        PlanError: Something is in the way, or would stand beside the new files and be taken for them.
    """
    check_names(names)
    if os.path.lexists(root) and not root.is_dir():
        raise PlanError(f"{root} is there already and is no folder; name another --out")
    for folder in folders_of(root, names):
        check_folder(folder)
    notes: list[str] = []
    receipts: Mapping[str, Receipt] = {}
    aside: Mapping[str, str] = {}
    damage = ""
    try:
        recorded = read_journal(root)
        if recorded is not None and recorded.of(fingerprints):
            receipts, aside = recorded.receipts, recorded.aside
            damage = f"{recorded.damaged} of its lines are not as they were written" if recorded.damaged else ""
    except ValueError as error:
        damage = str(error)
    if damage:
        damage = f"{root / JOURNAL} is damaged ({damage})"
        notes.append(f"{damage}: what it says no more of an interrupted run is not taken up")
    there = {name: version for name in names if (version := version_of(root / name)) is not None}
    folders = [name for name in there if (root / name).is_dir()]
    strangers = [name for name in there if name not in receipts]
    if folders or (strangers and not overwrite):
        raise in_the_way(root, folders or strangers, folder=bool(folders), unknown=damage)
    if root.is_dir():
        beside = sorted(e.name for e in root.iterdir() if WEIGHTS.fullmatch(e.name) and e.name not in names)
        if beside:
            raise PlanError(
                f"{root / beside[0]} is there already and would stand beside the new files, to be loaded in their "
                "place; move it away, or name another --out"
            )
    own = {partial_of(root, name): name for name in (*names, JOURNAL)}
    partials = {name: version for path, name in own.items() if (version := version_of(path)) is not None}
    for place in sorted({path.parent for path in own}):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if PARTIAL.fullmatch(path.name) and path not in own:
                notes.append(f"{path} was left by an interrupted run of something else; nothing needs it: remove it")
    for name in sorted(receipts.keys() - set(names)):
        if os.path.lexists(root / name):
            notes.append(f"{root / name} was written by an earlier try, and is no part of what is written now")
    return Seen(receipts, there, partials, tuple(notes), aside)


def folders_of(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders below the root that files go to, outermost first."""
    inside = {folder for name in names for folder in PurePosixPath(name).parents[:-1]}
    return [root / folder for folder in sorted(inside, key=lambda one: (len(one.parts), one))]


def partial_of(root: Path, name: str) -> Path:
    final = root / name
    return final.with_name(partial_name(final.name))


def in_the_way(root: Path, names: Sequence[str], *, folder: bool = False, unknown: str = "") -> PlanError:
    """What is said of files that would be replaced; with why it is not known whose they are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    advice = "" if folder else ", or say --overwrite"
    unknown = f"; {unknown}, so it is not known whether an interrupted run made it" if unknown else ""
    return PlanError(f"{root / names[0]}{more} is there already and would be replaced{unknown}; name another --out{advice}")


def check_names(names: Sequence[str]) -> None:
    """Refuse names that cannot stand beside each other, or in a list of digests.

    Raises:
        PlanError: One cannot.
    """
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise PlanError(f"{twice[0]}: two files of that name would be written; rename the one in the input")
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise PlanError(f"{name!r} is no name of a file inside a folder; rename the one in the input")
        if path.name == JOURNAL or path.name.startswith(LOCK) or PARTIAL.fullmatch(path.name):
            raise PlanError(f"{name}: weightkit uses that name itself while it writes; rename the one in the input")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise PlanError(
                f"{name!r} is no UTF-8, and no list of digests could name it; rename the one in the input"
            ) from error
