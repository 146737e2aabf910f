"""What is held against the files of a ``.zip`` archive, read where it lies: the archive's own CRC-32, and digests of lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit import manifests
from weightkit.blobs import ZipFolder
from weightkit.core.blob import Blob
from weightkit.core.digest import CHUNK, Digest, Hasher
from weightkit.core.errors import FormatError
from weightkit.core.events import BytesWritten, Notify
from weightkit.manifests import Entry
from weightkit.proof.lists import LIST_NAMES

__all__ = ["Seen", "inside", "seen"]

LARGEST_LIST = 1 << 20
ONLY_CRC = "size and CRC-32 are those that the archive states, which shows damage and not whose they are; no list has a digest"


@dataclass(frozen=True, slots=True)
class Seen:
    """One file of an archive, or the archive, and one digest.

    Attributes:
        path: Its name.
        ok: Whether it holds.
        expected: The digest of a list; None where the archive's own CRC-32 is all there is.
        actual: The digest found; None where the file could not be read whole.
        hint: What is wrong, or what was not checked.
    """

    path: str
    ok: bool
    expected: Digest | None = None
    actual: Digest | None = None
    hint: str = ""


def inside(archive: ZipFolder) -> list[Entry]:
    """The digests of lists that lie in an archive.

    Raises:
        FormatError: One is malformed.
    """
    found: list[Entry] = []
    for name in LIST_NAMES:
        if archive.holds(name) and (blob := archive.blob(name)).nbytes <= LARGEST_LIST:
            try:
                found += manifests.parse(bytes(blob.read(0, blob.nbytes)).decode(), Path(blob.name))
            except UnicodeDecodeError as error:
                raise FormatError(blob.name, "is no text in UTF-8") from error
    return found


def seen(archive: ZipFolder, name: str, entries: Sequence[Entry], notify: Notify, *, by_digest: bool) -> Iterator[Seen]:
    """All files of an archive, and the archive where a list has it, each read once.

    Args:
        archive: The archive.
        name: What its file is called.
        entries: Of lists; those are an archive's or a file's that have its name, whatever folder stands before it.
        notify: Told of bytes read.
        by_digest: Whether those are, too, that have its digest under another name, as those of a release may.
    """
    of_itself = [one for one in entries if last(one.path) == name]
    algorithms = {one.digest.algorithm for one in entries} if by_digest else set()
    hint = ONLY_CRC
    if of_itself or by_digest:
        told = list(held(name, archive.archive, of_itself, entries if by_digest else (), algorithms, notify))
        hint = "" if any(one.expected and one.ok for one in told) else hint
        yield from (one for one in told if one.expected is not None)
    for member in archive.names():
        if member in LIST_NAMES:
            continue
        own = [one for one in entries if one.path == member] or [one for one in entries if last(one.path) == last(member)]
        for one in held(member, archive.blob(member), own, entries if by_digest else (), algorithms, notify):
            yield replace(one, hint=hint) if one.ok and one.expected is None else one


def held(
    name: str, blob: Blob, own: Sequence[Entry], others: Sequence[Entry], algorithms: set[str], notify: Notify
) -> Iterator[Seen]:
    """One file, in one pass: against the digests that are its own by name, or else those of others that it has."""
    hasher = Hasher(algorithms | {one.digest.algorithm for one in own}, blob.nbytes)
    try:
        for at in range(0, blob.nbytes, CHUNK):
            block = blob.read(at, min(blob.nbytes, at + CHUNK))
            hasher.update(block)
            notify(BytesWritten(name, len(block)))
    except FormatError as error:
        yield from (Seen(name, False, one.digest, None, error.problem) for one in own)
        if not own:
            yield Seen(name, False, hint=error.problem)
        return
    digests = hasher.digests()
    same = own or [one for one in others if digests.get(one.digest.algorithm) == one.digest]
    for one in same:
        actual = digests[one.digest.algorithm]
        yield Seen(name, actual == one.digest, one.digest, actual)
    if not same:
        yield Seen(name, True)


def last(path: str) -> str:
    """The last part of a name."""
    return path.rpartition("/")[2]
