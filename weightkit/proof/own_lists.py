"""Digests that a diff or an adapter carries of its own files: what is read must be as they say.

A list in a folder is of that folder's files, as ``verify`` takes it: ``SHA256SUMS``, ``MD5SUMS``, ``checklist.chk``, or
``FILE.sha256`` beside ``FILE``. ``RELEASE.sha256``, which make-diff leaves, is of what comes out, and ``--checksums`` takes it.
A large file whose bytes are checked as they are read is not read twice for it: a CRC-32 in it, or the digest of what it gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from weightkit import manifests
from weightkit.checkpoints.agreement import LOADED
from weightkit.checkpoints.checkpoint import SMALL_FILES
from weightkit.checkpoints.peft import FILES
from weightkit.checkpoints.peft_config import CONFIG
from weightkit.core.blob import Blob, Folder
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError, Incomplete
from weightkit.core.lazy import leaves
from weightkit.manifests.pointers import TOLD, is_pointer
from weightkit.manifests.sums import BY_LENGTH, Entry
from weightkit.proof.completeness import INDEX, of_a_model
from weightkit.proof.expecting import first_few
from weightkit.proof.lists import LIST_NAMES, usable
from weightkit.run.gates import SMALL_NBYTES, Original
from weightkit.run.plan import Plan, StreamFile

__all__ = ["as_listed"]

BESIDE = (".sha256", ".md5", ".sha512")
LARGEST_LIST = 16 << 20
NOTHING = tuple(hashlib.new(one).hexdigest() for one in ("md5", "sha256", "sha512"))
"""Digests of an empty file."""

ADVICE = "download it again, or take the list away if it is of other files, or you changed this one"


def as_listed(plan: Plan, payloads: Sequence[tuple[str, Folder]], *, trust: bool = False) -> Plan:
    """The plan, with the files of diffs and adapters that a list in their folder has the digest of.

    Nothing is published before they hold. What such a list has and nothing reads, as a README, is not asked for.

    Args:
        plan: What is to be written.
        payloads: What each is to the caller (``--diff``), and its folder.
        trust: Whether no digest is to be checked; what is missing is still said.

    Raises:
        Incomplete: Weights that a list names are not there; where files come out as they were published, any file of a model.
        FormatError: A Git-LFS pointer lies in the place of a file that a list names.
    """
    used = {blob for file in plan.files for blob in file.needs.blobs}
    known, sound = {one.blob for one in plan.inputs}, self_checked(plan)
    of_bytes = all(isinstance(file, StreamFile) for file in plan.files)
    inputs: list[Original] = []
    notes: list[str] = []
    for role, folder in payloads:
        where, read = f"{role} {folder.name}", files_read(folder, used, plan)
        listed, told = lists_in(folder, read, {one.resolve() for one in plan.sources})
        notes += [f"{where}: {one}" for one in told]
        lacking, small = missing(folder, read, listed, of_bytes=of_bytes)
        if lacking:
            raise Incomplete(where, lacking, f"{listed[lacking[0]][0]} lists")
        notes += [f"{where}: {listed[path][0]} lists {path}, which is not there" for path in small]
        found = {name: (blob, *listed[name]) for name, blob in read.items() if name in listed}
        for blob, _, _ in found.values():
            if is_pointer(blob):
                raise FormatError(blob.name, TOLD)
        left = [name for name, (blob, _, _) in found.items() if blob not in known and blob in sound]
        new = [
            Original(blob, (digest,), f"it is not the file that {name} beside it lists; {ADVICE}")
            for blob, name, digest in found.values()
            if blob not in known and blob not in sound
        ]
        known |= {one.blob for one in new}
        names = " and ".join(dict.fromkeys(name for _, name, _ in found.values()))
        if trust and new:
            notes.append(f"{where}: the digests in its {names} were not checked (--trust-inputs)")
        elif new:
            files = f"{len(new)} file{'' if len(new) == 1 else 's'}"
            notes.append(f"{where}: its {names} must hold for {files} before anything is published")
            inputs += new
        if left:
            what = (
                f"{first_few(left)}: large, with checks of their own"
                if len(left) > 1
                else f"{left[0]}: large, with a check of its own"
            )
            notes.append(f"{where}: not hashed for the list: {what}; weightkit verify {folder.name} does it")
    return replace(plan, inputs=(*plan.inputs, *inputs), notes=(*plan.notes, *notes))


def self_checked(plan: Plan) -> set[Blob]:
    """Large inputs that tell themselves whether they are sound: all that is read has a CRC-32, or what comes out a digest."""
    bare: set[Blob] = set()
    checked: set[Blob] = set()
    for file in plan.files:
        if isinstance(file, StreamFile):
            (checked if file.expect else bare).update(file.needs.blobs)
            continue
        for one in leaves(tensor for run in file.tensors for tensor in run):
            (bare if one.record is None else checked).add(one.blob)
    return {blob for blob in checked - bare if blob.nbytes > SMALL_NBYTES}


def files_read(folder: Folder, used: set[Blob], plan: Plan) -> dict[str, Blob]:
    """The files of a folder that the plan was made of, by name: those it reads yet, and small ones that it has read."""
    names = folder.names()
    weights = [name for name in names if folder.blob(name) in used]
    small = {*SMALL_FILES, CONFIG, *(file.path for file in plan.small)}
    homes = {home(name) for name in weights}
    beside = [f"{place}{name}" for place in homes for name in small]
    return {name: folder.blob(name) for name in dict.fromkeys((*weights, *beside)) if name in weights or folder.holds(name)}


def lists_in(folder: Folder, read: Mapping[str, Blob], named: set[Path]) -> tuple[dict[str, tuple[str, Digest]], list[str]]:
    """What the lists in a folder say: the list and the digest by file, of the first list that has it; and what is not used.

    Args:
        folder: The folder.
        read: Its files that are read.
        named: What the user named already, as with --checksums.
    """
    names = dict.fromkeys((*read, *folder.names()))
    homes = dict.fromkeys(("", *map(home, read)))
    candidates = [f"{place}{name}" for name in LIST_NAMES for place in homes]
    candidates += [f"{name}{ending}" for name in read for ending in BESIDE]
    listed: dict[str, tuple[str, Digest]] = {}
    told = []
    for one in candidates:
        if not folder.holds(one):
            continue
        try:
            entries = entries_in(folder, one)
        except FormatError as error:
            told.append(f"{one} was not used: {error.problem}")
            continue
        found = {entry_path(home(one), entry.path, names): entry.digest for entry in entries if usable(entry.digest)}
        if not found.keys() & read.keys():
            told.append(f"{one} has no digest of what is read, so nothing was checked by it")
            continue
        for path, digest in found.items():
            listed.setdefault(path, (one, digest))
    others = [
        one
        for one in folder.names()
        if one.endswith(BESIDE) and one not in candidates and home(one) in homes and not folder.single
    ]
    told += [
        f"{one} was not used: it may be of what comes out; --checksums {folder.name}/{one} compares that with it"
        for one in others
        if Path(folder.blob(one).name).resolve() not in named
    ]
    return listed, told


def entries_in(folder: Folder, name: str) -> list[Entry]:
    """The entries of a list; the digest alone in a file beside the one that it is of will do.

    Raises:
        FormatError: It is no list.
    """
    listed = folder.blob(name)
    if listed.nbytes > LARGEST_LIST:
        raise FormatError(listed.name, f"it has {listed.nbytes} bytes")
    if is_pointer(listed):
        raise FormatError(listed.name, TOLD)
    try:
        text = bytes(listed.read(0, listed.nbytes)).decode()
    except UnicodeDecodeError as error:
        raise FormatError(listed.name, "it is no text in UTF-8") from error
    digits, of = text.strip().lower(), PurePosixPath(name).stem
    if len(digits) in BY_LENGTH and name.endswith(BESIDE) and set(digits) <= set("0123456789abcdef"):
        text = f"{digits}  {of}\n"
    text = "\n".join(line for line in text.split("\n") if not of_nothing(line, name, folder))
    return manifests.parse(text, Path(listed.name))


def of_nothing(line: str, name: str, folder: Folder) -> bool:
    """Whether a line of a list is of an empty file, or of the list: the shell makes that before anything is hashed."""
    if not any(one in line.lower() for one in NOTHING):
        return False
    empty = [one for one in folder.names() if PurePosixPath(one).name in line and not folder.blob(one).nbytes]
    return bool(empty) or PurePosixPath(name).name in line


def entry_path(place: str, path: str, names: Mapping[str, None]) -> str:
    """The file of a folder that a list in it means: by its whole path, or else by the last part of it."""
    whole, last = f"{place}{path}", f"{place}{PurePosixPath(path).name}"
    return last if whole not in names and last in names else whole


def missing(
    folder: Folder, read: Mapping[str, Blob], listed: Mapping[str, object], *, of_bytes: bool
) -> tuple[list[str], list[str]]:
    """Files that lists name beside those that are read, and that are not there: those that matter, and those that do not."""
    if folder.single:
        return [], []
    kinds = {(home(name), kind(name)) for name in read}
    absent = [path for path in listed if not folder.holds(path)]
    weights = [path for path in absent if is_payload(path) and (home(path), kind(path)) in kinds]
    places = {place for place, _ in kinds}
    others = [path for path in absent if of_a_loader(path) and home(path) in places]
    small = [path for path in others if path not in weights]
    return ([*weights, *small], []) if of_bytes else (weights, small)


def is_payload(path: str) -> bool:
    """Whether a file's name is one of weights, in whatever they are wrapped, or of their index."""
    name = PurePosixPath(path).name
    return name in FILES or name.endswith((".enc", ".wkx", INDEX)) or of_a_model(name)


def of_a_loader(path: str) -> bool:
    """Whether a file is a small one that loaders of models and tokenizers look for."""
    return not path.endswith(INDEX) and (PurePosixPath(path).name in SMALL_FILES or path.endswith(LOADED))


def kind(path: str) -> str:
    """How a file's name ends, of an index that of the files that it names: another container's are another set."""
    return PurePosixPath(path.removesuffix(INDEX)).suffix


def home(path: str) -> str:
    """The folder of a file, with a slash at its end; empty for the folder itself."""
    place, slash, _ = path.rpartition("/")
    return place + slash
