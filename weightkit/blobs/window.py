"""Reading a file of the network that is never stored: from front to back ahead of a pass, hashed on the way."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from weightkit.blobs.reads import BLOCK
from weightkit.blobs.witness import Piece, Witness
from weightkit.core.blob import Extent
from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest, new_hash
from weightkit.core.errors import DigestMismatch, WeightkitError
from weightkit.core.events import BytesFetched, tell

__all__ = ["LOOK_UP_SECONDS", "WINDOW_NBYTES", "Window", "Windows", "ascending"]

WINDOW_NBYTES = 16 << 20
"""Of a streamed file, how much may have come before it is asked for."""

LOOK_UP_SECONDS = 0.5
"""How often somebody who waits sees whether the run has ended."""


class Window:
    """A stream of an object ahead of those that read it, a bounded number of bytes, with its digest taken.

    Readers are threads. The stream waits for the one that is furthest behind in it; who is behind the stream is served
    beside it. Where a digest is stated, the stream goes to the end, and a reader has not ended before the digest holds.
    """

    def __init__(self, source: Piece, digest: Digest | None, witness: Witness, ahead_nbytes: int, stop: int) -> None:
        self.source, self.digest, self.witness = source, digest, witness
        self.ahead = max(2 * BLOCK, ahead_nbytes)
        self.stop = stop if digest is None else source.nbytes
        self.changed = threading.Condition()
        self.parts: OrderedDict[int, bytearray] = OrderedDict()
        self.readers: dict[int, list[int]] = {}
        """Thread -> up to where it does not need bytes any more; one for each pass that it has begun."""
        self.at = 0
        """Up to where bytes came."""
        self.failure: BaseException | None = None
        self.left = self.over = self.proved = False
        self.waiting = 0
        """Readers that have ended, and wait for the digest."""
        self.proving = threading.Lock()
        self.thread = threading.Thread(target=self.run, name="weightkit-ahead", daemon=True)

    def join(self, start: int) -> None:
        """A pass of this thread begins at a byte."""
        with self.changed:
            self.readers.setdefault(threading.get_ident(), []).append(start)
            self.changed.notify_all()
        if self.thread.ident is None:
            if self.digest is None:
                self.at = start // BLOCK * BLOCK
            self.thread.start()

    def leave(self, *, failed: bool) -> None:
        """A pass of this thread ends; with a digest, not before it holds.

        Raises:
            DigestMismatch: It does not.
            WeightkitError: The object cannot be read to its end.
        """
        with self.changed:
            mine = self.readers[threading.get_ident()]
            mine.pop()
            if not mine:
                del self.readers[threading.get_ident()]
            failed = failed or self.digest is None
            self.waiting += not failed
            self.left = not self.readers and not self.waiting
            self.changed.notify_all()
        if failed:
            if self.left:
                self.thread.join()
            return
        try:
            while self.thread.is_alive():
                self.thread.join(LOOK_UP_SECONDS)
                tell(BytesFetched(self.source.name, 0, self.source.nbytes))
            if self.failure is not None:
                raise again(self.failure)
            self.prove()
        finally:
            with self.changed:
                self.waiting -= 1
                self.left = not self.readers and not self.waiting
                self.changed.notify_all()

    def prove(self) -> None:
        """Have a stream go over the object, and over it again, until nothing is left that was read beside.

        Raises:
            DigestMismatch: It has another digest than is stated, or bytes came twice and differ.
        """
        with self.proving:
            while not (self.proved and self.witness.settled):
                for _ in self.stream():
                    tell(BytesFetched(self.source.name, 0, self.source.nbytes))

    def run(self) -> None:
        """Fetch and hash, and keep what is still to be read."""
        try:
            for block in self.stream():
                with self.changed:
                    first = self.at
                    self.at += len(block)
                    self.parts[first] = block
                    self.drop()
                    self.changed.notify_all()
                    while self.at >= self.needed() + self.ahead and not self.left:
                        self.changed.wait()
                    if self.left:
                        break
        except BaseException as error:
            self.failure = error
        finally:
            with self.changed:
                self.over = True
                self.changed.notify_all()

    def stream(self) -> Iterator[bytearray]:
        """The object's blocks; at the end its digest holds, and it vouches for what was read beside.

        Raises:
            DigestMismatch: It has another digest.
        """
        hash_ = None if self.digest is None else new_hash(self.digest.algorithm, self.source.nbytes)
        at = self.at if self.digest is None else 0
        vouched: list[tuple[int, int, int]] = []
        for block in self.source.flow(at, self.stop):
            if hash_ is not None:
                hash_.update(block)
                vouched += self.witness.compare(self.source.name, at // BLOCK, block)
            at += len(block)
            yield block
        if hash_ is None or self.digest is None:
            return
        found = Digest(self.digest.algorithm, hash_.hexdigest())
        if found != self.digest:
            reason = "what came is not what the Hub states; the same command fetches it again"
            raise DigestMismatch(self.source.name, found.algorithm, self.digest.hex, found.hex, reason)
        self.witness.settle(vouched)
        self.proved = True

    def needed(self) -> int:
        """From where on somebody in the stream needs bytes; the end where nobody does. Under the lock."""
        floor = next(iter(self.parts), self.at)
        return min((at for mine in self.readers.values() for at in mine if at >= floor), default=self.stop)

    def drop(self) -> None:
        """Let go of what nobody needs any more. Under the lock."""
        needed = self.needed()
        while self.parts and (first := next(iter(self.parts))) + len(self.parts[first]) <= min(needed, self.at):
            del self.parts[first]

    def read(self, start: int, stop: int) -> Buffer | None:
        """Bytes that came, or soon will; None for those that lie elsewhere, or of a thread that has begun no pass."""
        with self.changed:
            mine = self.readers.get(threading.get_ident())
            if mine is None:
                return None
            mine[-1] = max(mine[-1], start)
            self.drop()
            self.changed.notify_all()
            while self.at < stop:
                if self.failure is not None:
                    raise again(self.failure)
                if self.over or stop > self.needed() + self.ahead or start < next(iter(self.parts), self.at):
                    return None
                if not self.changed.wait(LOOK_UP_SECONDS):
                    tell(BytesFetched(self.source.name, 0, self.source.nbytes))
            parts = [(first, part) for first, part in self.parts.items() if first < stop and first + len(part) > start]
        found = np.empty(stop - start, np.uint8).data
        got = 0
        for first, part in parts:
            piece = memoryview(part)[max(0, start - first) : stop - first]
            found[got : got + len(piece)] = piece
            got += len(piece)
        return found if got == stop - start else None


def again(error: BaseException) -> BaseException:
    """An error of the thread, for another one to raise."""
    if isinstance(error, DigestMismatch):
        return DigestMismatch(error.path, error.algorithm, error.expected, error.actual, error.reason)
    return error if isinstance(error, WeightkitError) else WeightkitError(str(error))


def ascending(extents: Sequence[Extent]) -> bool:
    """Whether a pass reads an object from front to back, but for a quarter of its bytes at most."""
    at = behind = 0
    for one in extents:
        behind += len(one) if one.start < at else 0
        at = max(at, one.stop)
    return 4 * behind <= sum(map(len, extents))


class Windows:
    """Streams under way, and what was read beside them, by version."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: dict[str, Window] = {}
        self.witnesses: dict[str, Witness] = {}

    def witness(self, version: str) -> Witness:
        """Of an object."""
        with self.lock:
            return self.witnesses.setdefault(version, Witness(version))

    def get(self, version: str) -> Window | None:
        """The stream of an object, if one is under way."""
        return self.open.get(version)

    @contextmanager
    def reading(self, version: str, start: int, own: Window) -> Iterator[None]:
        """A pass of this thread over an object; who comes while a stream is under way, shares it. Raises like ``leave``."""
        with self.lock:
            window = self.open.get(version)
            if window is None or window.over or window.left:
                window = self.open[version] = own
            window.join(start)
        try:
            yield
        except BaseException:
            self.leave(version, window, failed=True)
            raise
        self.leave(version, window, failed=False)

    def leave(self, version: str, window: Window, *, failed: bool) -> None:
        """Leave a stream; the last one takes it away."""
        try:
            window.leave(failed=failed)
        finally:
            with self.lock:
                if not window.readers and self.open.get(version) is window:
                    del self.open[version]
