"""Whether all is there: what the index names, what the numbers in names say, what a release's list has.

A digest that holds proves one file. That a model is the one published is proved by all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.shards import BY_NUMBERS
from weightkit.containers import suffixes
from weightkit.core.blob import Folder
from weightkit.core.errors import Incomplete, PlanError
from weightkit.families.gguf import SUFFIX
from weightkit.manifests import Entry
from weightkit.run.plan import Plan, SmallFile, StreamFile

__all__ = [
    "INDEX",
    "INDEX_NBYTES",
    "complete",
    "lacking",
    "missing_notes",
    "missing_of",
    "named_by_index",
    "siblings",
    "whole_base",
    "whole_folder",
    "whole_source",
]

INDEX = ".index.json"
"""How the name of an index ends, in any format of transformers."""

INDEX_NBYTES = 64 << 20
"""No index is larger: LLaMA-65B's has 67 kB."""

NUMBERED = re.compile(r"(?P<stem>.+[-_.])(?P<number>\d{1,5})-of-(?P<count>\d{1,5})(?P<suffix>\.[A-Za-z0-9.]+)")
PART = re.compile(r"(?P<stem>(?:.*/)?consolidated\.)(?P<number>\d\d)(?P<suffix>\.(?:pth|safetensors))")
"""Names of shards, and of Meta's parts, which say nothing of how many there are: those before the last one must be there."""

MODEL = re.compile(r"(.*-)?(pytorch_model|model|consolidated)[-.].+|.+-\d{5}-of-\d{5}\..+")
"""Names under which weights of a model are published; with an index or numbers any other may be."""

MOST_SHARDS = 1000
"""So many names of one set are told at most; a count in a name is anybody's word."""


def siblings(names: Iterable[str]) -> list[str]:
    """All names that belong to sets of numbered files, of which some are given; sets counted from 0 are.

    An ``.enc`` file's name ends in a digest of its own, so those of one set end differently: what they decode to is looked at.
    """
    names = [name for name in names if not name.endswith(".enc")]
    given = [match for name in names if (match := NUMBERED.fullmatch(name))]
    sets: dict[tuple[str, str, str], tuple[bool, bool]] = {}
    for match in given:
        one, number = (match["stem"], match["count"], match["suffix"]), match["number"]
        from_zero, padded = sets.get(one, (False, False))
        padded = padded or (number.startswith("0") and len(number) == len(match["count"]) > 1)
        sets[one] = (from_zero or int(number) == 0, padded)
    found = []
    for (stem, count, suffix), (from_zero, padded) in sets.items():
        first, width = 0 if from_zero else 1, len(count) if padded else 1
        numbers = islice(range(first, first + int(count)), MOST_SHARDS)
        found += [f"{stem}{number:0{width}d}-of-{count}{suffix}" for number in numbers]
    parts = [match for name in names if (match := PART.fullmatch(name))]
    last = {
        one: max(int(match["number"]) for match in parts if (match["stem"], match["suffix"]) == one)
        for one in {(match["stem"], match["suffix"]) for match in parts}
    }
    for (stem, suffix), number in sorted(last.items()):
        found += [f"{stem}{part:02d}{suffix}" for part in range(number + 1)]
    return found


def named_by_index(name: str, content: bytes) -> list[str]:
    """The files that an index names, in its own folder; nothing where it is no index."""
    try:
        index = json.loads(content)
    except (ValueError, RecursionError):
        return []
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        return []
    plain = {file for file in weight_map.values() if isinstance(file, str) and PurePosixPath(file).name == file}
    return sorted(str(PurePosixPath(name).with_name(file)) for file in plain)


def missing_of(names: Collection[str], indexes: Mapping[str, bytes]) -> tuple[list[str], str]:
    """Files that belong to those that are there and are not among them, and what names them.

    An index none of whose files is there, where other weights are, is another container's, which was not fetched.
    """
    have = set(names)
    by_index = {name: named_by_index(name, content) for name, content in indexes.items()}
    bare = not any(map(of_a_model, have)) and not any(have.intersection(named) for named in by_index.values())
    for name, named in by_index.items():
        missing = [file for file in named if file not in have]
        if missing and (bare or len(missing) < len(named)):
            return missing, f"the weight_map of {name} names"
    return [name for name in siblings(names) if name not in have], BY_NUMBERS


