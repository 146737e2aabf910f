"""Meta's layout: one file or several model-parallel parts, and the numbers of the model.

    params.json           dim, n_heads, n_layers, norm_eps, ...
    consolidated.00.pth   ... consolidated.07.pth: each tensor cut along one axis, norms whole in each
    checklist.chk         MD5 of all of them
    tokenizer.model       here or in the folder above

Handed out as transformers' converter of a given release would leave it: joined, renamed, rotary pairs reordered, cast to
float16, with the rotary buffers that it added. Source: ``convert_llama_weights_to_hf.py`` of transformers 4.28.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from weightkit.checkpoints.agreement import without_lone_tokenizer
from weightkit.checkpoints.checkpoint import Checkpoint, lone_file
from weightkit.checkpoints.flavour import values
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.layout import known_tensors
from weightkit.checkpoints.meta_layout import part_name
from weightkit.checkpoints.meta_parts import MD5, part_files, small_parts
from weightkit.checkpoints.model import Model, Written
from weightkit.checkpoints.original import inv_freq_tensors, shape_of, tokenizer_beside, tokenizer_notes
from weightkit.checkpoints.params import PARAMS, read_params, shape_from_params
from weightkit.checkpoints.rope import frequencies_problem
from weightkit.checkpoints.shards import BY_NUMBERS
from weightkit.containers import Container, open_file
from weightkit.core.blob import Folder
from weightkit.core.dtypes import FLOAT16
from weightkit.core.errors import FormatError, Incomplete, PlanError
from weightkit.core.lazy import Derived, LazyTensor, Stored, derive
from weightkit.families import llama
from weightkit.families.converters import Converter, ModelShape
from weightkit.ops.add import Cast
from weightkit.ops.move import JoinColumns, JoinRows, PairRows
from weightkit.run.plan import Listing

__all__ = ["META", "Meta", "as_stored"]

CHECKLIST = "checklist.chk"
PART = re.compile(r"consolidated\.(\d\d)\.pth")
SAMPLE, SAMPLED = 512, 4
UNUSED = re.compile(r"(?:layers\.\d+\.attention\.(?:inner_attention\.)?)?rope\.freqs")


@dataclass(frozen=True, slots=True)
class Meta:
    """The layout, as a ``FolderLayout``."""

    name: ClassVar[str] = "meta"

    def recognise(self, folder: Folder) -> bool:
        """By params.json or a part; some folders of transformers' layout have a params.json, too."""
        if lone_file(folder) is not None or folder.holds("config.json"):
            return False
        return folder.holds(PARAMS) or any(PART.fullmatch(name) for name in folder.names())

    def open(self, folder: Folder, role: str, converter: Converter) -> Checkpoint:
        """Index a folder, and check its parts against each other and against params.json."""
        params = read_params(folder)
        names = part_names(folder, role)
        parts = {name: open_part(folder, name, role) for name in names}
        first = parts[names[0]].tensors
        tokens, gate = first.get("tok_embeddings.weight"), first.get("layers.0.feed_forward.w1.weight")
        if tokens is None or gate is None:
            where = parts[names[0]].blob.name
            raise PlanError(f"{role}: {where} lacks tok_embeddings.weight or layer 0: no LLaMA in Meta's layout")
        origin = folder.blob(PARAMS).name
        shape = shape_from_params(origin, params, tokens.spec.rows, gate.spec.rows * len(parts))
        tensors: dict[str, LazyTensor] = {}
        for name, tensor in join_all(folder, role, parts, shape).items():
            tensors[name] = tensor if tensor.spec.dtype == FLOAT16 else derive(Cast(FLOAT16), tensor)
        tensors |= inv_freq_tensors(shape, converter)
        ordered = {name: tensors[name] for name in llama.in_state_dict_order(tensors)}
        made = without_lone_tokenizer(converter.small_files(shape), tokenizer_beside(folder))
        return Checkpoint(folder, "meta", parts[names[0]].format, parts, ordered, made=made)

    def write(self, model: Model, form: Form) -> Written:
        """Parts, params.json, tokenizer.model, in Meta's order also checklist.chk.

        All tokenizer files go along where they are not those of what is followed.
        """
        follows, tensors = known_tensors(model)
        shape = shape_of(follows, tensors)
        files, notes = part_files(follows, tensors, shape, form)
        small = small_parts(model, follows, shape, metas=any(file.also for file in files))
        listed = tuple(one.path for one in files if one.also) + tuple(one.path for one in small if one.also)
        if model.tokenizers in (None, follows):
            notes = (*notes, *tokenizer_notes(follows))
        return Written(files, small, notes, (Listing(CHECKLIST, MD5, listed),) if listed else ())


META = Meta()


def as_stored(source: Checkpoint) -> dict[str, LazyTensor]:
    """The tensors of Meta's parts in the dtypes of these, before the converter's cast; those of other layouts as they are."""
    if source.layout != "meta":
        return dict(source.tensors)
    return {
        name: one.inputs[0] if isinstance(one, Derived) and one.op == Cast(FLOAT16) and not llama.is_inv_freq(name) else one
        for name, one in source.tensors.items()
    }


