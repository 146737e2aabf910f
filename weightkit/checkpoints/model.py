"""A model on its way: a base, or what became of it. What methods make of each other, and what a layout writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.core.blob import Folder
from weightkit.core.lazy import LazyTensor
from weightkit.families.converters import Converter
from weightkit.run.plan import Listing, OutputFile, SmallFile, StreamFile

__all__ = ["Model", "Written"]


@dataclass(frozen=True, slots=True)
class Model:
    """A base, or what became of it.

    A base that nobody has looked into yet has neither tensors nor files: ``methods.base.opened`` opens it.

    Attributes:
        source: The base as it lies there: XOR takes its bytes.
        role: What the base is to the caller, for messages: ``--raw``.
        converter: Whose conversion a base in another layout than transformers' stands for.
        tensors: Name -> the tensor, under transformers' names; None where only bytes are known.
        files: Files whose bytes are settled (XOR, exact differences); None: a layout makes them of the tensors.
        small: Small files that are settled with them.
        follows: Whose files of weights, index and layout are followed.
        configs: Whose config.json and generation_config.json go along.
        tokenizers: Whose tokenizer files do.
        pad_token: What config.json's pad_token_id becomes, if it has one; None for as it is.
        patch: Whether config.json follows the tensors in dtype and size of vocabulary.
        steps: What was done to the tensors, one line each.
        notes: What the user should know.
    """

    source: Folder
    role: str
    converter: Converter
    tensors: Mapping[str, LazyTensor] | None = None
    files: tuple[OutputFile | StreamFile, ...] | None = None
    small: tuple[SmallFile, ...] = ()
    follows: Checkpoint | None = None
    configs: Checkpoint | None = None
    tokenizers: Checkpoint | None = None
    pad_token: int | None = None
    patch: bool = True
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """The files that a layout makes of a model.

    Attributes:
        files: Files of tensors.
        small: Index, config and tokenizer files.
        notes: What was decided on the way.
        listings: Lists of digests that belong to them.
        named: Whether the tensors stand in them under transformers' names, so that their content digests are of use.
    """

    files: tuple[OutputFile, ...]
    small: tuple[SmallFile, ...]
    notes: tuple[str, ...] = ()
    listings: tuple[Listing, ...] = ()
    named: bool = False
