"""Carries a plan out in a folder: checks what can be checked first, runs it, leaves the lists of digests."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from weightkit import manifests
from weightkit.blobs import Place
from weightkit.core.blob import Blob
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import DigestMismatch, PlanError
from weightkit.core.events import Notify, Resumed, Started, ignore
from weightkit.core.sizes import format_size
from weightkit.manifests import Entry
from weightkit.manifests import tensors as content
from weightkit.run.budget import DEFAULT_MAX_MEMORY, Budget, fit
from weightkit.run.coordinator import Coordinator
from weightkit.run.executors import Executor
from weightkit.run.executors.threads import Threads
from weightkit.run.gates import Checklist, Inputs
from weightkit.run.kept import check_out, keep_inputs
from weightkit.run.ledgers import Ledger
from weightkit.run.ledgers.compared import Compared
from weightkit.run.ledgers.directory import Directory
from weightkit.run.ledgers.hashed import Hashed
from weightkit.run.ledgers.lock import nearest
from weightkit.run.plan import OutputFile, Plan, SmallFile, StreamFile
from weightkit.run.receipts import DIGEST, Receipt, Report, Standing
from weightkit.run.reclaim import Reclaim
from weightkit.run.values import values_notes
from weightkit.run.write import held_to_its_threads

__all__ = ["NO_SEALS", "SUMS", "SUMS_ONLY", "Done", "Lists", "Preview", "Seals", "carry_out", "check_out", "hashed", "preview"]

SUMS = "SHA256SUMS"

Lists = Mapping[str, Callable[[Receipt], Digest | None]]
"""Name of a list of digests -> which digest of each file goes into it; None: the file does not."""

SUMS_ONLY: Lists = {SUMS: lambda receipt: receipt.digests[DIGEST]}

Seals = Mapping[str, Callable[[Mapping[str, Digest]], bytes]]
"""Name of a file that is made when all else is there -> its bytes, from the SHA-256 of all files before it, lists too."""

NO_SEALS: Seals = {}

MARGIN_NBYTES = 16 << 20
"""Left free on the disk: journal, lists of digests, the file system's own needs."""


