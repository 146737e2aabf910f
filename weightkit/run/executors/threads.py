"""Runs a plan on this machine: files side by side in threads, and within a file computing, hashing and writing overlap.

Every chunk goes from the thread that computes it to one that hashes it and one that writes it, through queues of a few
places, so memory stays bounded and no byte is read back for its digest.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

from weightkit.core.buffers import Buffer
from weightkit.core.content import TensorHash
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import DigestMismatch, WeightkitError
from weightkit.core.events import BytesWritten, Event, FileFinished, FileKept, Notify, ignore
from weightkit.core.spec import TensorSpec
from weightkit.run.budget import Budget
from weightkit.run.ledgers import Sink
from weightkit.run.plan import OutputFile, Plan, SmallFile, StreamFile

__all__ = ["Receipt", "Report", "run", "write_file"]

log = logging.getLogger(__name__)

Item = TypeVar("Item")

QUEUE_PLACES = 4
DIGEST = "sha256"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A file that stands under its name.

    Attributes:
        path: Its name in the output folder.
        nbytes: Its size.
        digests: By algorithm; SHA-256 is always among them.
        checked: Whether a published digest was given for it (and so holds).
        twin: Digests of the file that was computed in step, if there was one.
        kept: Whether it stood there whole from an interrupted run.
        tensors: Content digests of its tensors by name; None where they were not taken.
    """

    path: str
    nbytes: int
    digests: dict[str, Digest]
    checked: bool = False
    twin: dict[str, Digest] | None = None
    kept: bool = False
    tensors: dict[str, Digest] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal."""
        return self.digests[DIGEST].hex


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        receipts: The files published, in the order of the plan.
        mismatches: Files whose digest was not the one wanted; none of them was published.
    """

    receipts: tuple[Receipt, ...]
    mismatches: tuple[DigestMismatch, ...]


@contextmanager
def relay(work: Callable[[Item], object]) -> Iterator[Callable[[Item], None]]:
    """A thread that does ``work`` on what it is handed, in order; what it raises is raised at the next hand-over."""
    queue: SimpleQueue[Item | None] = SimpleQueue()
    places = threading.Semaphore(QUEUE_PLACES)
    failure: list[BaseException] = []

    def serve() -> None:
        while (item := queue.get()) is not None:
            if not failure:
                try:
                    work(item)
                except BaseException as error:
                    failure.append(error)
            places.release()

    def hand_over(item: Item) -> None:
        places.acquire()
        if failure:
            places.release()
            raise failure[0]
        queue.put(item)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield hand_over
    finally:
        queue.put(None)
        thread.join()
    if failure:
        raise failure[0]


def write_file(
    file: OutputFile | StreamFile, sink: Sink, notify: Notify = ignore, *, block_bytes: int, tensors: bool = False
) -> Receipt:
    """Compute, hash, write and check one file; the unit of work of every executor.

    With ``tensors``, the digest of each tensor is taken beside that of the file.

    Raises:
        DigestMismatch: It is not what was published; nothing appears under its name.
        FormatError: An input is damaged.
    """
    algorithms = {DIGEST, *(digest.algorithm for digest in file.expect)}
    kept = sink.finished(file.path, file.nbytes if file.exact else None)
    if kept and set(kept) >= algorithms and file.twin is None:
        check(file, kept)
        log.info("%s: whole from an earlier run, kept", file.path)
        notify(FileKept(file.path, file.nbytes))
        return Receipt(file.path, file.nbytes, kept, bool(file.expect), kept=True)
    content = Content(file) if tensors and isinstance(file, OutputFile) and file.twin is None else None
    content_relay = relay(content.update) if content else nullcontext(None)
    hasher, twin_hasher = Hasher(algorithms), Hasher(algorithms)
    twin_relay = relay(twin_hasher.update) if file.twin else nullcontext(ignore_chunk)
    with sink.create(file.path) as out:
        with (
            relay(hasher.update) as hash_chunk,
            relay(out.write) as write_chunk,
            twin_relay as hash_twin,
            content_relay as hash_tensor,
        ):
            watch = None if hash_tensor is None else functools.partial(watched_block, hash_tensor)
            for chunk, *beside in file.chunks(block_bytes, watch):
                hash_chunk(chunk)
                write_chunk(chunk)
                for other in beside:
                    hash_twin(other)
                notify(BytesWritten(file.path, len(chunk)))
        if file.exact and hasher.nbytes != file.nbytes:
            raise WeightkitError(
                f"{file.path}: {hasher.nbytes} bytes came out, {file.nbytes} were planned: a fault of weightkit"
            )
        digests = hasher.digests()
        check(file, digests)
        out.seal(digests)
    log.info("%s: written, %d bytes, sha256 %s", file.path, hasher.nbytes, digests[DIGEST].hex)
    notify(FileFinished(file.path, hasher.nbytes, tuple(digests.values())))
    twin_digests = twin_hasher.digests() if file.twin else None
    found = content.digests() if content else None
    return Receipt(file.path, hasher.nbytes, digests, bool(file.expect), twin_digests, tensors=found)