def part_names(folder: Folder, role: str) -> list[str]:
    """Names of the parts, none missing between the first and the last."""
    numbers = sorted(int(match[1]) for name in folder.names() if (match := PART.fullmatch(name)))
    lacking = sorted(set(range(max(numbers, default=0) + 1)) - set(numbers))
    if lacking:
        reason = BY_NUMBERS if numbers else f"{PARAMS} belongs to"
        raise Incomplete(f"{role}: {folder.name}", [part_name(number) for number in lacking], reason)
    return [part_name(number) for number in numbers]


def open_part(folder: Folder, name: str, role: str) -> Container:
    """One part; torch writes the name of a file into it, so a part that was renamed is noticed."""
    part = open_file(folder.blob(name))
    if PurePosixPath(name).suffix not in part.format.suffixes:
        raise FormatError(part.blob.name, f"is a {part.format.name} file; Meta's parts are torch files")
    said = saved_as(part, name)
    if said != name:
        raise PlanError(f"{role}: {part.blob.name} was saved as {said}: parts are in the wrong order, or renamed")
    return part


def saved_as(part: Container, name: str) -> str:
    """The part's name that torch wrote into it; ``name`` itself where it wrote no part's, or the same into all."""
    candidates = [name, *(part_name(number) for number in range(100))]
    written = (one for one in candidates if part.format.encoding(one, part, None, same=True) == part.encoding)
    return next(written, name)


def join_all(folder: Folder, role: str, parts: Mapping[str, Container], shape: ModelShape) -> dict[str, LazyTensor]:
    """Every tensor, joined from its parts, under transformers' name; all misfits are gathered."""
    wanted = shape.tensor_shapes()
    problems: list[str] = []
    found: dict[str, LazyTensor] = {}
    rows = llama.all_rows(shape.layers)
    for row, name, meta, _ in rows:
        lacking = [file for file, part in parts.items() if meta not in part.tensors]
        if lacking:
            problems.append(f"{meta}: not in {', '.join(lacking)}")
            continue
        try:
            tensor = join([part.tensors[meta] for part in parts.values()], row.axis)
        except ValueError as error:
            problems.append(f"{meta}: {error}: a part is of another model")
            continue
        expected = wanted[row.huggingface]
        if tensor.spec.shape != expected:
            problems.append(
                f"{meta}: {list(tensor.spec.shape)} in {len(parts)} parts, params.json makes it {list(expected)}: "
                "a part is missing, or params.json is of another model"
            )
        elif row.paired:
            found[name] = derive(PairRows(shape.head_dim, halves=True), tensor)
        else:
            found[name] = tensor
    known = {meta for _, _, meta, _ in rows}
    left = [name for name in next(iter(parts.values())).tensors if name not in known and not UNUSED.fullmatch(name)]
    problems += [f"{name}: more than the {shape.layers} layers of params.json, or no tensor of a LLaMA" for name in left]
    problems += other_models(parts)
    buffers = ((name, one) for name, one in next(iter(parts.values())).tensors.items() if UNUSED.fullmatch(name))
    found_problems = (frequencies_problem(name, one.spec, shape, "n_heads") for name, one in buffers)
    problems += [one for one in found_problems if one]
    problems += same_parts(parts, [meta for row, _, meta, _ in rows if row.axis is not None])
    if problems:
        raise PlanError(f"{role}: {folder.name}: the parts, or params.json, do not fit together:", problems[:20])
    return found


def join(parts: Sequence[Stored], axis: int | None) -> LazyTensor:
    """One tensor from its parts; ``ValueError`` where they do not fit."""
    if axis is None:
        if len({part.spec for part in parts}) != 1:
            raise ValueError("of different shapes in the parts")
        return parts[0]
    if len(parts) == 1:
        return parts[0]
    if axis == 0:
        return derive(JoinRows(tuple(part.spec.rows for part in parts)), *parts)
    return derive(JoinColumns(), *parts)


def other_models(parts: Mapping[str, Container]) -> list[str]:
    """Parts whose norms, which every part holds whole, are not those of the first."""
    name = "norm.weight"
    norms = {file: part.tensors.get(name) for file, part in parts.items()}
    first_file, first = next(iter(norms.items()))
    if first is None or any(norm is None or norm.spec != first.spec for norm in norms.values()):
        return []
    content = bytes(first.read(0, first.spec.rows))
    return [
        f"{file} is of another model than {first_file}: its {name} differs"
        for file, norm in norms.items()
        if norm is not None and bytes(norm.read(0, norm.spec.rows)) != content
    ]


def same_parts(parts: Mapping[str, Container], names: Iterable[str]) -> list[str]:
    """Parts whose cut tensors begin as those of an earlier one: the same part twice. Constant values tell nothing."""
    seen: dict[tuple[bytes, ...], str] = {}
    problems = []
    looked_at = list(names)[:SAMPLED]
    for file, part in parts.items():
        found = [values(part.tensors[name], SAMPLE) for name in looked_at if name in part.tensors]
        telling = tuple(one.tobytes() for one in found if one is not None and one.size and (one != one[0]).any())
        if telling and telling in seen:
            problems.append(f"{file} holds the same as {seen[telling]}: one of them is a copy under another name")
        seen.setdefault(telling, file)
    return problems
