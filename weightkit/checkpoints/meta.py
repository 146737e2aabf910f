"""Meta's layout: one file or several model-parallel parts, and the numbers of the model.

    params.json           dim, n_heads, n_layers, norm_eps, ...
    consolidated.00.pth   ... consolidated.07.pth: each tensor cut along one axis, norms whole in each
    checklist.chk         MD5 of all of them
    tokenizer.model       here or in the folder above

Handed out as transformers' converter of a given release would leave it: joined, renamed, rotary pairs reordered, cast to
float16, with the rotary buffers that it added. Source: ``convert_llama_weights_to_hf.py`` of transformers 4.28.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weightkit.checkpoints.huggingface import Checkpoint
from weightkit.containers import open_file
from weightkit.containers.memory import InMemory
from weightkit.containers.torch_file import TorchFile
from weightkit.core.dtypes import FLOAT16, FLOAT32
from weightkit.core.errors import FormatError, PlanError
from weightkit.core.lazy import LazyTensor, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.families.converters import Converter, ModelShape
from weightkit.ops.add import Cast
from weightkit.ops.move import JoinColumns, JoinRows, PairRows

__all__ = ["inv_freq_tensors", "is_meta", "open_meta", "shape_from_params", "tokenizer_beside"]

PART = re.compile(r"consolidated\.(\d\d)\.pth")
UNUSED = re.compile(r"(?:layers\.\d+\.attention\.(?:inner_attention\.)?)?rope\.freqs")
LLAMA_3_TOKENS = 128256


def is_meta(path: Path) -> bool:
    """Whether a folder is in Meta's layout."""
    if not path.is_dir() or (path / "config.json").is_file():
        return False  # some folders of transformers' layout have a params.json, too
    return (path / "params.json").is_file() or any(PART.fullmatch(entry.name) for entry in path.iterdir())


def open_meta(path: Path, role: str, converter: Converter) -> Checkpoint:
    """Index a folder of Meta's, and check its parts against each other and against params.json.

    Raises:
        PlanError: A part is missing or of another model, or params.json does not fit the tensors.
        FormatError: A file is damaged.
    """
    params = read_params(path / "params.json")
    names = part_names(path, role)
    parts = [open_part(path / name, name, role) for name in names]
    tokens = parts[0].specs.get("tok_embeddings.weight")
    gate = parts[0].specs.get("layers.0.feed_forward.w1.weight")
    if tokens is None or gate is None:
        raise PlanError(f"{role}: {path / names[0]} lacks tok_embeddings.weight or layer 0: no LLaMA in Meta's layout")
    shape = shape_from_params(path / "params.json", params, tokens.rows, gate.rows * len(parts))
    joined = join_all(path, role, parts, shape)
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in joined.items():
        tensors[name] = tensor if tensor.spec.dtype == FLOAT16 else derive(Cast(FLOAT16), tensor)
    tensors |= inv_freq_tensors(shape, converter)
    ordered = {name: tensors[name] for name in llama.in_state_dict_order(tensors)}
    made = converter.small_files(shape) | tokenizer_beside(path)
    return Checkpoint(path, "meta", "bin", dict(zip(names, parts, strict=True)), ordered, made=made)


def read_params(path: Path) -> dict[str, Any]:
    """params.json as an object."""
    try:
        params = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}; it stands beside consolidated.00.pth") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise FormatError(path, f"is no JSON: {error}") from error
    if not isinstance(params, dict):
        raise FormatError(path, "is no JSON object")
    return params


