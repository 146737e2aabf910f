"""What a folder layout is: how it is told, how it is read under transformers' names, how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model, Written
from weightkit.core.blob import Folder
from weightkit.core.lazy import LazyTensor
from weightkit.families.converters import Converter

__all__ = ["FolderLayout", "known_tensors"]


class FolderLayout(Protocol):
    """One way in which a model's tensors are named, shaped and spread over a folder's files: a frozen value."""

    @property
    def name(self) -> str:
        """The word of ``--to``."""

    def recognise(self, folder: Folder) -> bool:
        """Whether a folder is in this layout."""

    def open(self, folder: Folder, role: str, converter: Converter) -> Checkpoint:
        """Index a folder: reads headers and small files, no weights.

        Args:
            folder: The folder, or a single file.
            role: What it is to the caller, for messages: ``--raw``.
            converter: Whose conversion to transformers' layout it stands for, if it is in another one.

        Raises:
            PlanError: It holds no weights, or they do not fit together.
            FormatError: A file in it is damaged or no file of weights.
        """

    def write(self, model: Model, form: Form) -> Written:
        """The files of a model in this layout.

        Raises:
            ValueError: Its tensors cannot be laid out so, or are not known.
        """


def known_tensors(model: Model) -> tuple[Checkpoint, Mapping[str, LazyTensor]]:
    """Whose files a model follows, and its tensors; ``ValueError`` where only its bytes are known."""
    if model.follows is None or model.tensors is None:
        raise ValueError("its tensors are not known, only the bytes of its files; they can be laid out in no other way")
    return model.follows, model.tensors
