"""From tensors under transformers' names to Meta's parts: renamed, rotary pairs put back, cut along one axis of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from weightkit.checkpoints.checkpoint import CONFIGS, Checkpoint
from weightkit.checkpoints.form import Form, Order
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.original import inv_freq_tensors, torch_encoding, unpaired
from weightkit.checkpoints.params import PARAMS, encode_params
from weightkit.containers.layout import one_each
from weightkit.core.lazy import Derived, LazyTensor, derive
from weightkit.families import llama
from weightkit.families.converters import DEFAULT_CONVERTER, ModelShape, converter_named
from weightkit.ops.add import Cast
from weightkit.ops.move import JoinColumns, JoinRows, TakeColumns, TakeRows
from weightkit.run.plan import OutputFile, SmallFile

__all__ = ["part_files", "part_name", "small_parts"]


def part_name(number: int) -> str:
    """What a part is called."""
    return f"consolidated.{number:02d}.pth"


def part_files(source: Checkpoint, tensors: Mapping[str, LazyTensor], shape: ModelShape, form: Form) -> tuple[OutputFile, ...]:
    """The parts.

    Args:
        source: Whose torch files are followed, and whose number of parts, if it is in Meta's layout.
        tensors: What is written.
        shape: The model's numbers.
        form: What the user said.

    Raises:
        ValueError: A tensor cannot be cut into so many.
    """
    order = form.order or "meta"
    count = form.parts or (len(source.files) if source.layout == "meta" else llama.PARTS.get(shape.dim, 1))
    rows = {huggingface: (row, meta) for row, huggingface, meta, _ in llama.all_rows(shape.layers)}
    ordered = [(*rows[name], tensors[name]) for name in in_order(source, rows, order)]
    files = []
    for part in range(count):
        named = [(name, cut(unpaired(tensor, row, shape), row, part, count)) for row, name, tensor in ordered]
        if order == "meta" and not shape.rope_scaled:
            named.append(("rope.freqs", rope_freqs(tensors, shape)))
        path = part_name(part)
        layout = one_each((name, tensor.spec) for name, tensor in named)
        files.append(OutputFile(path, torch_encoding(path, source, form), layout, tuple((one,) for _, one in named)))
    return tuple(files)


def small_parts(model: Model, source: Checkpoint, shape: ModelShape) -> tuple[SmallFile, ...]:
    """params.json and tokenizer.model; all tokenizer files of a folder that is not the source itself."""
    params = source.small(PARAMS) if source.layout == "meta" else None
    small = [SmallFile(PARAMS, params or encode_params(shape))]
    tokenizers = model.tokenizers or source
    for name in ["tokenizer.model"] if tokenizers is source else tokenizers.small_files():
        content = tokenizers.small(name)
        if content is not None and name not in CONFIGS:
            small.append(SmallFile(name, content))
    return tuple(small)


def in_order(source: Checkpoint, names: Iterable[str], order: Order) -> list[str]:
    """transformers' names, which stand in Meta's order, in the order asked for."""
    if order == "meta":
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


def rope_freqs(tensors: Mapping[str, LazyTensor], shape: ModelShape) -> LazyTensor:
    """The frequencies as Meta stores them, once, in the dtype of the weights."""
    dtype = tensors["model.norm.weight"].spec.dtype
    exact = inv_freq_tensors(shape, converter_named(f"{DEFAULT_CONVERTER}+inv-freq-exact"))
    name = f"model.layers.0.{llama.INV_FREQ}"
    known = tensors.get(name, exact[name]) if shape.rope_theta == 10000.0 else exact[name]
    return known if known.spec.dtype == dtype else derive(Cast(dtype), known)