def shape_from_params(path: Path, params: dict[str, Any], tokens: int, inner: int) -> ModelShape:
    """The model's numbers.

    Args:
        path: params.json, for messages.
        params: Its content.
        tokens: Rows of the embedding.
        inner: Width of the MLP; 0 to follow from the width, as the converter has it.

    Raises:
        FormatError: A number is missing or makes no sense.
    """
    for name in ("dim", "n_heads", "n_layers"):
        if type(params.get(name)) is not int or params[name] < 1:
            raise FormatError(path, f"{name} is {params.get(name)!r}; wanted a number, as in LLaMA's own params.json")
    if tokens == LLAMA_3_TOKENS or params.get("vocab_size") == LLAMA_3_TOKENS:
        raise FormatError(path, "is of LLaMA 3, whose layout is not converted; LLaMA 1 and 2 are")
    dim, heads = params["dim"], params["n_heads"]
    kv_heads = params.get("n_kv_heads") or heads
    if type(kv_heads) is not int or dim % heads or heads % kv_heads:
        raise FormatError(path, f"dim {dim}, n_heads {heads} and n_kv_heads {kv_heads} do not divide each other")
    eps = params.get("norm_eps", 1e-6)
    if not isinstance(eps, int | float):
        raise FormatError(path, f"norm_eps is {eps!r}; wanted a number")
    if not inner:
        multiple = params.get("multiple_of", 256)
        wide = int(params.get("ffn_dim_multiplier", 1) * int(8 * dim / 3))
        inner = multiple * ((wide + multiple - 1) // multiple)
    return ModelShape(dim, inner, heads, kv_heads, params["n_layers"], tokens, float(eps))


def part_names(path: Path, role: str) -> list[str]:
    """Names of the parts, none missing between the first and the last."""
    numbers = sorted(int(match[1]) for entry in path.iterdir() if (match := PART.fullmatch(entry.name)))
    lacking = sorted(set(range(max(numbers, default=0) + 1)) - set(numbers))
    if lacking:
        raise PlanError(f"{role}: {path} lacks consolidated.{lacking[0]:02d}.pth")
    return [f"consolidated.{number:02d}.pth" for number in numbers]


def open_part(path: Path, name: str, role: str) -> TorchFile:
    """One part; torch writes the name of a file into it, so a part that was renamed is noticed."""
    part = open_file(path)
    if not isinstance(part, TorchFile):
        raise FormatError(path, "is a safetensors file; Meta's parts are torch files")
    said = PART.fullmatch(f"{part.root}.pth")
    if said and said[0] != name:
        raise PlanError(f"{role}: {path} was saved as {said[0]}: parts are in the wrong order, or renamed")
    return part


def join_all(path: Path, role: str, parts: Sequence[TorchFile], shape: ModelShape) -> dict[str, LazyTensor]:
    """Every tensor, joined from its parts, under transformers' name; all misfits are gathered."""
    wanted = shape.tensor_shapes()
    problems: list[str] = []
    found: dict[str, LazyTensor] = {}
    rows = llama.all_rows(shape.layers)
    for row, name, meta, _ in rows:
        lacking = [part.path.name for part in parts if meta not in part.specs]
        if lacking:
            problems.append(f"{meta}: not in {', '.join(lacking)}")
            continue
        try:
            tensor = join([Stored(part, meta) for part in parts], row.axis)
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
    left = [name for name in parts[0].specs if name not in known and not UNUSED.fullmatch(name)]
    problems += [f"{name}: more than the {shape.layers} layers of params.json, or no tensor of a LLaMA" for name in left]
    problems += other_models(parts)
    if problems:
        raise PlanError(f"{role}: {path}: the parts, or params.json, do not fit together:", problems[:20])
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


def other_models(parts: Sequence[TorchFile]) -> list[str]:
    """Parts whose norms, which every part holds whole, are not those of the first."""
    name = "norm.weight"
    if any(name not in part.specs or part.specs[name] != parts[0].specs[name] for part in parts):
        return []
    rows = parts[0].specs[name].rows
    first = bytes(parts[0].read(name, 0, rows))
    return [
        f"{part.path.name} is of another model than {parts[0].path.name}: its {name} differs"
        for part in parts[1:]
        if bytes(part.read(name, 0, rows)) != first
    ]


def inv_freq_tensors(shape: ModelShape, converter: Converter) -> dict[str, LazyTensor]:
    """The rotary buffers that the converter added, one a layer, as it stored them."""
    if converter.inv_freq == "none":
        return {}
    count = shape.head_dim // 2
    names = [f"model.layers.{layer}.{llama.INV_FREQ}" for layer in range(shape.layers)]
    values = llama.inv_freq(count).tobytes()
    source = InMemory(Path("(computed)"), dict.fromkeys(names, TensorSpec(FLOAT32, (count,))), dict.fromkeys(names, values))
    tensors: dict[str, LazyTensor] = {}
    for name in names:
        tensors[name] = Stored(source, name)
        if converter.inv_freq != "exact":
            tensors[name] = derive(Cast(FLOAT16), tensors[name])
        if converter.inv_freq == "float32":
            tensors[name] = derive(Cast(FLOAT32), tensors[name])
    return tensors


def tokenizer_beside(path: Path) -> dict[str, bytes]:
    """tokenizer.model, from the folder or the one above it."""
    for folder in (path, path.resolve().parent):
        if (folder / "tokenizer.model").is_file():
            return {"tokenizer.model": (folder / "tokenizer.model").read_bytes()}
    return {}
