"""Exact differences: each file of a tuned model as what is to be known beside the base, losslessly and compressed.

One ``<file>.wkx`` for each file of weights; config, tokenizer and index go along as they are. What comes back is the tuned
file byte for byte, whatever wrote it: the tensors from the base's and their difference, everything else in the file as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from weightkit.catalog.outside import SIGNATURE, about_it
from weightkit.checkpoints.beside import unread_notes
from weightkit.checkpoints.checkpoint import Checkpoint, read_small, small_names
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model
from weightkit.containers import Container, formats, suffixes
from weightkit.core.blob import Blob, Folder
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.core.lazy import LazyTensor
from weightkit.methods import Evidence
from weightkit.methods.base import opened
from weightkit.methods.wkx import SUFFIX, Difference, Restored, Segment, predicts, read_directory, spec_of
from weightkit.run.plan import Plan, SmallFile, StreamFile
from weightkit.streams.planes import compressor

__all__ = ["METHOD", "Exact", "Options", "is_exact", "plan_make", "plan_recover"]


TENSORS = "TENSORS"
LIST_ENDINGS = ("SUMS", ".sha256", ".md5", ".sha512", "checklist.chk", SIGNATURE)
MAX_PLAIN_NBYTES = 64 << 20


def is_exact(folder: Folder) -> bool:
    """Whether a folder holds exact differences."""
    return bool(payload_names(folder))


def payload_names(folder: Folder) -> list[str]:
    """Names of the exact differences in a folder."""
    return [name for name in folder.names() if name.endswith(SUFFIX) and "/" not in name]


def plan_make(base: Checkpoint, tuned: Checkpoint) -> Plan:
    """Decide all that ``make_diff`` will write.

    Raises:
        PlanError: The two have no tensor in common.
        WeightkitError: zstd is not installed.
    """
    compressor()
    files = []
    known = total = 0
    for name, container in tuned.files.items():
        found = segments(name, container, base)
        known += sum(one.nbytes for one in found if one.base is not None)
        total += sum(one.nbytes for one in found if one.spec is not None)
        files.append(StreamFile(f"{name}{SUFFIX}", Difference(container.blob, name, found, tuple(container.tensors.values()))))
    if not known:
        raise PlanError(f"{base.name} and {tuned.name} do not fit together: they have no tensor in common")
    step = f"exact difference of the bits, {known / total:.0%} of the tensors' bytes predicted from the base"
    notes = (
        [] if known == total else ["tensors that the base lacks are stored whole, compressed: whoever has the diff has them"]
    )
    small = plain_files(tuned.folder)
    notes += [*unread_notes(base), *unread_notes(tuned)]
    return Plan("make-diff", (step, "restored again in the same pass, and compared"), tuple(files), small, tuple(notes))


def segments(name: str, container: Container, base: Checkpoint) -> tuple[Segment, ...]:
    """A file of weights from front to back: the tensors that lie in it whole, and what lies between them."""
    tensors = container.tensors
    placed = sorted(
        (stored.start, -stored.spec.nbytes, tensor)
        for tensor, stored in tensors.items()
        if stored.strides is None and stored.spec.nbytes
    )
    found: list[Segment] = []
    end = 0
    for start, _, tensor in placed:
        spec = tensors[tensor].spec
        if start < end:
            continue  # a second name for the same bytes, or some of them
        if start > end:
            found.append(Segment(end, start - end))
        guess = in_base(tensor, name, base)
        found.append(Segment(start, spec.nbytes, tensor, spec, guess if guess and predicts(guess.spec, spec) else None))
        end = start + spec.nbytes
    if container.blob.nbytes > end:
        found.append(Segment(end, container.blob.nbytes - end))
    return tuple(found)


def in_base(tensor: str, file: str, base: Checkpoint) -> LazyTensor | None:
    """The base's tensor of a name; failing that, in other layouts, the one of that name in the base's file of the same name."""
    found = base.tensors.get(tensor)
    return base.files[file].tensors.get(tensor) if found is None and file in base.files else found


def plan_recover(folder: Folder, base: Checkpoint) -> Plan:
    """Decide all that ``recover`` will write.

    Raises:
        PlanError: The base is not the one that the diff was made with, as far as names and shapes tell.
        FormatError: A file of the diff is damaged.
        WeightkitError: zstd is not installed.
    """
    compressor()
    problems: list[str] = []
    files = []
    for name in payload_names(folder):
        if (file := restored(name, folder.blob(name), base, problems)) is not None:
            files.append(file)
    if problems:
        raise PlanError(f"{base.name} is not the base of {folder.name}:", problems)
    step = f"base + exact difference, {len(files)} files, bit for bit"
    small = tuple(one for one in plain_files(folder) if one.path not in about_it(folder))
    return Plan("recover", (step,), tuple(files), small)


def restored(payload: str, blob: Blob, base: Checkpoint, problems: list[str]) -> StreamFile | None:
    """What a ``.wkx`` gives with a base; None, and problems, where the base does not fit."""
    directory = read_directory(blob)
    name = payload.removesuffix(SUFFIX)
    if directory["file"]["name"] != name:
        problems.append(f"{payload}: says it is of {directory['file']['name']!r}: it was renamed")
        return None
    found: list[Segment] = []
    at = 0
    for one in directory["segments"]:
        try:
            found.append(segment_of(one, at, name, base))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{name}: {error}")
        at += one["bytes"]
    if problems:
        return None
    stored = tuple(one["stored"] for one in directory["segments"])
    wanted = tuple(one["base"]["sha256"] if "base" in one else "" for one in directory["segments"])
    stream = Restored(blob, tuple(found), stored, wanted)
    if stream.nbytes != directory["file"]["bytes"]:
        problems.append(f"{name}: its segments have {stream.nbytes} bytes, the file {directory['file']['bytes']}")
        return None
    return StreamFile(name, stream, (Digest("sha256", directory["file"]["sha256"]),))


def segment_of(one: Mapping[str, Any], at: int, file: str, base: Checkpoint) -> Segment:
    """A segment from the directory, with its side of the base.

    Raises:
        ValueError: The base has not what it is predicted from.
    """
    if "tensor" not in one:
        return Segment(at, one["bytes"])
    spec = spec_of(one)
    if spec.nbytes != one["bytes"]:
        raise ValueError(f"{one['tensor']}: {spec} has not {one['bytes']} bytes")
    if "base" not in one:
        return Segment(at, one["bytes"], one["tensor"], spec)
    wanted = spec_of(one["base"])
    tensor = in_base(one["tensor"], file, base)
    if tensor is None:
        raise ValueError(f"{one['tensor']}: not in the base")
    if tensor.spec != wanted or not predicts(wanted, spec):
        raise ValueError(f"{one['tensor']}: the base has {tensor.spec}, the diff was made with {wanted}")
    return Segment(at, one["bytes"], one["tensor"], spec, tensor)


def plain_files(folder: Folder) -> tuple[SmallFile, ...]:
    """Config, tokenizer and index files, as they are; of a single file, those that lie beside it."""
    usual = [f"{one.stem}{one.suffixes[0]}.index.json" for one in formats()]
    every = [] if folder.single else [name for name in folder.names() if goes_along(folder, name)]
    names = {*small_names(folder), *every, *(name for name in usual if folder.holds(name))}
    return tuple(SmallFile(name, read_small(folder, name) or b"") for name in sorted(names))


def goes_along(folder: Folder, name: str) -> bool:
    """Whether a file of a folder is a small one that belongs to the model: no weights, no list of digests, nothing hidden."""
    if "/" in name or name.startswith(".") or name == TENSORS or name.endswith((SUFFIX, *suffixes(), *LIST_ENDINGS)):
        return False
    return folder.blob(name).nbytes <= MAX_PLAIN_NBYTES


@dataclass(frozen=True, slots=True)
class Options:
    """What may be said of an exact difference: nothing. It gives the tuned files, and no others."""


@dataclass(frozen=True, slots=True)
class Exact:
    """The method."""

    name: str = "exact"
    role: str = "--diff"
    settles: bool = True
    options: type[Options] = Options

    def recognise(self, payload: Folder) -> Evidence | None:
        """By the names of its files."""
        names = payload_names(payload)
        if not names:
            return None
        about = ("exact differences (.wkx): weightkit recover --raw BASE --diff it",)
        return Evidence("an exact difference", f"{names[0]} is one by its name", tell=lambda: about)

    def rebuild(self, base: Model, payload: Folder, options: Options) -> Model:
        """The tuned model's files."""
        made = plan_recover(payload, checkpoint_of(base))
        steps, notes = (*base.steps, *made.steps), (*base.notes, *made.notes)
        return replace(base, tensors=None, files=made.files, small=made.small, steps=steps, notes=notes)

    def make(self, base: Model, tuned: Model, options: Options, form: Form) -> Plan:
        """The differences, each proved as it is written."""
        return plan_make(checkpoint_of(base), checkpoint_of(tuned))


def checkpoint_of(model: Model) -> Checkpoint:
    """The checkpoint that a model is, under the tensors that have become of it.

    Raises:
        PlanError: It is none.
    """
    whole = opened(model)
    if whole.follows is None or whole.tensors is None:
        raise PlanError(f"{model.source.name}: is no checkpoint")
    return replace(whole.follows, tensors=whole.tensors)


METHOD: Any = Exact()
