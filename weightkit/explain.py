"""Why does a file not match? The cause, narrowed down in streaming passes, and the command that mends it.

import weightkit.explain
print(weightkit.explain.explain("release/pytorch_model.bin", expect="bfd6f5e1...").sentence)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weightkit import catalog
from weightkit.checkpoints import Checkpoint, open_checkpoint
from weightkit.checkpoints.output import together
from weightkit.checkpoints.peft import Adapter, open_adapter
from weightkit.containers import SUFFIXES
from weightkit.containers.torch_file import TorchFile
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, root_for
from weightkit.core.digest import ALGORITHMS, Digest, hash_file
from weightkit.core.errors import FormatError, PlanError
from weightkit.core.events import Notify, ignore
from weightkit.proof.causes.merges import merge_command, merged_otherwise, merges
from weightkit.proof.causes.naive import naive_sum
from weightkit.proof.causes.small import differing_fields, is_json, known_small_files
from weightkit.proof.causes.values import cause
from weightkit.proof.causes.writings import other_ways
from weightkit.proof.differences import Comparison, compare
from weightkit.proof.seek import digests
from weightkit.run.plan import OutputFile
from weightkit.verify import at_a_glance

__all__ = ["Explanation", "digest_from", "explain", "naive_sum"]
TEXTS = (".json", ".txt", ".model", ".jinja", ".md", "")
SMALL = 16 << 20
"""A config or tokenizer has no more bytes."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found.

    Attributes:
        matches: Whether it is what was wanted.
        lines: What was looked at, one line each.
        sentence: The cause.
        command: What mends it; empty where no command does.
    """

    matches: bool
    lines: tuple[str, ...]
    sentence: str
    command: str = ""


def digest_from(text: str) -> Digest:
    """A digest as a user writes it: hexadecimal, or ``md5:`` and hexadecimal.

    Raises:
        PlanError: It is none.
    """
    algorithm, _, digits = text.lower().rpartition(":")
    algorithm = algorithm or {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}.get(len(digits), "")
    try:
        return Digest(algorithm, digits)
    except ValueError as error:
        raise PlanError(f"--expect {text!r} is no digest: {error}; known: {', '.join(ALGORITHMS)}") from error


def explain(
    path: str | os.PathLike[str],
    *,
    expect: str | Digest | None = None,
    against: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    lora: Sequence[str | os.PathLike[str]] = (),
    notify: Notify = ignore,
) -> Explanation:
    """Say why a file (or folder) is not the one wanted.

    Args:
        path: The file; with ``against``, or a folder.
        expect: The digest wanted.
        against: The right file or folder, to compare with.
        base: What LoRAs were merged into, to try orders and roundings.
        lora: The adapters.
        notify: Told what was read.

    Raises:
        PlanError: There is nothing to compare, or nothing to compare it with.
        FormatError: One of them cannot be read.
    """
    target = Path(path)
    if not target.exists():
        raise PlanError(f"{target} does not exist")
    adapters = [open_adapter(Path(one), "--lora") for one in lora]
    below = open_checkpoint(Path(base), "--base") if base is not None else None
    if against is not None:
        return explain_against(target, Path(against), below, adapters, notify)
    if expect is None:
        raise PlanError("say what was wanted: --expect DIGEST, or --against PATH")
    if not target.is_file():
        raise PlanError(f"{target} is no file: a digest is of one; name the file, or compare folders with --against")
    wanted = expect if isinstance(expect, Digest) else digest_from(expect)
    if wanted.of_nothing:
        raise PlanError(f"--expect {wanted.hex[:16]}... is the digest of nothing: whoever published it hashed no file")
    return explain_digest(target, wanted, below, adapters, notify)


def explain_digest(
    target: Path, wanted: Digest, base: Checkpoint | None, adapters: Sequence[Adapter], notify: Notify
) -> Explanation:
    """Why a file has not the digest wanted."""
    found = hash_file(target, [wanted.algorithm])[wanted.algorithm]
    lines = [f"{wanted.algorithm} wanted {wanted.hex}", f"{wanted.algorithm} found  {found.hex}"]
    for digest, word in ((wanted, "wanted"), (found, "found")):
        for name, file in catalog.by_digest().get(digest, ())[:2]:
            lines.append(f"{word}: published as {file} of {name} ({catalog.load(name).title})")
    if found == wanted:
        return Explanation(True, tuple(lines), f"{target.name} matches: it has the digest wanted, there is nothing to explain")
    size = target.stat().st_size
    if not target.name.endswith(SUFFIXES):
        return explain_small(target, wanted, lines)
    glance = at_a_glance(target, size, [])
    if glance:
        return Explanation(False, tuple(lines), f"{target.name} {glance}")
    try:
        checkpoint = open_checkpoint(target, "PATH")
        return explain_weights(target, checkpoint, wanted, base, adapters, lines, notify)
    except FormatError as error:
        return Explanation(False, tuple(lines), f"damage: {error}")


def explain_weights(
    target: Path,
    checkpoint: Checkpoint,
    wanted: Digest,
    base: Checkpoint | None,
    adapters: Sequence[Adapter],
    lines: list[str],
    notify: Notify,
) -> Explanation:
    """Which other way to write the same tensors has the digest: all are tried in one pass for each order of records."""
    (container,) = checkpoint.files.values()
    candidates = list(other_ways(target.name, checkpoint))
    results = digests([file for _, _, file in candidates], wanted.algorithm, notify) if candidates else []
    for (what, how, _), digest in zip(candidates, results, strict=True):
        if digest == wanted:
            profile = how.get("profile", "")
            now = container.profile.removeprefix("zip-")
            if what == "container":
                sentence = (
                    f"container only: every tensor is right; the file was written as torch {now} writes, and the published one "
                    f"as torch {profile}"
                )
            else:
                sentence = f"{what}; all other tensors are right"
            command = f"weightkit convert {target.parent} OUT --to hf --torch-compat {profile}" if profile else ""
            return Explanation(False, tuple(lines), sentence, command)
    lines.append(f"none of {len(candidates)} other ways to write these tensors (torch's profiles, dict kinds, inv_freq) has it")
    if base is not None and adapters:
        return explain_merge(target, wanted, base, adapters, lines, notify)
    return Explanation(
        False,
        tuple(lines),
        "the tensors themselves differ, or their order: compare with the right file (--against PATH), or name what was merged "
        "(--base BASE --lora LORA ...)",
    )


def explain_merge(
    target: Path, wanted: Digest, base: Checkpoint, adapters: Sequence[Adapter], lines: list[str], notify: Notify
) -> Explanation:
    """Which order of LoRAs, rounding and order of sums gives the digest of a file that they were merged into."""
    (container,) = open_checkpoint(target, "PATH").files.values()
    if not isinstance(container, TorchFile):
        return Explanation(False, tuple(lines), "the tensors differ; merge --seek tries roundings and sums on a whole release")
    names = list(container.specs)
    tried = 0
    for what, tensors in merges(base, adapters):
        if any(name not in tensors for name in names):
            continue
        layout, runs = together([(name, tensors[name], name) for name in names])
        files = [
            OutputFile(target.name, TorchZip(profile, root_for(target.name, profile), kind), layout, runs)
            for profile in PROFILES
            for kind in ("dict", "OrderedDict")
        ]
        tried += len(files)
        for file, digest in zip(files, digests(files, wanted.algorithm, notify), strict=True):
            if digest == wanted and isinstance(file.encoding, TorchZip):
                profile = file.encoding.profile.removeprefix("zip-")
                return Explanation(
                    False,
                    tuple(lines),
                    f"the published file was merged otherwise: {what}",
                    merge_command(what, base, adapters, profile),
                )
    return Explanation(
        False, tuple(lines), f"none of {tried} ways to merge these adapters has the digest: base or adapters are others"
    )


def explain_small(target: Path, wanted: Digest, lines: list[str]) -> Explanation:
    """Why a small file is another: which version of which tool wrote the one wanted, and which fields differ."""
    if target.stat().st_size > SMALL or target.suffix not in TEXTS:
        sentence = "its bytes differ, and it is no file of weights that could be looked into: download it again"
        return Explanation(False, tuple(lines), sentence)
    content = target.read_bytes()
    for what, changed in (
        ("its newline at the end is missing", content + b"\n"),
        ("it has a newline at the end", content.removesuffix(b"\n")),
        ("it has Windows line ends", content.replace(b"\r\n", b"\n")),
        ("it begins with a byte order mark", content.removeprefix(b"\xef\xbb\xbf")),
    ):
        if hashlib.new(wanted.algorithm, changed).hexdigest() == wanted.hex:
            return Explanation(False, tuple(lines), f"small file: {what}; its content is right")
    for converter, size, name, made in known_small_files():
        if name == target.name and hashlib.new(wanted.algorithm, made).hexdigest() == wanted.hex:
            fields = differing_fields(content, made)
            sentence = f"small file: the one wanted is what {converter} writes for LLaMA-{size}; {fields}"
            return Explanation(False, tuple(lines), sentence, f"weightkit convert LLaMA/{size} OUT --to hf --as {converter}")
    if target.suffix == ".json" and not is_json(content):
        return Explanation(False, tuple(lines), f"damage: {target.name} is no JSON")
    return Explanation(
        False,
        tuple(lines),
        "small file: its bytes differ; most often only the version of transformers in it does: compare it with --against FILE",
    )


def explain_against(
    target: Path, other: Path, base: Checkpoint | None, adapters: Sequence[Adapter], notify: Notify
) -> Explanation:
    """Why a file or folder is not another."""
    if not other.exists():
        raise PlanError(f"--against: {other} does not exist")
    if target.is_file() and other.is_file() and hash_file(target, ["sha256"]) == hash_file(other, ["sha256"]):
        return Explanation(True, (), f"{target} and {other} are the same, byte for byte")
    if target.is_file() and not target.name.endswith(SUFFIXES):
        fields = differing_fields(target.read_bytes(), other.read_bytes()) if target.suffix == ".json" else "its bytes differ"
        return Explanation(False, (), f"small file: {fields}", f"cp {other} {target}")
    here, there = open_checkpoint(target, "PATH"), open_checkpoint(other, "--against")
    found = compare(here, there, notify)
    lines = described(found)
    if not found.here and not found.there and not found.different:
        return explain_files(target, other, here, there, lines)
    sentence, command = cause(found, here, there)
    if base is not None and adapters and found.different:
        sentence, command = merged_otherwise(found, there, base, adapters) or (sentence, command)
    return Explanation(False, tuple(lines), sentence, command)


def described(found: Comparison) -> list[str]:
    """What differs, a line each."""
    lines = []
    for names, where in ((found.here, "only here"), (found.there, "only there")):
        if names:
            lines.append(f"{where}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    total = sum(one.elements for one in found.tensors)
    changed = sum(one.changed for one in found.different)
    lines.append(f"{len(found.different)} of {len(found.tensors)} tensors differ, in {changed} of {total} elements")
    ulps: dict[str, int] = {}
    for one in found.different:
        for label, count in one.ulps.items():
            ulps[label] = ulps.get(label, 0) + count
    if ulps:
        lines.append("by ULPs: " + ", ".join(f"{label}: {count}" for label, count in ulps.items()))
    for one in sorted(found.different, key=lambda one: (-one.changed, one.name))[:5]:
        what = f"{one.spec} here, {one.other} there" if one.spec != one.other else f"{one.changed} of {one.elements} elements"
        where = f", bytes {one.first} to {one.last} of it" if one.first is not None else ""
        lines.append(f"  {one.name}: {what}{where}")
    return lines


def explain_files(target: Path, other: Path, here: Checkpoint, there: Checkpoint, lines: list[str]) -> Explanation:
    """The tensors are the same; what of the files is not."""
    mine, theirs = (next(iter(one.files.values())).profile.removeprefix("zip-") for one in (here, there))
    small = [name for name in there.small_files() if here.small(name) != there.small(name)] if target.is_dir() else []
    names = sorted({*here.files, *there.files})
    differ = [
        name
        for name in names
        if name not in here.files
        or name not in there.files
        or hash_file(here.files[name].path, ["sha256"]) != hash_file(there.files[name].path, ["sha256"])
    ]
    if target.is_file():
        differ = [target.name]
    if not differ and not small:
        return Explanation(True, tuple(lines), f"{target} and {other} hold the same files, byte for byte")
    if not differ:
        name = small[0]
        fields = differing_fields(here.small(name) or b"", there.small(name) or b"") if name.endswith(".json") else "its bytes"
        return Explanation(False, tuple(lines), f"small files only: {', '.join(small)}; of {name} {fields}")
    if mine != theirs:
        compat = f" --torch-compat {theirs}" if theirs[0].isdigit() else f" --format {theirs}"
        return Explanation(
            False,
            tuple(lines),
            f"container only: every tensor is right; written as {told(mine)} here, as {told(theirs)} there",
            f"weightkit convert {target if target.is_dir() else target.parent} OUT --to hf{compat}",
        )
    return Explanation(
        False,
        tuple(lines),
        f"container only: every tensor is right; {', '.join(differ[:3])} differ in the order of tensors, names of the zip's "
        "folder, or shards",
        f"weightkit convert {target if target.is_dir() else target.parent} OUT --to hf",
    )


def told(profile: str) -> str:
    """A profile, for people."""
    return f"torch {profile} writes" if profile[0].isdigit() else profile
