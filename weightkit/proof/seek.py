"""Hash-seeking: which historical rounding, order of sums and torch gives the digest that was published?

One output file is computed under all of them at once, each input read once a pass; nothing is written. First every torch
profile with the arithmetic asked for, then every arithmetic; the first that gives the digest is used for the whole run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from weightkit.checkpoints.output import identity
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, root_for
from weightkit.core.digest import Digest, Hasher
from weightkit.core.events import BytesWritten, Notify, ignore
from weightkit.methods.lora import Arithmetic
from weightkit.ops.lora import ROUNDINGS, SUMS
from weightkit.run.plan import OutputFile, Plan, in_step

__all__ = ["Candidate", "digests", "seek_digest"]

BLOCK_BYTES = 1 << 18
AT_ONCE = 12
"""Files computed in step: more take more memory, fewer more passes over the inputs."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way in which a file may have been written.

    Attributes:
        how: The arithmetic.
        profile: The torch profile; empty for a container that has none.
        file: What would be written.
    """

    how: Arithmetic
    profile: str
    file: OutputFile

    def __str__(self) -> str:
        torch = f", written as torch {self.profile.removeprefix('zip-')} does" if self.profile else ""
        return f"{self.how}{torch}"


def seek_digest(plan: Plan, asked: Arithmetic, planned: Callable[[Arithmetic], Plan], notify: Notify = ignore) -> Plan:
    """The plan that gives the published digest of its smallest file of weights; as it was, with a note, where none does.

    Args:
        plan: As asked for, with the digests that its files must have.
        asked: Its arithmetic.
        planned: Makes the plan anew for another arithmetic.
        notify: Told how many bytes were computed.
    """
    known = [file for file in plan.files if file.expect]
    file = min(known, key=lambda one: one.nbytes, default=None)
    if file is None:
        return replace(plan, notes=(*plan.notes, "--seek: no digest is known of a file of weights; nothing was sought"))
    wanted = file.expect[0]
    tried = 0
    for candidates in stages(plan, file.path, asked, planned):
        for start in range(0, len(candidates), AT_ONCE):
            batch = candidates[start : start + AT_ONCE]
            found = digests([one.file for one in batch], wanted.algorithm, notify)
            tried += len(batch)
            for candidate, digest in zip(batch, found, strict=True):
                if digest == wanted:
                    note = f"--seek: {file.path} has the published digest with {candidate} (the {nth(tried, batch, candidate)})"
                    return adopt(planned(candidate.how), candidate.profile, note)
    note = (
        f"--seek: none of the {tried} ways that differ for these adapters ({len(ROUNDINGS)} roundings, {len(SUMS)} orders of "
        f"sums, {len(PROFILES)} torch profiles) gives the published digest of {file.path}: the base, the adapters or the "
        "number of shards are others"
    )
    return replace(plan, notes=(*plan.notes, note))


def nth(tried: int, batch: Sequence[Candidate], candidate: Candidate) -> str:
    """Which of the ways tried it was."""
    return f"{tried - len(batch) + batch.index(candidate) + 1}. way tried"


def stages(plan: Plan, path: str, asked: Arithmetic, planned: Callable[[Arithmetic], Plan]) -> Iterator[list[Candidate]]:
    """What to try, likeliest first: the arithmetic asked for, the defaults with other sums, everything else."""
    first = [asked]
    orders = [Arithmetic(asked.rounding, sums) for sums in SUMS if sums != asked.sums]
    rest = [Arithmetic(rounding, sums) for rounding in ROUNDINGS for sums in SUMS]
    seen: set[Hashable] = set()
    for group in (first, orders, rest):
        found: list[Candidate] = []
        for how in group:
            own = plan if how == asked else planned(how)
            file = next(one for one in tensor_files(own) if one.path == path)
            key = tuple(identity(tensor) for run in file.tensors for tensor in run)
            if key not in seen:  # many roundings come to the same for these adapters
                found += variants(how, file)
            seen.add(key)
        if found:
            yield found


def tensor_files(plan: Plan) -> list[OutputFile]:
    """The files of tensors of a plan; a merge has no others."""
    return [file for file in plan.files if isinstance(file, OutputFile)]


def variants(how: Arithmetic, file: OutputFile) -> list[Candidate]:
    """One file as each torch would write it."""
    if not isinstance(file.encoding, TorchZip):
        return [Candidate(how, "", file)]
    own = file.encoding.profile
    return [Candidate(how, profile, reprofiled(file, profile)) for profile in sorted(PROFILES, key=lambda one: one != own)]


def reprofiled(file: OutputFile, profile: str) -> OutputFile:
    """The same tensors as another torch would write them."""
    if not isinstance(file.encoding, TorchZip):
        return file
    return replace(file, encoding=replace(file.encoding, profile=profile, root=root_for(file.path, profile)))


def adopt(plan: Plan, profile: str, note: str) -> Plan:
    """A plan all of whose files are written in one profile."""
    files = tuple(reprofiled(file, profile) for file in tensor_files(plan)) if profile else plan.files
    return replace(plan, files=files, notes=(*plan.notes, note))


def digests(files: Sequence[OutputFile], algorithm: str, notify: Notify = ignore) -> list[Digest]:
    """Digests that several forms of one file would have, each input read once a pass; nothing is written.

    Forms whose records lie in one order are computed in one pass.

    Args:
        files: Forms of one file: the same tensors in name and shape.
        algorithm: As ``sha256``.
        notify: Told how many bytes were computed.
    """
    found: dict[int, Digest] = {}
    orders: dict[tuple[int, ...], list[int]] = {}
    for number, file in enumerate(files):
        orders.setdefault(tuple(file.encoding.order(file.layout)), []).append(number)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for numbers in orders.values():
            hashers = [Hasher([algorithm]) for _ in numbers]
            for chunks in in_step([files[number] for number in numbers], BLOCK_BYTES):
                for _ in pool.map(Hasher.update, hashers, chunks):
                    pass
                notify(BytesWritten(files[0].path, sum(map(len, chunks))))
            found |= {number: one.digests()[algorithm] for number, one in zip(numbers, hashers, strict=True)}
    return [found[number] for number in range(len(files))]
