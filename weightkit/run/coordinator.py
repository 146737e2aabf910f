"""Who runs a plan: asks the gates, hands files to the executor, has the ledger write down and publish what comes back."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress

from weightkit.core.blob import Blob
from weightkit.core.errors import DigestMismatch
from weightkit.core.events import FileFinished, FileProved, Notify
from weightkit.run.executors import Executor
from weightkit.run.executors.threads import Threads, in_threads
from weightkit.run.gates import Gate
from weightkit.run.ledgers import Ledger, Stage
from weightkit.run.ledgers.hashed import Partly
from weightkit.run.plan import Output, OutputFile, Plan
from weightkit.run.proving import made_of, waits_for
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
        self.made: set[str] = set()
        self.proofs: dict[str, Output] = {}
        self.unproved: dict[str, Output] = {}
        self.begun: set[str] = set()
        self.proved: dict[str, Receipt] = {}

    def run(self, plan: Plan) -> Report:
        """Write all files. Index and other small files go last, and only if every file of weights is right.

        A mismatch does not stop the other files; a gate that does not hold stops all, and nothing that waited for it is left.
        A published file that is not stored is a gate, too.
        """
        self.inputs = {file.path: file.needs.blobs for file in plan.everything} if self.gates else {}
        self.proofs = {file.path: file for file in plan.proofs}
        self.unproved = dict(self.proofs)
        try:
            self.settle(plan.files, self.executor)
            if not self.mismatches:
                self.settle(plan.small, Threads(1))
        except DigestMismatch as error:  # a gate's: a file's is an outcome
            self.keep(error.path)
            for receipt in self.waiting:
                self.ledger.discard(receipt)
            self.mismatches[error.path] = error
        receipts = (self.published[file.path] for file in plan.everything if file.path in self.published)
        proofs = (self.proved[path] for path in self.proofs if path in self.proved)
        return Report(tuple(receipts), tuple(self.mismatches[path] for path in sorted(self.mismatches)), tuple(proofs))

    def settle(self, files: Sequence[Output], executor: Executor) -> None:
        """Read again what an earlier try has made of some files, write the others, publish all."""
        self.publish(wait=False)
        known = [file for file in files if file.path in self.standing.receipts]
        self.take(in_threads(executor.jobs, self.read_again, known, self.notify))
        work = Work(self.stage(), self.block_nbytes, executor.processes > 0, self.keep_mismatched)
        self.take(executor.run(work, self.still_to_do(files), self.notify))
        self.take(executor.run(work, self.provable(), self.notify))  # of files that were under way when the last one began
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
                yield from self.provable()
                self.publish(wait=False)
                yield file

    def stage(self) -> Stage:
        """The ledger's, on which what is not stored is hashed alone."""
        stage = self.ledger.stage()
        return Partly(stage, frozenset(self.proofs)) if self.proofs else stage

    def provable(self) -> Iterator[Output]:
        """Published files that are not stored, of which all that they are made of is there; each once, soon after that."""
        for path, file in list(self.unproved.items()):
            if path not in self.begun and waits_for(file) <= self.made:
                self.begun.add(path)
                yield self.resolved(file)

    def resolved(self, file: Output) -> Output:
        """One of them, made of what is stored."""
        return made_of(file, self.ledger.stored) if isinstance(file, OutputFile) else file

    def keep(self, path: str) -> None:
        """Write a published file that came out otherwise, if that is wanted, while what it is made of is there."""
        if path not in self.proofs or not self.keep_mismatched:
            return
        with suppress(DigestMismatch):
            Work(self.ledger.stage(), self.block_nbytes, keep_mismatched=True)(self.resolved(self.proofs[path]), self.notify)
        self.ledger.mismatched(path)

    def take(self, outcomes: Generator[Receipt | DigestMismatch | None, None, None]) -> None:
        """Write down what comes back, and publish what may be."""
        with closing(outcomes):
            for outcome in outcomes:
                if outcome is None:
                    continue
                self.settled.add(outcome.path)
                if outcome.path in self.proofs:
                    self.take_proof(outcome)
                    continue
                if isinstance(outcome, DigestMismatch):
                    self.mismatches[outcome.path] = outcome
                    self.ledger.mismatched(outcome.path)
                    continue
                if not outcome.kept:
                    outcome = self.ledger.staged(outcome)
                for gate in self.gates:
                    gate.passed(outcome)
                self.waiting.append(outcome)
                self.made.add(outcome.path)
                self.publish(wait=False)

    def take_proof(self, outcome: Receipt | DigestMismatch) -> None:
        """Note that a published file would have been so; else there is an end."""
        if isinstance(outcome, DigestMismatch):
            raise outcome
        del self.unproved[outcome.path]
        self.proved[outcome.path] = outcome
        self.notify(FileProved(outcome.path, outcome.nbytes, tuple(outcome.digests.values())))

    def publish(self, *, wait: bool) -> None:
        """Ask all gates, and if each of them holds, publish what waits.

        Raises:
            DigestMismatch: One does not hold.
        """
        answers = [gate.ask(wait) for gate in self.gates]
        if not all(answers) or self.unproved:
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
