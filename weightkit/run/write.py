"""The one unit of work: compute, hash, look at and write one file. What every executor runs, wherever it runs it.

Every chunk goes from the thread that computes it to one that hashes it and one that writes it, through queues of a few
places, so memory stays bounded and no byte is read back for its digest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

from weightkit.core.buffers import Buffer
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import DigestMismatch, WeightkitError
from weightkit.core.events import BytesWritten, Notify, ignore
from weightkit.run.ledgers import Stage
from weightkit.run.looks import Looks
from weightkit.run.plan import Output, OutputFile, Watch
from weightkit.run.receipts import DIGEST, Receipt

__all__ = ["QUEUE_PLACES", "Work", "check", "held_to_its_threads"]

log = logging.getLogger(__name__)

Item = TypeVar("Item")

QUEUE_PLACES = 4
"""Chunks that wait for a relay at most."""


@dataclass(frozen=True, slots=True)
class Work:
    """Writes files onto a stage, one a call. Pickles small.

    Attributes:
        stage: Where to.
        block_nbytes: About how many bytes of a tensor at a time.
        alone: Whether the process is this work's own, so that torch's threads are its affair, too.
        keep_mismatched: Whether a file that is not what was published is kept under another name, to be examined.
    """

    stage: Stage
    block_nbytes: int
    alone: bool = False
    keep_mismatched: bool = False

    def __call__(self, file: Output, notify: Notify = ignore) -> Receipt:
        """Write one file.

        Raises:
            DigestMismatch: It is not what was published; nothing of it remains.
            FormatError: An input is damaged, or has changed.
            WeightkitError: The stage cannot be written to.
        """
        with held_to_its_threads(self.alone and file.needs.torch):
            receipt = self.write(file, notify)
        log.info("%s: written, %d bytes, sha256 %s", file.path, receipt.nbytes, receipt.sha256)
        return receipt

    def write(self, file: Output, notify: Notify) -> Receipt:
        algorithms = {DIGEST, *file.also, *(digest.algorithm for digest in file.expect)}
        nbytes = file.nbytes if file.exact else None
        hasher, twin_hasher = Hasher(algorithms, nbytes), Hasher(algorithms, nbytes)
        tensors = file if isinstance(file, OutputFile) else None
        looks = Looks(tensors) if tensors and tensors.watched else None
        has_twin = tensors is not None and tensors.twin is not None
        with self.stage.create(file.path, nbytes) as out:
            with ExitStack() as relays:
                hash_chunk = relays.enter_context(relay(hasher.update))
                write_chunk = relays.enter_context(relay(out.write))
                hash_twin = relays.enter_context(relay(twin_hasher.update)) if has_twin else ignore_chunk
                watch = watching(relays.enter_context(relay(looks.update))) if looks else None
                for chunk, *beside in file.chunks(self.block_nbytes, watch):
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
            try:
                check(file, digests)
            except DigestMismatch:
                if self.keep_mismatched:
                    out.set_aside()
                raise
            token = out.seal()
        return Receipt(
            file.path,
            "",  # the ledger's to fill in: it knows what was planned
            hasher.nbytes,
            digests,
            twin_hasher.digests() if has_twin else None,
            looks.found if looks else {},
            token=token,
            checked=bool(file.expect),
        )


def check(file: Output, digests: Mapping[str, Digest]) -> None:
    """Compare with what was published.

    Raises:
        DigestMismatch: One of them differs.
    """
    for wanted in file.expect:
        found = digests[wanted.algorithm]
        if found != wanted:
            raise DigestMismatch(file.path, wanted.algorithm, wanted.hex, found.hex)


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


def watching(hand_over: Callable[[tuple[int, int, int, tuple[Buffer, ...]]], None]) -> Watch:
    """What is looked at, handed over."""
    return lambda index, run, number, blocks: hand_over((index, run, number, blocks))


def ignore_chunk(chunk: Buffer) -> None:
    """Where there is no twin."""


def held_to_its_threads(torch: bool) -> AbstractContextManager[None]:
    """torch held to the calling threads; nothing where it is not needed, and so not imported."""
    if not torch:
        return nullcontext()
    from weightkit.core.compute import one_thread

    return one_thread()
