"""Signs that the base of a merge is not the original: a difference, or merged already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightkit.checkpoints.flavour import flavour, values
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter, in_base
from weightkit.core.errors import PlanError
from weightkit.core.lazy import LazyTensor

__all__ = ["check_base"]


def check_base(base: Model, adapters: Sequence[Adapter]) -> None:
    """Refuse a base that is a diff, or has one of the adapters in it already.

    Raises:
        PlanError: It is or has.
    """
    found = flavour(base.follows) if base.follows else None
    if found and found.is_diff:
        raise PlanError(
            f"{base.role} {base.source.name} is a diff, not a model: only {found.positive:.0%} of its norm weights are "
            "positive; recover the model first, or do both at once with weightkit recover --raw BASE --diff DIFF --lora LORA "
            "(--allow-tuned-base if it is a model)"
        )
    reason = merged_already(base.tensors or {}, adapters)
    if reason:
        raise PlanError(
            f"{base.role} {base.source.name} is merged already: {reason}; name the original, or say --allow-tuned-base if it "
            "is not so"
        )


def merged_already(tensors: Mapping[str, LazyTensor], adapters: Sequence[Adapter]) -> str:
    """Why a base looks as if one of the adapters were merged into it already; empty where it does not.

    Tensors that PEFT stored beside what was trained, as the original of an embedding, equal the base's by nature.
    """
    for adapter in adapters:
        for own, tensor in adapter.whole.items():
            name = in_base(own, tensors)
            if name is None or adapter.is_copy(own) or tensors[name].spec.shape != tensor.spec.shape:
                continue
            here, there = values(tensors[name], 4096), values(tensor, 4096)
            if here is not None and there is not None and here.any() and bool((here == there).all()):
                return f"its {name} is that of {adapter.name}"
    return ""
