"""The base that every method begins with: named, then opened by whoever needs its tensors."""

from __future__ import annotations

from dataclasses import replace

from weightkit.blobs import Place, folder_at
from weightkit.checkpoints import converter_for, open_checkpoint
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.flavour import fits_bfloat16, nothing_but_nan
from weightkit.checkpoints.model import Model
from weightkit.core.errors import PlanError
from weightkit.families.converters import DEFAULT_CONVERTER

__all__ = ["based", "bfloat16_notes", "nan_problems", "opened", "opened_from"]


def based(place: Place, role: str, converter: str | None = None) -> Model:
    """A base that nobody has looked into yet.

    Args:
        place: Where it is.
        role: What it is to the caller, for messages: ``--raw``.
        converter: Whose conversion it stands for where it is in another layout than transformers'; None for the default.

    Raises:
        PlanError: There is nothing, or the converter is not known.
    """
    return Model(folder_at(place, role), role, converter_for(converter or DEFAULT_CONVERTER))


def opened(model: Model) -> Model:
    """The model with its tensors.

    Raises:
        PlanError: It is no checkpoint, or its files are settled already: nothing is merged into those.
        FormatError: A file of it is damaged.
    """
    if model.files is not None:
        raise PlanError(
            f"{model.source.name}: its files come out as they were published, so nothing is merged into them on the way; "
            "merge the result"
        )
    if model.tensors is not None:
        return model
    return opened_from(model, open_checkpoint(model.source, model.role, model.converter))


def opened_from(model: Model, checkpoint: Checkpoint) -> Model:
    """The model with the tensors of a checkpoint, which it follows in everything."""
    return replace(model, tensors=checkpoint.tensors, follows=checkpoint, configs=checkpoint, tokenizers=checkpoint)


def nan_problems(checkpoint: Checkpoint, role: str) -> list[str]:
    """A line for tensors that hold nothing but NaN."""
    names = nothing_but_nan(checkpoint)
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{names[0]}{more}: the {role} holds nothing but NaN there: it was broken before it was published, or damaged"]


def bfloat16_notes(checkpoint: Checkpoint) -> list[str]:
    """A note, where a base looks as if it had passed through bfloat16."""
    if not fits_bfloat16(checkpoint):
        return []
    return [
        f"{checkpoint.name}: every value looked at fits bfloat16: if the original was float16, as LLaMA 1, the base was "
        "converted through bfloat16, and no published digest can come out; take it from Meta's own files"
    ]
