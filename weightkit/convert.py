"""Layouts: transformers' folder, Meta's parts, TencentPretrain's file, each into each, streaming.

import weightkit.convert
weightkit.convert.convert_checkpoint("LLaMA/13B", "llama-13b-hf", to="hf", converter="transformers-4.28.1")
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from weightkit import manifests
from weightkit.blobs import Place, folder_at
from weightkit.checkpoints import open_checkpoint, writer
from weightkit.checkpoints.beside import beside_notes
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.config_text import set_values
from weightkit.checkpoints.form import Form, Order
from weightkit.checkpoints.meta import as_stored
from weightkit.checkpoints.meta_told import is_part
from weightkit.checkpoints.params import read_params, shape_from_params, vocabulary_of
from weightkit.checkpoints.quantized import left_over_notes
from weightkit.checkpoints.shards import SHARD_NBYTES, encode_index, index_name, shard, shard_names
from weightkit.containers.bin import BIN
from weightkit.core.arguments import OneOrMore, as_paths
from weightkit.core.dtypes import FLOAT16, FLOAT32, DType, dtype_named
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.lazy import Derived, walk
from weightkit.core.probes import NotFinite
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.families.converters import DEFAULT_CONVERTER, Converter, ModelShape
from weightkit.methods.base import based, opened_from, refuse_conversion
from weightkit.methods.pairing import Rules
from weightkit.ops.add import Cast
from weightkit.ops.quantize import Quantize
from weightkit.proof.completeness import whole_source
from weightkit.proof.counterparts import Counterpart
from weightkit.proof.expecting import expecting
from weightkit.proof.metas import with_metas
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.carried import carried
from weightkit.run.execute import Done, check_out
from weightkit.run.plan import OutputFile, Plan

__all__ = ["Done", "Form", "Order", "Target", "convert", "convert_checkpoint", "index_from_params", "prepare", "with_metas"]

Target = Literal["hf", "meta", "tencentpretrain", "gguf"]


def index_from_params(
    path: Place, converter: Converter, *, dtype: DType = FLOAT16, tokens: int | None = None, max_shard_bytes: int = SHARD_NBYTES
) -> tuple[str, bytes]:
    """``pytorch_model.bin.index.json`` of a conversion, from params.json alone: no weights are needed.

    Args:
        path: params.json, or the folder that holds it.
        converter: Whose conversion.
        dtype: Of the weights.
        tokens: Rows of the embedding; None for the vocab_size of params.json, or LLaMA's 32000 where that is -1.
        max_shard_bytes: Limit of a shard.

    Returns:
        The file's name and its bytes.
    """
    folder = folder_at(path, "SRC")
    params = read_params(folder)
    shape = shape_from_params(folder.name, params, vocabulary_of(params) if tokens is None else tokens, 0)
    named = huggingface_specs(shape, converter, dtype)
    shards = shard(named, max_shard_bytes)
    by_name = dict(named)
    names = shard_names(BIN, len(shards))
    listing = {name: [(one, by_name[one]) for one in members] for name, members in zip(names, shards, strict=True)}
    return index_name(BIN), encode_index(listing)


def huggingface_specs(shape: ModelShape, converter: Converter, dtype: DType) -> list[tuple[str, TensorSpec]]:
    """Names, dtypes and shapes of a converted LLaMA, in the order of its state dict."""
    shapes = shape.tensor_shapes()
    found = {name: TensorSpec(dtype, shapes[row.huggingface]) for row, name, _, _ in llama.all_rows(shape.layers)}
    if converter.inv_freq != "none":
        stored = TensorSpec(FLOAT16 if converter.inv_freq == "float16" else FLOAT32, (shape.head_dim // 2,))
        found |= {f"model.layers.{layer}.{llama.INV_FREQ}": stored for layer in range(shape.layers)}
    return [(name, found[name]) for name in llama.in_state_dict_order(found)]


def prepare(
    src: Place,
    dst: str | os.PathLike[str],
    to: Target,
    *,
    converter: str = DEFAULT_CONVERTER,
    form: Form | None = None,
    dtype: DType | str | None = None,
    parts: int | None = None,
    order: Order = "meta",
    checksums: OneOrMore = (),
) -> Plan:
    """Open the source and plan; touches nothing. Raises like ``convert``."""
    sources = check_out(Path(dst), [("SRC", src)])
    lists = [(path, manifests.read(path)) for path in as_paths(checksums)]
    model = based(src, "SRC", converter)
    source = whole_source(open_checkpoint(model.source, model.role, model.converter))
    refuse_part(source, model.role)
    cast_to = None if dtype is None else dtype_named(dtype)
    if cast_to is not None or to != "hf":
        refuse_conversion(source, model.role)
    rules, layout = Rules(cast_to), writer(to, form or Form())
    own = source.tensors if to == "hf" and cast_to is None else as_stored(source)
    tensors = {name: rules.cast(name, tensor) for name, tensor in own.items()}
    followed = with_dtype(source, cast_to)
    model = replace(opened_from(model, followed), tensors=tensors, patch=source.layout == "huggingface")
    try:
        made = layout.write(model, replace(form or Form(), parts=parts, order=order))
    except ValueError as error:
        raise PlanError(f"{source.name}: {error}") from error
    steps = (f"{source.layout} to {to}, {len(tensors)} tensors in {len(made.files)} files",)
    notes = (*made.notes, *vocabulary_notes(source, to), *beside_notes(source), *left_over_notes(source))
    files = tuple(file.watched_by(NotFinite()) if casts(file) else file for file in made.files)
    planned = Plan("convert", steps, files, made.small, notes, tensors=made.named, sources=sources, listings=made.listings)
    return expecting(planned, lists, Counterpart(model, replace(form or Form(), parts=parts, order=order)))


def refuse_part(source: Checkpoint, role: str) -> None:
    """Refuse one of Meta's files alone: its names are not transformers', and params.json says what they are.

    Raises:
        PlanError: It is one.
    """
    if source.layout == "huggingface" and source.folder.single and any(map(is_part, source.files.values())):
        raise PlanError(f"{role}: {source.name} holds Meta's tensors, and alone is no model; name its folder, with params.json")


def casts(file: OutputFile) -> bool:
    """Whether a value of it may be too large for the type that it is cast to."""
    return any(isinstance(one, Derived) and isinstance(one.op, Cast | Quantize) for run in file.tensors for one in walk(run))


def with_dtype(source: Checkpoint, dtype: DType | None) -> Checkpoint:
    """The source with the dtype that is cast to in a config.json that its layout implies."""
    config = source.made.get("config.json")
    if dtype is None or config is None:
        return source
    return replace(source, made={**source.made, "config.json": set_values(config, {"torch_dtype": dtype.name})})


def vocabulary_notes(source: Checkpoint, to: Target) -> list[str]:
    """What is said where a converter wrote another size of the vocabulary than the checkpoint has."""
    embedding = source.tensors.get("model.embed_tokens.weight")
    if to != "hf" or embedding is None or "config.json" not in source.made:
        return []
    rows, said = embedding.spec.rows, source.json("config.json").get("vocab_size")
    if rows == said:
        return []
    return [
        f"config.json says vocab_size {said}, as this converter wrote it whatever the checkpoint held, but the embedding has "
        f"{rows} rows: transformers won't load them together; add +vocabulary-found to --as for vocab_size {rows}"
    ]


def convert_checkpoint(
    src: Place,
    dst: str | os.PathLike[str],
    to: Target,
    *,
    converter: str = DEFAULT_CONVERTER,
    form: Form | None = None,
    dtype: DType | str | None = None,
    parts: int | None = None,
    order: Order = "meta",
    checksums: OneOrMore = (),
    jobs: int = 1,
    max_memory: int | str = DEFAULT_MAX_MEMORY,
    overwrite: bool = False,
    keep_mismatched: bool = False,
    verify_raw: bool = False,
    progress: bool = False,
    raise_on_mismatch: bool = False,
    notify: Notify = ignore,
) -> Done:
    """Write a checkpoint in another layout. Bit-exact: values are moved, and cast only if ``dtype`` or the converter says so.

    The converter does where ``to`` is ``hf``: of Meta's parts in another dtype it made float16.

    >>> done = weightkit.convert_checkpoint("base", "meta", "meta")
    >>> [file.path for file in done.plan.files]
    ['consolidated.00.pth']

    Args:
        src: A folder in any layout, or a file.
        dst: The folder to write; made if it is not there.
        to: ``hf``, ``meta``, ``tencentpretrain`` or ``gguf``.
        converter: Whose conversion to transformers' layout is followed.
        form: What the user says about the files.
        dtype: What tensors are cast to.
        parts: Number of Meta's parts.
        order: Order of the tensors in Meta's parts.
        checksums: Lists of digests that the files must have.
        jobs: Files at a time.
        max_memory: Resident memory allowed, in bytes or as ``"1GiB"``.
        overwrite: Whether files of the same names may be replaced.
        keep_mismatched: Whether a file with another digest than wanted is kept as ``NAME.mismatch``, to be examined.
        verify_raw: Whether to check Meta's checklist.chk beside the run; nothing is published before it holds.
        progress: Whether a bar is drawn, in a terminal or a notebook.
        raise_on_mismatch: Whether a digest that does not hold is raised, the others as its notes, and not only reported.
        notify: Told what happens.

    Raises:
        DigestMismatch: A digest does not hold, and ``raise_on_mismatch`` was said.
        PlanError: The source is not understood, or cannot be laid out so.
        FormatError: A file is damaged.
    """
    planned = prepare(src, dst, to, converter=converter, form=form, dtype=dtype, parts=parts, order=order, checksums=checksums)
    done = carried(
        planned,
        dst,
        "converting",
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        keep_mismatched=keep_mismatched,
        verify_raw=src if verify_raw else None,
        progress=progress,
        raise_on_mismatch=raise_on_mismatch,
        notify=notify,
    )
    return with_metas(done)


convert = convert_checkpoint
