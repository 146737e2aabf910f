"""Whether an adapter's file is what its config says, and whether two adapters are one: seen before anything is merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from weightkit.checkpoints.flavour import values
from weightkit.checkpoints.peft import Adapter, Factors, stripped
from weightkit.core.errors import PlanError
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import blocks
from weightkit.families import llama
from weightkit.methods.tying import Tie

__all__ = ["adapter_notes", "lacking_whole", "not_targeted", "refuse_twice", "uneven_rows"]

SHOWN = 4


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def not_targeted(adapter: Adapter) -> list[str]:
    """Why an adapter's factors are not those that its config speaks of: PEFT would pass them over."""
    targets = adapter.config.targets
    tied = adapter.config.kept_tied  # then PEFT makes one of the head, too, and the config names the embedding alone
    others = [
        one
        for one in map(stripped, adapter.factors)
        if not targets.include(one) and not (tied and llama.is_vocabulary(f"{one}.weight"))
    ]
    if not others:
        return []
    return [
        f"{some(others)}: {len(others)} of {len(adapter.factors)} LoRAs are of modules that its config does not name "
        "(target_modules, layers_to_transform, exclude_modules), so PEFT passes them over: the config is another adapter's, or "
        "was changed; fetch both files again from one place"
    ]


def lacking_whole(tensors: Mapping[str, LazyTensor], adapter: Adapter, tie: Tie) -> list[str]:
    """Modules of the base that the config says were trained whole, and the file lacks; of an unstored head, too."""
    have = {tie.find(own, tensors) for own in adapter.whole} | {tie.find(f"{one}.weight", tensors) for one in adapter.factors}
    lacking = [
        name
        for name in tensors
        if name not in have and name.endswith((".weight", ".bias")) and any(map(adapter.config.saves, around(name)))
    ]
    if not lacking:
        return []
    return [
        f"{some(lacking)}: modules_to_save says that it was trained whole, and the adapter's file lacks it: the file is "
        "incomplete, download it again"
    ]


def around(name: str) -> list[str]:
    """The module of a tensor, and those that it is in."""
    words = name.split(".")[:-1]
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]


def uneven_rows(before: Mapping[str, LazyTensor], after: Mapping[str, LazyTensor]) -> list[str]:
    """Why the vocabulary tensors of a model no longer go together: they had as many rows, and have not."""
    names = [name for name in after if llama.is_vocabulary(name)]
    rows = [{one[name].spec.shape[0] for name in names if name in one and one[name].spec.shape} for one in (before, after)]
    if len(rows[0]) > 1 or len(rows[1]) < 2:
        return []
    said = ", ".join(f"{name} {after[name].spec.shape[0]}" for name in names)
    return [f"{said} rows after the merge: no model has them so; the adapter is incomplete, download it again"]


def adapter_notes(tensors: Mapping[str, LazyTensor], adapter: Adapter, tie: Tie) -> list[str]:
    """What is said of an adapter that changes less than its config speaks of, or nothing."""
    notes = []
    have = {tie.find(f"{one}.weight", tensors) for one in adapter.factors}
    targets = adapter.config.targets
    missing = [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if adapter.factors
        and targets.names is not None
        and name.endswith(".weight")
        and len(tensor.spec.shape) == 2
        and name not in have
        and tie.find(name, tensors) not in have
        and targets.include(name.removesuffix(".weight"))
    ]
    if missing:
        notes.append(
            f"{adapter.name}: its config names {len(missing)} modules that the file has no LoRA of ({some(missing)}): they "
            "stay as in the base, as with PEFT; if they were trained, the file is incomplete"
        )
    if adapter.factors and not any(one.scale and not zero(one.up) and not zero(one.down) for one in adapter.factors.values()):
        notes.append(
            f"{adapter.name}: every LoRA of it is zero (lora_B, lora_A or lora_alpha), as before training: it changes no weight"
        )
    return notes


def zero(tensor: LazyTensor) -> bool:
    """Whether every element is zero, of either sign; read until one is not."""
    if (first := values(tensor, 64)) is not None and first.any():
        return False
    half = tensor.spec.dtype.itemsize
    kind = f"<u{half}" if half in (1, 2, 4, 8) else "<u1"
    top = np.iinfo(kind).max >> 1 if tensor.spec.dtype.kind == "float" else np.iinfo(kind).max
    return not any(bool((np.frombuffer(block, kind) & np.dtype(kind).type(top)).any()) for (block,) in blocks([tensor]))


def refuse_twice(adapters: Sequence[Adapter], role: str) -> None:
    """Refuse an adapter that is named twice, under whatever path, in whatever container.

    Two are one where they hold the same tensors whole, and the LoRAs of all modules that both have are the same in scale and in
    every value, and not zero; where neither has a LoRA, the whole tensors are compared.

    Raises:
        PlanError: Two are one.
    """
    for one, other in combinations(adapters, 2):
        if same(one, other):
            what = f"{role} {one.name} and {role} {other.name} are the same adapter"
            if one.name == other.name:
                what = f"{role} {one.name} is named twice, or two folders of that name hold the same adapter"
            raise PlanError(f"{what}: merged twice it would count double; name it once")


def same(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters are one."""
    here, there = ({stripped(name): factors for name, factors in each.factors.items()} for each in (one, other))
    if one.whole.keys() != other.whole.keys():
        return False
    common = here.keys() & there.keys()
    if common:
        return all(equal_factors(here[name], there[name]) for name in common) and not all(
            zero(here[name].up) for name in common
        )
    if here or there or not one.whole:
        return False
    wholes = [{stripped(name): tensor for name, tensor in each.whole.items()} for each in (one, other)]
    return wholes[0].keys() == wholes[1].keys() and all(equal(tensor, wholes[1][name]) for name, tensor in wholes[0].items())


def equal_factors(one: Factors, other: Factors) -> bool:
    """Whether two LoRAs have the same scale and matrices."""
    return one.scale == other.scale and equal(one.up, other.up) and equal(one.down, other.down)


def equal(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors have the same values, of whichever dtype; read until some differ."""
    if one.spec.shape != other.spec.shape:
        return False
    if one.spec.dtype == other.spec.dtype:
        return all(bytes(here) == bytes(there) for here, there in blocks([one, other]))
    here, there = values(one), values(other)
    return here is not None and there is not None and bool(np.array_equal(here, there))
