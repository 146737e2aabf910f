"""From tensors under transformers' names to the files of transformers', Meta's and TencentPretrain's layout.

The latter two have the rotary pairs next to each other; Meta cuts a model into parts along one axis of each tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from weightkit.checkpoints import Checkpoint
from weightkit.checkpoints.meta import inv_freq_tensors
from weightkit.checkpoints.output import CONFIGS, DEFAULT_PROFILE, Form, output_files, small_files
from weightkit.checkpoints.tencentpretrain import CONFIG_NAME, encode_config
from weightkit.containers.layout import one_each
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, profile_for_version, root_for
from weightkit.core.lazy import Derived, LazyTensor, derive
from weightkit.families import llama
from weightkit.families.converters import DEFAULT_CONVERTER, ModelShape, converter_named
from weightkit.ops.add import Cast
from weightkit.ops.move import JoinColumns, JoinRows, PairRows, TakeColumns, TakeRows
from weightkit.run.plan import OutputFile, SmallFile

__all__ = ["SHARD_BYTES", "Order", "encode_params", "to_huggingface", "to_meta", "to_tencentpretrain"]

SHARD_BYTES = 10 * 10**9
"""Limit of a shard where the source has none to follow: that of ``save_pretrained`` in 2023."""

Order = Literal["meta", "chinese-llama", "chinese-llama-low-memory"]
"""Order of the tensors in Meta's parts: Meta's own (with rope.freqs), or that of Chinese-LLaMA-Alpaca's scripts (without).
Their low-memory script puts the tensors of the base's shards together in the order of the text of their numbers (1, 10, 11,
2): the same unless there are ten shards or more. Source: peers-measured, "Bytes of the files"."""


def to_huggingface(
    source: Checkpoint,
    tensors: Mapping[str, LazyTensor],
    form: Form,
    notes: list[str],
    *,
    patch: bool,
    tokenizers: Checkpoint | None = None,
    pad_token: int | None = None,
) -> tuple[tuple[OutputFile, ...], tuple[SmallFile, ...]]:
    """transformers' folder: shards as the source has them, or cut anew by the rule of 2023.

    Args:
        source: Whose files and configs are followed.
        tensors: What is written.
        form: What the user said.
        notes: Takes what was decided.
        patch: Whether config.json follows the tensors.
        tokenizers: Whose tokenizer files go along; None for the source's.
        pad_token: What config.json's pad_token_id becomes.
    """
    if source.layout != "huggingface" and form.max_shard_bytes is None:
        form = replace(form, max_shard_bytes=SHARD_BYTES)
    files = output_files(source, tensors, form, notes)
    small = small_files(source, source, tokenizers or source, files, tensors, form, patch=patch, pad_token=pad_token)
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
    return first if first in PROFILES else DEFAULT_PROFILE


def to_meta(
    source: Checkpoint,
    tensors: Mapping[str, LazyTensor],
    form: Form,
    parts: int | None,
    order: Order,
    *,
    tokenizers: Checkpoint | None = None,
) -> tuple[tuple[OutputFile, ...], tuple[SmallFile, ...]]:
    """Meta's parts, params.json and tokenizer.model; with ``tokenizers``, all tokenizer files of that folder."""
    shape = shape_of(source, tensors)
    count = parts or (len(source.files) if source.layout == "meta" else llama.PARTS.get(shape.dim, 1))
    rows = {huggingface: (row, meta) for row, huggingface, meta, _ in llama.all_rows(shape.layers)}
    ordered = [(*rows[name], tensors[name]) for name in in_order(source, rows, order)]
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
    wanted = ["tokenizer.model"] if tokenizers is None else tokenizers.small_files()
    for name in wanted:
        content = (tokenizers or source).small(name)
        if content is not None and name not in CONFIGS:
            small.append(SmallFile(name, content))
    return tuple(files), tuple(small)


def in_order(source: Checkpoint, names: Iterable[str], order: Order) -> list[str]:
    """transformers' names, which stand in Meta's order, in the order asked for."""
    if order == "meta":
        return list(names)
    ordered = llama.in_state_dict_order(names)
    if order == "chinese-llama-low-memory" and source.layout == "huggingface":
        shards = {f"L{number}-": file for number, file in enumerate(source.files.values(), 1)}
        place = {name: at for at, name in enumerate(one for label in sorted(shards) for one in shards[label].specs)}
        ordered.sort(key=lambda name: place[name])
    return ordered


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
