"""Whether small files and tensors speak of one model: config.json, the tokenizer, the embedding. Told as notes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from weightkit.checkpoints.checkpoint import SMALL_FILES, Checkpoint
from weightkit.checkpoints.model import Model
from weightkit.core.lazy import LazyTensor
from weightkit.families import llama

__all__ = ["contradicting", "without_lone_tokenizer", "written_notes"]

LOADED = (".py", ".model", ".tiktoken", ".json", ".jinja", ".bpe", "vocab.txt")
NOT_LOADED = (".index.json", "trainer_state.json", "_results.json")
"""How files end that loaders of models and tokenizers look for, and those among them that training leaves."""


def contradicting(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> list[str]:
    """Where a config's width or number of layers is not that of the tensors: ``field 4096 in config.json, tensors have 64``."""
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None or len(embedding.spec.shape) != 2:
        return []
    layers = {llama.block_of(name) for name in tensors if name.startswith("model.layers.")} - {None}
    found = {"hidden_size": embedding.spec.shape[1]} | ({"num_hidden_layers": len(layers)} if layers else {})
    return [
        f"config.json says {field} {config[field]}, and the tensors have {have}: they are not of one model"
        for field, have in found.items()
        if type(config.get(field)) is int and config[field] != have
    ]


def written_notes(model: Model, small: Collection[str]) -> list[str]:
    """What is said where small files that go along are not those of the tensors, or lacking.

    Args:
        model: What is written.
        small: Names of the small files.
    """
    follows, tensors = model.follows, model.tensors or {}
    if follows is None:
        return []
    configs, tokenizers = model.configs or follows, model.tokenizers or follows
    notes = contradicting(configs.json("config.json"), tensors) if "config.json" in small else []
    if "config.json" not in small and not model.source.single and model.source.holds("config.json"):
        notes.append(f"{configs.name} has no config.json, so none is written; --config-from base takes the base's")
    rows, theirs = embedding_rows(tensors), embedding_rows(tokenizers.tensors)
    if rows and theirs and rows > theirs and "tokenizer_config.json" in small:
        notes.append(
            f"the embedding has {rows} rows, and the tokenizer that goes along is that of {tokenizers.name}, a model "
            f"of {theirs}: the new rows have no tokens; fetch the tokenizer that was published with them"
        )
    if follows.layout != "huggingface" and not {"tokenizer.model", "tokenizer.json"} & set(small):
        notes.append(f"{follows.name} has no tokenizer.model, nor has the folder above it, so no tokenizer is written")
    return notes + left_notes(follows, small)


def left_notes(follows: Checkpoint, small: Collection[str]) -> list[str]:
    """A line for files beside the weights that a loader may look for and that do not go along."""
    if follows.folder.single or follows.layout != "huggingface":
        return []
    names = [name for name in follows.folder.names() if "/" not in name and name.endswith(LOADED) and not name.startswith(".")]
    left = [name for name in names if name not in small and name not in SMALL_FILES and not name.endswith(NOT_LOADED)]
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    return [f"{follows.name}: not taken along: {', '.join(left[:5])}{more}; copy what the model needs"] if left else []


def embedding_rows(tensors: Mapping[str, LazyTensor]) -> int:
    """Rows of the embedding; 0 where there is none."""
    found = tensors.get("model.embed_tokens.weight")
    return found.spec.rows if found is not None and found.spec.shape else 0


def without_lone_tokenizer(made: Mapping[str, bytes], tokenizer: Mapping[str, bytes]) -> dict[str, bytes]:
    """The small files that a layout implies; those of a tokenizer only where there is one."""
    alone = () if tokenizer else ("tokenizer_config.json", "special_tokens_map.json")
    return {name: content for name, content in {**made, **tokenizer}.items() if name not in alone}
