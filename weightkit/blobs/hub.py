"""Repositories of the Hugging Face Hub, through its own client: cache, tokens, mirrors and offline mode are that one's.

Headers are read in ranges. What a run needs whole is downloaded into the client's cache when its pass begins, and no byte of
it is used before its digest is the one that the Hub states: the client itself compares sizes alone (huggingface_hub issue
3643). A wrong file is fetched once more, then refused. The client is imported with the first address.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from weightkit.blobs.addresses import HubAddress
from weightkit.blobs.local import LocalBlob, LocalFolder, open_local
from weightkit.blobs.reads import Piece, Window, fetched_range
from weightkit.core.blob import Blob, Extent, Folder
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import DigestMismatch, FormatError, PlanError, WeightkitError
from weightkit.core.installed import adding

__all__ = ["REFETCHED", "HubBlob", "HubFolder", "downloaded", "licence_of", "open_hub"]

PIECE = 16 << 10
"""Headers are read by the piece; several that lie together in one request."""

KEPT_PIECES = 1 << 10
SECRET = re.compile(r"hf_\w+")


def client() -> Any:
    """The Hub's client.

    Raises:
        WeightkitError: It is not installed.
    """
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise WeightkitError(
            f"huggingface_hub, which names on the Hub need, is not installed; install it: {adding('huggingface_hub')}"
        ) from error
    return huggingface_hub


@contextmanager
def told(name: str) -> Iterator[None]:
    """What the client raises, in one line; a token is in none.

    Raises:
        PlanError: There is no such thing, or it may not be had.
        FormatError: The Hub is not reached, or what it says makes no sense.
    """
    hub = client()
    errors = hub.errors
    try:
        yield
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
        raise FormatError(name, f"cannot be fetched: {plain(error)}; try again") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise
        raise FormatError(name, f"cannot be fetched: {plain(error)}; try again") from error


def offline(name: str, error: Exception) -> PlanError:
    """What is said where nothing may be fetched, or nothing is reached, and the cache has not what is wanted."""
    return PlanError(
        f"{name}: is not in the cache, and the Hub is not reached ({plain(error)})",
        hint="unset HF_HUB_OFFLINE or connect to the network, then the same command",
    )


def plain(error: Exception) -> str:
    """The first line of an error, without secrets and signatures."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SECRET.sub("hf_...", re.sub(r"\?\S+", "", line))[:200]


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
        """The digest that the Hub states; no byte is used before it holds, unless in ranges."""
        return (self.digest,)

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes ``[start, stop)``: of the file in the cache where a pass has begun, of the network else."""
        if (local := LOCAL.get(self.version)) is not None:
            return local.read(start, stop)
        if (window := WINDOWS.get(self.version)) is not None and (found := window.read(start, stop)) is not None:
            return found
        return self.pieces(start, stop)

    def pieces(self, start: int, stop: int) -> Buffer:
        """Bytes in ranges; small ranges that were read before are kept."""
        if stop - start > PIECE * 16:
            return bytearray(self.ranged(start, stop))
        first, last = start // PIECE, max(start, stop - 1) // PIECE
        with KEPT.lock:
            wanted = [number for number in range(first, last + 1) if KEPT.get((self.version, number)) is None]
        if wanted:
            low, high = wanted[0] * PIECE, min(self.nbytes, (wanted[-1] + 1) * PIECE)
            found = memoryview(self.ranged(low, high))
            with KEPT.lock:
                for at in range(low, high, PIECE):
                    KEPT.put((self.version, at // PIECE), bytes(found[at - low : at - low + PIECE]))
        with KEPT.lock:
            whole = b"".join(KEPT.get((self.version, number)) or b"" for number in range(first, last + 1))
        if len(whole) < stop - first * PIECE:  # another thread needed the room
            return bytearray(self.ranged(start, stop))
        return bytearray(whole[start - first * PIECE : stop - first * PIECE])

    def ranged(self, start: int, stop: int) -> bytes:
        """Bytes of the network."""
        hub = client()
        url = hub.hf_hub_url(self.repository, self.path, revision=self.commit)
        with told(self.name):
            return fetched_range(url, hub.utils.build_hf_headers(), start, stop, self.name)

    @contextmanager
    def ahead(self, extents: Sequence[Extent], nbytes: int) -> Iterator[None]:
        """A pass begins: the whole file is fetched and checked; a streamed one is fetched early, piece by piece."""
        if not extents or LOCAL.get(self.version) is not None:
            yield
            return
        if not self.streamed:
            LOCAL.fetch(self)
            yield
            return
        window = Window(Piece(self.nbytes, self.ranged, self.name), self.digest, nbytes)
        with WINDOWS.opened(self.version, window), window:
            yield

    def check(self) -> None:
        """A commit does not change; the file in the cache may."""
        if (local := LOCAL.get(self.version)) is not None:
            local.check()


class Kept:
    """The pieces read last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pieces: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, key: tuple[str, int]) -> bytes | None:
        return self.pieces.get(key)

    def put(self, key: tuple[str, int], content: bytes) -> None:
        self.pieces[key] = content
        while len(self.pieces) > KEPT_PIECES:
            self.pieces.popitem(last=False)


