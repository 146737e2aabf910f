"""Checks files against published digests, and names each: ok, FAILED, missing, extra. Needs no torch.

import weightkit.verify
weightkit.verify.verify("llama-13b", ["llama-13b.sha256"]).ok
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weightkit import manifests
from weightkit.containers import sniff
from weightkit.digest import CHUNK, Digest, Hasher
from weightkit.errors import FormatError, PlanError
from weightkit.events import BytesWritten, Notify, ignore

__all__ = ["LIST_NAMES", "Checked", "Verification", "verify"]

LIST_NAMES = ("SHA256SUMS", "MD5SUMS", "SHA512SUMS", "checklist.chk")
"""Lists that are looked for in a folder where none is named."""

LIST_ENDINGS = (*LIST_NAMES, ".sha256", ".md5", ".sha512")
"""Ends of the names of lists, which are no extra files."""

Status = Literal["ok", "FAILED", "missing", "extra"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One file and one digest.

    Attributes:
        path: Relative to the folder.
        status: ``ok``, ``FAILED`` (another digest), ``missing`` (listed, not there), ``extra`` (there, not listed).
        expected: The digest in the list; None for ``extra``.
        actual: The digest found; None where there is none.
        hint: What a file that FAILED is instead, where its first bytes tell.
    """

    path: str
    status: Status
    expected: Digest | None = None
    actual: Digest | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found, in the order of the lists, extra files last."""

    checked: tuple[Checked, ...]

    def count(self, status: Status) -> int:
        """How many files have this status."""
        return sum(one.status == status for one in self.checked)

    @property
    def ok(self) -> bool:
        """Whether every listed file is there and has its digest; extra files do not matter."""
        return not self.count("FAILED") and not self.count("missing")


def verify(
    path: str | os.PathLike[str],
    lists: Sequence[str | os.PathLike[str]] = (),
    *,
    jobs: int = 2,
    notify: Notify = ignore,
) -> Verification:
    """Check a folder or a file against lists of digests as ``sha256sum`` or ``md5sum`` write them.

    Args:
        path: The folder; or one file, which is looked up by its name.
        lists: The lists; by default those of ``LIST_NAMES`` that are in the folder.
        jobs: Files at a time.
        notify: Told of bytes read.

    Raises:
        PlanError: There is nothing to check, or nothing to check it against.
        FormatError: A list is malformed.
    """
    target = Path(path)
    if not target.exists():
        raise PlanError(f"{target} does not exist")
    folder = target if target.is_dir() else target.parent
    chosen = [Path(one) for one in lists] or [folder / name for name in LIST_NAMES if (folder / name).is_file()]
    if not chosen:
        raise PlanError(f"{target}: no list of digests there ({', '.join(LIST_NAMES)}); name one with --checksums FILE")
    wanted: dict[str, list[Digest]] = {}
    for one in chosen:
        for entry in manifests.read(one):
            digests = wanted.setdefault(entry.path, [])
            if entry.digest not in digests:
                digests.append(entry.digest)
    if not target.is_dir():
        here = "/" + target.resolve().as_posix().lstrip("/")
        whole = {name: digests for name, digests in wanted.items() if "/" in name and here.endswith(f"/{name}")}
        wanted = whole or {name: digests for name, digests in wanted.items() if name.rpartition("/")[2] == target.name}
        if len(wanted) > 1:
            raise PlanError(f"{target.name} is in the list as {' and as '.join(sorted(wanted))}; check the folder instead")
        if not wanted:
            raise PlanError(f"{target.name} is in none of the lists ({', '.join(str(one) for one in chosen)})")
        wanted = {target.name: [digest for digests in wanted.values() for digest in digests]}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        found = list(pool.map(lambda name: check(folder, name, wanted[name], notify), wanted))
    extra = [] if not target.is_dir() else extras(folder, set(wanted), chosen)
    return Verification(tuple(one for group in found for one in group) + tuple(extra))


def check(folder: Path, name: str, wanted: Sequence[Digest], notify: Notify) -> list[Checked]:
    """Check one file, in one pass whatever the number of its digests."""
    file = folder / name
    if not file.is_file():
        return [Checked(name, "missing", digest) for digest in wanted]
    hasher = Hasher(digest.algorithm for digest in wanted)
    buffer = memoryview(bytearray(CHUNK))
    head = b""
    try:
        with file.open("rb", buffering=0) as stream:
            while got := stream.readinto(buffer):
                head = head or bytes(buffer[:64])[:got]
                hasher.update(buffer[:got])
                notify(BytesWritten(name, got))
    except OSError as error:
        raise FormatError(file, f"cannot be read: {error.strerror}") from error
    actual = hasher.digests()
    return [
        Checked(name, "ok", digest, actual[digest.algorithm])
        if actual[digest.algorithm] == digest
        else Checked(name, "FAILED", digest, actual[digest.algorithm], hint(file, head))
        for digest in wanted
    ]


def hint(file: Path, head: bytes) -> str:
    """What a file of weights is instead of one, if its first bytes tell; empty for other files."""
    if file.suffix not in (".bin", ".pth", ".pt", ".safetensors", ".model") and head:
        return ""
    try:
        sniff(head, file.stat().st_size)
    except ValueError as error:
        return "" if file.suffix == ".model" and head and not head.startswith((b"version", b"<")) else str(error)
    return ""


def extras(folder: Path, listed: set[str], lists: Sequence[Path]) -> list[Checked]:
    """Files in the folder that no list names, the lists themselves and hidden files left aside."""
    aside = {one.resolve() for one in lists}
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(root) / name
            relative = file.relative_to(folder).as_posix()
            if (
                relative not in listed
                and not name.startswith(".")
                and not name.endswith(LIST_ENDINGS)
                and file.resolve() not in aside
            ):
                found.append(Checked(relative, "extra"))
    return found
