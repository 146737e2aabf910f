"""Why does a file not match? The cause, narrowed down in streaming passes, and the command that mends it.

import weightkit.explain
print(weightkit.explain.explain("release/pytorch_model.bin", expect="bfd6f5e1...").sentence)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weightkit import catalog
from weightkit.adapters import Arithmetic, apply_adapters
from weightkit.checkpoints import Checkpoint, open_checkpoint
from weightkit.checkpoints.peft import Adapter, open_adapter
from weightkit.compare import Comparison, TensorDifference, compare, paired_otherwise, same_bytes
from weightkit.containers.memory import InMemory
from weightkit.containers.torch_file import TorchFile
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, root_for
from weightkit.digest import ALGORITHMS, Digest, hash_file
from weightkit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from weightkit.errors import FormatError, PlanError, WeightkitError
from weightkit.events import Notify, ignore
from weightkit.families import llama
from weightkit.families.converters import CONVERTERS, MODIFIERS, ModelShape, converter_named
from weightkit.flavour import values
from weightkit.lazy import LazyTensor, Stored, derive, reader
from weightkit.ops.add import Cast
from weightkit.ops.lora import ROUNDINGS
from weightkit.output import together
from weightkit.plan import OutputFile
from weightkit.seek import digests
from weightkit.spec import TensorSpec
from weightkit.streams.planes import cast_bits
from weightkit.verify import at_a_glance

__all__ = ["Explanation", "digest_from", "explain", "naive_sum"]

WEIGHTS = (".bin", ".pth", ".pt", ".safetensors")
FEW = 5e-4
"""Another order of sums changes up to 7e-5 of the elements of a float16 merge, a rounding more or less thousands of times as
many. Source: peer-numerics, sections 5 and 6."""


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
    if not target.name.endswith(WEIGHTS):
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


def other_ways(name: str, checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, str], OutputFile]]:
    """The tensors of a file as other torches, and with other frequencies, would have written them."""
    (container,) = checkpoint.files.values()
    if not isinstance(container, TorchFile):
        return
    for what, tensors in other_frequencies(checkpoint):
        layout, runs = together([(one, tensor, one) for one, tensor in tensors.items()])
        if what == "container":
            layout = container.layout()
            placed: dict[int, dict[int, LazyTensor]] = {}
            for item in layout.items:
                placed.setdefault(item.run, {})[item.offset] = checkpoint.tensors[item.name]
            runs = tuple(tuple(parts[offset] for offset in sorted(parts)) for _, parts in sorted(placed.items()))
        for profile in PROFILES:
            kinds = {(container.kind if container.kind != "other" else "dict", container.metadata), ("dict", None)}
            for kind, metadata in sorted(kinds, key=str):
                encoding = TorchZip(profile, root_for(name, profile), kind, metadata)
                yield what, {"profile": profile.removeprefix("zip-")}, OutputFile(name, encoding, layout, runs)


def other_frequencies(checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, LazyTensor]]]:
    """The tensors as they are, and with inv_freq left out, added or in other bits."""
    tensors = dict(checkpoint.tensors)
    yield "container", tensors
    have = {name for name in tensors if llama.is_inv_freq(name)}
    layers = [name for name in tensors if name.endswith("self_attn.q_proj.weight")]
    if not layers:
        return
    if have:
        yield "inv_freq should not be there", {name: one for name, one in tensors.items() if name not in have}
    count = next((tensors[name].spec.shape[0] for name in have), 0) or head_dim(checkpoint, tensors[layers[0]]) // 2
    if not count:
        return
    exact = frequencies(count)
    half = derive(Cast(FLOAT16), exact)
    for what, value in (
        ("exact, in float32", exact),
        ("rounded through float16, in float32", derive(Cast(FLOAT32), half)),
        ("in float16", half),
    ):
        names = have or {name.replace("self_attn.q_proj.weight", llama.INV_FREQ) for name in layers}
        changed = {**tensors, **dict.fromkeys(names, value)}
        verb = "inv_freq should be" if have else "inv_freq is missing; it should be there,"
        yield f"{verb} {what}", {name: changed[name] for name in llama.in_state_dict_order(changed)}


def frequencies(count: int) -> Stored:
    """The exact rotary frequencies, as transformers computes them."""
    values = llama.inv_freq(count)
    return Stored(InMemory(Path("(computed)"), {"f": TensorSpec(FLOAT32, (count,))}, {"f": values.tobytes()}), "f")


def head_dim(checkpoint: Checkpoint, weight: LazyTensor) -> int:
    """Rows of an attention head, from the config or LLaMA's own widths; 0 where nothing tells."""
    width = weight.spec.shape[0]
    heads = checkpoint.json("config.json").get("num_attention_heads") or llama.HEADS.get(width)
    return width // heads if type(heads) is int and heads and width % heads == 0 else 0


