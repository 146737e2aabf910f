"""A file or folder beside the right one: what of it differs, and what that tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter
from weightkit.containers import suffixes
from weightkit.core.blob import Blob
from weightkit.core.digest import hash_file
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify
from weightkit.core.passes import BLOCK_NBYTES
from weightkit.proof.causes import Explanation
from weightkit.proof.causes.merges import merged_tensors
from weightkit.proof.causes.small import differing_fields, unlike
from weightkit.proof.causes.values import cause
from weightkit.proof.causes.writings import version_of
from weightkit.proof.differences import Comparison, compare

__all__ = ["explain_against"]


def explain_against(target: Path, other: Path, base: Model | None, adapters: Sequence[Adapter], notify: Notify) -> Explanation:
    """Why a file or folder is not another.

    Raises:
        PlanError: The other one does not exist, or one of them holds no weights.
        FormatError: One of them is damaged.
    """
    if not other.exists():
        raise PlanError(f"--against: {other} does not exist")
    if target.is_file() and other.is_file() and hash_file(target, ["sha256"]) == hash_file(other, ["sha256"]):
        return Explanation(True, (), f"{target} and {other} are the same, byte for byte")
    if target.is_file() and not target.name.endswith(suffixes()):
        return unlike(target, other)
    here, there = open_checkpoint(target, "PATH"), open_checkpoint(other, "--against")
    found = compare(here.tensors, there.tensors, notify)
    lines = tuple(described(found))
    if not found.here and not found.there and not found.different:
        return explain_files(target, other, here, there, lines)
    merged = None
    if base is not None and adapters and found.different:
        merged = merged_tensors(there.tensors, base, adapters, [one.name for one in found.different])
    sentence, command = (merged.sentence, merged.command) if merged else cause(found, here, there)
    return Explanation(False, lines, sentence, command)


def described(found: Comparison) -> list[str]:
    """What differs, a line each."""
    lines = []
    for names, where in ((found.here, "only here"), (found.there, "only there")):
        if names:
            lines.append(f"{where}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    total = sum(one.elements for one in found.tensors)
    changed = sum(one.changed for one in found.different)
    lines.append(f"{len(found.different)} of {len(found.tensors)} tensors differ, in {changed} of {total} elements")
    ulps: dict[str, int] = {}
    for one in found.different:
        for label, count in one.ulps.items():
            ulps[label] = ulps.get(label, 0) + count
    if ulps:
        lines.append("by ULPs: " + ", ".join(f"{label}: {count}" for label, count in ulps.items()))
    for one in sorted(found.different, key=lambda one: (-one.changed, one.name))[:5]:
        what = f"{one.spec} here, {one.other} there" if one.spec != one.other else f"{one.changed} of {one.elements} elements"
        where = f", bytes {one.first} to {one.last} of it" if one.first is not None else ""
        lines.append(f"  {one.name}: {what}{where}")
    return lines


def explain_files(target: Path, other: Path, here: Checkpoint, there: Checkpoint, lines: tuple[str, ...]) -> Explanation:
    """The tensors are the same; what of the files is not."""
    small = [name for name in there.small_files() if here.small(name) != there.small(name)] if target.is_dir() else []
    differ = [target.name] if target.is_file() else different_files(here, there)
    if not differ and not small:
        return Explanation(True, lines, f"{target} and {other} hold the same files, byte for byte")
    if not differ:
        name = small[0]
        fields = differing_fields(here.small(name) or b"", there.small(name) or b"") if name.endswith(".json") else "its bytes"
        return Explanation(False, lines, f"small files only: {', '.join(small)}; of {name} {fields}")
    command = f"weightkit convert {target if target.is_dir() else target.parent} OUT --to hf"
    mine, theirs = (version_of(next(iter(one.files.values())).profile) for one in (here, there))
    if mine != theirs:
        sentence = f"container only: every tensor is right; written as {told(mine)} here, as {told(theirs)} there"
        compat = f" --torch-compat {theirs}" if theirs[0].isdigit() else f" --format {theirs}"
        return Explanation(False, lines, sentence, command + compat)
    sentence = (
        f"container only: every tensor is right; {', '.join(differ[:3])} differ in the order of tensors, names of the zip's "
        "folder, or shards"
    )
    return Explanation(False, lines, sentence, command)


def different_files(here: Checkpoint, there: Checkpoint) -> list[str]:
    """Names of files of weights that only one side has, or that are not the same bytes."""
    return [
        name
        for name in sorted({*here.files, *there.files})
        if name not in here.files or name not in there.files or not same_bytes(here.files[name].blob, there.files[name].blob)
    ]


def same_bytes(one: Blob, other: Blob) -> bool:
    """Whether two files are the same; stops at the first block that differs."""
    if one.nbytes != other.nbytes:
        return False
    ranges = [(at, min(at + BLOCK_NBYTES, one.nbytes)) for at in range(0, one.nbytes, BLOCK_NBYTES)]
    found = all(bytes(one.read(*part)) == bytes(other.read(*part)) for part in ranges)
    one.check()
    other.check()
    return found


def told(profile: str) -> str:
    """A profile, for people."""
    return f"torch {profile} writes" if profile[0].isdigit() else profile
