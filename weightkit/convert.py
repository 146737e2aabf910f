"""Layouts: transformers' folder, Meta's parts, TencentPretrain's file, each into each, streaming.

import weightkit.convert
weightkit.convert.convert("LLaMA/13B", "llama-13b-hf", to="hf", converter="transformers-4.28.1")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from weightkit import manifests
from weightkit.budget import DEFAULT_MAX_MEMORY
from weightkit.checkpoints import Checkpoint, open_checkpoint
from weightkit.checkpoints.huggingface import encode_index, shard, shard_names
from weightkit.checkpoints.meta import read_params, shape_from_params
from weightkit.checkpoints.tencentpretrain import CONFIG_NAME, encode_config
from weightkit.containers.layout import one_each
from weightkit.containers.torch_zip_writer import TorchZip, profile_for_version, root_for
from weightkit.dtypes import FLOAT16, FLOAT32, DType
from weightkit.errors import PlanError
from weightkit.events import Notify, ignore
from weightkit.execute import carry_out, check_out, expecting
from weightkit.executors.local import Report
from weightkit.families import llama
from weightkit.families.converters import DEFAULT_CONVERTER, Converter, ModelShape, converter_named
from weightkit.lazy import Derived, LazyTensor, derive
from weightkit.ops.add import Cast
from weightkit.ops.layout import JoinColumns, JoinRows, PairRows, TakeColumns, TakeRows
from weightkit.output import DEFAULT_PROFILE, Form, output_files, small_files
from weightkit.pairing import Rules
from weightkit.plan import OutputFile, Plan, SmallFile
from weightkit.spec import TensorSpec

__all__ = ["Converted", "Order", "Target", "carry", "convert", "index_from_params", "plan", "prepare"]

Target = Literal["hf", "meta", "tencentpretrain"]
Order = Literal["meta", "chinese-llama"]

SHARD_BYTES = 10 * 10**9
"""Limit of a shard where the source has none to follow: that of ``save_pretrained`` in 2023."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did: what was to be written, and what was."""

    plan: Plan
    report: Report

    @property
    def ok(self) -> bool:
        """Whether every digest that was given holds."""
        return not self.report.mismatches


def plan(
    source: Checkpoint,
    to: Target,
    *,
    form: Form | None = None,
    dtype: DType | None = None,
    parts: int | None = None,
    order: Order = "meta",
) -> Plan:
    """Decide all that will be written.

    Args:
        source: A checkpoint in any layout.
        to: The layout wanted.
        form: What the user said about the files.
        dtype: What tensors are cast to; None for as they are.
        parts: For Meta's layout, the number of parts; None for as many as Meta published of this size.
        order: For Meta's layout, the order of the tensors: Meta's own (with rope.freqs), or that of Chinese-LLaMA-Alpaca's
            scripts (without).

    Raises:
        PlanError: The tensors cannot be laid out so.
    """
    form = form or Form()
    rules = Rules(dtype)
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in source.tensors.items():
        wanted = rules.dtype_of(name, tensor.spec)
        tensors[name] = tensor if wanted == tensor.spec.dtype else derive(Cast(wanted), tensor)
    notes: list[str] = []
    try:
        if to == "hf":
            files, small = to_huggingface(source, tensors, form, notes)
        elif to == "meta":
            files, small = to_meta(source, tensors, form, parts, order)
        else:
            files, small = to_tencentpretrain(source, tensors, form)
    except ValueError as error:
        raise PlanError(f"{source.path}: {error}") from error
    steps = (f"{source.layout} to {to}, {len(tensors)} tensors in {len(files)} files",)
    return Plan("convert", steps, files, small, tuple(notes))


def to_huggingface(
    source: Checkpoint, tensors: Mapping[str, LazyTensor], form: Form, notes: list[str]
) -> tuple[tuple[OutputFile, ...], tuple[SmallFile, ...]]:
    """transformers' folder: shards as the source has them, or cut anew by the rule of 2023."""
    if source.layout != "huggingface" and form.max_shard_bytes is None:
        form = replace(form, max_shard_bytes=SHARD_BYTES)
    files = output_files(source, tensors, form, notes)
    small = small_files(source, source, files, tensors, form, patch=source.layout == "huggingface")
    return files, small