@dataclass(frozen=True, slots=True, repr=False)
class Done:
    """A plan that was carried out.

    Attributes:
        plan: What was to be written.
        report: What was, and which digests did not match.
        stood: Whether all of it stood there already: it was made again and compared, and nothing was written.
    """

    plan: Plan
    report: Report
    stood: bool = False

    def __repr__(self) -> str:
        return f"<{self.plan.job}, {'ok' if self.ok else 'not ok'}: {self.report!r}>"

    def _repr_html_(self) -> str:
        """A table for notebooks: files, sizes, digests, what does not match."""
        rows = [
            *((one.path, format_size(one.nbytes), one.sha256, "kept" if one.kept else "") for one in self.report.receipts),
            *((one.path, "", one.actual, f"{one.algorithm} wanted {one.expected}") for one in self.report.mismatches),
        ]
        cells = ("".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows)
        return "<table><tr><th>file</th><th>size</th><th>sha256</th><th></th></tr>{}</table>".format(
            "".join(f"<tr>{row}</tr>" for row in cells)
        )

    @property
    def ok(self) -> bool:
        """Whether every digest that was given holds."""
        return not self.report.mismatches


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run would take.

    Attributes:
        budget: Memory, jobs, what the inputs are.
        needed_nbytes: Bytes that it needs on the disk.
        free_nbytes: Bytes that are free where it would write.
        notes: What the user should know of what lies there.
    """

    budget: Budget
    needed_nbytes: int
    free_nbytes: int
    notes: tuple[str, ...]


def preview(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    lists: Lists = SUMS_ONLY,
    seals: Seals = NO_SEALS,
    verify_raw: Place | None = None,
) -> Preview:
    """Look at what a run would take, and refuse what it would refuse, but for too small a disk; touches nothing.

    Raises:
        PlanError: There is not enough memory, or something is in the way.
    """
    planned = looked_into(plan)
    budget = fitted(planned, jobs, max_memory)
    if verify_raw is not None:
        Checklist(verify_raw).covers(used_by(plan))
    nearest(out)
    names = list_names(plan, lists, seals)
    standing = Directory(out, overwrite=overwrite).preview(planned, names)
    if not standing.whole:
        keep_inputs(plan, out, names)
    return Preview(budget, *disk(plan, out, standing), standing.notes)


def disk(plan: Plan, out: Path, standing: Standing) -> tuple[int, int]:
    """Bytes that the plan needs, less what an interrupted run left whole, and bytes that are free."""
    there = nearest(out)
    if standing.whole:
        return 0, shutil.disk_usage(there).free
    whole = standing.receipts.keys() - standing.changed
    needed = sum(file.nbytes for file in plan.everything if file.path not in whole)
    return needed + MARGIN_NBYTES, shutil.disk_usage(there).free


def carry_out(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    lists: Lists = SUMS_ONLY,
    seals: Seals = NO_SEALS,
    verify_raw: Place | None = None,
    reclaim_downloads: bool = False,
    executor: Executor | None = None,
    notify: Notify = ignore,
) -> Done:
    """Check room and names, write the files, and if every digest holds, the lists.

    With ``verify_raw``, a folder of Meta's, nothing is published before its checklist has been found to hold. A folder in which
    all that is planned stands already is not written to: what would be written is made and compared with it.

    Args:
        plan: What to write.
        out: Where.
        jobs: Files at a time; an ``executor`` has its own number.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        keep_mismatched: Whether a file with another digest than wanted is kept as ``NAME.mismatch``, to be examined.
        lists: Name of a list of digests -> which digest of each file goes into it, if it does; the last is written last.
        seals: Files that are made of the digests of all others, lists too, and written after them.
        verify_raw: Meta's folder to be checked.
        reclaim_downloads: Whether a file that this run downloads is removed from the client's cache once all that is made of it
            stands.
        executor: Who does the work; None: threads of this process.
        notify: Told what happens.

    Raises:
        PlanError: There is not enough room or memory, or something is in the way.
        FormatError: An input turned out to be damaged, or changed. What was written whole stays for the next try.
    """
    planned = looked_into(plan)
    if reclaim_downloads:
        notify = Reclaim(planned, notify)
    workers = executor if executor is not None else Threads(jobs)
    budget = fitted(planned, workers.jobs, max_memory, workers.processes)
    with ExitStack() as stack:
        listed = None if verify_raw is None else Checklist(verify_raw, notify)
        gates: list[Inputs] = []
        if listed is not None:
            listed.covers(used_by(plan))
            gates.append(stack.enter_context(listed))
        if plan.inputs:
            gates.append(stack.enter_context(Inputs(plan.inputs, notify)))
        ledger = stack.enter_context(closing(Directory(out, overwrite=overwrite, keep_mismatched=keep_mismatched)))
        names = list_names(plan, lists, seals)
        standing = ledger.open(planned, names)
        if not standing.whole:
            keep_inputs(plan, out, names)
        needed, free = disk(plan, out, standing)
        if needed > free:
            raise PlanError(
                f"{out}: {format_size(needed)} are needed and {format_size(free)} are free on that disk; make room or "
                "name an --out elsewhere"
            )
        stack.enter_context(held_to_its_threads(budget.needs.torch and not workers.processes))
        proved = sum(file.nbytes for file in plan.proofs)
        notify(Started(plan.nbytes + proved + sum(gate.nbytes for gate in gates)))
        if standing.stands:
            every = len(plan.everything)
            notify(Resumed(len(standing.stands), every, sum(standing.stands.values()), standing.whole))
        books: Ledger = Compared(out) if standing.whole else ledger
        at_most = workers.at_most(budget.jobs)
        coordinator = Coordinator(books, standing, gates, at_most, budget.block_nbytes, notify, keep_mismatched=keep_mismatched)
        report = coordinator.run(planned)
        if not report.mismatches:
            books.finish(list_files(plan, report, lists, seals))
    explained = tuple(explain(plan, report, error) for error in report.mismatches)
    others = [f"{one.path}: {one.reason}" for gate in gates for one in gate.others.values()]
    held = [] if listed is None or report.mismatches else [listed.held()]
    notes = (*plan.notes, *standing.notes, *others, *held, *values_notes(plan, report))
    return Done(replace(plan, notes=notes), replace(report, mismatches=explained), standing.whole)


def hashed(plan: Plan, *, jobs: int = 1, max_memory: int = DEFAULT_MAX_MEMORY, notify: Notify = ignore) -> Report:
    """Make all that is planned, take its digests and those of its tensors, and write nothing.

    Raises:
        PlanError: There is not enough memory.
        FormatError: An input is damaged.
    """
    planned = looked_into(plan)
    budget = fit(planned.files, jobs, max_memory)
    notify(Started(plan.nbytes))
    with held_to_its_threads(budget.needs.torch):
        return Coordinator(Hashed(), Standing(), [], Threads(budget.jobs), budget.block_nbytes, notify).run(planned)


def fitted(plan: Plan, jobs: int, max_memory: int, processes: int = 0) -> Budget:
    """What a plan may hold; a file that is only hashed is made in the place of one that is stored, not beside all of them."""
    made = [file for file in plan.proofs if isinstance(file, OutputFile)]
    return fit((*plan.files, *made), min(jobs, max(len(plan.files), len(made), 1)), max_memory, processes)


def used_by(plan: Plan) -> set[Blob]:
    """All that the plan's files read."""
    return {blob for file in plan.files for blob in file.needs.blobs}


