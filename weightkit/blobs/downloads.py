"""A file of the Hub, and how its bytes come: in ranges, as a stream that is never stored, or whole into the client's cache."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from weightkit.blobs.client import client, patiently, told
from weightkit.blobs.local import LocalBlob, open_local
from weightkit.blobs.reads import BLOCK, fetched_range, flowing
from weightkit.blobs.window import LOOK_UP_SECONDS, WINDOW_NBYTES, Window, Windows, ascending
from weightkit.blobs.witness import Marks, Piece
from weightkit.core.blob import Extent
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest, Hasher, hash_file
from weightkit.core.errors import DigestMismatch
from weightkit.core.events import BytesFetched, Notify, ignore, tell

__all__ = ["REFETCHED", "HubBlob", "downloaded"]

WHOLE_NBYTES = 256 << 10
"""Files up to this size are read whole, and checked before a byte is used."""

KEPT_FILES = 64
"""Of those, as many are kept."""


@dataclass(frozen=True, slots=True)
class HubBlob:
    """A file of a repository, at one commit.

    Attributes:
        repository: ``owner/name``.
        commit: The commit.
        path: Its path there.
        nbytes: Its size, as the Hub states it.
        digest: Its SHA-256, as the Hub states it, or of small files the git one.
        streamed: Whether it is never stored: all of it is read in ranges.
        revision: The branch or tag that was named, for the client's books.
    """

    repository: str
    commit: str
    path: str
    nbytes: int
    digest: Digest
    streamed: bool = False
    revision: str = ""

    def __repr__(self) -> str:
        return f"<{self.name}: {self.nbytes} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        """What was read here, as headers are at planning, and not vouched for, is vouched for where a pass is made."""
        values = tuple(getattr(self, one.name) for one in fields(self))
        return arrived, (values, WINDOWS.witness(self.version).marks())

    @property
    def name(self) -> str:
        """Its address, without the commit."""
        return f"hf://{self.repository}/{self.path}"

    @property
    def version(self) -> str:
        """The digest that the Hub states."""
        return f"{self.repository}@{self.commit}/{self.path}:{self.digest}"

    @property
    def stated(self) -> tuple[Digest, ...]:
        """The digest that the Hub states. What a pass uses of the file, and what is read of it whole, has it."""
        return (self.digest,)

    @property
    def ahead_nbytes(self) -> int:
        """Memory that a pass over it holds beside its blocks."""
        return WINDOW_NBYTES + 4 * BLOCK if self.streamed else 0

    @property
    def source(self) -> Piece:
        """How its bytes are fetched."""
        return Piece(self.name, self.nbytes, self.ranged, self.flow)

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``: of the file in the cache where a pass has begun, of the network else."""
        if (local := LOCAL.get(self.version)) is not None:
            return local.read(start, stop)
        if self.nbytes <= WHOLE_NBYTES or (start, stop) == (0, self.nbytes):
            return LOCAL.content(self)[start:stop]
        if (window := WINDOWS.get(self.version)) is not None and (found := window.read(start, stop)) is not None:
            return found
        return WINDOWS.witness(self.version).read(self.source, start, stop)

    def ranged(self, start: int, stop: int) -> bytearray:
        """Bytes of the network."""
        with told(self.name):
            return fetched_range(*self.request(), start, stop, self.name)

    def flow(self, start: int, stop: int) -> Iterator[bytearray]:
        """Bytes of the network, a block at a time."""
        with told(self.name):
            yield from flowing(*self.request(), start, stop, self.name)

    def request(self) -> tuple[str, dict[str, str]]:
        """Address and headers."""
        hub = client()
        return hub.hf_hub_url(self.repository, self.path, revision=self.commit), hub.utils.build_hf_headers()

    @contextmanager
    def ahead(self, extents: Sequence[Extent], nbytes: int) -> Iterator[None]:
        """A pass begins: the whole file is fetched and checked; a streamed one is fetched early, from front to back.

        Raises:
            DigestMismatch: It has another digest than the Hub states.
        """
        if self.streamed and self.nbytes <= WHOLE_NBYTES:
            yield
            return
        if not self.streamed or LOCAL.get(self.version) is not None:
            LOCAL.fetch(self)
            yield
            return
        window = Window(self.source, self.digest, WINDOWS.witness(self.version), min(nbytes, WINDOW_NBYTES), self.nbytes)
        if extents and ascending(extents):
            with WINDOWS.reading(self.version, extents[0].start, window):
                yield
            return
        yield
        window.prove()

    def drop(self) -> None:
        """Remove the file from the client's cache, if it was downloaded in this process and was not there before."""
        LOCAL.drop(self)

    def check(self) -> None:
        """A commit does not change; the file in the cache may."""
        if (local := LOCAL.get(self.version)) is not None:
            local.check()


def arrived(values: tuple[Any, ...], marks: Marks) -> HubBlob:
    """A file that another process tells of, and what that one read of it."""
    blob = HubBlob(*values)
    WINDOWS.witness(blob.version).hear(marks)
    return blob