def merges(base: Checkpoint, adapters: Sequence[Adapter]) -> Iterator[tuple[str, dict[str, LazyTensor]]]:
    """What base and adapters give in every order, rounding and order of sums; each different one once."""
    for order in itertools.permutations(adapters):
        asked = list(order) == list(adapters)
        names = ", then ".join(one.path.name for one in order)
        for rounding in ROUNDINGS:
            for sums in ("fma", "mul-add"):
                try:
                    merged = apply_adapters(base.tensors, order, Arithmetic(rounding, sums))
                except WeightkitError:
                    continue
                arithmetic = f"rounding {rounding}, sums {sums}"
                yield arithmetic if asked else f"LoRA order: {names} ({arithmetic})", merged.tensors


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


def merge_command(what: str, base: Checkpoint, adapters: Sequence[Adapter], profile: str = "") -> str:
    """The merge that a description stands for."""
    arithmetic = what.rpartition("(")[2].rstrip(")") if what.startswith("LoRA order") else what
    rounding, sums = (part.split()[-1] for part in arithmetic.split(", "))
    order = [one.path for one in adapters]
    if what.startswith("LoRA order"):
        named = what.removeprefix("LoRA order: ").rpartition(" (")[0].split(", then ")
        order = [next(one.path for one in adapters if one.path.name == name) for name in named]
    words = " ".join(f"--lora {path}" for path in order)
    compat = f" --torch-compat {profile}" if profile else ""
    return f"weightkit merge --base {base.path} {words} --rounding {rounding} --sums {sums}{compat} --out OUT"


def explain_small(target: Path, wanted: Digest, lines: list[str]) -> Explanation:
    """Why a small file is another: which version of which tool wrote the one wanted, and which fields differ."""
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


def known_small_files() -> Iterator[tuple[str, str, str, bytes]]:
    """What the known converters write: converter, size of LLaMA, name of the file, bytes."""
    shapes = {
        "7B": ModelShape(4096, 11008, 32, 32, 32, 32000, 1e-6),
        "13B": ModelShape(5120, 13824, 40, 40, 40, 32000, 1e-6),
        "30B": ModelShape(6656, 17920, 52, 52, 60, 32000, 1e-6),
        "65B": ModelShape(8192, 22016, 64, 64, 80, 32000, 1e-5),
    }
    for base in CONVERTERS:
        for name in (base, *(f"{base}+{modifier}" for modifier in MODIFIERS)):
            converter = converter_named(name)
            for size, shape in shapes.items():
                for file, content in converter.small_files(shape).items():
                    yield name, size, file, content


def is_json(content: bytes) -> bool:
    """Whether bytes are JSON."""
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def differing_fields(one: bytes, other: bytes) -> str:
    """Which fields of two JSON objects differ, here and there."""
    if not is_json(one) or not is_json(other):
        return "one of them is no JSON: damage"
    here, there = json.loads(one), json.loads(other)
    if not isinstance(here, dict) or not isinstance(there, dict):
        return "they are no objects"
    gone = object()
    changed = [
        f"{key}: {shown_field(here, key)} here, {shown_field(there, key)} wanted"
        for key in sorted({*here, *there})
        if here.get(key, gone) != there.get(key, gone)
    ]
    if not changed:
        return "same fields, written otherwise (blanks, order or line ends)"
    return "fields that differ: " + "; ".join(changed)


def shown_field(fields: Mapping[str, object], key: str) -> str:
    """A field's value, for people."""
    return json.dumps(fields[key]) if key in fields else "(missing)"


def explain_against(
    target: Path, other: Path, base: Checkpoint | None, adapters: Sequence[Adapter], notify: Notify
) -> Explanation:
    """Why a file or folder is not another."""
    if not other.exists():
        raise PlanError(f"--against: {other} does not exist")
    if target.is_file() and other.is_file() and hash_file(target, ["sha256"]) == hash_file(other, ["sha256"]):
        return Explanation(True, (), f"{target} and {other} are the same, byte for byte")
    if target.is_file() and not target.name.endswith(WEIGHTS):
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