def shape_of(source: Checkpoint, tensors: Mapping[str, LazyTensor]) -> ModelShape:
    """The model's numbers: from config.json, from the tensors, and for LLaMA's own widths known.

    Raises:
        ValueError: Nothing says how many heads it has, or tensors of a LLaMA are missing.
    """
    lacking = [row.huggingface for row in llama.TOP_TABLE if row.huggingface not in tensors]
    layers = 1 + max((llama.block_of(name) or 0 for name in tensors if llama.block_of(name) is not None), default=-1)
    for layer in range(max(1, layers)):
        names = (f"model.layers.{layer}.{row.huggingface}" for row in llama.LAYER_TABLE)
        lacking += [name for name in names if name not in tensors]
    if lacking:
        raise ValueError(f"is no LLaMA, or incomplete: it lacks {', '.join(lacking[:3])}")
    config = source.json("config.json")
    tokens, dim = tensors["model.embed_tokens.weight"].spec.shape
    heads = config.get("num_attention_heads") or llama.HEADS.get(dim)
    if type(heads) is not int or dim % heads:
        raise ValueError(f"is {dim} wide, and its config.json does not say how many heads it has (num_attention_heads)")
    kv_heads = tensors["model.layers.0.self_attn.k_proj.weight"].spec.shape[0] // (dim // heads)
    inner = tensors["model.layers.0.mlp.gate_proj.weight"].spec.shape[0]
    eps = config.get("rms_norm_eps", 1e-5 if dim == 8192 else 1e-6)
    return ModelShape(dim, inner, heads, kv_heads, layers, tokens, float(eps))


def unpaired(tensor: LazyTensor, row: llama.Row, shape: ModelShape) -> LazyTensor:
    """A tensor with its rotary pairs as Meta has them; undoes our own reordering rather than reordering twice."""
    if not row.paired:
        return tensor
    if isinstance(tensor, Derived) and tensor.op == PairRows(shape.head_dim, halves=True):
        return tensor.inputs[0]
    return derive(PairRows(shape.head_dim, halves=False), tensor)


def profile_of(source: Checkpoint, form: Form) -> str:
    """Whose torch files are written: as the user says, as the source's are, or as those of 2023."""
    if form.torch_compat is not None:
        return profile_for_version(form.torch_compat)
    first = next(iter(source.files.values())).profile
    return first if first.startswith("zip") and first != "zip-1.6" else DEFAULT_PROFILE


def to_meta(
    source: Checkpoint, tensors: Mapping[str, LazyTensor], form: Form, parts: int | None, order: Order
) -> tuple[tuple[OutputFile, ...], tuple[SmallFile, ...]]:
    """Meta's parts, params.json and tokenizer.model."""
    shape = shape_of(source, tensors)
    count = parts or (len(source.files) if source.layout == "meta" else llama.PARTS.get(shape.dim, 1))
    layers = [
        (row, f"layers.{layer}.{row.meta}", tensors[f"model.layers.{layer}.{row.huggingface}"])
        for layer in range(shape.layers)
        for row in llama.LAYER_TABLE
    ]
    top = [(row, row.meta, tensors[row.huggingface]) for row in llama.TOP_TABLE]
    ordered = [*top, *layers] if order == "meta" else [top[0], *layers, *top[1:]]
    profile = profile_of(source, form)
    files = []
    for part in range(count):
        named = [(name, cut(unpaired(tensor, row, shape), row, part, count)) for row, name, tensor in ordered]
        if order == "meta":
            named.append(("rope.freqs", rope_freqs(tensors, shape)))
        path = f"consolidated.{part:02d}.pth"
        layout = one_each((name, tensor.spec) for name, tensor in named)
        files.append(OutputFile(path, TorchZip(profile, root_for(path, profile)), layout, tuple((one,) for _, one in named)))
    params = source.small("params.json") if source.layout == "meta" else encode_params(shape)
    small = [SmallFile("params.json", params or encode_params(shape))]
    tokenizer = source.small("tokenizer.model")
    if tokenizer is not None:
        small.append(SmallFile("tokenizer.model", tokenizer))
    return tuple(files), tuple(small)


