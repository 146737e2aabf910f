"""Repositories of the Hugging Face Hub, through its own client: cache, tokens, mirrors and offline mode are that one's.

Headers are read in ranges. What a run needs whole is downloaded into the client's cache when its pass begins, and no byte of
it is used before its digest is the one that the Hub states: the client itself compares sizes alone (huggingface_hub issue
3643). A wrong file is fetched once more, then refused. The client is imported with the first address.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from weightkit.blobs.addresses import HubAddress
from weightkit.blobs.guard import Forbidden, asking, install
from weightkit.blobs.local import LocalBlob, LocalFolder, open_local
from weightkit.blobs.reads import BLOCK, LATER, PAUSE_SECONDS, TRIES, fetched_range, flowing, of_the_network
from weightkit.blobs.window import LOOK_UP_SECONDS, Piece, Window, Windows, ascending
from weightkit.core.blob import Blob, Extent, Folder
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest, Hasher, hash_file
from weightkit.core.errors import DigestMismatch, FormatError, PlanError, WeightkitError
from weightkit.core.events import BytesFetched, Notify, ignore, tell
from weightkit.core.installed import adding

__all__ = ["REFETCHED", "HubBlob", "HubFolder", "downloaded", "licence_of", "open_hub"]

WHOLE_NBYTES = 256 << 10
"""Files up to this size are read whole, and checked before a byte is used."""

KEPT_FILES = 64
"""Of those, as many are kept."""

WINDOW_NBYTES = 16 << 20
"""Of a streamed file, how much may have come before it is asked for."""

REQUIREMENT = "huggingface_hub>=1.1"
"""As setup.cfg has it. What it is for: ``hf_hub_download(tqdm_class=)``, a session with hooks, one commit of many files."""

SECRET = re.compile(r"hf_\w+")


def client() -> Any:
    """The Hub's client.

    Raises:
        WeightkitError: It is not installed.
    """
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise WeightkitError(
            f"huggingface_hub, which names on the Hub need, is not installed; install it: {adding(REQUIREMENT)}"
        ) from error
    if not hasattr(huggingface_hub, "set_client_factory"):
        found = getattr(huggingface_hub, "__version__", "an old one")
        raise WeightkitError(f"huggingface_hub {found} is too old for names on the Hub; install a newer: {adding(REQUIREMENT)}")
    install(huggingface_hub)
    return huggingface_hub


@contextmanager
def told(name: str, doing: str = "fetched") -> Iterator[None]:
    """What the client raises, in one line; a token is in none. ``doing`` is what could not be done.

    Raises:
        PlanError: There is no such thing, or it may not be had.
        FormatError: The Hub is not reached, or what it says makes no sense.
    """
    hub = client()
    errors = hub.errors
    try:
        with asking():
            yield
    except Forbidden as error:
        raise FormatError(name, f"is not fetched: {error}") from error
    except errors.GatedRepoError as error:
        raise PlanError(
            f"{name}: the Hub asks for a token, or this one may not read it", hint="hf auth login, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PlanError(f"{name}: there is no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise offline(name, error) from error
    except errors.EntryNotFoundError as error:
        raise PlanError(f"{name}: there is no such file in the repository") from error
    except errors.RepositoryNotFoundError as error:
        raise PlanError(
            f"{name}: the Hub has no such repository, or it is private", hint="hf auth login, or set HF_TOKEN, if it is yours"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise offline(name, error) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise PlanError(f"{name}: the Hub refuses the token", hint="hf auth login, or set HF_TOKEN") from error
        raise FormatError(name, f"the Hub answers {status or plain(error)}; try again later") from error
    except errors.HFValidationError as error:
        raise PlanError(f"{name}: is no name on the Hub") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise FormatError(name, f"cannot be {doing}: {plain(error)}; try again") from error
    except Exception as error:
        if not of_the_network(error):
            raise
        raise FormatError(name, f"cannot be {doing}: {plain(error)}; try again") from error


def offline(name: str, error: Exception) -> PlanError:
    """What is said where nothing may be fetched, or nothing is reached, and the cache has not what is wanted."""
    return PlanError(
        f"{name}: is not in the cache, and the Hub is not reached ({plain(error)})",
        hint="unset HF_HUB_OFFLINE or connect to the network, then the same command",
    )


def plain(error: Exception) -> str:
    """The first line of an error, without secrets and signatures."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SECRET.sub("hf_...", re.sub(r"\?\S+", "", line))[:200].rstrip(".")


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
        if not extents or LOCAL.get(self.version) is not None or (self.streamed and self.nbytes <= WHOLE_NBYTES):
            yield
            return
        if not self.streamed:
            LOCAL.fetch(self)
            yield
            return
        window = Window(self.source, self.digest, WINDOWS.witness(self.version), min(nbytes, WINDOW_NBYTES), self.nbytes)
        if ascending(extents):
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
            if blob.version not in self.blobs:
                there = in_cache(blob)
                found = open_local(downloaded(blob))
                if not there:
                    self.own.add(blob.version)
                WINDOWS.witness(blob.version).vouched(blob.source, lambda at, stop: found.read(at, stop))
                self.blobs[blob.version] = found
            return self.blobs[blob.version]
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
            REFETCHED.append(f"{blob.name}: the first download had another digest than stated, and was fetched again")
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
        REFETCHED.append(f"{blob.name}: the first download had another digest than stated, and was fetched again")
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


