"""What LoRA adapters make of a model's tensors, one after another. Used by ``merge`` and by ``recover --lora``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from weightkit.checkpoints import vocabulary
from weightkit.checkpoints.flavour import values
from weightkit.checkpoints.huggingface import Checkpoint
from weightkit.checkpoints.peft import Adapter, Factors, in_base
from weightkit.checkpoints.vocabulary import Vocabulary
from weightkit.containers.memory import InMemory
from weightkit.core.dtypes import FLOAT32, DType
from weightkit.core.errors import PlanError
from weightkit.core.lazy import Derived, LazyTensor, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.methods.pairing import Rules
from weightkit.ops.add import Cast
from weightkit.ops.lora import DEFAULT_ROUNDING, MergeLora, Rounding, Sums, Transpose, rounding_named
from weightkit.ops.move import JoinColumns, JoinRows, TakeColumns, TakeRows
from weightkit.run.plan import OutputFile, Plan

__all__ = ["Arithmetic", "Merged", "apply_adapters", "how_summed", "merged_already"]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How adapters are added.

    Attributes:
        rounding: A name in ``ops.lora.ROUNDINGS``.
        sums: Order of the sums of the product.
    """

    rounding: str = DEFAULT_ROUNDING
    sums: Sums = "fma"

    def __str__(self) -> str:
        return f"rounding {self.rounding}, sums {self.sums}"


@dataclass(slots=True)
class Merged:
    """A model's tensors after some adapters.

    Attributes:
        tensors: Name -> the tensor, in the order of the model's.
        steps: What each adapter does, one line each.
        notes: What the user should know.
        tokenizer: Whose tokenizer goes along: the last adapter's that has one; None for the model's own.
        pad_token: Number of that tokenizer's token that pads, if it names one.
    """

    tensors: dict[str, LazyTensor]
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tokenizer: Checkpoint | None = None
    pad_token: int | None = None


def apply_adapters(
    tensors: Mapping[str, LazyTensor], adapters: Sequence[Adapter], how: Arithmetic, *, dtype: DType | None = None
) -> Merged:
    """Add adapters to a model's tensors, in the order given.

    A tensor that an adapter holds whole takes the place of the model's, cast to its dtype, before anything is added to it.

    Args:
        tensors: The model's, under its own names.
        adapters: In the order in which they are to be merged.
        how: Roundings and order of sums.
        dtype: What the model's floats are cast to first; None for as they are. ``inv_freq`` is never narrowed.

    Raises:
        PlanError: An adapter does not fit the model, or comes in the wrong place; every misfit is in it.
        ValueError: The rounding is not known.
    """
    rounding = rounding_named(how.rounding)
    rules = Rules(dtype)
    merged = Merged({name: rules.cast(name, tensor) for name, tensor in tensors.items()})
    steps = {name: tensor.spec.dtype for name, tensor in merged.tensors.items()}
    for number, adapter in enumerate(adapters):
        refuse(adapter, of_another_size(merged.tensors, adapter))
        known = vocabulary.read(adapter.folder)
        refuse(adapter, misplaced(merged.tensors, adapter, known, adapters[number + 1 :]))
        refuse(adapter, apply_one(merged, adapter, rounding, how.sums, steps))
        merged.notes += adapter.notes
        if known is not None:
            merged.tokenizer, merged.pad_token = adapter.folder, known.pad_number
    for name, tensor in merged.tensors.items():
        if tensor.spec.dtype == steps[name]:
            continue
        if isinstance(tensor, Derived) and isinstance(tensor.op, MergeLora):  # its sum is rounded at once
            merged.tensors[name] = derive(replace(tensor.op, dtype=steps[name]), *tensor.inputs)
        else:
            merged.tensors[name] = derive(Cast(steps[name]), tensor)
    return merged


def refuse(adapter: Adapter, problems: Sequence[str]) -> None:
    """Refuse an adapter that has problems.

    Raises:
        PlanError: It has.
    """
    if problems:
        raise PlanError(f"{adapter.path} does not fit:", problems)


