"""Where bytes come from, a module for each place: local files, memory."""

from __future__ import annotations

import os
from pathlib import Path

from weightkit.blobs.addresses import HubAddress, address_of, is_address
from weightkit.blobs.local import LocalBlob, LocalFolder, open_local
from weightkit.blobs.memory import MemoryBlob, known
from weightkit.blobs.places import local_path
from weightkit.blobs.zipped import ZipFolder, zip_at
from weightkit.core.blob import Blob, Folder
from weightkit.core.errors import PlanError
from weightkit.core.wording import as_arguments

__all__ = [
    "Blob",
    "Folder",
    "LocalBlob",
    "LocalFolder",
    "MemoryBlob",
    "Place",
    "ZipFolder",
    "folder_at",
    "is_address",
    "known",
    "local_copy",
    "local_path",
    "open_local",
    "streaming",
    "zip_at",
]

Place = str | os.PathLike[str] | Folder
"""Where a folder of inputs is, as a caller says it."""


def folder_at(place: Place, role: str) -> Folder:
    """The folder (or the single file, as a folder of itself; or a ``.zip`` archive, as the folder in it) at a place.

    Args:
        place: A path, an address (``hf://owner/name``, ``https://...``), or a folder that is open already.
        role: What it is to the caller, for messages: ``--raw``.

    Raises:
        PlanError: There is nothing.
        FormatError: It lies on another machine, which is not reached.
        TypeError: It is neither.
    """
    if isinstance(place, str) and is_address(place):
        return remote(place, role)
    if not isinstance(place, str | os.PathLike):
        if not hasattr(place, "names"):
            raise TypeError(f"{as_arguments(role)}: a path is wanted, not {type(place).__name__}")
        return place
    path = local_path(place, role)
    return zip_at(path) or LocalFolder(path)


def remote(place: str, role: str) -> Folder:
    """What an address names; who fetches it is imported now."""
    address = address_of(place, role)
    if isinstance(address, HubAddress):
        from weightkit.blobs.hub import open_hub

        return open_hub(address, role)
    from weightkit.blobs.web import open_web

    return open_web(address, role)


def streaming(folder: Folder, role: str) -> Folder:
    """A folder on the network whose files are read as they are needed and never stored.

    Raises:
        PlanError: It lies on this machine.
    """
    stream = getattr(folder, "streaming", None)
    if stream is None:
        raise PlanError(f"--stream: {role} {folder.name} is not on the Hub, so nothing is streamed", hint="leave --stream out")
    found: Folder = stream()
    return found


def local_copy(place: str | os.PathLike[str], role: str) -> Path:
    """A path of this machine; what an address names is fetched into the client's cache, and its digests checked.

    Raises:
        PlanError: There is nothing, or it may not be had.
        DigestMismatch: It has other digests than the Hub states.
        FormatError: The Hub is not reached.
    """
    if not is_address(place):
        return local_path(place, role)
    folder = remote(os.fspath(place), role)
    if isinstance(folder, LocalFolder):
        return folder.path
    copy = getattr(folder, "copied", None)
    if copy is None:
        raise PlanError(f"{role}: {folder.name} is read as it is needed, and here all of it would be", hint="download it first")
    found: Path = copy()
    return found
