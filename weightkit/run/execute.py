"""Carries a plan out in a folder: checks what can be checked first, runs it, leaves the list of digests."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from weightkit import __version__, manifests
from weightkit.containers import open_file
from weightkit.containers.memory import InMemory
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core import content
from weightkit.core.content import TENSORS
from weightkit.core.digest import Digest
from weightkit.core.errors import DigestMismatch, PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.lazy import LazyTensor, Stored
from weightkit.core.sizes import format_size
from weightkit.manifests import Entry
from weightkit.run.budget import DEFAULT_MAX_MEMORY, Budget, fit
from weightkit.run.executors.threads import Receipt, Report, run
from weightkit.run.gates import checking
from weightkit.run.ledgers import Sink
from weightkit.run.ledgers.directory import Directory
from weightkit.run.ledgers.gated import Gated
from weightkit.run.plan import OutputFile, Plan, StreamFile
from weightkit.streams import Stream

__all__ = ["SUMS", "SUMS_ONLY", "Disk", "Done", "carry_out", "check_out", "disk", "expecting", "fingerprint", "open_sink"]

SUMS = "SHA256SUMS"
SUMS_ONLY: Mapping[str, Callable[[Receipt], Digest]] = {SUMS: lambda receipt: receipt.digests["sha256"]}
MARGIN_BYTES = 16 << 20
"""Left free on the disk: journal, list of digests, the file system's own needs."""


@dataclass(frozen=True, slots=True)
class Done:
    """A plan that was carried out.

    Attributes:
        plan: What was to be written.
        report: What was, and which digests did not match.
    """

    plan: Plan
    report: Report

    @property
    def ok(self) -> bool:
        """Whether every digest that was given holds."""
        return not self.report.mismatches


def expecting(plan: Plan, lists: Sequence[tuple[Path, Sequence[Entry]]]) -> Plan:
    """The plan, with the digests that its files must have, and notes on what a list does not cover.

    A list's paths are matched whole, or else by their last part.

    Raises:
        PlanError: A list names none of the files of tensors, so it is of another release; or one file in two folders.
    """
    wanted: dict[str, list[Digest]] = {}
    notes = list(plan.notes)
    names = [file.path for file in plan.everything]
    for path, entries in lists:
        matched: dict[str, set[str]] = {}
        for entry in entries:
            name = entry.path if entry.path in names else entry.path.rpartition("/")[2]
            if name in names:
                matched.setdefault(name, set()).add(entry.path)
                wanted.setdefault(name, []).append(entry.digest)
        for name, places in matched.items():
            if len(places) > 1:
                raise PlanError(f"{path}: {name} is in it as {' and as '.join(sorted(places))}: leave one of them in the list")
        weights = [file.path for file in plan.files]
        if not set(weights) & set(matched):
            raise PlanError(
                f"{path}: lists none of the files that will be written ({weights[0]} ...) but {entries[0].path} and the like: "
                "it is the list of another release, dtype or number of shards"
            )
        unlisted = [name for name in weights if name not in matched]
        known = {place for places in matched.values() for place in places}
        unwritten = sorted({entry.path for entry in entries} - known)
        if unlisted:
            notes.append(f"{path}: has no digest of {', '.join(unlisted[:4])}{' ...' if len(unlisted) > 4 else ''}")
        if unwritten:
            notes.append(f"{path}: lists {', '.join(unwritten[:4])}{' ...' if len(unwritten) > 4 else ''}, not written here")
    return replace(
        plan,
        files=tuple(replace(file, expect=(*file.expect, *wanted.get(file.path, ()))) for file in plan.files),
        small=tuple(replace(file, expect=tuple(wanted.get(file.path, ()))) for file in plan.small),
        notes=tuple(notes),
    )


class Disk:
    """Bytes that a plan needs and bytes that are free where it will write."""

    def __init__(self, needed: int, free: int) -> None:
        self.needed, self.free = needed, free


def disk(plan: Plan, out: Path, sink: Directory) -> Disk:
    """What the plan needs, less what an interrupted run left whole, against what is free."""
    there = out.absolute()
    while not there.exists():
        there = there.parent
    needed = sum(file.nbytes for file in plan.everything if file.path not in sink.recorded)
    return Disk(needed + MARGIN_BYTES, shutil.disk_usage(there).free)


def check_out(out: Path, inputs: Sequence[tuple[str, Path]]) -> None:
    """Refuse an output folder that is an input, or lies in one.

    Raises:
        PlanError: It is or does.
    """
    target = out.resolve()
    for role, path in inputs:
        source = path.resolve() if path.is_dir() else path.resolve().parent
        if target == source or (path.is_dir() and source in target.parents):
            where = "is" if target == source else "lies inside"
            raise PlanError(f"--out {out} {where} {role} {path}; inputs are never written to: name another folder")


