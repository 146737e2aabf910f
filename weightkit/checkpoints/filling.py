"""Filling a torch module with a model's tensors, one at a time, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from weightkit.checkpoints.view import Opened
from weightkit.core.errors import PlanError
from weightkit.families import llama

if TYPE_CHECKING:
    import torch

__all__ = ["Filled", "filled_from"]


class Filled(NamedTuple):
    """What ``load_into`` did not fill or use, as torch's ``load_state_dict`` says it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def filled_from(model: torch.nn.Module, source: Mapping[str, Any], *, strict: bool) -> Filled:
    """See that a source fits a module, and copy it there.

    Raises:
        PlanError: Names, shapes or dtypes do not fit; every misfit is in it, and nothing was filled.
        FormatError: An input is damaged.
    """
    target: dict[str, torch.Tensor] = model.state_dict()
    common = [name for name in source if name in target]
    places: dict[tuple[str, int], list[str]] = {}
    for name in common:
        places.setdefault(place(target[name]), []).append(name)
    missing = [name for name in target if name not in source and place(target[name]) not in places]
    unexpected = [name for name in source if name not in target]
    problems = [problem for name in common if (problem := misfit(name, facts(source, name), target[name]))]
    if strict:
        problems += [f"{name}: in the model, not in the source" for name in missing if not llama.is_inv_freq(name)]
        problems += [f"{name}: in the source, not in the model" for name in unexpected if not llama.is_inv_freq(name)]
    for first, *others in places.values():
        problems += [
            f"{name}: the model ties it to {first}, and the source holds other values; set tie_word_embeddings to false"
            for name in others
            if not problems and not alike(source, first, name)
        ]
    if problems:
        raise PlanError(f"{type(model).__name__} and the source do not fit together, nothing was filled:", problems)
    for first, *_ in places.values():
        target[first].copy_(source[first])
    return Filled(missing, unexpected)


def place(tensor: torch.Tensor) -> tuple[str, int]:
    """What two names of one tensor have in common; without elements each is its own."""
    return (str(tensor.device), tensor.data_ptr() if tensor.numel() and not tensor.is_meta else -id(tensor))


def facts(source: Mapping[str, Any], name: str) -> tuple[list[int], str]:
    """Shape and dtype of a tensor, which is not computed for it."""
    if isinstance(source, Opened):
        spec = source.tensors[name].spec
        return list(spec.shape), spec.dtype.name
    return list(source[name].shape), str(source[name].dtype).removeprefix("torch.")


def misfit(name: str, have: tuple[list[int], str], target: torch.Tensor) -> str:
    """Why a tensor cannot be copied into the model's; empty where it can."""
    wanted = list(target.shape), str(target.dtype).removeprefix("torch.")
    if have != wanted:
        cast = f'; open it with rules=Rules(dtype="{wanted[1]}")' if have[0] == wanted[0] else ""
        return f"{name}: the source has {have[1]} {have[0]}, the model {wanted[1]} {wanted[0]}{cast}"
    if target.is_meta:
        return f'{name}: the model\'s is on the meta device, and has no memory; call model.to_empty(device="cpu") first'
    return ""


def alike(source: Mapping[str, Any], one: str, other: str) -> bool:
    """Whether two tensors are the same: by how they are made, or else by their values."""
    if isinstance(source, Opened) and source.tensors[one] == source.tensors[other]:
        return True
    return bool(source[one].equal(source[other]))
