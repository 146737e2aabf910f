"""Who must have signed a folder, and what in it was not signed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from weightkit.blobs.local import unreadable
from weightkit.core.errors import PlanError
from weightkit.proof.keys import PublicKey, public_key
from weightkit.proof.signature import Signed

__all__ = ["Signer", "is_link", "signer", "unsigned"]


@dataclass(frozen=True, slots=True)
class Signer:
    """Who must have signed.

    Attributes:
        key: The public key.
        signature: The signature; None for the one in the folder.
    """

    key: PublicKey
    signature: Path | None = None


def signer(signature: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None) -> Signer | None:
    """Who must have signed; None where no signature is asked for.

    Raises:
        PlanError: There is no key, so nothing would be proved; or it is none.
    """
    if key is not None:
        return Signer(public_key(Path(key)), None if signature is None else Path(signature))
    if signature is not None:
        raise PlanError(
            f"--signature {signature}: anybody can sign, so nothing is proved without the signer's public key",
            hint="get it from somewhere else than the files, and name it with --public-key",
        )
    return None


def unsigned(folder: Path, signed: Signed) -> list[str]:
    """Files in the folder that were not signed, hidden ones too; what the signature leaves out, and itself, left aside."""
    names = {one.path for one in signed.entries}
    itself = signed.path.resolve()
    found = []
    for root, folders, files in os.walk(folder, onerror=unreadable):
        place = Path(root).relative_to(folder)
        folders[:] = sorted(name for name in folders if not signed.leaves_out((place / name).as_posix()))
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in sorted((*files, *links)):
            path = (place / name).as_posix()
            if path not in names and not signed.leaves_out(path) and (Path(root) / name).resolve() != itself:
                found.append(path)
    return found


def is_link(folder: Path, name: str) -> bool:
    """Whether a file is reached over a symbolic link, other than those of the Hub's cache to its blobs."""
    root, real = folder.resolve(), (folder / name).resolve()
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else None
    return real != root / name and not (blobs is not None and real.is_relative_to(blobs))
