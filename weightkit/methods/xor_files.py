"""What releases published as a byte XOR have in common: what may be said of them, their files, and how a wrong key shows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from weightkit.checkpoints.model import Model
from weightkit.containers import sniff, suffixes
from weightkit.core.blob import Blob, Folder
from weightkit.core.errors import DigestMismatch, PlanError, WeightkitError
from weightkit.manifests.pointers import is_pointer
from weightkit.run.plan import Plan, StreamFile
from weightkit.streams import Stream, beginning
from weightkit.streams.xor import Padded, Wrapped

__all__ = [
    "ENC",
    "SMALL_NBYTES",
    "WHAT",
    "Coded",
    "Options",
    "check_small",
    "first_few",
    "head",
    "implausible",
    "is_json",
    "is_weights",
    "listing",
    "payload_files",
    "refuse_pointers",
    "untouched",
]

WHAT = "an XOR payload"
ENC = re.compile(r"(?P<name>.+)\.(?P<digest>[0-9a-fA-F]{64})\.enc")
"""The name of an ``.enc`` file: that of the file in it, and its SHA-256."""

LISTS = ("SHA256SUMS", "MD5SUMS", "SHA512SUMS", "BLAKE3SUMS", "checklist.chk", "TENSORS")
"""Lists of digests: those of a payload are of its own files, and no part of what is in it."""

NEVER_EMPTY = (".json", ".model", ".enc")
"""How files of a model end, beside weights, that hold something."""

SMALL_NBYTES = 4 << 20
"""Files up to this size are decoded before the work, to notice a wrong key or base at once."""


@dataclass(frozen=True, slots=True)
class Options:
    """What may be said of an XOR payload.

    Attributes:
        key: The key file, or the folder of the base, where it is not the base that was named.
        published_key: Which file the release's own recipe takes for its key: an entry of the catalog, a blank, the file.
        max_shard_bytes: Limit of the shards of a base in Meta's layout, which is converted; None for that of 2023.
    """

    key: Folder | None = None
    published_key: str | None = None
    max_shard_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Coded:
    """What comes of a payload, or what a payload is to be.

    Attributes:
        files: All its files, in the order of their names.
        steps: What is done to them, one line each.
        notes: What the user should know.
    """

    files: tuple[StreamFile, ...]
    steps: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def plan(self, job: str) -> Plan:
        """The plan that writes them."""
        return Plan(job, self.steps, self.files, (), self.notes)

    def model(self, base: Model) -> Model:
        """What becomes of the base."""
        return replace(base, tensors=None, files=self.files, small=(), steps=self.steps, notes=(*base.notes, *self.notes))


def listing(folder: Folder, role: str) -> dict[str, Blob]:
    """The files of a folder and the folders in it, by their names in it.

    Hidden ones are left out, and lists of digests.

    Raises:
        PlanError: There is nothing.
    """
    if not (names := names_in(folder)):
        raise PlanError(f"{role}: {folder.name} holds no files")
    return {name: folder.blob(name) for name in names}


def names_in(folder: Folder) -> list[str]:
    """The names of a folder's own files."""
    return [name for name in folder.names() if PurePosixPath(name).name not in LISTS]


def payload_files(folder: Folder) -> dict[str, Blob]:
    """The files of a published folder; where all weights lie in one folder inside it, that folder's.

    Source: Open-Assistant's releases, whose payload sits in a folder of the same name inside.
    """
    names = names_in(folder)
    homes = {str(PurePosixPath(name).parent) for name in names if is_weights(name)}
    home = f"{homes.pop()}/" if len(homes) == 1 and homes != {"."} else ""
    return {name.removeprefix(home): folder.blob(name) for name in names if name.startswith(home)}


def is_weights(name: str) -> bool:
    """Whether a file's name is one of weights, whatever they are wrapped in."""
    match = ENC.fullmatch(name)
    return (match["name"] if match else name).endswith(suffixes())


def head(blob: Blob, nbytes: int) -> bytes:
    """The first bytes of a file."""
    return bytes(blob.read(0, min(nbytes, blob.nbytes)))


def refuse_pointers(role: str, files: Mapping[str, Blob]) -> None:
    """See that files are there themselves: a pointer, or nothing, decodes to noise, for which a base or key would be blamed.

    Raises:
        PlanError: Git-LFS pointers lie in their places, or files of a model are empty.
    """
    found = [f"{name}: is a Git-LFS pointer, not the file itself" for name, blob in files.items() if is_pointer(blob)]
    if found:
        raise PlanError(f"{role}: not all files were fetched; run `git lfs pull` there first:", found)
    empty = (name for name, blob in files.items() if not blob.nbytes and (is_weights(name) or name.endswith(NEVER_EMPTY)))
    if found := [f"{name}: is empty, has 0 bytes" for name in empty]:
        raise PlanError(f"{role}: not all files were fetched; download these again:", found)


def implausible(name: str, stream: Stream, nbytes: int) -> str:
    """Why bytes cannot be a file of this name, by how they begin; empty where they can be, or nothing is known."""
    first = beginning(stream, 64)
    if name.endswith(suffixes()):
        try:
            sniff(first, max(nbytes, 1 << 62))
        except ValueError:
            return f"begins with {first[:4].hex(' ')}, as no file of weights does"
    if name.endswith(".json") and first.lstrip()[:1] not in (b"{", b"["):
        return f"begins with {first[:4].hex(' ')}, as no JSON does"
    return ""


def is_json(stream: Stream) -> bool:
    """Whether a small stream is JSON."""
    try:
        json.loads(b"".join(stream.chunks(1 << 20)))
    except (ValueError, RecursionError, WeightkitError):
        return False
    return True


def check_small(files: Iterable[StreamFile], key: str, told: Callable[[Iterable[StreamFile]], str] | None = None) -> None:
    """Decode small files, and the beginning of large ones that carry no digest: a wrong key shows at once.

    Args:
        files: What comes of a payload.
        key: The key's name, for messages.
        told: Says of the files what is wrong with the key; None: that it is not the key.

    Raises:
        DigestMismatch: One has another digest than it says.
        PlanError: One without a digest does not come out as what it is called.
    """
    problems = []
    files = list(files)
    for file in files:
        if not isinstance(file.stream, Padded | Wrapped):
            continue
        if file.expect and file.nbytes <= SMALL_NBYTES:
            found = hashlib.sha256(b"".join(file.stream.chunks(1 << 20))).hexdigest()
            if found != file.expect[0].hex:
                wrong = f"{key} is not the key" if told is None else told(files)
                reason = f"{wrong}, or the payload is damaged; this small file was decoded first to find out"
                raise DigestMismatch(file.path, "sha256", file.expect[0].hex, found, reason)
        elif not file.expect:
            reason = implausible(file.path, file.stream, file.nbytes)
            if not reason and file.path.endswith(".json") and file.nbytes <= SMALL_NBYTES and not is_json(file.stream):
                reason = "is no JSON"
            if reason:
                problems.append(f"{file.path}: decoded with the base's file it {reason}")
    if problems:
        raise PlanError(
            f"{key} is not the base of this release: its files must be those of the conversion that the publisher used, byte "
            "for byte (configs differ between versions of transformers; --as names one, where the base is Meta's folder):",
            problems,
        )


def untouched(base: Model) -> Model:
    """A base that is as it lies there.

    Raises:
        PlanError: Something was done to it already: nobody XORed with that.
    """
    if base.steps:
        raise PlanError(f"{base.source.name}: an XOR payload is decoded with the base's files, not with what was made of them")
    return base


def first_few(names: Sequence[str]) -> str:
    """The first four of some names."""
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