def cause(found: Comparison, here: Checkpoint, there: Checkpoint) -> tuple[str, str]:
    """The likeliest cause of differences in tensors, and what mends it."""
    different = found.different
    others = [one for one in different if not llama.is_inv_freq(one.name)]
    alone = [name for name in (*found.here, *found.there) if not llama.is_inv_freq(name)]
    if not others and not alone:
        return frequencies_differ(found, different)
    if not alone and others and all(one.name.endswith(("q_proj.weight", "k_proj.weight")) for one in others):
        dim = head_dim(here, here.tensors[others[0].name]) or head_dim(there, there.tensors[others[0].name])
        if dim and all(paired_otherwise(here.tensors[one.name], there.tensors[one.name], dim) for one in others):
            return (
                "q/k permutation: rows of q_proj and k_proj are in Meta's order on one side, in transformers' on the other; "
                "all else is right",
                "weightkit convert LLaMA/SIZE OUT --to hf",
            )
    if alone:
        return f"another model, or incomplete: tensors are missing on one side ({alone[0]})", ""
    grown = [one for one in others if llama.is_vocabulary(one.name) and another_height(one)]
    if grown and all(one in grown and not one.changed for one in others):
        one = grown[0]
        rows = one.other.shape[0] - one.spec.shape[0]
        many = f"{abs(rows)} vocabulary row{'s' if abs(rows) > 1 else ''}"
        return f"{many} {'missing' if rows > 0 else 'too many'} in {one.name}; all that both have is the same", ""
    if any(one.spec != one.other for one in others):
        one = next(one for one in others if one.spec != one.other)
        return f"another dtype or size: {one.name} is {one.spec} here, {one.other} there", ""
    return values_differ(others, here, there)


def another_height(one: TensorDifference) -> bool:
    """Whether a tensor differs in the number of its rows alone."""
    return (
        one.spec.dtype == one.other.dtype
        and one.spec.shape[1:] == one.other.shape[1:]
        and one.spec.shape[:1] != one.other.shape[:1]
    )


def frequencies_differ(found: Comparison, different: Sequence[TensorDifference]) -> tuple[str, str]:
    """The cause where nothing but inv_freq differs."""
    if found.there:
        return f"inv_freq is missing here ({len(found.there)} buffers); all else is right", ""
    if found.here:
        return f"inv_freq is stored here ({len(found.here)} buffers), not there; all else is right", ""
    one = different[0]
    if one.spec.dtype != one.other.dtype:
        return f"inv_freq is stored in {one.spec.dtype} here, in {one.other.dtype} there; all else is right", ""
    return (
        "inv_freq has other bits: exact on one side, rounded through float16 on the other; all else is right",
        "weightkit recover ... --inv-freq float16 (or float32)",
    )


