"""The transformers folder: one file of weights or several with an index, and small JSON and tokenizer files.

    config.json  generation_config.json  tokenizer.model  tokenizer_config.json  ...
    pytorch_model.bin   or   pytorch_model-00001-of-00002.bin ... and pytorch_model.bin.index.json
    model.safetensors   or   model-00001-of-00002.safetensors ... and model.safetensors.index.json

Source: transformers 4.28.1, ``save_pretrained`` and ``shard_checkpoint``; rules proved in releases, section 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from weightkit.containers import Container, open_file
from weightkit.core.errors import FormatError, PlanError
from weightkit.core.lazy import LazyTensor, Stored
from weightkit.core.spec import TensorSpec

__all__ = ["STEMS", "Checkpoint", "encode_index", "open_huggingface", "shard", "shard_names"]

STEMS = {"bin": "pytorch_model", "safetensors": "model"}
"""Format -> how the names of its files begin. Where a folder holds both, ``bin`` is read: it may hold ``inv_freq``."""

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
)
"""Small files that ``save_pretrained`` of model and tokenizer write."""

MAX_SMALL = 64 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of weights as an index of tensors, under the names and in the shapes of the transformers layout.

    Attributes:
        path: The folder.
        layout: ``huggingface``, ``meta`` or ``tencentpretrain``.
        format: ``bin`` or ``safetensors``: how its files are written.
        files: File name -> its container, in the order of the names.
        tensors: Tensor name -> the tensor, lazy; in the order of files, then of each file.
        index: The index file's JSON, if there is one.
        made: Small files that the folder lacks but its layout implies, as a config.json made of params.json.
    """

    path: Path
    layout: Literal["huggingface", "meta", "tencentpretrain"]
    format: str
    files: Mapping[str, Container]
    tensors: Mapping[str, LazyTensor]
    index: Mapping[str, Any] | None = None
    made: Mapping[str, bytes] = field(default_factory=dict)

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor."""
        return self.tensors[name].spec

    def small(self, name: str) -> bytes | None:
        """The bytes of a small file of the folder; None where it is not there."""
        if name in self.made:
            return self.made[name]
        file = self.path / name
        if not file.is_file():
            return None
        if file.stat().st_size > MAX_SMALL:
            raise FormatError(file, f"has {file.stat().st_size} bytes; a {name} has at most {MAX_SMALL}")
        content = file.read_bytes()
        if content.startswith(b"version https://git-lfs"):
            raise FormatError(file, "is a Git-LFS pointer, not the file itself; fetch it with `git lfs pull`")
        return content

    def small_files(self) -> list[str]:
        """Names of the small files that are there."""
        return [name for name in SMALL_FILES if name in self.made or (self.path / name).is_file()]

    def json(self, name: str) -> dict[str, Any]:
        """A small file read as a JSON object; empty where it is not there.

        Raises:
            FormatError: It is no JSON object.
        """
        content = self.small(name)
        if content is None:
            return {}
        try:
            value = json.loads(content)
        except (ValueError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(self.path / name, f"is no JSON: {error}") from error
        if not isinstance(value, dict):
            raise FormatError(self.path / name, "is no JSON object")
        return value


def open_huggingface(path: Path, role: str) -> Checkpoint:
    """Index a folder, or a single file of weights with the small files beside it.

    Raises:
        PlanError: It holds no weights, or some are missing.
        FormatError: A file in it is damaged or no file of weights.
    """
    if path.is_file():
        container = open_file(path)
        chosen = "safetensors" if container.profile == "safetensors" else "bin"
        tensors = {name: Stored(container, name) for name in container.specs}
        return Checkpoint(path.parent, "huggingface", chosen, {path.name: container}, tensors)
    for chosen in STEMS:
        names, index = find_files(path, chosen, role)
        if names:
            return assemble(path, chosen, names, index)
    raise PlanError(
        f"{role}: {path} holds no weights{kind_instead(path)}: wanted pytorch_model.bin, model.safetensors, or the shards of "
        "one of them"
    )


def kind_instead(path: Path) -> str:
    """What a folder without weights is instead, if its files' names tell; in brackets."""
    if (path / "adapter_config.json").is_file():
        return " (it is a LoRA adapter: name it with --lora)"
    if any(path.glob("*.enc")) or any(path.glob("*.wkx")):
        return " (it is a payload: recover the model first, with weightkit recover --raw BASE --diff it)"
    return ""


def find_files(folder: Path, chosen: str, role: str) -> tuple[list[str], dict[str, Any] | None]:
    """Names of the files of weights of one format, and the index if there is one."""
    single = f"{STEMS[chosen]}.{chosen}"
    index_path = folder / f"{single}.index.json"
    if index_path.is_file():
        index = read_index(index_path)
        names = sorted(set(index["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing and not (folder / single).is_file():
            raise PlanError(
                f"{role}: {folder}: {len(missing)} of the {len(names)} files that {index_path.name} names are missing: "
                + ", ".join(missing[:4])
                + (" ..." if len(missing) > 4 else "")
            )
        if names and not missing:
            return names, index
        if not names and not (folder / single).exists():
            raise FormatError(index_path, "names no files: its weight_map is empty; download it again")
    if (folder / single).exists():
        return [single], None
    pattern = re.compile(rf"{STEMS[chosen]}-(\d{{5}})-of-(\d{{5}})\.{chosen}")
    found = {match[0]: match for entry in folder.iterdir() if (match := pattern.fullmatch(entry.name))}
    counts = {int(match[2]) for match in found.values()}
    if not found:
        return [], None
    wanted = shard_names(chosen, max(counts))
    if sorted(found) != wanted:
        lacking = [name for name in wanted if name not in found]
        raise PlanError(f"{role}: {folder}: shards are missing or of two kinds: lacking {', '.join(lacking[:4])}")
    return wanted, None


def read_index(path: Path) -> dict[str, Any]:
    """An index file, with its names checked to stay inside the folder.

    Raises:
        FormatError: It is no index, or names a file elsewhere.
    """
    try:
        index = json.loads(path.read_bytes())
        weight_map = index["weight_map"]
        pairs = list(weight_map.items())
    except (OSError, ValueError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(path, "is no index: wanted a JSON object with a weight_map") from error
    for name, file in pairs:
        if not isinstance(file, str) or not file or file in (".", "..") or "\\" in file or PurePosixPath(file).name != file:
            raise FormatError(path, f"{name} is said to be in {file!r}, which is no file of this folder: not read")
    if not isinstance(index, dict):
        raise FormatError(path, "is no JSON object")
    return index


def assemble(folder: Path, chosen: str, names: Sequence[str], index: dict[str, Any] | None) -> Checkpoint:
    """Open the files and check them against each other and the index."""
    files = {name: open_file(folder / name) for name in names}
    tensors: dict[str, LazyTensor] = {}
    for container in files.values():
        for name in container.specs:
            if name in tensors:
                raise FormatError(container.path, f"{name} is in another file of the folder already")
            tensors[name] = Stored(container, name)
    for name, file in (index or {"weight_map": {}})["weight_map"].items():
        if name not in files[file].specs:
            raise FormatError(folder / file, f"lacks {name}, which the index says is in it; download it again")
    return Checkpoint(folder, "huggingface", chosen, files, tensors, index)


def shard_names(chosen: str, count: int) -> list[str]:
    """What the files of a checkpoint in so many shards are called; one is not numbered."""
    stem = STEMS[chosen]
    if count == 1:
        return [f"{stem}.{chosen}"]
    return [f"{stem}-{number:05d}-of-{count:05d}.{chosen}" for number in range(1, count + 1)]


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
