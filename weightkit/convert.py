"""Layouts: transformers' folder, Meta's parts, TencentPretrain's file, each into each, streaming.

import weightkit.convert
weightkit.convert.convert("LLaMA/13B", "llama-13b-hf", to="hf", converter="transformers-4.28.1")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from weightkit import manifests
from weightkit.checkpoints import Checkpoint, converter_for, open_checkpoint
from weightkit.checkpoints.huggingface import encode_index, shard, shard_names
from weightkit.checkpoints.layouts import SHARD_BYTES, Order, to_huggingface, to_meta, to_tencentpretrain
from weightkit.checkpoints.meta import read_params, shape_from_params
from weightkit.checkpoints.output import Form
from weightkit.core.dtypes import FLOAT16, FLOAT32, DType
from weightkit.core.errors import PlanError
from weightkit.core.events import Notify, ignore
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.families.converters import DEFAULT_CONVERTER, Converter, ModelShape
from weightkit.methods.pairing import Rules
from weightkit.run.budget import DEFAULT_MAX_MEMORY
from weightkit.run.execute import Done, carry_out, check_out, expecting
from weightkit.run.plan import Plan

__all__ = ["Done", "Order", "Target", "convert", "index_from_params", "plan", "prepare"]

Target = Literal["hf", "meta", "tencentpretrain"]


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
        order: For Meta's layout, the order of the tensors; see ``layouts.Order``.

    Raises:
        PlanError: The tensors cannot be laid out so.
    """
    form = form or Form()
    rules = Rules(dtype)
    tensors = {name: rules.cast(name, tensor) for name, tensor in source.tensors.items()}
    notes: list[str] = []
    try:
        if to == "hf":
            files, small = to_huggingface(source, tensors, form, notes, patch=source.layout == "huggingface")
        elif to == "meta":
            files, small = to_meta(source, tensors, form, parts, order)
        else:
            files, small = to_tencentpretrain(source, tensors, form)
    except ValueError as error:
        raise PlanError(f"{source.path}: {error}") from error
    steps = (f"{source.layout} to {to}, {len(tensors)} tensors in {len(files)} files",)
    return Plan("convert", steps, files, small, tuple(notes), tensors=to == "hf")


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
    shapes = shape.tensor_shapes()
    found = {name: TensorSpec(dtype, shapes[row.huggingface]) for row, name, _, _ in llama.all_rows(shape.layers)}
    if converter.inv_freq != "none":
        stored = TensorSpec(FLOAT16 if converter.inv_freq == "float16" else FLOAT32, (shape.head_dim // 2,))
        found |= {f"model.layers.{layer}.{llama.INV_FREQ}": stored for layer in range(shape.layers)}
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
    source = open_checkpoint(Path(src), "SRC", converter_for(converter))
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
) -> Done:
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
    return carry_out(
        planned,
        Path(dst),
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        verify_raw=Path(src) if verify_raw else None,
        notify=notify,
    )
