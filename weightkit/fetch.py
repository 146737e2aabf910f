"""Downloads through the Hub's own client, each file checked as it arrives: against the catalog, and what the Hub states.

import weightkit.fetch
weightkit.fetch.fetch_release("hf://zjunlp/knowlm-13b-diff", out="zhixi-13b-diff")
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weightkit import catalog
from weightkit.blobs.addresses import HubAddress, address_of, is_address
from weightkit.blobs.hub import REFETCHED, HubBlob, HubFolder, downloaded, open_hub
from weightkit.catalog.places import Only, introduced, on_the_hub, parts_of
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import DigestMismatch, PlanError, WeightkitError
from weightkit.core.events import BytesFetched, BytesWritten, Event, FileFinished, FileKept, Notify, Started, ignore
from weightkit.manifests import Entry
from weightkit.proof.lists import usable
from weightkit.run.ledgers.durable import flush_folder
from weightkit.run.ledgers.lock import FolderLock
from weightkit.run.ledgers.naming import give_name

__all__ = ["Fetched", "FetchedFile", "Only", "Source", "fetch", "fetch_release", "sources"]

STAGE = ".weightkit-fetch"
"""Where files lie in the folder that is written until their digests hold."""

LEFT_OUT = (".gitattributes", ".gitignore")


@dataclass(frozen=True, slots=True)
class Source:
    """A repository to be fetched.

    Attributes:
        address: Where.
        folder: What it is called in the folder that is written; empty: it is that folder.
        published: Digests of the catalog by file name.
        entry: The entry of the catalog; empty where it is none.
    """

    address: HubAddress
    folder: str = ""
    published: Mapping[str, Sequence[Digest]] | None = None
    entry: str = ""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that is here and right.

    Attributes:
        name: Its address.
        path: Where it is.
        nbytes: Its size.
        digest: The digest that the Hub states of it, which holds.
        published: Whether a digest of the catalog holds, too.
        kept: Whether it was there already.
    """

    name: str
    path: Path
    nbytes: int
    digest: Digest
    published: bool
    kept: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched.

    Attributes:
        folders: Where, of each repository.
        files: All files.
        mismatches: Files that were refused.
        notes: What the user should know: licences, files that were fetched twice, what was not checked.
    """

    folders: tuple[Path, ...]
    files: tuple[FetchedFile, ...]
    mismatches: tuple[DigestMismatch, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every file is here and right."""
        return not self.mismatches


def sources(what: str, only: Only | None = None) -> list[Source]:
    """What a name stands for: the diff and the adapters of a release, or an address.

    Args:
        what: A release of the catalog, or ``hf://owner/name[@revision][/path]``.
        only: Of a release ``diff``, ``lora`` or ``base`` alone; by default diff and adapters.

    Raises:
        PlanError: The name is not known, or nobody says where it can be had.
    """
    if is_address(what):
        address = address_of(what, "NAME")
        if not isinstance(address, HubAddress):
            raise PlanError(f"NAME: {address} is no repository of the Hub", hint="write hf://OWNER/NAME")
        return [Source(address)]
    release = catalog.load(what)
    names = parts_of(release, only)
    if not names:
        raise PlanError(f"NAME: {release.name} has nothing to fetch{f' as its {only}' if only else ''}")
    return [
        Source(on_the_hub(name), name if len(names) > 1 else "", by_file(catalog.load(name).entries()), name) for name in names
    ]


def by_file(entries: Sequence[Entry]) -> dict[str, list[Digest]]:
    """Digests that can be taken here, by the last part of the path."""
    found: dict[str, list[Digest]] = {}
    for one in entries:
        if usable(one.digest):
            found.setdefault(one.path.rpartition("/")[2], []).append(one.digest)
    return found


def fetch_release(
    what: str,
    *,
    out: str | os.PathLike[str] | None = None,
    only: Only | None = None,
    say: Callable[[str], None] | None = None,
    notify: Notify = ignore,
) -> Fetched:
    """Download what a name stands for, and check each file as it arrives.

    A file that has another digest than the catalog or the Hub states is fetched once more, then refused; nothing appears under
    its name before its digests hold. Where only the Hub states a digest, the answer says so.

    >>> str(weightkit.fetch.sources("zhixi-13b", "diff")[0].address)
    'hf://zjunlp/zhixi-13b-diff'

    Args:
        what: A release of the catalog, or ``hf://owner/name[@revision][/path]``.
        out: The folder to write; None for the client's cache.
        only: Of a release ``diff``, ``lora`` or ``base`` alone.
        say: Told, before anything is fetched, of the commit and the licence; None: they are among the notes.
        notify: Told what happens.

    Raises:
        PlanError: The name is not known, may not be had, or something is in the way.
        FormatError: The Hub is not reached.
    """
    wanted = sources(what, only)
    opened = [(source, repository_at(source)) for source in wanted]
    notes: list[str] = []
    for _, folder in opened:
        (say or notes.append)(introduced(folder))
    lists = [(source, folder, blobs_of(folder)) for source, folder in opened]
    notify(Started(sum(blob.nbytes for _, _, blobs in lists for blob in blobs)))
    files: list[FetchedFile] = []
    mismatches: list[DigestMismatch] = []
    folders: list[Path] = []
    for source, folder, blobs in lists:
        target = None if out is None else Path(out) / source.folder
        if target is not None:
            folders.append(target)
            into(target, source, folder, blobs, files, mismatches, notify)
            continue
        for blob in blobs:
            keep(
                blob,
                source,
                mismatches,
                files,
                notify,
                lambda blob, wanted, count: (downloaded(blob, None, wanted, count), False),
            )
        folders += [files[-1].path.parent] if files else []
    notes += REFETCHED
    REFETCHED.clear()
    bare = [one.name for one in files if not one.published]
    if bare and any(source.published for source in wanted):
        notes.append(
            f"no digest of {', '.join(bare[:3])}{' ...' if len(bare) > 3 else ''} was published: the Hub's own was checked"
        )
    elif bare:
        notes.append(f"checked against the digests that {endpoint()} states; the catalog has none of these files")
    return Fetched(tuple(folders), tuple(files), tuple(mismatches), tuple(notes))


