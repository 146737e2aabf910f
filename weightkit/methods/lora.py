"""LoRA adapters merged into a model's tensors: by ``merge``, and by ``recover --lora`` into what a difference gave.

Each adapter is a payload of its own: several are merged one after another. A tensor that an adapter holds whole takes the
place of the model's, cast to its dtype, before anything is added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from weightkit.blobs import known
from weightkit.checkpoints import vocabulary
from weightkit.checkpoints.beside import beside_notes
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter, Factors, is_adapter, open_adapter
from weightkit.core.blob import Folder
from weightkit.core.dtypes import FLOAT32, DType
from weightkit.core.errors import PlanError
from weightkit.core.lazy import Derived, LazyTensor, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.methods import Evidence
from weightkit.methods.adapters import adapter_notes, lacking_whole, not_targeted, refuse_twice, uneven_rows
from weightkit.methods.base import bfloat16_notes, check_adapter, opened, refuse_quantized
from weightkit.methods.pairing import Rules
from weightkit.methods.placing import misplaced, of_another_size
from weightkit.methods.tuned import check_base
from weightkit.methods.tying import NO_TIE, Tie, tie_of, untied, unties
from weightkit.ops.add import Cast
from weightkit.ops.lora import DEFAULT_ROUNDING, MergeLora, Rounding, rounding_named
from weightkit.ops.move import JoinColumns, JoinRows, TakeColumns, TakeRows, Transpose
from weightkit.ops.product import Sums
from weightkit.run.plan import Plan

__all__ = ["METHOD", "Arithmetic", "Lora", "Options", "merged"]


ONE_WEIGHT = "they are tied, one weight, so both are added to it, as PEFT does; that is not quite what was trained"


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


@dataclass(frozen=True, slots=True)
class Options(Arithmetic):
    """What may be said of an adapter.

    Attributes:
        dtype: What the model's floats are cast to first; None for as they are.
        allow_tuned_base: Whether a base that looks merged already, or like a diff, may be used.
        adapters: All adapters of the run, in their order: where one is in the wrong place, another may be in its.
    """

    dtype: DType | None = None
    allow_tuned_base: bool = False
    adapters: tuple[Folder, ...] = ()


@dataclass(frozen=True, slots=True)
class Lora:
    """The method."""

    name: str = "lora"
    role: str = "--lora"
    settles: bool = False
    options: type[Options] = Options

    def recognise(self, payload: Folder) -> Evidence | None:
        """An adapter is called so by its config."""
        if not is_adapter(payload):
            return None
        return Evidence("a LoRA adapter", "it has an adapter_config.json", tell=lambda: [about(payload)])

    def rebuild(self, base: Model, payload: Folder, options: Options) -> Model:
        """The model with one adapter merged."""
        first = not base.steps
        base = opened(base)
        if first and base.follows:
            refuse_quantized(base.follows, base.role)
        after = [open_adapter(one, self.role) for one in options.adapters[options.adapters.index(payload) + 1 :]]
        adapter = open_adapter(payload, self.role)
        contradicting = check_adapter(base, adapter, allow_tuned_base=options.allow_tuned_base) if first else []
        how = Arithmetic(options.rounding, options.sums)
        result = merged(cast_floats(base, options.dtype) if first else base, adapter, how, after)
        if payload is options.adapters[0]:
            refuse_twice([adapter, *after], self.role)
        if first and not options.allow_tuned_base:
            check_base(base, [adapter, *after])
        if first and base.follows:
            result = replace(
                result, notes=(*result.notes, *contradicting, *bfloat16_notes(base.follows), *beside_notes(base.follows))
            )
        return result

    def make(self, base: Model, tuned: Model, options: Options, form: Form) -> Plan:
        """Refused: a LoRA is trained, not computed from two models."""
        raise PlanError("a LoRA is trained; make-diff makes additive and exact differences")


def about(payload: Folder) -> str:
    """What an adapter is, in a line."""
    adapter = open_adapter(payload, "PATH")
    rows = {tensor.spec.shape[0] for tensor in adapter.whole.values() if len(tensor.spec.shape) == 2}
    whole = f", {max(rows)} rows of embedding whole" + llama.named_rows(max(rows)) if rows else ""
    return f"a LoRA adapter of rank {adapter.config.rank} on {len(adapter.factors)} weights{whole}"


def cast_floats(model: Model, dtype: DType | None) -> Model:
    """The model with its floats in a dtype; ``inv_freq`` is never narrowed."""
    if dtype is None or model.tensors is None:
        return model
    rules = Rules(dtype)
    return replace(model, tensors={name: rules.cast(name, tensor) for name, tensor in model.tensors.items()})


def merged(model: Model, adapter: Adapter, how: Arithmetic, after: Sequence[Adapter] = ()) -> Model:
    """A model with one adapter merged into its tensors.

    Args:
        model: With tensors.
        adapter: What is merged.
        how: Roundings and order of sums.
        after: Adapters that are merged after it, for messages.

    Raises:
        PlanError: The adapter does not fit the model, or comes in the wrong place; every misfit is in it.
        ValueError: The rounding is not known.
    """
    rounding = rounding_named(how.rounding)
    tensors = dict(model.tensors or {})
    refuse(adapter, of_another_size(tensors, adapter))
    tokenizer = vocabulary.read(adapter.folder)
    refuse(adapter, misplaced(tensors, adapter, tokenizer, after))
    problems = not_targeted(adapter)
    tie = tie_of(model)
    notes = adapter_notes(tensors, adapter, tie)
    if unties(adapter, tie):
        model, tie = untied(model, tensors, adapter, tie, problems), NO_TIE
    before = dict(tensors)
    put_whole(tensors, adapter, tie, problems)
    problems += lacking_whole(tensors, adapter, tie) or uneven_rows(before, tensors)
    step = add_factors(tensors, adapter, tie, rounding, how.sums, problems)
    if tie.head in tensors:
        tensors[tie.head] = tensors[tie.embedding]
    if sum(tie.find(f"{one}.weight", [tie.embedding]) == tie.embedding for one in adapter.factors) > 1:
        model = replace(model, notes=(*model.notes, f"{adapter.name}: LoRAs of {tie.embedding} and {tie.head}: {ONE_WEIGHT}"))
    refuse(adapter, problems)
    said = str(how)
    result = replace(
        model,
        tensors=tensors,
        steps=(*(one for one in model.steps if one != said), step, said),
        notes=(*model.notes, *adapter.notes, *notes),
    )
    if tokenizer is not None:
        result = replace(result, tokenizers=adapter.folder, pad_token=tokenizer.pad_number)
    return result


def refuse(adapter: Adapter, problems: Sequence[str]) -> None:
    """Refuse an adapter that has problems.

    Raises:
        PlanError: It has.
    """
    if problems:
        raise PlanError(f"{adapter.name} does not fit:", problems)


def put_whole(tensors: dict[str, LazyTensor], adapter: Adapter, tie: Tie, problems: list[str]) -> None:
    """Put the tensors that an adapter holds whole in the place of the model's."""
    for own in sorted(adapter.whole, key=tie.is_head):
        tensor = adapter.whole[own]
        name = tie.find(own, tensors)
        if name is None:
            problems.append(f"{own}: matches nothing in the base")
        elif tensor.spec.shape[1:] != tensors[name].spec.shape[1:] or not fits_rows(name, tensors[name], tensor):
            problems.append(f"{name}: {list(tensor.spec.shape)} cannot replace the base's {list(tensors[name].spec.shape)}")
        else:
            step = tensors[name].spec.dtype
            tensors[name] = tensor if tensor.spec.dtype == step else derive(Cast(step), tensor)


