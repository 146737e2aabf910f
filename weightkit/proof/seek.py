"""Hash-seeking: which historical rounding, order of sums and torch gives the digest that was published?

One output file is computed under all of them at once, each input read once a pass; nothing is written. First every torch
profile with the arithmetic asked for, then every arithmetic; the first that gives the digest is used for the whole run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from weightkit.containers import formats
from weightkit.containers.layout import Encoding
from weightkit.core.digest import Digest, Hasher
from weightkit.core.events import BytesWritten, Notify, ignore
from weightkit.core.lazy import LazyTensor
from weightkit.methods.lora import Arithmetic
from weightkit.ops.lora import ROUNDINGS
from weightkit.ops.product import SUMS
from weightkit.run.plan import OutputFile, Plan, in_step

__all__ = ["Candidate", "digests", "seek_digest"]

BLOCK_NBYTES = 1 << 18
AT_ONCE = 12
"""Files computed in step: more take more memory, fewer more passes over the inputs."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way in which a file may have been written.

    Attributes:
        how: The arithmetic.
        file: What would be written.
        alone: Whether there is no other way to write its format.
    """

    how: Arithmetic
    file: OutputFile
    alone: bool

    def __str__(self) -> str:
        return str(self.how) if self.alone else f"{self.how}, written as {self.file.encoding.written_by} does"


def seek_digest(plan: Plan, asked: Arithmetic, planned: Callable[[Arithmetic], Plan], notify: Notify = ignore) -> Plan:
    """The plan that gives the published digest of its smallest file of weights; as it was, with a note, where none does.

    Args:
        plan: As asked for, with the digests that its files must have.
        asked: Its arithmetic.
        planned: Makes the plan anew for another arithmetic.
        notify: Told how many bytes were computed.
    """
    file = min((one for one in tensor_files(plan) if one.expect), key=lambda one: one.nbytes, default=None)
    if file is None:
        return replace(plan, notes=(*plan.notes, "--seek: no digest is known of a file of weights; nothing was sought"))
    wanted = file.expect[0]
    tried = 0
    for candidates in stages(plan, file.path, asked, planned):
        for start in range(0, len(candidates), AT_ONCE):
            batch = candidates[start : start + AT_ONCE]
            found = digests([one.file for one in batch], wanted.algorithm, notify)
            for candidate, digest in zip(batch, found, strict=True):
                tried += 1
                if digest == wanted:
                    note = f"--seek: {file.path} has the published digest with {candidate} (the {tried}. way tried)"
                    return adopt(planned(candidate.how), candidate, note)
    writers = len(forms(file.path, file.encoding))
    by = f", {writers} torch profiles" if writers > 1 else ""
    note = (
        f"--seek: none of the {tried} ways that differ for these adapters ({len(ROUNDINGS)} roundings, {len(SUMS)} orders of "
        f"sums{by}) gives the published digest of {file.path}: the base, the adapters or the number of shards are others"
    )
    return replace(plan, notes=(*plan.notes, note))


def stages(plan: Plan, path: str, asked: Arithmetic, planned: Callable[[Arithmetic], Plan]) -> Iterator[list[Candidate]]:
    """What to try, likeliest first: the arithmetic asked for, the defaults with other sums, everything else."""
    first = [asked]
    orders = [Arithmetic(asked.rounding, sums) for sums in SUMS if sums != asked.sums]
    rest = [Arithmetic(rounding, sums) for rounding in ROUNDINGS for sums in SUMS]
    seen: set[tuple[tuple[LazyTensor, ...], ...]] = set()
    for group in (first, orders, rest):
        found: list[Candidate] = []
        for how in group:
            own = plan if how == asked else planned(how)
            file = next(one for one in tensor_files(own) if one.path == path)
            if file.tensors not in seen:  # many roundings come to the same for these adapters
                found += variants(how, file)
            seen.add(file.tensors)
        if found:
            yield found


def tensor_files(plan: Plan) -> list[OutputFile]:
    """The files of tensors that a plan makes, stored or not."""
    return [file for file in plan.hashed if isinstance(file, OutputFile)]


def forms(path: str, own: Encoding) -> Sequence[Encoding]:
    """An encoding, and those in which other writers of the format would have written a file of this name."""
    known = (one for one in formats() if path.endswith(one.suffixes))
    return next((one.variants(path, own, all_kinds=False) for one in known), [own])


def variants(how: Arithmetic, file: OutputFile) -> list[Candidate]:
    """One file as each writer of its format would write it."""
    found = forms(file.path, file.encoding)
    return [Candidate(how, replace(file, encoding=one), len(found) == 1) for one in found]


def adopt(plan: Plan, candidate: Candidate, note: str) -> Plan:
    """A plan all of whose files are written by the candidate's writer."""
    profile = candidate.file.encoding.profile

    def written(file: OutputFile) -> OutputFile:
        same = (one for one in forms(file.path, file.encoding) if one.profile == profile)
        return replace(file, encoding=next(same, file.encoding))

    files = tuple(written(file) if isinstance(file, OutputFile) else file for file in plan.files)
    proofs = tuple(written(file) if isinstance(file, OutputFile) else file for file in plan.proofs)
    return replace(plan, files=files, proofs=proofs, notes=(*plan.notes, note))


def digests(files: Sequence[OutputFile], algorithm: str, notify: Notify = ignore) -> list[Digest]:
    """Digests that several forms of one file would have, each input read once a pass; nothing is written.

    Forms whose tensors are of the same shapes, and lie in one order, are computed in one pass.

    Args:
        files: Forms of one file.
        algorithm: As ``sha256``.
        notify: Told how many bytes were computed.
    """
    found: dict[int, Digest] = {}
    passes: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for number, file in enumerate(files):
        shapes = (tensor.spec.shape for run in file.tensors for tensor in run)
        passes.setdefault((tuple(file.encoding.order(file.layout)), *shapes), []).append(number)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for numbers in passes.values():
            alike = [files[number] for number in numbers]
            hashers = [Hasher([algorithm]) for _ in numbers]
            for chunks in in_step(alike, BLOCK_NBYTES):
                for _ in pool.map(Hasher.update, hashers, chunks):
                    pass
                notify(BytesWritten(alike[0].path, sum(map(len, chunks))))
            found |= {number: one.digests()[algorithm] for number, one in zip(numbers, hashers, strict=True)}
    return [found[number] for number in range(len(files))]
