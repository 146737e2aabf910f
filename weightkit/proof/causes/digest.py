"""A file that has not the digest wanted: the file alone, without the right one, must tell why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from weightkit import catalog
from weightkit.blobs import open_local
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter
from weightkit.containers import Container, suffixes
from weightkit.core.blob import Blob
from weightkit.core.digest import Digest, Hasher, hash_file
from weightkit.core.errors import FormatError
from weightkit.core.events import Notify
from weightkit.core.passes import BLOCK_NBYTES
from weightkit.manifests.pointers import TOLD, is_pointer
from weightkit.proof.causes import Explanation
from weightkit.proof.causes.container import NO_TENSOR
from weightkit.proof.causes.damage import bad_records, end_of
from weightkit.proof.causes.mending import Conversion, gives_digest
from weightkit.proof.causes.merges import merged_file
from weightkit.proof.causes.small import unlike_digest
from weightkit.proof.causes.writings import Writing, other_ways, version_of
from weightkit.proof.glance import at_a_glance
from weightkit.proof.seek import digests

__all__ = ["explain_digest"]

DIFFERENT = (
    "the tensors themselves differ, their order, or what the file says of them besides: "
    "compare with the right file (--against PATH), or name what was merged "
    "(--base BASE --lora LORA ...)"
)


def explain_digest(
    target: Path, wanted: Digest, base: Model | None, adapters: Sequence[Adapter], notify: Notify
) -> Explanation:
    """Why a file has not the digest wanted."""
    found = hash_file(target, [wanted.algorithm])[wanted.algorithm]
    lines = [f"{wanted.algorithm} wanted {wanted.hex}", f"{wanted.algorithm} found  {found.hex}"]
    for digest, word in ((wanted, "wanted"), (found, "found")):
        for name, file in catalog.by_digest().get(digest, ())[:2]:
            lines.append(f"{word}: published as {file} of {name} ({catalog.load(name).title})")
    if found == wanted:
        return Explanation(True, tuple(lines), f"{target.name} matches: it has the digest wanted, there is nothing to explain")
    if is_pointer(blob := open_local(target)):
        why = Explanation(False, (), f"{target.name} {TOLD}")
    elif not target.name.removesuffix(".mismatch").endswith(suffixes()):
        why = unlike_digest(target, wanted)
    elif glance := at_a_glance(target, target.stat().st_size, []):
        why = Explanation(False, (), f"{target.name} {glance}")
    elif (end := end_of(blob)) < blob.nbytes and digest_of(blob, end, wanted) == wanted:
        many = blob.nbytes - end
        told = (
            f"{many} bytes were appended after the end of {target.name}, at byte {end}; without them it has the digest wanted"
        )
        why = Explanation(False, (), told, f"head -c {end} {shlex.quote(str(target))} > OUT")
    else:
        why = explain_weights(target, wanted, base, adapters, notify)
    return replace(why, lines=(*lines, *why.lines))


def explain_weights(
    target: Path, wanted: Digest, base: Model | None, adapters: Sequence[Adapter], notify: Notify
) -> Explanation:
    """Why a file of weights has not the digest wanted: it was written otherwise, merged otherwise, or is damaged."""
    lines: tuple[str, ...] = ()
    try:
        checkpoint = open_checkpoint(target, "PATH")
        (container,) = checkpoint.files.values()
        if bad := list(bad_records(container)):
            return Explanation(False, tuple(map(str, bad[1:5])), f"damage: {bad[0]}: download the file again")
        ways = list(other_ways(target.name.removesuffix(".mismatch"), checkpoint))
        if way := written_in(ways, wanted, notify):
            return written_otherwise(target, container, way, wanted)
        lines = (f"none of {len(ways)} other ways to write these tensors (torch's profiles, dict kinds, inv_freq) has it",)
        if base is None or not adapters:
            return Explanation(False, lines, DIFFERENT)
        return replace(
            merged_file(target.name.removesuffix(".mismatch"), container, wanted, base, adapters, notify), lines=lines
        )
    except FormatError as error:
        return Explanation(False, lines, f"damage: {error}")


def written_in(ways: Sequence[Writing], wanted: Digest, notify: Notify) -> Writing | None:
    """Which way to write a file gives the digest; all are tried in one pass for each order of records."""
    if not ways:
        return None
    found = digests([way.file for way in ways], wanted.algorithm, notify)
    return next((way for way, digest in zip(ways, found, strict=True) if digest == wanted), None)


def written_otherwise(target: Path, container: Container, way: Writing, wanted: Digest) -> Explanation:
    """What it means that a file's tensors, written in another way, have the digest wanted."""
    sentence = f"{way.tensors}; all other tensors are right"
    if not way.tensors:
        sentence = (
            f"container only: every tensor is right; the file was written as torch {version_of(container.profile)} writes, and "
            f"the published one as torch {version_of(way.file.encoding.profile)}"
        )
        if container.profile == way.file.encoding.profile:
            sentence = f"container only: every tensor is right; {NO_TENSOR}"
    made = Conversion(target.parent, torch_compat=version_of(way.file.encoding.profile))
    return Explanation(False, (), sentence, made.command if gives_digest(made, target.name, wanted) else "")


def digest_of(blob: Blob, stop: int, wanted: Digest) -> Digest:
    """The digest of a file's first bytes."""
    hasher = Hasher([wanted.algorithm], stop)
    for at in range(0, stop, BLOCK_NBYTES):
        hasher.update(blob.read(at, min(at + BLOCK_NBYTES, stop)))
    return hasher.digests()[wanted.algorithm]