def looked_into(plan: Plan) -> Plan:
    """The plan, with content digests taken of its tensors where they are of use."""
    if not plan.tensors:
        return plan
    return replace(plan, files=tuple(file.with_content() if isinstance(file, OutputFile) else file for file in plan.files))


def list_names(plan: Plan, lists: Lists, seals: Seals) -> list[str]:
    """Names of the lists that will be written."""
    return [*([content.TENSORS] if plan.tensors else []), *(one.path for one in plan.listings), *lists, *seals]


def list_files(plan: Plan, report: Report, lists: Lists, seals: Seals) -> list[SmallFile]:
    """The lists of digests: of tensors, those of the plan, then of files; then what is made of them all."""
    files = []
    if plan.tensors:
        found: dict[str, Digest] = {}
        for receipt in report.receipts:
            found |= receipt.tensors or {}
        files.append(SmallFile(content.TENSORS, content.encode(found)))
    for listing in plan.listings:
        listed = (one for one in report.receipts if one.path in listing.files)
        entries = (Entry(one.path, one.digests[listing.algorithm]) for one in listed)
        files.append(SmallFile(listing.path, manifests.encode(entries)))
    for name, digest in lists.items():
        taken = ((receipt.path, digest(receipt)) for receipt in report.receipts)
        files.append(SmallFile(name, manifests.encode(Entry(path, one) for path, one in taken if one is not None)))
    for name, seal in seals.items():
        there = {receipt.path: receipt.digests[DIGEST] for receipt in report.receipts}
        files.append(SmallFile(name, seal(there | {one.path: digest_of(one.content) for one in files})))
    return files


def digest_of(text: bytes) -> Digest:
    """SHA-256 of a list."""
    hasher = Hasher([DIGEST])
    hasher.update(text)
    return hasher.digests()[DIGEST]


def explain(plan: Plan, report: Report, error: DigestMismatch) -> DigestMismatch:
    """The mismatch, with the likely reason as far as the plan tells it."""
    if error.reason:
        return error
    others = [receipt.path for receipt in report.receipts if error.expected in {d.hex for d in receipt.digests.values()}]
    file = next((file for file in (*plan.files, *plan.proofs) if file.path == error.path), None)
    if others:
        reason = f"that is the digest of {others[0]}: the list has names mixed up"
    elif isinstance(file, StreamFile):
        reason = (
            "the likely reasons: the key or the base is not, byte for byte, the one that the publisher used; or the payload is "
            "damaged, and must be downloaded again"
        )
    elif not isinstance(file, OutputFile):
        reason = (
            "small files often differ in nothing but the version of transformers in them; compare it with the published one"
        )
    else:
        causes = ["the base is another conversion of the original than the one used then"]
        if any("inv_freq" in note and "computed" in note for note in plan.notes):
            causes.insert(0, "inv_freq, which the base lacks, had other bits (--inv-freq)")
        writer, _, version = file.encoding.written_by.partition(" ")
        if version:
            causes.insert(0, f"it was written by another {writer} than {version} (--torch-compat)")
        if sum(isinstance(one, OutputFile) for one in plan.proofs) > 1:
            causes.append("its shards were cut elsewhere: a list with their index, or --max-shard-size, says where")
        reason = "the likely reasons: " + "; or ".join(causes)
    return DigestMismatch(error.path, error.algorithm, error.expected, error.actual, reason)
