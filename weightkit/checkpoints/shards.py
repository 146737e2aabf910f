"""Several files of weights in a transformers folder: their names, which tensor goes into which, the index that says so.

    pytorch_model-00001-of-00002.bin ... and pytorch_model.bin.index.json
    model-00001-of-00002.safetensors ... and model.safetensors.index.json

Source: transformers 4.28.1, ``save_pretrained`` and ``shard_checkpoint``; rules proved in releases, section 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from weightkit.checkpoints.checkpoint import read_json, whole
from weightkit.containers.format import Format
from weightkit.core.blob import Blob
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec

__all__ = [
    "BY_NUMBERS",
    "SHARD_NBYTES",
    "encode_index",
    "gaps",
    "index_name",
    "numbered",
    "read_index",
    "renamed",
    "shard",
    "shard_names",
]

BY_NUMBERS = "belong to the others by the numbers in their names"
"""Why files are missing, where no index says so."""

SHARD_NBYTES = 10 * 10**9
"""Limit of a shard where the source has none to follow: that of ``save_pretrained`` in 2023."""


def shard_names(format: Format, count: int) -> list[str]:
    """What the files of a checkpoint in so many shards are called; one is not numbered."""
    stem, suffix = format.stem, format.suffixes[0]
    if count == 1:
        return [f"{stem}{suffix}"]
    return [f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in range(1, count + 1)]


def numbered(format: Format, names: Iterable[str]) -> dict[str, int]:
    """Those of some names that are shards', and how many shards each says that there are."""
    pattern = re.compile(rf"{re.escape(format.stem)}-\d{{5}}-of-(\d{{5}}){re.escape(format.suffixes[0])}")
    return {match[0]: int(match[1]) for name in names if (match := pattern.fullmatch(name))}


def gaps(format: Format, names: Collection[str]) -> list[str]:
    """The shards that are missing among some, by the numbers in their names; one alone may be numbered, too."""
    most = max(numbered(format, names).values(), default=1)
    return [name for name in shard_names(format, most) if name not in names] if most > 1 else []


def renamed(name: str, old: Format, new: Format) -> str:
    """A file's name in another format: ``pytorch_model-00001-of-00002.bin`` -> ``model-00001-of-00002.safetensors``."""
    if old.name == new.name:
        return name
    stem = PurePosixPath(name).stem
    if stem.startswith(old.stem):
        stem = new.stem + stem.removeprefix(old.stem)
    return f"{stem}{new.suffixes[0]}"


def shard(named: Sequence[tuple[str, TensorSpec]], max_shard_bytes: int) -> list[list[str]]:
    """Cut tensors into shards: a new one starts where the next tensor would pass the limit.

    Source: transformers 4.28.1 ``shard_checkpoint``; proved on the index files of LLaMA 7B, 13B and 30B. A tensor larger
    than the limit has a shard of its own; the first shard is never empty (later versions of transformers).
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in named:
        if shards[-1] and size + spec.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.nbytes
    return shards


def index_name(format: Format) -> str:
    """What the index of a checkpoint in a format is called."""
    return f"{shard_names(format, 1)[0]}.index.json"


def read_index(blob: Blob) -> dict[str, Any]:
    """An index file, with its names checked to stay inside the folder.

    Raises:
        FormatError: It is no index, or a pointer to it, or names a file elsewhere.
    """
    content = whole(blob)
    try:
        index = read_json(content, blob.name)
        pairs = list(index["weight_map"].items())
    except (FormatError, KeyError, AttributeError) as error:
        raise FormatError(blob.name, "is no index: wanted a JSON object with a weight_map") from error
    for name, file in pairs:
        if not isinstance(file, str) or not file or file in (".", "..") or "\\" in file or PurePosixPath(file).name != file:
            raise FormatError(blob.name, f"{name} is said to be in {file!r}, which is no file of this folder: not read")
    return index


def encode_index(files: Mapping[str, Sequence[tuple[str, TensorSpec]]], extra: Mapping[str, Any] | None = None) -> bytes:
    """The index JSON as ``save_pretrained`` writes it: two blanks, keys sorted, newline at the end.

    Args:
        files: File name -> names and specs of the tensors in it.
        extra: Further metadata beside ``total_size``, which is computed.
    """
    total = sum(spec.nbytes for tensors in files.values() for _, spec in tensors)
    weight_map = {name: file for file, tensors in files.items() for name, _ in tensors}
    metadata = {**(extra or {}), "total_size": total}
    content = {"metadata": metadata, "weight_map": weight_map}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
