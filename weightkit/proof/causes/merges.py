"""Other ways in which adapters may have been merged: their order, rounding and order of sums."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from weightkit.checkpoints import Checkpoint
from weightkit.checkpoints.peft import Adapter
from weightkit.core.errors import WeightkitError
from weightkit.core.lazy import LazyTensor
from weightkit.methods.lora import Arithmetic, apply_adapters
from weightkit.ops.lora import ROUNDINGS
from weightkit.proof.differences import Comparison, same_bytes

__all__ = ["merge_command", "merged_otherwise", "merges"]


def merges(base: Checkpoint, adapters: Sequence[Adapter]) -> Iterator[tuple[str, dict[str, LazyTensor]]]:
    """What base and adapters give in every order, rounding and order of sums; each different one once."""
    for order in itertools.permutations(adapters):
        asked = list(order) == list(adapters)
        names = ", then ".join(one.path.name for one in order)
        for rounding in ROUNDINGS:
            for sums in ("fma", "mul-add"):
                try:
                    merged = apply_adapters(base.tensors, order, Arithmetic(rounding, sums))
                except WeightkitError:
                    continue
                arithmetic = f"rounding {rounding}, sums {sums}"
                yield arithmetic if asked else f"LoRA order: {names} ({arithmetic})", merged.tensors


def merge_command(what: str, base: Checkpoint, adapters: Sequence[Adapter], profile: str = "") -> str:
    """The merge that a description stands for."""
    arithmetic = what.rpartition("(")[2].rstrip(")") if what.startswith("LoRA order") else what
    rounding, sums = (part.split()[-1] for part in arithmetic.split(", "))
    order = [one.path for one in adapters]
    if what.startswith("LoRA order"):
        named = what.removeprefix("LoRA order: ").rpartition(" (")[0].split(", then ")
        order = [next(one.path for one in adapters if one.path.name == name) for name in named]
    words = " ".join(f"--lora {path}" for path in order)
    compat = f" --torch-compat {profile}" if profile else ""
    return f"weightkit merge --base {base.path} {words} --rounding {rounding} --sums {sums}{compat} --out OUT"


def merged_otherwise(
    found: Comparison, there: Checkpoint, base: Checkpoint, adapters: Sequence[Adapter]
) -> tuple[str, str] | None:
    """Which order, rounding and sums give the right side's tensors; None where none does. Tried on one tensor, then on all."""
    names = [one.name for one in found.different if one.name in there.tensors]
    for what, tensors in merges(base, adapters):
        if all(name in tensors and same_bytes(tensors[name], there.tensors[name]) for name in names):
            kind = "" if what.startswith("LoRA order") else "the right one was merged with "
            return f"{kind}{what}", merge_command(what, base, adapters)
    return None