def apply_one(merged: Merged, adapter: Adapter, rounding: Rounding, sums: Sums, steps: Mapping[str, DType]) -> list[str]:
    """Apply one adapter; what does not fit."""
    tensors, problems = merged.tensors, []
    for own, tensor in adapter.whole.items():
        name = in_base(own, tensors)
        if name is None:
            problems.append(f"{own}: matches nothing in the base")
        elif tensor.spec.shape[1:] != tensors[name].spec.shape[1:] or not fits_rows(name, tensors[name], tensor):
            problems.append(f"{name}: {list(tensor.spec.shape)} cannot replace the base's {list(tensors[name].spec.shape)}")
        else:
            tensors[name] = tensor if tensor.spec.dtype == steps[name] else derive(Cast(steps[name]), tensor)
    modules: list[str] = []
    scales: set[tuple[int, float]] = set()
    for module, factors in adapter.factors.items():
        name = in_base(f"{module}.weight", tensors)
        if name is None:
            problems.append(f"{module}: matches nothing in the base")
            continue
        dtype = FLOAT32 if rounding.once else steps[name]
        try:
            tensors[name] = merge_one(tensors[name], factors, adapter.config.enabled, rounding, sums, steps[name], dtype)
        except ValueError as error:
            problems.append(f"{name}: {error}")
        modules.append(module.rpartition(".")[2])
        scales.add((factors.rank, factors.scale))
    merged.steps.append(described(adapter, modules, scales))
    return problems


def fits_rows(name: str, base: LazyTensor, tensor: LazyTensor) -> bool:
    """Whether a whole tensor has as many rows as the base's, or for a vocabulary more."""
    have, new = base.spec.shape[:1], tensor.spec.shape[:1]
    return have == new or (llama.is_vocabulary(name) and new >= have)


def merge_one(
    weight: LazyTensor,
    factors: Factors,
    enabled: Sequence[bool],
    rounding: Rounding,
    sums: Sums,
    step: DType,
    dtype: DType,
) -> LazyTensor:
    """One weight with one LoRA.

    Raises:
        ValueError: They do not fit.
    """
    if len(weight.spec.shape) != 2:
        raise ValueError(f"the base has {list(weight.spec.shape)}, which is no matrix")

    resolved = rounding.of(step, embedding=factors.embedding)

    def merge(part: LazyTensor, down: LazyTensor, up: LazyTensor) -> LazyTensor:
        if factors.transposed:
            down, up = (derive(Transpose(one.spec.shape[0]), one) for one in (up, down))
        rows, width = part.spec.shape
        op = MergeLora((rows, width), down.spec.shape[0], factors.scale, resolved, step, dtype, sums)
        return derive(op, part, down, up)

    if not enabled:
        return merge(weight, factors.down, factors.up)
    axis = 1 if factors.transposed else 0
    size, left = divmod(weight.spec.shape[axis], len(enabled))
    if left or factors.up.spec.shape[0] != size * sum(enabled):
        raise ValueError(
            f"enable_lora cuts {list(weight.spec.shape)} into {len(enabled)}, and lora_B has {factors.up.spec.shape[0]} rows"
        )
    take, join = (TakeColumns, JoinColumns()) if axis else (TakeRows, JoinRows((size,) * len(enabled)))
    parts = []
    done = 0
    for number, on in enumerate(enabled):
        part = derive(take(number * size, (number + 1) * size), weight)
        if on:
            down: LazyTensor = derive(TakeRows(done * factors.rank, (done + 1) * factors.rank), factors.down)
            up: LazyTensor = derive(TakeRows(done * size, (done + 1) * size), factors.up)
            done += 1
        else:  # PEFT adds zeros there, which turns -0 into 0
            down, up = zeros((factors.rank, factors.down.spec.shape[1])), zeros((size, factors.rank))
        parts.append(merge(part, down, up))
    return derive(join, *parts)


def zeros(shape: tuple[int, int]) -> Stored:
    """A small matrix of zeros."""
    spec = TensorSpec(FLOAT32, shape)
    return Stored(InMemory(Path("(zeros)"), {"zeros": spec}, {"zeros": bytes(spec.nbytes)}), "zeros")


def described(adapter: Adapter, modules: Sequence[str], scales: set[tuple[int, float]]) -> str:
    """What an adapter does, in a line."""
    kinds = ", ".join(dict.fromkeys(modules))
    numbers = "; ".join(f"rank {rank}, scale {scale:g}" for rank, scale in sorted(scales))
    rows = {tensor.spec.shape[0] for name, tensor in adapter.whole.items() if llama.is_vocabulary(name)}
    whole = f"{len(adapter.whole)} tensors whole" + (f" ({max(rows)} tokens)" if rows else "")
    lora = f"{len(modules)} weights ({kinds}), {numbers}" if modules else "no LoRA"
    return f"{adapter.path}: {lora}" + (f"; {whole}" if adapter.whole else "")


def of_another_size(tensors: Mapping[str, LazyTensor], adapter: Adapter) -> list[str]:
    """Why an adapter belongs to a model of another width."""
    width, wanted = width_of(tensors), adapter_width(adapter)
    if width and wanted and width != wanted:
        return [
            f"it was trained on a model {named_width(wanted)}, and the base is {named_width(width)}: adapters of one size do "
            "not fit another; take the adapter made for this base"
        ]
    return []


