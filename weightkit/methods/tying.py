"""Embeddings that a model ties to its head: one weight under two names. What an adapter does to the one, the other feels.

Whole tensors that were trained (``modules_to_save``) are copies of their own in PEFT, so they untie: the name that has none
keeps the base's weight, and the config says false from then on. Unless ``ensure_weight_tying`` was said; then, as with LoRAs
and with copies that were saved along, it stays one weight: both LoRAs are added to it, the embedding's first.

Source: PEFT 0.21.2 with transformers 5.24.0, ``merge_and_unload``, run (tests/data/peft-tied).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.checkpoints.config_text import set_values
from weightkit.checkpoints.flavour import same_start
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter, in_base
from weightkit.core.errors import FormatError
from weightkit.core.lazy import LazyTensor
from weightkit.families import llama

__all__ = ["NO_TIE", "Tie", "tie_of", "untied", "unties"]


@dataclass(frozen=True, slots=True)
class Tie:
    """An embedding and the head that is the same weight; both empty where there is none.

    Attributes:
        embedding: Its name in the model.
        head: The head's, whether or not it is stored.
    """

    embedding: str = ""
    head: str = ""

    def find(self, own: str, tensors: Collection[str]) -> str | None:
        """What the model calls a tensor that an adapter names; the embedding, where it is the head."""
        name = in_base(own, tensors) or (in_base(own, [self.head]) if self.head else None)
        return self.embedding if name and name == self.head else name

    def is_head(self, own: str) -> bool:
        """Whether an adapter's name is the head's: it comes after the embedding."""
        return bool(self.head) and in_base(own, [self.head]) is not None


NO_TIE = Tie()

KEY = "tie_word_embeddings"


def tie_of(model: Model) -> Tie:
    """What a model ties, as its config says; where that says nothing, a causal model without a head has a tied one."""
    tensors = model.tensors or {}
    source = model.configs or model.follows
    fields = source.json("config.json") if source else {}
    embeddings = [name for name in tensors if llama.is_vocabulary(name) and not name.endswith(llama.HEADS_ENDS)]
    if len(embeddings) != 1 or not fields:
        return NO_TIE
    tie = Tie(embeddings[0], llama.head_of(embeddings[0]))
    if tie.head in tensors and not same_start(tensors[tie.head], tensors[tie.embedding]):
        return NO_TIE  # transformers 5 does not tie what differs
    said = says_tied(fields)
    if said is None:
        said = tie.head not in tensors and any("For" in str(one) for one in listed(fields.get("architectures")))
    return tie if said else NO_TIE


def says_tied(fields: Mapping[str, Any]) -> bool | None:
    """``tie_word_embeddings`` of a config, or of its text model's; None where neither has it."""
    text = fields.get("text_config")
    for one in (fields, text if isinstance(text, dict) else {}):
        if isinstance(one.get(KEY), bool):
            return bool(one[KEY])
    return None


def listed(value: object) -> list[object]:
    """A list; empty where it is none."""
    return value if isinstance(value, list) else []


def unties(adapter: Adapter, tie: Tie) -> bool:
    """Whether an adapter was trained with embedding or head whole, apart from the other."""
    if tie == NO_TIE or adapter.config.kept_tied:
        return False
    names = [name for name in (tie.embedding, tie.head) if any(in_base(own, [name]) for own in adapter.whole)]
    return any(adapter.config.saves(name.removesuffix(".weight")) for name in names)


def untied(model: Model, tensors: dict[str, LazyTensor], adapter: Adapter, tie: Tie, problems: list[str]) -> Model:
    """The model with head and embedding apart, its config too; ``tensors`` gets the head, as the embedding is now."""
    tensors[tie.head] = tensors[tie.embedding]
    rows = {in_base(own, [tie.embedding, tie.head]): one.spec.shape[0] for own, one in adapter.whole.items() if one.spec.shape}
    have = tensors[tie.embedding].spec.shape[0]
    for name, other in ((tie.embedding, tie.head), (tie.head, tie.embedding)):
        if rows.get(name, have) > have and other not in rows:
            problems.append(f"{name}: {rows[name]} rows, and the base's {have} are tied to {other}, which the adapter lacks")
    source = model.configs or model.follows
    if source is None:
        return model
    configs = replace(source, made={**source.made, "config.json": says_false(source)})
    note = (
        f"{adapter.name}: modules_to_save unties {tie.head} from {tie.embedding}, as PEFT does: both are written, and "
        "config.json says tie_word_embeddings false"
    )
    return replace(model, configs=configs, notes=(*model.notes, note))


def says_false(source: Checkpoint) -> bytes:
    """config.json with ``tie_word_embeddings`` false, all else as it was.

    PEFT sets it on the config itself, whether or not it stood there (run: see above). transformers 4 reads that of the text
    model (``get_text_config``): it says the same, where it said anything, or where nothing did and the class decided.
    """
    fields, content = source.json("config.json"), source.small("config.json") or b"{}"
    text = fields.get("text_config")
    try:
        content = set_values(content, {(KEY,): False}, add=True)
        if isinstance(text, dict):
            content = set_values(content, {("text_config", KEY): False}, add=KEY not in fields)
    except ValueError as error:
        raise FormatError(source.where("config.json"), f"cannot be changed: {error}") from error
    return content