def cut(tensor: LazyTensor, row: llama.Row, part: int, count: int) -> LazyTensor:
    """One part of a tensor; rows of the vocabulary that do not divide go to the last.

    Source: Chinese-LLaMA-Alpaca, ``merge_llama_with_chinese_lora.py``: 49953 rows over 2 parts are 24976 and 24977.
    """
    if row.axis is None or count == 1:
        return tensor
    if isinstance(tensor, Derived) and isinstance(tensor.op, JoinRows | JoinColumns) and len(tensor.inputs) == count:
        return tensor.inputs[part]
    size = tensor.spec.shape[row.axis]
    if size % count and row.huggingface != "lm_head.weight":
        raise ValueError(f"does not divide into {count} parts: {row.huggingface} has {size} along the axis it is cut")
    each = size // count
    start, stop = part * each, size if part == count - 1 else (part + 1) * each
    return derive(TakeRows(start, stop) if row.axis == 0 else TakeColumns(start, stop), tensor)


def rope_freqs(tensors: Mapping[str, LazyTensor], shape: ModelShape) -> LazyTensor:
    """The frequencies as Meta stores them, once, in the dtype of the weights."""
    from weightkit.checkpoints.meta import inv_freq_tensors

    dtype = tensors["model.norm.weight"].spec.dtype
    exact = inv_freq_tensors(shape, converter_named(f"{DEFAULT_CONVERTER}+inv-freq-exact"))
    name = f"model.layers.0.{llama.INV_FREQ}"
    known = tensors.get(name, exact[name])
    return known if known.spec.dtype == dtype else derive(Cast(dtype), known)


def encode_params(shape: ModelShape) -> bytes:
    """params.json as Meta's are: one line, no newline, vocabulary -1 (the tokenizer's)."""
    params: dict[str, int | float] = {"dim": shape.dim, "multiple_of": 256, "n_heads": shape.heads}
    if shape.kv_heads != shape.heads:
        params["n_kv_heads"] = shape.kv_heads
    return json.dumps({**params, "n_layers": shape.layers, "norm_eps": shape.norm_eps, "vocab_size": -1}).encode()


def to_tencentpretrain(
    source: Checkpoint, tensors: Mapping[str, LazyTensor], form: Form
) -> tuple[tuple[OutputFile, ...], tuple[SmallFile, ...]]:
    """One torch file, in the order of TencentPretrain's own script, and its JSON of numbers."""
    shape = shape_of(source, tensors)
    rows = {row.huggingface: row for row in llama.LAYER_TABLE}
    script = ("q_proj", "k_proj", "v_proj", "o_proj", "input_layernorm", "gate_proj", "up_proj", "down_proj", "post_attention")
    layer_rows = [next(row for name, row in rows.items() if part in name) for part in script]
    embedding, norm, head = llama.TOP_TABLE
    named = [(embedding.tencent, tensors[embedding.huggingface])]
    for layer in range(shape.layers):
        for row in layer_rows:
            tensor = tensors[f"model.layers.{layer}.{row.huggingface}"]
            named.append((f"encoder.transformer.{layer}.{row.tencent}", unpaired(tensor, row, shape)))
    named += [(row.tencent, tensors[row.huggingface]) for row in (norm, head)]
    path, profile = "tp.bin", profile_of(source, form)
    encoding = TorchZip(profile, root_for(path, profile), "OrderedDict")
    layout = one_each((name, tensor.spec) for name, tensor in named)
    small = [SmallFile(CONFIG_NAME, encode_config(shape))]
    tokenizer = source.small("tokenizer.model")
    if tokenizer is not None:
        small.append(SmallFile("tokenizer.model", tokenizer))
    return (OutputFile(path, encoding, layout, tuple((one,) for _, one in named)),), tuple(small)


def index_from_params(
    path: Path, converter: Converter, *, dtype: DType = FLOAT16, tokens: int = 32000, max_shard_bytes: int = SHARD_BYTES
) -> tuple[str, bytes]:
    """``pytorch_model.bin.index.json`` of a conversion, from params.json alone: no weights are needed.

    Args:
        path: params.json, or the folder that holds it.
        converter: Whose conversion.
        dtype: Of the weights.
        tokens: Rows of the embedding.
        max_shard_bytes: Limit of a shard.

    Returns:
        The file's name and its bytes.
    """
    file = path / "params.json" if path.is_dir() else path
    shape = shape_from_params(file, read_params(file), tokens, 0)
    named = huggingface_specs(shape, converter, dtype)
    shards = shard(named, max_shard_bytes)
    by_name = dict(named)
    names = shard_names("bin", len(shards))
    listing = {name: [(one, by_name[one]) for one in members] for name, members in zip(names, shards, strict=True)}
    return "pytorch_model.bin.index.json", encode_index(listing)


