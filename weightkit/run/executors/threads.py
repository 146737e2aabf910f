"""Files side by side in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from weightkit.core.errors import DigestMismatch
from weightkit.core.events import Event, Notify, hearing
from weightkit.run.executors import Outcome
from weightkit.run.plan import Output
from weightkit.run.write import Work

__all__ = ["Threads", "in_threads"]

T = TypeVar("T")
Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class Threads:
    """An ``Executor`` of so many threads."""

    jobs: int

    @property
    def processes(self) -> int:
        """None but this one."""
        return 0

    def at_most(self, jobs: int) -> Threads:
        """Fewer threads."""
        return Threads(min(jobs, self.jobs))

    def run(self, work: Work, files: Iterable[Output], notify: Notify) -> Generator[Outcome, None, None]:
        """Work on files in threads; progress is told by block, from any of them."""
        return in_threads(self.jobs, work, files, notify)


def in_threads(
    jobs: int, work: Callable[[Given, Notify], T], given: Iterable[Given], notify: Notify
) -> Generator[T | DigestMismatch, None, None]:
    """Do some work on each thing given, in so many threads. They stop at the next event that they tell, if this is closed."""
    stop = threading.Event()

    def watched(event: Event) -> None:
        if stop.is_set():
            raise Stopped
        notify(event)

    def attempt(one: Given) -> T | DigestMismatch:
        try:
            with hearing(watched):
                return work(one, watched)
        except DigestMismatch as error:
            return error

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield from as_places_get_free(jobs, lambda one: pool.submit(attempt, one), given)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def as_places_get_free(jobs: int, submit: Callable[[Given], Future[T]], given: Iterable[Given]) -> Generator[T, None, None]:
    """Submit things one by one, never more than ``jobs`` at once; give results as they come, before any error."""
    source = iter(given)
    pending: set[Future[T]] = set()
    more = True
    while more or pending:
        while more and len(pending) < jobs:
            try:
                pending.add(submit(next(source)))
            except StopIteration:
                more = False
        done, pending = wait(pending, return_when=FIRST_COMPLETED) if pending else (set(), pending)
        failed = [future for future in done if future.exception() is not None]
        for future in done:
            if future not in failed:
                yield future.result()
        for future in failed:
            future.result()


class Stopped(Exception):
    """Raised in a worker whose run was interrupted or failed elsewhere; it leaves nothing behind."""
