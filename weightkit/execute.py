"""Carries a plan out in a folder: checks what can be checked first, runs it, leaves the list of digests."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from weightkit import manifests
from weightkit.budget import DEFAULT_MAX_MEMORY, Budget, fit
from weightkit.checklist import checking
from weightkit.containers.memory import InMemory
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.digest import Digest
from weightkit.errors import DigestMismatch, PlanError
from weightkit.events import Notify, ignore
from weightkit.executors.local import Receipt, Report, run
from weightkit.lazy import LazyTensor, Stored
from weightkit.manifests import Entry
from weightkit.plan import Plan
from weightkit.sinks import Sink
from weightkit.sinks.directory import Directory
from weightkit.sinks.gated import Gated
from weightkit.sizes import format_size

__all__ = ["SUMS", "Disk", "carry_out", "check_out", "disk", "expecting", "fingerprint", "write_list"]

SUMS = "SHA256SUMS"
MARGIN_BYTES = 16 << 20
"""Left free on the disk: journal, list of digests, the file system's own needs."""


def expecting(plan: Plan, lists: Sequence[tuple[Path, Sequence[Entry]]]) -> Plan:
    """The plan, with the digests that its files must have.

    A list's paths are matched whole, or by their last part where that names one file only.

    Raises:
        PlanError: A list names none of the files of tensors: it is of another release.
    """
    wanted: dict[str, list[Digest]] = {}
    names = {file.path for file in plan.everything}
    for path, entries in lists:
        matched = {match(entry.path, names): entry for entry in entries}
        if not any(file.path in matched for file in plan.files):
            raise PlanError(
                f"{path}: lists none of the files that will be written ({plan.files[0].path} ...) but "
                f"{entries[0].path} and the like: it is the list of another release, dtype or number of shards"
            )
        for entry in entries:
            name = match(entry.path, names)
            if name is not None:
                wanted.setdefault(name, []).append(entry.digest)
    return replace(
        plan,
        files=tuple(replace(file, expect=tuple(wanted.get(file.path, ()))) for file in plan.files),
        small=tuple(replace(file, expect=tuple(wanted.get(file.path, ()))) for file in plan.small),
    )


def match(path: str, names: Iterable[str]) -> str | None:
    """The name that a list's path stands for."""
    return next((name for name in names if path == name), None) or next(
        (name for name in names if path.rpartition("/")[2] == name), None
    )


class Disk:
    """Bytes that a plan needs and bytes that are free where it will write."""

    def __init__(self, needed: int, free: int) -> None:
        self.needed, self.free = needed, free


def disk(plan: Plan, out: Path) -> Disk:
    """What the plan needs, less what stands there already, against what is free."""
    there = out.absolute()
    while not there.exists():
        there = there.parent
    needed = sum(
        file.nbytes
        for file in plan.everything
        if not (out / file.path).is_file() or (out / file.path).stat().st_size != file.nbytes
    )
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
    """What tells a plan from others: its operations, encodings and expectations, and the state of its input files."""
    digest = hashlib.sha256()

    def describe(tensor: LazyTensor) -> str:
        if isinstance(tensor, Stored):
            source = tensor.source
            if isinstance(source, InMemory):
                return f"{tensor.name} {source.data[tensor.name].hex()}"
            state = source.path.stat()
            return f"{tensor.name} {source.path.resolve()} {state.st_size} {state.st_mtime_ns}"
        return f"{tensor.op}({', '.join(describe(one) for one in tensor.inputs)})"

    for file in plan.files:
        digest.update(f"{file.path} {file.encoding} {file.layout} {file.expect}\n".encode())
        for run_ in file.tensors:
            digest.update("".join(describe(tensor) + "\n" for tensor in run_).encode())
    for small in plan.small:
        digest.update(f"{small.path} {small.expect} ".encode() + small.content)
    return digest.hexdigest()


def carry_out(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    lists: Sequence[str] = (SUMS,),
    verify_raw: Path | None = None,
    notify: Notify = ignore,
) -> tuple[Report, Sink]:
    """Check room and names, then write the files. The caller adds ``lists`` of digests and closes the sink.

    With ``verify_raw``, a folder of Meta's, nothing is published before its checklist has been found to hold.

    Raises:
        PlanError: There is not enough room or memory, or something is in the way. Nothing has been written.
        FormatError: An input turned out to be damaged. What was written whole stays for the next try.
    """
    budget: Budget = fit(plan.files, jobs, max_memory)
    room = disk(plan, out)
    if room.needed > room.free:
        raise PlanError(
            f"{out}: {format_size(room.needed)} are needed and {format_size(room.free)} are free on that disk; make room or "
            "name an --out elsewhere"
        )
    names = [file.path for file in plan.everything] + list(lists)
    sink = Directory(out, fingerprint(plan), names, overwrite=overwrite)
    if verify_raw is None:
        report = run(plan, sink, budget, notify)
    else:
        with checking(verify_raw) as wait:
            report = run(plan, Gated(sink, wait), budget, notify)
    explained = {error.path: explain(plan, report, error) for error in report.mismatches}
    return replace(report, mismatches=tuple(explained.values())), sink


def write_list(sink: Sink, path: str, entries: Iterable[Entry]) -> None:
    """Write a list of digests into the output."""
    content = manifests.encode(entries)
    with sink.create(path) as out:
        out.write(content)
        out.seal({"sha256": Digest("sha256", hashlib.sha256(content).hexdigest())})


def entries_of(receipts: Iterable[Receipt]) -> list[Entry]:
    """SHA-256 of the files that were published."""
    return [Entry(receipt.path, receipt.digests["sha256"]) for receipt in receipts]


def explain(plan: Plan, report: Report, error: DigestMismatch) -> DigestMismatch:
    """The mismatch, with the likely reason as far as the plan tells it."""
    if error.reason:
        return error
    others = [receipt.path for receipt in report.receipts if error.expected in {d.hex for d in receipt.digests.values()}]
    file = next((file for file in plan.files if file.path == error.path), None)
    if others:
        reason = f"that is the digest of {others[0]}: the list has names mixed up"
    elif file is None:
        reason = (
            "small files often differ in nothing but the version of transformers in them; compare it with the published one"
        )
    else:
        causes = ["the base is another conversion of the original than the one used then"]
        if any("inv_freq" in note and "computed" in note for note in plan.notes):
            causes.insert(0, "inv_freq, which the base lacks, had other bits (--inv-freq)")
        if isinstance(file.encoding, TorchZip):
            written = file.encoding.profile.removeprefix("zip-")
            causes.insert(0, f"it was written by another torch than {written} (--torch-compat)")
        reason = "the likely reasons: " + "; or ".join(causes)
    return DigestMismatch(error.path, error.algorithm, error.expected, error.actual, reason)
