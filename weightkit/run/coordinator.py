"""Who runs a plan: asks the gates, hands files to the executor, has the ledger write down and publish what comes back."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing

from weightkit.core.blob import Blob
from weightkit.core.errors import DigestMismatch
from weightkit.core.events import FileFinished, Notify
from weightkit.run.executors import Executor
from weightkit.run.executors.threads import Threads, in_threads
from weightkit.run.gates import Gate
from weightkit.run.ledgers import Ledger
from weightkit.run.plan import Output, Plan
from weightkit.run.receipts import Receipt, Report, Standing
from weightkit.run.write import Work, check

__all__ = ["Coordinator"]


class Coordinator:
    """One run.

    Args:
        ledger: Open; it is left open, so that lists can be added to what was written.
        standing: What it found.
        gates: What must hold before anything is published.
        executor: Who works.
        block_nbytes: About how many bytes of a tensor at a time.
        notify: Told what happens.
        keep_mismatched: Whether files that are not what was published are kept as ``NAME.mismatch``.
    """

    def __init__(
        self,
        ledger: Ledger,
        standing: Standing,
        gates: Sequence[Gate],
        executor: Executor,
        block_nbytes: int,
        notify: Notify,
        *,
        keep_mismatched: bool = False,
    ) -> None:
        self.ledger, self.standing, self.gates, self.executor = ledger, standing, gates, executor
        self.block_nbytes, self.notify, self.keep_mismatched = block_nbytes, notify, keep_mismatched
        self.inputs: dict[str, tuple[Blob, ...]] = {}
        self.settled: set[str] = set()
        self.waiting: list[Receipt] = []
        self.published: dict[str, Receipt] = {}
        self.mismatches: dict[str, DigestMismatch] = {}

    def run(self, plan: Plan) -> Report:
        """Write all files. Index and other small files go last, and only if every file of weights is right.

        A mismatch does not stop the other files; a gate that does not hold stops all, and nothing that waited for it is left.
        """
        self.inputs = {file.path: file.needs.blobs for file in plan.everything} if self.gates else {}
        try:
            self.settle(plan.files, self.executor)
            if not self.mismatches:
                self.settle(plan.small, Threads(1))
        except DigestMismatch as error:  # a gate's: a file's is an outcome
            for receipt in self.waiting:
                self.ledger.discard(receipt)
            self.mismatches[error.path] = error
        receipts = (self.published[file.path] for file in plan.everything if file.path in self.published)
        return Report(tuple(receipts), tuple(self.mismatches[path] for path in sorted(self.mismatches)))

    def settle(self, files: Sequence[Output], executor: Executor) -> None:
        """Read again what an earlier try has made of some files, write the others, publish all."""
        self.publish(wait=False)
        known = [file for file in files if file.path in self.standing.receipts]
        self.take(in_threads(executor.jobs, self.read_again, known, self.notify))
        work = Work(self.ledger.stage(), self.block_nbytes, executor.processes > 0, self.keep_mismatched)
        self.take(executor.run(work, self.still_to_do(files), self.notify))
        self.publish(wait=True)

    def read_again(self, file: Output, notify: Notify) -> Receipt | None:
        receipt = self.ledger.kept(file, notify)
        if receipt is not None:
            check(file, receipt.digests)
        return receipt

    def still_to_do(self, files: Iterable[Output]) -> Iterator[Output]:
        """Files that are to be written; the gates are asked before each."""
        for file in files:
            if file.path not in self.settled:
                self.publish(wait=False)
                yield file

    def take(self, outcomes: Generator[Receipt | DigestMismatch | None, None, None]) -> None:
        """Write down what comes back, and publish what may be."""
        with closing(outcomes):
            for outcome in outcomes:
                if outcome is None:
                    continue
                self.settled.add(outcome.path)
                if isinstance(outcome, DigestMismatch):
                    self.mismatches[outcome.path] = outcome
                    self.ledger.mismatched(outcome.path)
                    continue
                if not outcome.kept:
                    outcome = self.ledger.staged(outcome)
                for gate in self.gates:
                    gate.passed(outcome)
                self.waiting.append(outcome)
                self.publish(wait=False)

    def publish(self, *, wait: bool) -> None:
        """Ask all gates, and if each of them holds, publish what waits.

        Raises:
            DigestMismatch: One does not hold.
        """
        answers = [gate.ask(wait) for gate in self.gates]
        if not all(answers):
            return
        while self.waiting:
            receipt = self.waiting[0]
            if self.gates and not receipt.kept:  # it waited: what it was made of may have changed since its pass ended
                for blob in self.inputs[receipt.path]:
                    blob.check()
            self.ledger.publish(receipt)
            self.published[receipt.path] = self.waiting.pop(0)
            if not receipt.kept:
                self.notify(FileFinished(receipt.path, receipt.nbytes, tuple(receipt.digests.values())))
