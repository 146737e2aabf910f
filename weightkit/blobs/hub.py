"""Repositories of the Hugging Face Hub, through its own client: cache, tokens, mirrors and offline mode are that one's.

Headers are read in ranges. What a run needs whole is downloaded into the client's cache when its pass begins, and no byte of
it is used before its digest is the one that the Hub states: the client itself compares sizes alone (huggingface_hub issue
3643). A wrong file is fetched once more, then refused. The client is imported with the first address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from weightkit.blobs.addresses import HubAddress
from weightkit.blobs.client import REQUIREMENT, client, patiently, plain, told
from weightkit.blobs.downloads import REFETCHED, HubBlob, downloaded
from weightkit.blobs.local import LocalFolder
from weightkit.core.blob import Blob, Folder
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError, PlanError

__all__ = [
    "REFETCHED",
    "REQUIREMENT",
    "HubBlob",
    "HubFolder",
    "blob_of",
    "client",
    "downloaded",
    "licence_of",
    "open_hub",
    "told",
]


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A repository at one commit, a folder in it, or a single file as a folder of itself.

    Attributes:
        address: What was named.
        commit: The commit that its revision is.
        files: Every file of the repository by its path.
        single: Whether the address is that of a file.
    """

    address: HubAddress
    commit: str
    files: tuple[HubBlob, ...]
    single: bool = False

    @property
    def name(self) -> str:
        """The address."""
        return str(self.address)

    @property
    def inside(self) -> str:
        """How paths in it begin."""
        path = self.address.path
        if self.single:
            path = str(PurePosixPath(path).parent) if "/" in path else ""
        return f"{path}/" if path else ""

    def names(self) -> Sequence[str]:
        """All files below it."""
        if self.single:
            return [PurePosixPath(self.address.path).name]
        inside = self.inside
        below = [one.path.removeprefix(inside) for one in self.files if one.path.startswith(inside)]
        return sorted(name for name in below if not any(part.startswith(".") for part in name.split("/")))

    def holds(self, name: str) -> bool:
        """Whether a file or a folder of this name is there."""
        wanted = self.inside + name
        return any(one.path == wanted or one.path.startswith(f"{wanted}/") for one in self.files)

    def blob(self, name: str) -> Blob:
        """A file."""
        found = next((one for one in self.files if one.path == self.inside + name), None)
        if found is None:
            raise FormatError(f"hf://{self.address.repository}/{self.inside}{name}", "is not in the repository")
        return found

    def above(self) -> Folder | None:
        """The folder in the repository that holds this one."""
        if not self.address.path:
            return None
        parent = str(PurePosixPath(self.address.path).parent)
        address = HubAddress(self.address.repository, self.address.revision, "" if parent == "." else parent)
        return HubFolder(address, self.commit, self.files)

    def copied(self) -> Path:
        """All of it in the client's cache, every digest checked. Raises like ``downloaded``."""
        inside, names, files = self.inside, self.names(), {one.path: one for one in self.files}
        paths = [downloaded(files[inside + name]) for name in names]
        return paths[0] if self.single else paths[0].parents[names[0].count("/")]

    def streaming(self) -> HubFolder:
        """The same, whose files are never stored."""
        return replace(self, files=tuple(replace(one, streamed=True) for one in self.files))


def open_hub(address: HubAddress, role: str) -> Folder:
    """What an address of the Hub names; without network, what the client's cache has of it.

    Raises:
        PlanError: There is nothing, or it may not be had.
        FormatError: The Hub is not reached, or states what makes no sense.
    """
    hub = client()
    if hub.constants.HF_HUB_OFFLINE:
        return cached(address)
    name, api = f"{role}: {address}", hub.HfApi()
    commit = str(patiently(name, lambda hub: api.repo_info(address.repository, revision=address.revision or None).sha))
    listed = patiently(name, lambda hub: list(api.list_repo_tree(address.repository, recursive=True, revision=commit)))
    tree = [one for one in listed if hasattr(one, "blob_id")]
    files = tuple(
        replace(blob_of(address.repository, commit, one), revision=address.revision)
        for one in sorted(tree, key=lambda one: str(one.path))
    )
    found = HubFolder(address, commit, files)
    if not address.path:
        return found
    if any(one.path == address.path for one in files):
        return replace(found, single=True)
    if not found.names():
        raise PlanError(f"{role}: {address}: there is no such file or folder in the repository")
    return found


def blob_of(repository: str, commit: str, entry: Any) -> HubBlob:
    """A file as the Hub lists it.

    Raises:
        FormatError: Its path leads out of the repository, or its digest is none.
    """
    path = str(entry.path)
    name = f"hf://{repository}/{path[:200]}"
    if path.startswith("/") or "\\" in path or not path.isprintable() or {"", ".", ".."} & set(path.split("/")):
        raise FormatError(f"hf://{repository}", f"lists a file that leads elsewhere: {path[:200]!a}")
    try:
        digest = Digest("sha256", entry.lfs.sha256) if entry.lfs else Digest("gitsha1", entry.blob_id)
    except ValueError as error:
        raise FormatError(name, f"the Hub states no digest of it: {plain(error)}") from error
    size = entry.lfs.size if entry.lfs else entry.size
    if type(size) is not int or size < 0:
        raise FormatError(name, "the Hub states no size of it")
    return HubBlob(repository, commit, path, size, digest)


def cached(address: HubAddress) -> Folder:
    """What the client's cache has of a repository."""
    hub = client()
    with told(str(address)):
        root = Path(hub.snapshot_download(address.repository, revision=address.revision or None, local_files_only=True))
    place = root / address.path
    if not place.exists():
        raise PlanError(f"{address}: is not in the cache, and nothing may be fetched", hint="unset HF_HUB_OFFLINE")
    return LocalFolder(place)


def licence_of(folder: HubFolder) -> str:
    """The licence that a repository's card names; empty where it names none, or the Hub does not say."""
    hub = client()
    try:
        info = hub.HfApi().model_info(folder.address.repository, revision=folder.commit)
    except Exception:  # what was wanted is a word for people
        return ""
    card = getattr(info, "card_data", None)
    found = getattr(card, "license", None) or next((tag[8:] for tag in info.tags or () if tag.startswith("license:")), "")
    return str(found)[:80] if found and str(found).isprintable() else ""
