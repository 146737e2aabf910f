"""Reading over HTTP: ranges that go on where a connection broke, and a window that runs ahead of a pass."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urljoin, urlsplit

from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest, new_hash
from weightkit.core.errors import DigestMismatch, FormatError, WeightkitError

__all__ = ["Piece", "Window", "fetched_range", "looked_at"]

TRIES = 5
"""Connections in a row that brought nothing, after which a range is given up."""

REDIRECTS = 5
STEP = 4 << 20
"""Bytes of one request of a window."""


def session() -> Any:
    """The Hub client's own session: its proxies and its settings."""
    return utilities().get_session()


def utilities() -> Any:
    """The Hub client's own tools."""
    return importlib.import_module("huggingface_hub.utils")


def fetched_range(url: str, headers: dict[str, str], start: int, stop: int, name: str) -> bytes:
    """Bytes ``[start, stop)`` of an address.

    A connection that breaks is taken up where it broke. A redirect to another host does not get the token.

    Raises:
        FormatError: They cannot be had.
    """
    if start >= stop:
        return b""
    got = bytearray()
    failed = 0
    while len(got) < stop - start:
        before = len(got)
        try:
            request(url, {**headers, "Range": f"bytes={start + len(got)}-{stop - 1}"}, got, stop - start, name)
        except (FormatError, KeyboardInterrupt):
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore") and not isinstance(
                error, OSError
            ):
                raise
            failed = failed + 1 if len(got) == before else 0
            if failed >= TRIES:
                raise
        else:
            failed = failed + 1 if len(got) == before else 0
            if failed >= TRIES:
                raise FormatError(name, f"ends too early: wanted {stop - start} bytes, found {len(got)}", start)
    return bytes(got)


def request(url: str, headers: dict[str, str], got: bytearray, wanted: int, name: str) -> None:
    """One request; what it brings is added to ``got``, ``wanted`` bytes at most."""
    origin = urlsplit(url).netloc
    for _ in range(REDIRECTS):
        with session().stream("GET", url, headers=headers, follow_redirects=False) as response:
            if response.status_code in (301, 302, 303, 307, 308):
                target = urljoin(url, response.headers.get("Location", ""))
                if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
                    raise FormatError(name, "is redirected to an address that is no https")
                if urlsplit(target).netloc != origin:
                    headers = {key: one for key, one in headers.items() if key.lower() != "authorization"}
                url = target
                continue
            if response.status_code != 206 and not (response.status_code == 200 and headers["Range"].startswith("bytes=0-")):
                utilities().hf_raise_for_status(response)
                raise FormatError(name, f"the server gives no ranges (status {response.status_code})")
            for chunk in response.iter_bytes():
                got += chunk[: wanted - len(got)]
                if len(got) >= wanted:
                    return
            return
    raise FormatError(name, "is redirected again and again")


def looked_at(url: str, name: str) -> tuple[int, str]:
    """Size of a file at an address, and what the server says changes with its bytes.

    Raises:
        FormatError: It gives no ranges, or no size.
    """
    response = session().get(url, headers={"Range": "bytes=0-0"}, follow_redirects=True)
    utilities().hf_raise_for_status(response)
    found = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or found is None:
        raise FormatError(name, "the server gives no ranges of it; download it first")
    return int(found[1]), str(response.headers.get("ETag", ""))


@dataclass(frozen=True, slots=True)
class Piece:
    """How bytes of an object are fetched.

    Attributes:
        nbytes: The object's size.
        fetch: ``fetch(start, stop)``.
        name: For people.
    """

    nbytes: int
    fetch: Callable[[int, int], bytes]
    name: str


class Window:
    """An object fetched from front to back while a pass reads it, a bounded number of bytes ahead, and hashed on the way.

    A pass that does not read in this order is served by ranges of its own; the digest is taken all the same. At the end what
    the pass left is fetched, too, so that the whole object was seen.
    """

    def __init__(self, source: Piece, digest: Digest | None, ahead_nbytes: int) -> None:
        self.source, self.digest = source, digest
        self.hash = None if digest is None else new_hash(digest.algorithm, source.nbytes)
        self.ahead = max(STEP, ahead_nbytes)
        self.changed = threading.Condition()
        self.parts: dict[int, bytes] = {}
        self.at = 0
        """Up to where bytes were fetched."""
        self.low = 0
        """Below this nobody reads any more."""
        self.failure: BaseException | None = None
        self.stopped = False
        self.thread = threading.Thread(target=self.run, name="weightkit-ahead", daemon=True)

    def __enter__(self) -> Window:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.changed:
            self.low = self.source.nbytes
            self.stopped = error is not None
            self.parts.clear()
            self.changed.notify_all()
        self.thread.join()
        if error is not None:
            return
        if self.failure is not None:
            raise self.failure
        if self.hash is None or self.digest is None:
            return
        found = Digest(self.digest.algorithm, self.hash.hexdigest())
        if found != self.digest:
            reason = "what came is not what the Hub states; the same command fetches it again"
            raise DigestMismatch(self.source.name, found.algorithm, self.digest.hex, found.hex, reason)

    def run(self) -> None:
        """Fetch, hash, and keep what is still to be read."""
        try:
            while self.at < self.source.nbytes:
                with self.changed:
                    while self.at >= self.low + self.ahead and not self.stopped:
                        self.changed.wait()
                    if self.stopped:
                        return
                stop = min(self.source.nbytes, self.at + STEP)
                part = self.source.fetch(self.at, stop)
                if self.hash is not None:
                    self.hash.update(part)
                with self.changed:
                    if stop > self.low:
                        self.parts[self.at] = part
                    self.at = stop
                    self.changed.notify_all()
        except BaseException as error:
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def read(self, start: int, stop: int) -> Buffer | None:
        """Bytes that were fetched, or soon will be; None for those that lie elsewhere."""
        with self.changed:
            if start < self.low - STEP or start > self.at + self.ahead:
                return None
            self.low = max(self.low, start)
            for first in [one for one in self.parts if one + len(self.parts[one]) <= self.low]:
                del self.parts[first]
            self.changed.notify_all()
            while self.at < stop:
                if self.failure is not None:
                    raise WeightkitError(str(self.failure)) from self.failure
                if stop > self.low + self.ahead:
                    return None
                self.changed.wait()
            found = bytearray()
            for first in sorted(self.parts):
                part = self.parts[first]
                if first < stop and first + len(part) > start:
                    found += part[max(0, start - first) : stop - first]
            return found if len(found) == stop - start else None
