"""One folder of weights as an index of named tensors, and the small files beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from weightkit.containers.format import Container, Format
from weightkit.core.blob import Blob, Folder
from weightkit.core.errors import FormatError
from weightkit.core.lazy import LazyTensor
from weightkit.core.spec import TensorSpec
from weightkit.manifests.pointers import TOLD, is_pointer

__all__ = ["CONFIGS", "SMALL_FILES", "Checkpoint", "lone_file", "read_json", "read_small", "small_names"]

CONFIGS = ("config.json", "generation_config.json")

SMALL_FILES = (
    *CONFIGS,
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

HOLDING = (".json", ".model")
"""How small files end that are never empty."""

MAX_SMALL_NBYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A folder of weights as an index of tensors, under the names and in the shapes of the transformers layout.

    Attributes:
        folder: The folder.
        layout: ``huggingface``, ``meta`` or ``tencentpretrain``.
        format: The format of its files.
        files: File name -> its container, in the order of the names.
        tensors: Tensor name -> the tensor, lazy; in the order of files, then of each file.
        index: The index file's JSON, if there is one.
        made: Small files that the folder lacks but its layout implies, as a config.json made of params.json.
    """

    folder: Folder
    layout: str
    format: Format
    files: Mapping[str, Container]
    tensors: Mapping[str, LazyTensor]
    index: Mapping[str, Any] | None = None
    made: Mapping[str, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.layout}, {len(self.tensors)} tensors in {len(self.files)} files>"

    @property
    def name(self) -> str:
        """The folder's, for people and errors."""
        return self.folder.name

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor."""
        return self.tensors[name].spec

    def small(self, name: str) -> bytes | None:
        """The bytes of a small file of the folder; None where it is not there."""
        return self.made[name] if name in self.made else read_small(self.folder, name)

    def small_files(self) -> list[str]:
        """Names of the small files that are there."""
        return small_names(self.folder, self.made)

    def where(self, name: str) -> str:
        """A small file's place, for errors."""
        return self.folder.blob(name).name if self.folder.holds(name) else f"{self.name}/{name}"

    def json(self, name: str) -> dict[str, Any]:
        """A small file read as a JSON object; empty where it is not there.

        Raises:
            FormatError: It is no JSON object.
        """
        content = self.small(name)
        return {} if content is None else read_json(content, self.where(name))


def lone_file(folder: Folder) -> str | None:
    """The file's name, where a folder is a single file; None where it is a folder."""
    return folder.names()[0] if folder.single else None


def small_names(folder: Folder, made: Mapping[str, bytes] | None = None) -> list[str]:
    """Names of the small files of a folder that are there, or ``made``."""
    return [name for name in SMALL_FILES if name in (made or {}) or folder.holds(name)]


def read_small(folder: Folder, name: str) -> bytes | None:
    """The bytes of a small file; None where it is not there.

    Raises:
        FormatError: It is too large for one, or a pointer to it, empty, or a web page.
    """
    return whole(folder.blob(name)) if folder.holds(name) else None


def whole(blob: Blob) -> bytes:
    """All bytes of a small file. Raises like ``read_small``."""
    if blob.nbytes > MAX_SMALL_NBYTES:
        name = PurePosixPath(blob.name).name
        raise FormatError(blob.name, f"has {blob.nbytes} bytes; a {name} has at most {MAX_SMALL_NBYTES}")
    content = bytes(blob.read(0, blob.nbytes))
    if is_pointer(blob):
        raise FormatError(blob.name, TOLD)
    if blob.name.endswith(HOLDING) and not content.strip():
        raise FormatError(blob.name, "is empty; download it again")
    if content[:64].lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise FormatError(blob.name, "is a web page, not the file itself; the download went wrong, perhaps for want of a login")
    return content


def read_json(content: bytes, origin: str) -> dict[str, Any]:
    """A JSON object. All of this room read JSON with it.

    Args:
        content: The text.
        origin: Where it was read, for messages.

    Raises:
        FormatError: It is none.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FormatError(origin, f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(origin, "is no JSON object")
    return value