def values_differ(others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> tuple[str, str]:
    """The cause where values differ: damage, a sum order, a rounding, bfloat16, or other weights."""
    changed = sum(one.changed for one in others)
    near = nearly(others, changed)
    share = changed / max(1, sum(one.elements for one in others))
    if not near and len(others) <= 2 and all(in_one_place(one) for one in others):
        one = others[0]
        return (
            f"damage: a bad region, bytes {one.first} to {one.last} of {one.name}"
            + (f" and {others[1].name}" if len(others) > 1 else "")
            + "; all else is right: download the file again",
            "",
        )
    if near:
        if share < FEW:
            return (
                f"another sum order: {changed} elements ({share:.1e}) are one bit off, as the products of a LoRA differ "
                "between processors",
                "weightkit merge ... --sums mul-add (or fma), or --seek with the published list",
            )
        return (
            f"one rounding more or less: {share:.2%} of the elements are a last bit off, as if something was rounded once "
            "more, or LoRAs were merged in another order",
            "weightkit merge ... --seek with the published list; or explain with --base BASE --lora LORA ...",
        )
    if through_bfloat16(others, here, there):
        return (
            "through bfloat16: one side has the other's values rounded to 8 bits; take the base from Meta's own files",
            "weightkit convert LLaMA/SIZE OUT --to hf",
        )
    return f"other weights: {share:.1%} of the elements of {len(others)} tensors differ, by more than rounding does", ""


def nearly(others: Sequence[TensorDifference], changed: int) -> bool:
    """Whether values differ as roundings do: by a last bit, and by a few only here and there, where a sum is almost zero."""
    counts = {label: sum(one.ulps.get(label, 0) for one in others) for label in ("1", "2", "3 to 16")}
    return counts["1"] + counts["2"] >= 0.85 * changed and sum(counts.values()) >= 0.98 * changed


def in_one_place(one: TensorDifference) -> bool:
    """Whether the bytes that differ lie close together: a tenth of the tensor, or one sector of a disk."""
    span = (one.last or 0) - (one.first or 0) + 1
    return span <= max(4096, one.spec.nbytes // 10) or one.changed > 0.9 * one.elements


def through_bfloat16(others: Sequence[TensorDifference], here: Checkpoint, there: Checkpoint) -> bool:
    """Whether one side's first values are the other's rounded to bfloat16."""
    for one in others[:3]:
        if len(one.spec.shape) < 2:
            continue
        left, right = values(here.tensors[one.name], 1024), values(there.tensors[one.name], 1024)
        if left is None or right is None:
            return False
        for first, second in ((left, right), (right, left)):
            raw = cast_bits(first.astype(np.float32).tobytes(), FLOAT32, BFLOAT16)
            if raw is None:
                return False
            rounded = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            if np.array_equal(rounded.astype(np.float64), second):
                return True
        return False
    return False


def merged_otherwise(
    found: Comparison, there: Checkpoint, base: Checkpoint, adapters: Sequence[Adapter]
) -> tuple[str, str] | None:
    """Which order, rounding and sums give the right side's tensors; None where none does. Tried on one tensor, then on all."""
    names = [one.name for one in found.different if one.name in there.tensors]
    for what, tensors in merges(base, adapters):
        if all(name in tensors and same_bytes(tensors[name], there.tensors[name]) for name in names):
            kind = "" if what.startswith("LoRA order") else "the right one was merged with "
            return f"{kind}{what}", merge_command(what, base, adapters)
    return None


SUMS: dict[str, float] = {
    "Stanford Alpaca-7B": 50637.1836,
    "ZhiXi-13B, float32": 94052.2891,
    "ZhiXi-13B, from the float16 difference": 94046.1875,
    "Gist-LLaMA-7B": 50547.9570,
    "Gist-LLaMA-7B, positive control": 50596.9141,
    "Gist-LLaMA-7B, negative control": 50503.8789,
    "Landmark-LLaMA-7B": 49798.7656,
    "MOSS-RLHF reward model 7B, English": 50810.703125,
    "MOSS-RLHF SFT model 7B, English": 50874.84765625,
    "MOSS-RLHF reward model 7B, Chinese": 49954.0859375,
}
"""What authors' scripts compare the sum of all values with. Source: integrity sums, collected from those scripts."""

LAYER_SUM = float(llama.inv_freq(64).astype(np.float64).sum())
"""Sum of a layer's inv_freq in a LLaMA: 7.460. Source: peer-numerics, section 4."""


@dataclass(frozen=True, slots=True)
class NaiveSum:
    """The sum of all values of a model, in float64, and which published one it is near. A diagnosis, never a proof.

    Attributes:
        value: The sum.
        near: What is near it.
    """

    value: float
    near: tuple[str, ...]


def naive_sum(path: str | os.PathLike[str], notify: Notify = ignore) -> NaiveSum:
    """Add up all values, as authors' "naive integrity checks" do, and name the published sum that it is near.

    The authors add in float32 in an order that depends on the number of threads, so 0.1 counts as near. It proves nothing:
    one wrong bit hides in it.
    """
    checkpoint = open_checkpoint(Path(path), "PATH")
    total = 0.0
    for tensor in checkpoint.tensors.values():
        read, spec = reader(tensor), tensor.spec
        step = max(1, (1 << 20) // max(1, spec.row_nbytes))
        for start in range(0, spec.rows if spec.width else 0, step):
            raw = cast_bits(read(start, min(start + step, spec.rows)), spec.dtype, FLOAT32)
            if raw is not None:
                total += float(np.frombuffer(raw, "<f4").astype(np.float64).sum())
    near = []
    for name, wanted in SUMS.items():
        for layers, what in ((0, ""), (32, ", without the inv_freq of 32 layers"), (40, ", without the inv_freq of 40 layers")):
            if abs(total + layers * LAYER_SUM - wanted) < 0.1:
                near.append(f"{name}: {wanted}{what}")
    return NaiveSum(total, tuple(near))