def huggingface_specs(shape: ModelShape, converter: Converter, dtype: DType) -> list[tuple[str, TensorSpec]]:
    """Names, dtypes and shapes of a converted LLaMA, in the order of its state dict."""
    wide, narrow = shape.dim, shape.kv_heads * shape.head_dim
    square, gate = (wide, wide), (shape.inner, wide)
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": square,
        "self_attn.k_proj.weight": (narrow, wide),
        "self_attn.v_proj.weight": (narrow, wide),
        "self_attn.o_proj.weight": square,
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": gate,
        "mlp.down_proj.weight": gate[::-1],
        "input_layernorm.weight": (wide,),
        "post_attention_layernorm.weight": (wide,),
    }
    found = {"model.embed_tokens.weight": TensorSpec(dtype, (shape.tokens, wide))}
    for layer in range(shape.layers):
        found |= {f"model.layers.{layer}.{name}": TensorSpec(dtype, one) for name, one in shapes.items()}
        if converter.inv_freq != "none":
            stored = FLOAT16 if converter.inv_freq == "float16" else FLOAT32
            found[f"model.layers.{layer}.{llama.INV_FREQ}"] = TensorSpec(stored, (shape.head_dim // 2,))
    found |= {"model.norm.weight": TensorSpec(dtype, (wide,)), "lm_head.weight": TensorSpec(dtype, (shape.tokens, wide))}
    return [(name, found[name]) for name in llama.in_state_dict_order(found)]


def prepare(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to: Target,
    *,
    converter: str = DEFAULT_CONVERTER,
    form: Form | None = None,
    dtype: DType | None = None,
    parts: int | None = None,
    order: Order = "meta",
    checksums: Sequence[str | os.PathLike[str]] = (),
) -> Plan:
    """Open the source and plan; touches nothing. Raises like ``convert``."""
    check_out(Path(dst), [("SRC", Path(src))])
    try:
        chosen = converter_named(converter)
    except ValueError as error:
        raise PlanError(f"--as: {error}") from error
    source = open_checkpoint(Path(src), "SRC", chosen)
    planned = plan(source, to, form=form, dtype=dtype, parts=parts, order=order)
    return expecting(planned, [(Path(path), manifests.read(Path(path))) for path in checksums])


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to: Target,
    *,
    converter: str = DEFAULT_CONVERTER,
    form: Form | None = None,
    dtype: DType | None = None,
    parts: int | None = None,
    order: Order = "meta",
    checksums: Sequence[str | os.PathLike[str]] = (),
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    verify_raw: bool = False,
    notify: Notify = ignore,
) -> Converted:
    """Write a checkpoint in another layout. Bit-exact: values are moved, and cast only if ``dtype`` or the converter says so.

    Args:
        src: A folder in any layout, or a file.
        dst: The folder to write; made if it is not there.
        to: ``hf``, ``meta`` or ``tencentpretrain``.
        converter: Whose conversion to transformers' layout is followed.
        form: What the user says about the files.
        dtype: What tensors are cast to.
        parts: Number of Meta's parts.
        order: Order of the tensors in Meta's parts.
        checksums: Lists of digests that the files must have.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes.
        overwrite: Whether files of the same names may be replaced.
        verify_raw: Whether to check Meta's checklist.chk beside the run; nothing is published before it holds.
        notify: Told what happens.

    Raises:
        PlanError: The source is not understood, or cannot be laid out so.
        FormatError: A file is damaged.
    """
    planned = prepare(src, dst, to, converter=converter, form=form, dtype=dtype, parts=parts, order=order, checksums=checksums)
    return carry(
        planned,
        dst,
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        verify_raw=src if verify_raw else None,
        notify=notify,
    )


def carry(
    planned: Plan,
    dst: str | os.PathLike[str],
    *,
    jobs: int = 1,
    max_memory: int = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    verify_raw: str | os.PathLike[str] | None = None,
    notify: Notify = ignore,
) -> Converted:
    """Carry out what ``prepare`` planned. Arguments, result and errors are those of ``convert``.

    Only ``verify_raw`` is the folder to check here.
    """
    report = carry_out(
        planned,
        Path(dst),
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        verify_raw=Path(verify_raw) if verify_raw else None,
        notify=notify,
    )
    return Converted(planned, report)
