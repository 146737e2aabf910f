"""A file or folder beside the right one: what of it differs, and what that tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from weightkit.blobs import LocalFolder, open_local
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter
from weightkit.containers import suffixes
from weightkit.core.blob import Blob
from weightkit.core.digest import hash_file
from weightkit.core.errors import FormatError, WeightkitError
from weightkit.core.events import Notify
from weightkit.core.passes import BLOCK_NBYTES
from weightkit.methods import methods
from weightkit.proof.causes import Explanation
from weightkit.proof.causes.container import container_differs, mended
from weightkit.proof.causes.damage import BadRecord, bad_records
from weightkit.proof.causes.extent import lengthened
from weightkit.proof.causes.folders import FileNames, by_name
from weightkit.proof.causes.mending import same_bytes
from weightkit.proof.causes.merges import merged_tensors
from weightkit.proof.causes.small import unlike
from weightkit.proof.causes.values import cause
from weightkit.proof.differences import Comparison, compare

__all__ = ["explain_against"]


def explain_against(target: Path, other: Path, base: Model | None, adapters: Sequence[Adapter], notify: Notify) -> Explanation:
    """Why a file or folder is not another: what its CRCs and its end say, then the container, then names, then values.

    Raises:
        PlanError: One of them holds no weights.
        FormatError: One of them is damaged.
    """
    if target.is_file() and other.is_file() and hash_file(target, ["sha256"]) == hash_file(other, ["sha256"]):
        return Explanation(True, (), f"{target} and {other} are the same, byte for byte")
    if target.is_file() and not target.name.removesuffix(".mismatch").endswith(suffixes()):
        return unlike(target, other)
    if target.is_file() and other.is_file() and (why := lengthened(open_local(target), open_local(other))):
        return why
    if (why := payloads(LocalFolder(target), LocalFolder(other))) is not None:
        return why
    try:
        here, there = open_checkpoint(target, "PATH"), open_checkpoint(other, "--against")
    except WeightkitError as error:
        if (found_why := unread(target, other, error)) is None:
            raise
        return found_why
    found = compare(here.tensors, there.tensors, notify)
    lines = tuple(described(found))
    alike = not found.here and not found.there and not found.different
    if (not alike or different_files(here, there)) and (why := self_told(here, there, found)):
        return replace(why, lines=(*lines, *why.lines))
    if alike:
        return explain_files(target, other, here, there, lines)
    merged = None
    if base is not None and adapters and found.different:
        merged = merged_tensors(there.tensors, base, adapters, [one.name for one in found.different])
    sentence, command = (merged.sentence, merged.command) if merged else cause(found, here, there, base)
    if dtype := one_dtype(found):
        command = mended(target, here, there, dtype)
    return Explanation(False, lines, sentence, command)


def self_told(here: Checkpoint, there: Checkpoint, found: Comparison) -> Explanation | None:
    """Damage that a file itself tells of: bytes after its end, a CRC-32 that does not hold; None where none does."""
    found_why = [
        why
        for name, container in here.files.items()
        if name in there.files and (why := lengthened(container.blob, there.files[name].blob))
    ]
    if found_why:
        more = f"; so have {len(found_why) - 1} more files bytes too many or too few" if len(found_why) > 1 else ""
        return replace(found_why[0], sentence=found_why[0].sentence + more)
    for checkpoint, where in ((here, ""), (there, " in what it was compared with (--against)")):
        if bad := [one for container in checkpoint.files.values() for one in bad_records(container)]:
            return Explanation(False, tuple(map(str, bad[1:5])), f"damage{where}: {bad_told(bad, found)}", "")
    return None


def bad_told(bad: Sequence[BadRecord], found: Comparison) -> str:
    """What is said of damaged records: where they differ from the right ones, and whether anything else does."""
    names = {name for one in bad for name in one.tensors}
    region = next((one for one in found.different if one.name in names and one.first is not None), None)
    where = f"a bad region, bytes {region.first} to {region.last} of {region.name}: " if region else ""
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    others = [one for one in found.different if one.name not in names]
    rest = f"{len(others)} other tensors differ as well" if others else "all else is right"
    if found.here or found.there:
        rest = "tensors are missing on one side as well"
    return f"{where}{bad[0]}{more}; {rest}: download the file again"


def one_dtype(found: Comparison) -> str | None:
    """The dtype that all tensors of floats have there, where that is what differs; None where it is not."""
    if found.here or found.there or not any(one.spec.dtype != one.other.dtype for one in found.different):
        return None
    names = {one.other.dtype.name for one in found.different}
    return names.pop() if len(names) == 1 and all(one.spec.shape == one.other.shape for one in found.different) else None


def described(found: Comparison) -> list[str]:
    """What differs, a line each."""
    lines = []
    for names, where in ((found.here, "only here"), (found.there, "only there")):
        if names:
            lines.append(f"{where}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    total = sum(one.elements for one in found.tensors)
    changed = sum(one.changed for one in found.different)
    apart = sum(one.spec != one.other for one in found.different)
    counted = f", in {changed} of {total} elements" if total and apart < max(1, len(found.different)) else ""
    unlike_specs = f", {apart} of them in dtype or shape" if apart else ""
    lines.append(f"{len(found.different)} of {len(found.tensors)} tensors differ{counted}{unlike_specs}")
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
    if target.is_dir() and other.is_dir():
        names = by_name(here.folder, there.folder)
        if names.alike:
            return Explanation(True, lines, f"{target} and {other} hold the same files, byte for byte")
        weights = {*here.files, *there.files}
        if not weights & {*names.changed, *names.here, *names.there}:
            changed = ", ".join((*names.changed, *names.here, *names.there, *names.renamed))
            what = "other names" if names.renamed else "small files only"
            return Explanation(False, lines, f"{what}: {changed}; {names.told(here.folder, there.folder)}")
        small = [name for name in (*names.changed, *names.here, *names.there) if name not in weights]
    else:
        small = []
    if small:
        lines = (*lines, f"small files differ: {', '.join(small)}")
    sentence = f"container only: every tensor is right; {container_differs(here, there)}"
    return Explanation(False, lines, sentence, mended(target, here, there))


def different_files(here: Checkpoint, there: Checkpoint) -> list[str]:
    """Names of files of weights that only one side has, or that are not the same bytes."""
    return [
        name
        for name in sorted({*here.files, *there.files})
        if name not in here.files or name not in there.files or not same_bytes(here.files[name].blob, there.files[name].blob)
    ]


def unread(target: Path, other: Path, error: WeightkitError) -> Explanation | None:
    """What is told where one side cannot be read; None where nothing but the error is."""
    if target.is_dir() and other.is_dir():
        one, two = LocalFolder(target), LocalFolder(other)
        if not all(any(name.endswith(suffixes()) for name in side.names()) for side in (one, two)):
            return None
        names = by_name(one, two)
        return file_by_file(names, one, two, f"{error};")
    if not isinstance(error, FormatError) or not target.is_file() or not other.is_file():
        return None
    return Explanation(False, (), f"cannot be read: {error}{region(open_local(target), open_local(other))}")


def payloads(one: LocalFolder, two: LocalFolder) -> Explanation | None:
    """What is told of payloads and adapters, whose files are to be as they were published; None where there are none."""
    if one.single or two.single:
        return None
    found = (seen for side in (one, two) for method in methods() if (seen := method.recognise(side)) is not None and seen.sure)
    what = next((seen.what for seen in found), None)
    return None if what is None else file_by_file(by_name(one, two), one, two, f"{what}, so")


def file_by_file(names: FileNames, one: LocalFolder, two: LocalFolder, why: str) -> Explanation:
    """What differs of two folders, where their tensors cannot be compared."""
    if names.alike:
        return Explanation(True, (), f"{one.name} and {two.name} hold the same files, byte for byte")
    rest = f"{names.same} file{' is' if names.same == 1 else 's are'} the same"
    return Explanation(False, (), f"{why} file by file: {names.told(one, two)}; {rest}")


def region(one: Blob, other: Blob) -> str:
    """Where two files of one size differ; empty where their sizes do."""
    if one.nbytes != other.nbytes:
        return f"; {one.nbytes} bytes here, {other.nbytes} there"
    first, last = None, 0
    for at in range(0, one.nbytes, BLOCK_NBYTES):
        parts = [np.frombuffer(side.read(at, min(at + BLOCK_NBYTES, one.nbytes)), np.uint8) for side in (one, other)]
        if (changed := np.flatnonzero(parts[0] != parts[1])).size:
            first, last = at + int(changed[0]) if first is None else first, at + int(changed[-1])
    return f"; the files differ between bytes {first} and {last} of {one.nbytes}"
