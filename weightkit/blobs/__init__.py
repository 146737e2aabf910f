"""Where bytes come from, a module for each place: local files, memory."""

from __future__ import annotations

import os

from weightkit.blobs.local import LocalBlob, LocalFolder, open_local
from weightkit.blobs.memory import MemoryBlob, known
from weightkit.blobs.places import local_path
from weightkit.core.blob import Blob, Folder

__all__ = [
    "Blob",
    "Folder",
    "LocalBlob",
    "LocalFolder",
    "MemoryBlob",
    "Place",
    "folder_at",
    "known",
    "local_path",
    "open_local",
]

Place = str | os.PathLike[str] | Folder
"""Where a folder of inputs is, as a caller says it."""


def folder_at(place: Place, role: str) -> Folder:
    """The folder (or the single file, as a folder of itself) at a place.

    Args:
        place: A path, or a folder that is open already.
        role: What it is to the caller, for messages: ``--raw``.

    Raises:
        PlanError: There is nothing.
    """
    if not isinstance(place, str | os.PathLike):
        return place
    return LocalFolder(local_path(place, role))
