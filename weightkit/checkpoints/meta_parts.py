"""From tensors under transformers' names to Meta's parts: renamed, rotary pairs put back, cut along one axis of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from weightkit.blobs import MemoryBlob
from weightkit.checkpoints.checkpoint import CONFIGS, Checkpoint
from weightkit.checkpoints.flavour import values
from weightkit.checkpoints.form import Form, Order
from weightkit.checkpoints.meta_layout import FREQS, PartForm, encoding_of, form_for, laid_out, part_name
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.original import dropped_buffers, torch_encoding, unpaired
from weightkit.checkpoints.params import PARAMS, encode_params
from weightkit.containers.layout import one_each
from weightkit.core.dtypes import FLOAT16, FLOAT32
from weightkit.core.lazy import Derived, LazyTensor, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.families.converters import ModelShape
from weightkit.ops.add import Cast
from weightkit.ops.move import JoinColumns, JoinRows, TakeColumns, TakeRows
from weightkit.run.plan import OutputFile, SmallFile

__all__ = ["MD5", "UNSETTLED", "part_files", "small_parts"]

MD5 = "md5"

UNSETTLED = "which GPU Meta's parts of this size name is not known but of 13B's first"


def part_files(
    source: Checkpoint, tensors: Mapping[str, LazyTensor], shape: ModelShape, form: Form
) -> tuple[tuple[OutputFile, ...], tuple[str, ...]]:
    """The parts, and what the user should know of them.

    Args:
        source: Whose number of parts is followed, if it is in Meta's layout; for another order than Meta's, its torch, too.
        tensors: What is written.
        shape: The model's numbers.
        form: What the user said.

    Raises:
        ValueError: A tensor cannot be cut into so many, or the order is one of parts with shared storages, and these are not.
    """
    order = form.order or "meta"
    count = form.parts or (len(source.files) if source.layout == "meta" else llama.PARTS.get(shape.dim, 1))
    rows = {huggingface: (row, meta) for row, huggingface, meta, _ in llama.all_rows(shape.layers)}
    ordered = [(*rows[name], tensors[name]) for name in in_order(source, rows, order)]
    metas = form_for(shape, count, {one.spec.dtype for _, _, one in ordered}) if order.startswith("meta") else None
    if metas is not None and order != "meta" and not metas.shared:
        raise ValueError(f"--order {order} is for parts of 13B and 30B, which name a GPU; say --order meta")
    freqs = None if shape.rope_scaled or metas is None else rope_freqs(tensors, shape, metas)
    files = []
    for number in range(count):
        path = part_name(number)
        named = {name: cut(unpaired(tensor, row, shape), row, number, count) for row, name, tensor in ordered}
        if metas is None:
            layout, encoding = one_each((name, one.spec) for name, one in named.items()), torch_encoding(path, source, form)
            files.append(OutputFile(path, encoding, layout, tuple((one,) for one in named.values())))
        else:
            layout, filled = laid_out(metas, named, freqs)
            files.append(OutputFile(path, encoding_of(metas, number, order, form.torch_compat), layout, filled, also=(MD5,)))
    if metas is None:
        return tuple(files), dropped_buffers(source, tensors)
    return tuple(files), (*unsettled(metas), *other_frequencies(source, shape))


def unsettled(form: PartForm) -> tuple[str, ...]:
    """A note where it is not settled how Meta's files are."""
    if not form.shared:
        return ()
    return (f"{UNSETTLED} (--order names two ways): not proved to be Meta's files unless their published digests hold",)


def other_frequencies(source: Checkpoint, shape: ModelShape) -> tuple[str, ...]:
    """A note where the source holds other frequencies than those that are written, which follow from the numbers."""
    if shape.rope_scaled:
        return ()
    wanted = llama.inv_freq(shape.head_dim // 2, shape.rope_theta).astype(np.float16).tobytes()
    others = []
    for container in source.files.values():
        for name, tensor in container.tensors.items():
            if llama.is_inv_freq(name) or name.endswith(FREQS):
                found = values(tensor)
                if found is None or found.astype(np.float16).tobytes() != wanted:
                    others.append(name)
    if not others:
        return ()
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (f"{others[0]}{more}: has other bits than Meta's frequencies; theirs are computed, and written",)


def small_parts(model: Model, source: Checkpoint, shape: ModelShape, *, metas: bool) -> tuple[SmallFile, ...]:
    """params.json and tokenizer.model; all tokenizer files of a folder that is not the source itself."""
    params = source.small(PARAMS) if source.layout == "meta" else None
    small = [SmallFile(PARAMS, params or encode_params(shape), also=(MD5,) if metas else ())]
    tokenizers = model.tokenizers or source
    for name in ["tokenizer.model"] if tokenizers is source else tokenizers.small_files():
        content = tokenizers.small(name)
        if content is not None and name not in CONFIGS:
            small.append(SmallFile(name, content))
    return tuple(small)


def in_order(source: Checkpoint, names: Iterable[str], order: Order) -> list[str]:
    """transformers' names, which stand in Meta's order, in the order asked for."""
    if order.startswith("meta"):
        return list(names)
    ordered = llama.in_state_dict_order(names)
    if order == "chinese-llama-low-memory" and source.layout == "huggingface":
        shards = {f"L{number}-": file for number, file in enumerate(source.files.values(), 1)}
        place = {name: at for at, name in enumerate(one for label in sorted(shards) for one in shards[label].tensors)}
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


def rope_freqs(tensors: Mapping[str, LazyTensor], shape: ModelShape, form: PartForm) -> LazyTensor:
    """The frequencies as Meta stores them: computed, since copies rounded theirs in many ways. Bit-exact: see ``inv_freq``."""
    dtype = FLOAT32 if form.shared else tensors["model.norm.weight"].spec.dtype
    values = llama.inv_freq(shape.head_dim // 2, shape.rope_theta)
    kept = FLOAT16 if dtype == FLOAT16 else FLOAT32  # without torch where that can be
    content = values.astype(np.float16).tobytes() if dtype == FLOAT16 else values.tobytes()
    computed = Stored(MemoryBlob(content), FREQS, TensorSpec(kept, values.shape), 0)
    return computed if dtype == kept else derive(Cast(dtype), computed)