def of_a_model(name: str) -> bool:
    """Whether a file holds a model's weights, by its name; a trainer's state, as training_args.bin, does not."""
    last = PurePosixPath(name).name
    return last.endswith(suffixes()) and bool(MODEL.fullmatch(last))


def whole_source(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint that is read, if the numbers in its files' names miss none.

    Raises:
        Incomplete: They do.
    """
    missing = absent(checkpoint)
    if missing:
        raise Incomplete(checkpoint.name, missing, BY_NUMBERS)
    return checkpoint


def whole_folder(folder: Folder) -> None:
    """See that a folder of files lacks none that an index or numbers in names say belong to it; a single file stands alone.

    Raises:
        Incomplete: It does.
    """
    if folder.single:
        return
    names = folder.names()
    indexes = {name: folder.blob(name) for name in names if name.endswith(INDEX)}
    small = {name: bytes(blob.read(0, blob.nbytes)) for name, blob in indexes.items() if blob.nbytes <= INDEX_NBYTES}
    missing, reason = missing_of(names, small)
    if missing:
        raise Incomplete(folder.name, missing, reason)


def whole_base(base: Model) -> Model:
    """A base that files are XORed with, if it lacks none: what has no counterpart in it would be copied as it is.

    Raises:
        PlanError: It does.
    """
    try:
        whole_folder(base.source)
    except Incomplete as error:
        raise PlanError(f"{base.role}: {error.text()}") from error
    return base


def absent(checkpoint: Checkpoint) -> list[str]:
    """Files that belong to a checkpoint by the numbers in the others' names, and are not in it; a single file stands alone."""
    return [] if checkpoint.folder.single else [name for name in siblings(checkpoint.files) if name not in checkpoint.files]


def missing_notes(checkpoint: Checkpoint) -> list[str]:
    """What is said of a checkpoint that is only looked at, where files of it are missing."""
    missing = absent(checkpoint)
    return [str(Incomplete(checkpoint.name, missing, BY_NUMBERS))] if missing else []


def lacking(plan: Plan, there: Collection[str] = ()) -> str:
    """Why what a plan writes is no whole model; empty where nothing says so.

    Args:
        plan: What is written.
        there: Names of files that are beside it.
    """
    names = [file.path for file in plan.everything]
    weights = [name for name in names if name.endswith((*suffixes(), SUFFIX))]
    if not weights:
        return "no weights are among these files: they are no model by themselves"
    of_set = siblings(weights)
    rest = [name for name in of_set if name not in weights and name not in there]
    if not rest:
        return ""
    have = [name for name in of_set if name in weights]
    more = f" and {len(rest) - 4} more" if len(rest) > 4 else ""
    many = f"{have[0]} is one file" if len(have) == 1 else f"{have[0]} and {len(have) - 1} more are files"
    return f"{many} of {len(of_set)}: without {', '.join(rest[:4])}{more} they are no model"


def complete(plan: Plan, where: str, published: Sequence[tuple[str, Sequence[Entry]]] = ()) -> Plan:
    """The plan, if it writes all files of the release.

    Args:
        plan: What is to be written.
        where: Where files would have to be, for the message.
        published: A release's own lists, by name. Of its files that are no weights only those of a plan of bytes are asked
            for: what goes along with tensors, the base or an adapter brings.

    Raises:
        Incomplete: It does not.
    """
    names = {file.path for file in plan.everything}
    missing, reason = missing_of(names, {file.path: content(file) for file in plan.everything if file.path.endswith(INDEX)})
    if missing:
        raise Incomplete(where, missing, reason)
    made = {file.path for file in plan.hashed}
    of_bytes = all(isinstance(file, StreamFile) for file in plan.files)
    for name, entries in published:
        listed = dict.fromkeys(entry.path for entry in entries)
        lacking = [path for path in listed if path not in made and (of_bytes or path.endswith(suffixes()))]
        if lacking:
            raise Incomplete(where, lacking, f"{name} lists")
    return plan


def content(file: object) -> bytes:
    """The bytes of a small file; nothing where it is none."""
    if isinstance(file, SmallFile):
        return file.content
    if not isinstance(file, StreamFile) or file.nbytes > INDEX_NBYTES:
        return b""
    taken = bytearray()
    for chunk in file.stream.chunks(1 << 20):
        taken += chunk
        if len(taken) > INDEX_NBYTES:
            return b""
    return bytes(taken)