def add_factors(
    tensors: dict[str, LazyTensor], adapter: Adapter, tie: Tie, rounding: Rounding, sums: Sums, problems: list[str]
) -> str:
    """Add an adapter's products to the model's weights; what it did, in a line."""
    modules: list[str] = []
    scales: set[tuple[int, float]] = set()
    for module in sorted(adapter.factors, key=lambda one: tie.is_head(f"{one}.weight")):
        factors = adapter.factors[module]
        name = tie.find(f"{module}.weight", tensors)
        if name is None:
            problems.append(f"{module}: matches nothing in the base")
            continue
        try:
            tensors[name] = merge_one(tensors[name], factors, adapter.config.enabled, rounding, sums)
        except ValueError as error:
            problems.append(f"{name}: {error}")
        modules.append(module.rpartition(".")[2])
        scales.add((factors.rank, factors.scale))
    return described(adapter, modules, scales)


def fits_rows(name: str, base: LazyTensor, tensor: LazyTensor) -> bool:
    """Whether a whole tensor has as many rows as the base's, or for a vocabulary more."""
    have, new = base.spec.shape[:1], tensor.spec.shape[:1]
    return have == new or (llama.is_vocabulary(name) and new >= have)


def unrounded(tensor: LazyTensor) -> LazyTensor:
    """A weight that was merged with one rounding at the end, without that rounding: the next adapter is added in float32."""
    if isinstance(tensor, Derived):
        if isinstance(tensor.op, MergeLora) and tensor.op.rounding.once:
            return derive(replace(tensor.op, dtype=FLOAT32), *tensor.inputs)
        if isinstance(tensor.op, JoinRows | JoinColumns):
            return derive(tensor.op, *(unrounded(one) for one in tensor.inputs))
    return tensor


def merge_one(weight: LazyTensor, factors: Factors, enabled: Sequence[bool], rounding: Rounding, sums: Sums) -> LazyTensor:
    """One weight with one LoRA, in the weight's dtype.

    Raises:
        ValueError: They do not fit.
    """
    if len(weight.spec.shape) != 2:
        raise ValueError(f"the base has {list(weight.spec.shape)}, which is no matrix")

    step = weight.spec.dtype
    resolved = rounding.of(step, embedding=factors.embedding)
    if rounding.once:
        weight = unrounded(weight)

    def merge(part: LazyTensor, down: LazyTensor, up: LazyTensor) -> LazyTensor:
        if factors.transposed:
            down, up = (derive(Transpose(one.spec.shape[0]), one) for one in (up, down))
        rows, width = part.spec.shape
        op = MergeLora((rows, width), down.spec.shape[0], factors.scale, resolved, step, step, sums)
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
    return known("zeros", spec, bytes(spec.nbytes))


def described(adapter: Adapter, modules: Sequence[str], scales: set[tuple[int, float]]) -> str:
    """What an adapter does, in a line."""
    kinds = ", ".join(dict.fromkeys(modules))
    numbers = "; ".join(f"rank {rank}, scale {scale:g}" for rank, scale in sorted(scales))
    rows = {tensor.spec.shape[0] for name, tensor in adapter.whole.items() if llama.is_vocabulary(name)}
    whole = f"{len(adapter.whole)} tensors whole" + (f" ({max(rows)} tokens)" if rows else "")
    lora = f"{len(modules)} weights ({kinds}), {numbers}" if modules else "no LoRA"
    return f"{adapter.name}: {lora}" + (f"; {whole}" if adapter.whole else "")


METHOD: Any = Lora()