class Local:
    """Files that were downloaded and found right in this process, by version."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy: dict[str, threading.Lock] = {}
        self.blobs: dict[str, LocalBlob] = {}

    def get(self, version: str) -> LocalBlob | None:
        return self.blobs.get(version)

    def fetch(self, blob: HubBlob) -> LocalBlob:
        """The file in the cache, downloaded once however many ask."""
        with self.lock:
            turn = self.busy.setdefault(blob.version, threading.Lock())
        with turn:
            if blob.version not in self.blobs:
                self.blobs[blob.version] = open_local(downloaded(blob))
            return self.blobs[blob.version]


class Windows:
    """Streams under way, by version."""

    def __init__(self) -> None:
        self.open: dict[str, Window] = {}

    def get(self, version: str) -> Window | None:
        return self.open.get(version)

    @contextmanager
    def opened(self, version: str, window: Window) -> Iterator[None]:
        self.open[version] = window
        try:
            yield
        finally:
            if self.open.get(version) is window:
                del self.open[version]


KEPT, LOCAL, WINDOWS = Kept(), Local(), Windows()


def downloaded(blob: HubBlob, local_dir: Path | None = None, wanted: Sequence[Digest] = ()) -> Path:
    """A file in the client's cache, or in a folder, whose digests hold.

    Args:
        blob: The file.
        local_dir: Where it is put; None for the cache.
        wanted: Digests that were published of it, besides the Hub's own.

    Raises:
        DigestMismatch: It has another digest than is stated, twice.
        PlanError: It may not be had.
        FormatError: It cannot be fetched.
    """
    digests = (*wanted, blob.digest)
    for again in (False, True):
        path = Path(fetched(blob, local_dir, again=again))
        found = hash_file(path, {one.algorithm for one in digests})
        wrong = next((one for one in digests if found[one.algorithm] != one), None)
        if wrong is None:
            if local_dir is None:
                remember(blob)
            return path
        if again:
            drop(path)
            who = "the Hub states" if wrong == blob.digest else "was published"
            reason = f"twice other bytes came than {who}; it is refused, and was removed from the cache"
            raise DigestMismatch(blob.name, wrong.algorithm, wrong.hex, found[wrong.algorithm].hex, reason)
        REFETCHED.append(f"{blob.name}: the first download had another digest than stated, and was fetched again")
    raise AssertionError


def remember(blob: HubBlob) -> None:
    """Let the client note which commit a branch is, so that its cache is found offline."""
    if (place := (blob.repository, blob.revision)) not in REMEMBERED:
        REMEMBERED.add(place)
        with told(blob.name):
            client().hf_hub_download(blob.repository, blob.path, revision=blob.revision or None, tqdm_class=silent())


REMEMBERED: set[tuple[str, str]] = set()

REFETCHED: list[str] = []
"""What had to be fetched again, one line each, for notes."""


def drop(path: Path) -> None:
    """Remove a wrong file from the cache: the link, and what it leads to."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def fetched(blob: HubBlob, local_dir: Path | None, *, again: bool) -> str:
    """A file by the client."""
    hub = client()
    with told(blob.name):
        path = hub.hf_hub_download(
            blob.repository,
            blob.path,
            revision=blob.commit,
            force_download=again,
            local_dir=local_dir,
            tqdm_class=silent(),
        )
    return str(path)


def silent() -> Any:
    """A bar of the client's kind that is not shown: weightkit has its own."""
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[type-arg]
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **{key: one for key, one in more.items() if key != "name"} | {"disable": True})

    return Silent


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
    with told(f"{role}: {address}"):
        api = hub.HfApi()
        info = api.repo_info(address.repository, revision=address.revision or None)
        commit = str(info.sha)
        tree = [
            one for one in api.list_repo_tree(address.repository, recursive=True, revision=commit) if hasattr(one, "blob_id")
        ]
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
