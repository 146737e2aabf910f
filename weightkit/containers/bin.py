"""The format ``bin``: what ``torch.save`` writes. Files of before 1.6 and zip files are read, zip files are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from weightkit.containers import torch_legacy, torch_zip
from weightkit.containers.format import Container
from weightkit.containers.layout import Encoding
from weightkit.containers.torch_file import TorchFile
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, profile_for_version, root_for
from weightkit.core.blob import Blob

__all__ = ["BIN", "DEFAULT_PROFILE", "Bin"]

DEFAULT_PROFILE = "zip-1.13"
"""Where nothing says which torch: the profile of the releases of 2023 (torch 1.13 and 2.0)."""

OLD_PROFILE = "zip-1.9"
"""What stands for a torch whose own files cannot be written: the oldest that can."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Files of ``torch.save`` as a ``Format``."""

    name: ClassVar[str] = "bin"
    stem: ClassVar[str] = "pytorch_model"
    suffixes: ClassVar[tuple[str, ...]] = (".bin", ".pth", ".pt")
    ties: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    def recognise(self, head: bytes, nbytes: int) -> bool:
        """By the first bytes of a zip file, or of the pickles of before 1.6."""
        return head.startswith(torch_zip.MAGIC) or head.startswith(torch_legacy.MAGIC[: len(head)])

    def open(self, blob: Blob) -> TorchFile:
        """Index a file of either kind: reads its directory and its pickles, nothing else."""
        head = bytes(blob.read(0, min(len(torch_zip.MAGIC), blob.nbytes)))
        open_file = torch_zip.open_file if head == torch_zip.MAGIC else torch_legacy.open_file
        return open_file(blob, self)

    def encoding(self, path: str, like: Container | None, profile: str | None, *, same: bool) -> TorchZip:
        """What ``torch.save`` writes under this name; see ``Format.encoding``.

        Args:
            path: Its name: the folder in the zip is called after it.
            like: Whose torch is followed where its files can be written.
            profile: A torch version, as ``2.0.1``, or a profile.
            same: Whether the kind of dict of ``like``, and its ``_metadata``, are kept.
        """
        chosen = profile_like(like) if profile is None else profile_for_version(profile)
        root = root_for(path, chosen)
        if same and isinstance(like, TorchFile) and like.kind != "other":
            return TorchZip(chosen, root, like.kind, like.metadata)
        return TorchZip(chosen, root)

    def variants(self, path: str, like: Encoding, *, all_kinds: bool) -> Sequence[Encoding]:
        """The same as each torch would have written it; with ``all_kinds`` from a plain dict, too."""
        if not isinstance(like, TorchZip):
            return [like]
        kinds = [(like.kind, like.metadata), *([("dict", None)] if all_kinds else [])]
        found = [like]
        for profile in sorted(PROFILES, key=lambda one: one != like.profile):
            root = root_for(path, profile)
            found += [replace(like, profile=profile, root=root, kind=kind, metadata=metadata) for kind, metadata in kinds]
        return list(dict.fromkeys(found))


def profile_like(like: Container | None) -> str:
    """The profile in which a file is followed."""
    if like is not None and like.profile in PROFILES:
        return like.profile
    return OLD_PROFILE if isinstance(like, TorchFile) else DEFAULT_PROFILE


BIN = Bin()