class Content:
    """Digests of the tensors of one file, taken as their blocks go by."""

    def __init__(self, file: OutputFile) -> None:
        self.hashes: dict[tuple[int, int], dict[TensorSpec, TensorHash]] = {}
        self.names: dict[str, TensorHash] = {}
        for item in file.layout.items:
            here = self.hashes.setdefault((item.run, item.offset), {})
            self.names[item.name] = here.setdefault(item.spec, TensorHash(item.spec))

    def update(self, part: tuple[tuple[int, int], Buffer]) -> None:
        """Take in a block of a tensor."""
        for one in self.hashes[part[0]].values():
            one.update(part[1])

    def digests(self) -> dict[str, Digest]:
        """The digests, by name."""
        return {name: one.digest() for name, one in self.names.items()}


def watched_block(hand_over: Callable[[tuple[tuple[int, int], Buffer]], None], place: tuple[int, int], block: Buffer) -> None:
    """Hand a tensor's block over."""
    hand_over((place, block))


def ignore_chunk(chunk: Buffer) -> None:
    """Where there is no twin."""


def write_small(file: SmallFile, sink: Sink, notify: Notify) -> Receipt:
    """Write a file whose bytes are known already."""
    hasher = Hasher({DIGEST, *(digest.algorithm for digest in file.expect)})
    hasher.update(file.content)
    digests = hasher.digests()
    check(file, digests)
    if sink.finished(file.path, file.nbytes) != digests:
        with sink.create(file.path) as out:
            out.write(file.content)
            out.seal(digests)
    notify(FileFinished(file.path, file.nbytes, tuple(digests.values())))
    return Receipt(file.path, file.nbytes, digests, bool(file.expect))


def check(file: OutputFile | StreamFile | SmallFile, digests: dict[str, Digest]) -> None:
    """Compare with what was published.

    Raises:
        DigestMismatch: One of them differs.
    """
    for wanted in file.expect:
        found = digests[wanted.algorithm]
        if found != wanted:
            raise DigestMismatch(file.path, wanted.algorithm, wanted.hex, found.hex)


def run(plan: Plan, sink: Sink, budget: Budget, notify: Notify = ignore) -> Report:
    """Write all files of a plan. Index and other small files go last, and only if every file of tensors is right.

    A mismatch does not stop the other files. ``sink`` is left open, so that the caller may add to it (a list of
    digests) before closing it.
    """
    mismatches: list[DigestMismatch] = []
    stop = threading.Event()

    def watched(event: Event) -> None:
        if stop.is_set():
            raise Stopped
        notify(event)

    def attempt(file: OutputFile | StreamFile) -> Receipt | None:
        try:
            return write_file(file, sink, watched, block_bytes=budget.block_bytes, tensors=plan.tensors)
        except DigestMismatch as error:
            mismatches.append(error)
            return None

    with single_threaded(plan), ThreadPoolExecutor(budget.jobs) as pool:
        try:
            futures = [pool.submit(attempt, file) for file in plan.files]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and (error := future.exception()):
                    raise error
            receipts = [receipt for future in futures if (receipt := future.result())]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    for small in () if mismatches else plan.small:
        try:
            receipts.append(write_small(small, sink, notify))
        except DigestMismatch as error:
            mismatches.append(error)
    return Report(tuple(receipts), tuple(sorted(mismatches, key=lambda error: error.path)))


def single_threaded(plan: Plan) -> AbstractContextManager[None]:
    """torch held to the calling threads; nothing where it is not needed, and so not imported."""
    if not any(file.computes for file in plan.files):
        return nullcontext()
    from weightkit.core.compute import one_thread

    return one_thread()


class Stopped(Exception):
    """Raised in a worker whose run was interrupted or failed elsewhere; it leaves nothing behind."""