fetch = fetch_release


def endpoint() -> str:
    """The Hub, or the mirror, that is asked."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rpartition("//")[2]


def repository_at(source: Source) -> HubFolder:
    """The repository, as the Hub lists it.

    Raises:
        PlanError: It may not be had, or nothing may be fetched.
    """
    folder = open_hub(source.address, "NAME")
    if not isinstance(folder, HubFolder):
        raise PlanError(
            f"NAME: {source.address}: HF_HUB_OFFLINE is set, so nothing is fetched; the cache has it: {folder.name}"
        )
    return folder


def blobs_of(folder: HubFolder) -> list[HubBlob]:
    """The files that are fetched: all that was named but for git's own."""
    return [blob for name in folder.names() if name not in LEFT_OUT and isinstance(blob := folder.blob(name), HubBlob)]


Get = Callable[[HubBlob, Sequence[Digest], Notify], tuple[Path, bool]]


class Count:
    """A ``Notify`` that tells of a file's bytes as they come, and of each of them once, however often it came."""

    def __init__(self, blob: HubBlob, notify: Notify) -> None:
        self.blob, self.notify, self.seen = blob, notify, 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, BytesFetched):
            more = max(0, min(event.nbytes, self.blob.nbytes - self.seen))
            self.seen += more
            self.notify(BytesWritten(self.blob.path, more))

    def finish(self) -> None:
        """The file is here: of what was there already, too."""
        self(BytesFetched(self.blob.path, self.blob.nbytes - self.seen, self.blob.nbytes))


def published_of(source: Source, blob: HubBlob) -> Sequence[Digest]:
    """The digests that the catalog has of a file."""
    return (source.published or {}).get(blob.path.rpartition("/")[2], ())


def keep(
    blob: HubBlob,
    source: Source,
    mismatches: list[DigestMismatch],
    files: list[FetchedFile],
    notify: Notify,
    get: Get,
) -> None:
    """Get one file; one that is refused is listed, and the others go on."""
    published = published_of(source, blob)
    count = Count(blob, notify)
    try:
        path, kept = get(blob, published, count)
    except DigestMismatch as error:
        mismatches.append(error)
        return
    count.finish()
    files.append(FetchedFile(blob.name, path, blob.nbytes, blob.digest, bool(published), kept))
    notify(FileKept(blob.path, blob.nbytes) if kept else FileFinished(blob.path, blob.nbytes, (blob.digest, *published)))


def into(
    target: Path,
    source: Source,
    folder: HubFolder,
    blobs: Sequence[HubBlob],
    files: list[FetchedFile],
    mismatches: list[DigestMismatch],
    notify: Notify,
) -> None:
    """Fetch into a folder: under names of its own until digests hold, then under the files' names, over nothing.

    Raises:
        PlanError: Another file has the name, or there is no room.
    """
    lock = FolderLock(target)
    try:
        names = {blob: blob.path.removeprefix(folder.inside) for blob in blobs}
        there = {
            blob: right(target / names[blob], blob, published_of(source, blob))
            for blob in blobs
            if os.path.lexists(target / names[blob])
        }
        needed = sum(blob.nbytes for blob in blobs if blob not in there)
        free = shutil.disk_usage(target).free
        if needed > free:
            raise PlanError(f"{target}: {needed} bytes are needed and {free} are free on that disk; make room")
        stage = target / STAGE

        def get(blob: HubBlob, wanted: Sequence[Digest], count: Notify) -> tuple[Path, bool]:
            final = target / names[blob]
            if blob in there:
                for digest in wanted:
                    compare(there[blob][digest.algorithm], blob, digest)
                return final, True
            partial = downloaded(blob, stage, wanted, count)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                give_name(partial, final)
            except FileExistsError as error:
                raise in_the_way(final) from error
            flush_folder(final.parent)
            return final, False

        for blob in blobs:
            keep(blob, source, mismatches, files, notify, get)
    except OSError as error:
        raise WeightkitError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(target / STAGE, ignore_errors=True)
        lock.release(unmake=True)


def right(path: Path, blob: HubBlob, published: Sequence[Digest]) -> dict[str, Digest]:
    """The digests of a file that is there and is the one that would be fetched, read once for all that are compared.

    Raises:
        PlanError: It is another.
    """
    if not path.is_file() or path.stat().st_size != blob.nbytes:
        raise in_the_way(path)
    found = hash_file(path, {one.algorithm for one in (blob.digest, *published)})
    if found[blob.digest.algorithm] != blob.digest:
        raise in_the_way(path)
    return found


def compare(found: Digest, blob: HubBlob, published: Digest) -> None:
    """See that a file has a published digest.

    Raises:
        DigestMismatch: It has another.
    """
    if found != published:
        reason = "the Hub has another file than was published"
        raise DigestMismatch(blob.name, published.algorithm, published.hex, found.hex, reason)


def in_the_way(path: Path) -> PlanError:
    """What is said of a file that is there and another."""
    return PlanError(f"{path} is there already, and is another file; nothing is replaced: name another --out, or move it away")