def misplaced(
    tensors: Mapping[str, LazyTensor], adapter: Adapter, known: Vocabulary | None, later: Sequence[Adapter]
) -> list[str]:
    """Why an adapter, with the tokenizer that it brings, belongs elsewhere in the order."""
    rows = rows_of(tensors)
    own = adapter_rows(adapter)
    tokens = known.size if known else None
    if own and rows and own < rows:
        return [
            f"it has {own} tokens, the model before it {rows}: adapters grow a vocabulary; the order is another, or the base"
        ]
    have = own or rows
    if tokens and have and tokens > have:
        for other in later:
            if (there := adapter_rows(other)) and there == tokens:
                return [f"its tokenizer has {tokens} tokens, as {other.path} has, which comes after it: name that one first"]
        return [
            f"its tokenizer has {tokens} tokens, and there are rows for {have}: "
            + (
                "the tokenizer is another release's; fetch the adapter's own"
                if own
                else "name the adapter that adds them first"
            )
        ]
    if tokens and own and tokens < own and (own % 8 or own - tokens >= 64):
        return [f"its tokenizer has {tokens} tokens, its embedding {own}: the tokenizer is another release's; fetch its own"]
    return []


def width_of(tensors: Mapping[str, LazyTensor]) -> int | None:
    """Width of a model, told from its vocabulary tensors."""
    shapes = (tensor.spec.shape for name, tensor in tensors.items() if llama.is_vocabulary(name))
    return next((shape[1] for shape in shapes if len(shape) == 2), None)


def adapter_width(adapter: Adapter) -> int | None:
    """Width of the model that an adapter was trained on, where its q_proj or embeddings tell it."""
    for name, tensor in adapter.whole.items():
        if llama.is_vocabulary(name) and len(tensor.spec.shape) == 2:
            return tensor.spec.shape[1]
    for module, factors in adapter.factors.items():
        if module.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            return factors.down.spec.shape[1]
    return None


def named_width(width: int) -> str:
    """A model's width, with the LLaMA it belongs to."""
    return f"{width} wide" + (f" ({llama.SIZES[width]})" if width in llama.SIZES else "")


def rows_of(tensors: Mapping[str, LazyTensor]) -> int | None:
    """Tokens that a model has rows for."""
    return max((tensor.spec.shape[0] for name, tensor in tensors.items() if llama.is_vocabulary(name)), default=None)


def adapter_rows(adapter: Adapter) -> int | None:
    """Tokens that an adapter has whole rows for; None where it has none."""
    return rows_of(adapter.whole)


def merged_already(tensors: Mapping[str, LazyTensor], adapters: Sequence[Adapter]) -> str:
    """Why a base looks as if one of the adapters were merged into it already; empty where it does not."""
    for adapter in adapters:
        for own, tensor in adapter.whole.items():
            name = in_base(own, tensors)
            if name is None or tensors[name].spec.shape != tensor.spec.shape:
                continue
            here, there = values(tensors[name], 4096), values(tensor, 4096)
            if here is not None and there is not None and here.any() and bool((here == there).all()):
                return f"its {name} is that of {adapter.path}"
    return ""


def how_summed(plan: Plan) -> str:
    """How the products of a plan were computed on this machine, and what that cost; empty where there were none.

    To be asked after the run, which has tried the ways by then.
    """
    from weightkit.core.compute import one_thread
    from weightkit.ops.product import method_for

    found: dict[tuple[Sums, int, int], None] = {}

    def visit(tensor: LazyTensor) -> None:
        if isinstance(tensor, Derived):
            if isinstance(tensor.op, MergeLora):
                found[tensor.op.sums, tensor.op.rank, tensor.op.shape[1]] = None
            for one in tensor.inputs:
                visit(one)

    for file in plan.files:
        for run in file.tensors if isinstance(file, OutputFile) else ():
            for tensor in run:
                visit(tensor)
    times: dict[tuple[Sums, str], float] = {}
    with one_thread():
        for sums, rank, width in found:
            method = method_for(sums, rank, width)
            times[sums, method.name] = max(times.get((sums, method.name), 0.0), method.times)
    return "; ".join(f"sums {sums}: {said(sums, name, cost)}" for (sums, name), cost in times.items())


def said(sums: Sums, method: str, times: float) -> str:
    """What a method is, for people."""
    if sums == "blas":
        return "as this machine's BLAS takes them; other machines may give other bits"
    if method == "blas":
        return "by the installed BLAS in blocks of 64 rows, whose bits were checked on these shapes"
    way = "torch, term by term" if method == "addcmul" else "portable arithmetic"
    return f"{way}, up to {times:.0f} times as long as this machine's BLAS, which has another order"