def fingerprint(plan: Plan) -> str:
    """What tells a plan from others: its operations and encodings, and the state of its input files."""
    digest = hashlib.sha256(__version__.encode())

    def describe(tensor: LazyTensor) -> str:
        if isinstance(tensor, Stored):
            source = tensor.source
            if isinstance(source, InMemory):
                return f"{tensor.name} {source.data[tensor.name].hex()}"
            state = source.path.stat()
            return f"{tensor.name} {source.path.resolve()} {state.st_size} {state.st_mtime_ns}"
        return f"{tensor.op}({', '.join(describe(one) for one in tensor.inputs)})"

    def describe_stream(stream: Stream) -> str:
        inner = (getattr(stream, one.name) for one in fields(stream))  # type: ignore[arg-type]
        parts = (
            describe_file(one) if isinstance(one, OutputFile) else describe_stream(one) if hasattr(one, "chunks") else repr(one)
            for one in inner
        )
        return f"{type(stream).__name__}({', '.join(parts)})"

    def describe_file(file: OutputFile) -> str:
        tensors = "".join(describe(tensor) + "\n" for run_ in file.tensors for tensor in run_)
        return f"{file.path} {file.encoding} {file.layout}\n{tensors}"

    for file in plan.files:
        if isinstance(file, StreamFile):
            states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in file.stream.files]
            text = f"{file.path} {describe_stream(file.stream)} {states}\n"
        else:
            text = describe_file(file)
        digest.update(text.encode("utf-8", "surrogatepass"))
    for small in plan.small:
        digest.update(small.path.encode("utf-8", "surrogatepass") + small.content)
    return digest.hexdigest()


def open_sink(plan: Plan, out: Path, *, overwrite: bool = False, lists: Sequence[str] = (SUMS,)) -> Directory:
    """The output folder, looked at but not touched.

    Raises:
        PlanError: Something is in the way.
    """
    return Directory(out, fingerprint(plan), [file.path for file in plan.everything] + list(lists), overwrite=overwrite)


def carry_out(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    lists: Mapping[str, Callable[[Receipt], Digest]] = SUMS_ONLY,
    verify_raw: Path | None = None,
    notify: Notify = ignore,
) -> Done:
    """Check room and names, write the files, and if every digest holds, the lists.

    With ``verify_raw``, a folder of Meta's, nothing is published before its checklist has been found to hold.

    Args:
        plan: What to write.
        out: Where.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        lists: Name of a list of digests -> which digest of each file goes into it.
        verify_raw: Meta's folder to be checked.
        notify: Told what happens.

    Raises:
        PlanError: There is not enough room or memory, or something is in the way. Nothing has been written.
        FormatError: An input turned out to be damaged. What was written whole stays for the next try.
    """
    budget: Budget = fit(plan.files, jobs, max_memory)
    sink = open_sink(plan, out, overwrite=overwrite, lists=(*lists, *([TENSORS] if plan.tensors else [])))
    room = disk(plan, out, sink)
    if room.needed > room.free:
        raise PlanError(
            f"{out}: {format_size(room.needed)} are needed and {format_size(room.free)} are free on that disk; make room or "
            "name an --out elsewhere"
        )
    try:
        if verify_raw is None:
            report = run(plan, sink, budget, notify)
        else:
            with checking(verify_raw) as wait:
                report = run(plan, Gated(sink, wait), budget, notify)
        if not report.mismatches:
            for name, digest in lists.items():
                write_list(sink, name, manifests.encode(Entry(one.path, digest(one)) for one in report.receipts))
            if plan.tensors:
                write_list(sink, TENSORS, content.encode(tensors_of(plan, report, out)))
            sink.close()
    finally:
        sink.release()
    explained = {error.path: explain(plan, report, error) for error in report.mismatches}
    return Done(plan, replace(report, mismatches=tuple(explained.values())))


def tensors_of(plan: Plan, report: Report, out: Path) -> dict[str, Digest]:
    """Content digests of all tensors written; those of a file kept from an interrupted run are taken from it."""
    found: dict[str, Digest] = {}
    names = {file.path for file in plan.files}
    for receipt in report.receipts:
        if receipt.tensors is not None:
            found |= receipt.tensors
        elif receipt.path in names:
            container = open_file(out / receipt.path)
            found |= {name: content.tensor_digest(Stored(container, name)) for name in container.specs}
    return found


def write_list(sink: Sink, path: str, text: bytes) -> None:
    """Write a list of digests into the output."""
    with sink.create(path) as out:
        out.write(text)
        out.seal({"sha256": Digest("sha256", hashlib.sha256(text).hexdigest())})


def explain(plan: Plan, report: Report, error: DigestMismatch) -> DigestMismatch:
    """The mismatch, with the likely reason as far as the plan tells it."""
    if error.reason:
        return error
    others = [receipt.path for receipt in report.receipts if error.expected in {d.hex for d in receipt.digests.values()}]
    file = next((file for file in plan.files if file.path == error.path), None)
    if others:
        reason = f"that is the digest of {others[0]}: the list has names mixed up"
    elif isinstance(file, StreamFile):
        reason = (
            "the likely reasons: the key or the base is not, byte for byte, the one that the publisher used; or the payload is "
            "damaged, and must be downloaded again"
        )
    elif file is None:
        reason = (
            "small files often differ in nothing but the version of transformers in them; compare it with the published one"
        )
    else:
        causes = ["the base is another conversion of the original than the one used then"]
        if any("inv_freq" in note and "computed" in note for note in plan.notes):
            causes.insert(0, "inv_freq, which the base lacks, had other bits (--inv-freq)")
        if isinstance(file, OutputFile) and isinstance(file.encoding, TorchZip):
            written = file.encoding.profile.removeprefix("zip-")
            causes.insert(0, f"it was written by another torch than {written} (--torch-compat)")
        reason = "the likely reasons: " + "; or ".join(causes)
    return DigestMismatch(error.path, error.algorithm, error.expected, error.actual, reason)
