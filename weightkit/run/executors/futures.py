"""Files side by side in any pool of ``concurrent.futures``: processes of this machine, or what a cluster's client offers."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from weightkit.core.errors import DigestMismatch, WeightkitError
from weightkit.core.events import BytesWritten, Notify
from weightkit.run.executors import Outcome
from weightkit.run.executors.threads import as_places_get_free
from weightkit.run.plan import Output
from weightkit.run.receipts import Receipt
from weightkit.run.write import Work

__all__ = ["Futures"]


@dataclass(frozen=True, slots=True)
class Futures:
    """An ``Executor`` over a pool, which stays open.

    Attributes:
        pool: The pool. What it is handed pickles.
        jobs: Files at a time.
    """

    pool: Executor
    jobs: int

    @property
    def processes(self) -> int:
        """One a job, unless the pool is of threads."""
        return 0 if isinstance(self.pool, ThreadPoolExecutor) else self.jobs

    def at_most(self, jobs: int) -> Futures:
        """Fewer files at a time."""
        return Futures(self.pool, min(jobs, self.jobs))

    def run(self, work: Work, files: Iterable[Output], notify: Notify) -> Generator[Outcome, None, None]:
        """Hand files to the pool; progress is told by file. A file that is under way when this is closed is waited for."""
        handed: list[Future[Outcome]] = []

        def submit(file: Output) -> Future[Outcome]:
            handed[:] = [one for one in handed if not one.done()]
            handed.append(self.pool.submit(attempt, work, file))
            return handed[-1]

        try:
            for outcome in as_places_get_free(self.jobs, submit, files):
                if isinstance(outcome, Receipt):
                    notify(BytesWritten(outcome.path, outcome.nbytes))
                yield outcome
        except BrokenExecutor as error:
            raise WeightkitError("a worker process ended without a word: it was killed, perhaps for want of memory") from error
        finally:
            for future in handed:
                future.cancel()
            wait(handed)


def attempt(work: Work, file: Output) -> Outcome:
    """The work on one file, wherever it is done."""
    try:
        return work(file)
    except DigestMismatch as error:
        return error