class Local:
    """Files that were downloaded and found right in this process, by version."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy: dict[str, threading.Lock] = {}
        self.blobs: dict[str, LocalBlob] = {}
        self.own: set[str] = set()
        """Those that the cache did not hold before."""
        self.small: OrderedDict[str, bytes] = OrderedDict()

    def get(self, version: str) -> LocalBlob | None:
        """A file, if it was downloaded."""
        return self.blobs.get(version)

    def fetch(self, blob: HubBlob) -> LocalBlob:
        """The file in the cache, downloaded once however many ask."""
        with self.lock:
            turn = self.busy.setdefault(blob.version, threading.Lock())
        while not turn.acquire(timeout=LOOK_UP_SECONDS):
            tell(BytesFetched(blob.name, 0, blob.nbytes))
        try:
            found = self.blobs.get(blob.version)
            if found is None:
                there = in_cache(blob)
                found = open_local(downloaded(blob))
                if not there:
                    self.own.add(blob.version)
            WINDOWS.witness(blob.version).vouched(blob.source, found.read)
            self.blobs[blob.version] = found
            return found
        finally:
            turn.release()

    def drop(self, blob: HubBlob) -> None:
        """Remove a file that is this process's own download."""
        with self.lock:
            turn = self.busy.setdefault(blob.version, threading.Lock())
        with turn:
            if blob.version in self.own:
                self.own.discard(blob.version)
                local = self.blobs.pop(blob.version)
                local.check()
                drop(local.path)

    def content(self, blob: HubBlob) -> bytearray:
        """All of a file, whose digest holds; the last small ones are kept.

        Raises:
            DigestMismatch: It has another digest than the Hub states, twice.
        """
        with self.lock:
            kept = self.small.get(blob.version)
        if kept is not None:
            return bytearray(kept)
        for last in (False, True):
            content = blob.ranged(0, blob.nbytes)
            hasher = Hasher({blob.digest.algorithm}, blob.nbytes)
            hasher.update(content)
            found = hasher.digests()[blob.digest.algorithm]
            if found == blob.digest:
                break
            if last:
                raise refused(blob.name, blob.digest, found, "the Hub states")
            came_wrong(blob)
        if blob.nbytes <= WHOLE_NBYTES:
            with self.lock:
                self.small[blob.version] = bytes(content)
                while len(self.small) > KEPT_FILES:
                    self.small.popitem(last=False)
        return content


LOCAL, WINDOWS = Local(), Windows()


def forked() -> None:
    """A child has streams and books of its own: a lock may be held in its parent's."""
    global LOCAL, WINDOWS
    known = LOCAL.blobs
    LOCAL, WINDOWS = Local(), Windows()
    LOCAL.blobs = dict(known)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


def came_wrong(blob: HubBlob) -> None:
    """Note that a file is fetched once more."""
    REFETCHED.append(f"{blob.name}: the first download had another digest than stated, and was fetched again")


def refused(name: str, wanted: Digest, found: Digest, who: str) -> DigestMismatch:
    """What is said of a file that came wrong twice."""
    return DigestMismatch(name, wanted.algorithm, wanted.hex, found.hex, f"twice other bytes came than {who}; it is refused")


def downloaded(
    blob: HubBlob, local_dir: Path | None = None, wanted: Sequence[Digest] = (), notify: Notify | None = None
) -> Path:
    """A file in the client's cache, or in a folder, whose digests hold.

    Args:
        blob: The file.
        local_dir: Where it is put; None for the cache.
        wanted: Digests that were published of it, besides the Hub's own.
        notify: Told of bytes as they come; None: whoever listens in this thread.

    Raises:
        DigestMismatch: It has another digest than is stated, twice.
        PlanError: It may not be had.
        FormatError: It cannot be fetched.
    """
    digests = (*wanted, blob.digest)
    for again in (False, True):
        path = Path(fetched(blob, local_dir, notify or tell, again=again))
        found = hash_file(path, {one.algorithm for one in digests})
        wrong = next((one for one in digests if found[one.algorithm] != one), None)
        if wrong is None:
            if local_dir is None:
                remember(blob)
            return path
        if again:
            drop(path)
            who = "the Hub states" if wrong == blob.digest else "was published"
            raise refused(blob.name, wrong, found[wrong.algorithm], who)
        came_wrong(blob)
    raise AssertionError


def remember(blob: HubBlob) -> None:
    """Let the client note which commit a branch is, so that its cache is found offline."""
    if (place := (blob.repository, blob.revision)) not in REMEMBERED:
        REMEMBERED.add(place)
        patiently(
            blob.name,
            lambda hub: hub.hf_hub_download(
                blob.repository, blob.path, revision=blob.revision or None, tqdm_class=counting(blob, ignore)
            ),
        )


REMEMBERED: set[tuple[str, str]] = set()

REFETCHED: list[str] = []
"""What had to be fetched again, one line each, for notes."""


def drop(path: Path) -> None:
    """Remove a wrong file from the cache: the link, and what it leads to."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def fetched(blob: HubBlob, local_dir: Path | None, notify: Notify, *, again: bool) -> str:
    """A file by the client."""
    return str(
        patiently(
            blob.name,
            lambda hub: hub.hf_hub_download(
                blob.repository,
                blob.path,
                revision=blob.commit,
                force_download=again,
                local_dir=local_dir,
                tqdm_class=counting(blob, notify),
            ),
        )
    )


def counting(blob: HubBlob, notify: Notify) -> Any:
    """A bar of the client's kind that is not shown, and tells of the bytes that come: weightkit has its own."""
    from tqdm import tqdm

    class Counting(tqdm):  # type: ignore[type-arg]
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **{key: one for key, one in more.items() if key != "name"} | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            notify(BytesFetched(blob.name, int(n or 0), blob.nbytes))

    return Counting


def in_cache(blob: HubBlob) -> bool:
    """Whether the client's cache holds a file, at whatever commit: its bytes lie there under the name of their digest."""
    hub = client()
    folder = hub.file_download.repo_folder_name(repo_id=blob.repository, repo_type="model")
    place: Path = Path(hub.constants.HF_HUB_CACHE) / folder / "blobs" / blob.digest.hex
    return place.exists()