def patiently(name: str, ask: Callable[[Any], Any]) -> Any:
    """What the client answers; where the Hub is not reached or has no time, it is asked again.

    Raises:
        PlanError: There is no such thing, or it may not be had.
        FormatError: The Hub is not reached.
    """
    hub = client()
    for last in (*[False] * (TRIES - 1), True):
        try:
            with told(name):
                return ask(hub)
        except WeightkitError as error:
            if last or hub.constants.HF_HUB_OFFLINE or not passing(error.__cause__, hub.errors):
                raise
        time.sleep(PAUSE_SECONDS)
    raise AssertionError


def passing(error: BaseException | None, errors: Any) -> bool:
    """Whether what the client raised may be gone in a moment."""
    if isinstance(error, errors.RepositoryNotFoundError | errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return False
    if isinstance(error, errors.HfHubHTTPError):
        return getattr(getattr(error, "response", None), "status_code", 500) in LATER
    if isinstance(error, errors.LocalEntryNotFoundError):
        return error.__cause__ is not None and passing(error.__cause__, errors)
    return error is not None and of_the_network(error)


def counting(blob: HubBlob, notify: Notify) -> Any:
    """A bar of the client's kind that is not shown, and tells of the bytes that come: weightkit has its own."""
    from tqdm import tqdm

    class Counting(tqdm):  # type: ignore[type-arg]
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **{key: one for key, one in more.items() if key != "name"} | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            notify(BytesFetched(blob.name, int(n or 0), blob.nbytes))

    return Counting


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
        paths = [downloaded(one) for one in self.files if f"hf://{self.address.repository}/{one.path}" in self.addresses()]
        if self.single:
            return paths[0]
        depth = len((self.inside + self.names()[0]).split("/")) - self.inside.count("/")
        return paths[0].parents[depth - 1]

    def addresses(self) -> set[str]:
        """Those of its files."""
        return {f"hf://{self.address.repository}/{self.inside}{name}" for name in self.names()}

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


def in_cache(blob: HubBlob) -> bool:
    """Whether the client's cache holds a file, at whatever commit: its bytes lie there under the name of their digest."""
    hub = client()
    folder = hub.file_download.repo_folder_name(repo_id=blob.repository, repo_type="model")
    place: Path = Path(hub.constants.HF_HUB_CACHE) / folder / "blobs" / blob.digest.hex
    return place.exists()
