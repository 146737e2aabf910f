"""TencentPretrain's layout: one torch file, rotary pairs as Meta has them, a JSON of numbers beside it.

Source: TencentPretrain ``scripts/convert_llama_to_tencentpretrain.py`` and ``models/llama/7b_config.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

from weightkit.checkpoints.huggingface import Checkpoint
from weightkit.checkpoints.meta import inv_freq_tensors, tokenizer_beside
from weightkit.containers import Container
from weightkit.core.errors import PlanError
from weightkit.core.lazy import LazyTensor, Stored, derive
from weightkit.families import llama
from weightkit.families.converters import Converter, ModelShape
from weightkit.ops.move import PairRows

__all__ = ["CONFIG_NAME", "encode_config", "is_tencentpretrain", "open_tencentpretrain"]

CONFIG_NAME = "tp_config.json"
FIRST = "embedding.word.embedding.weight"


def is_tencentpretrain(container: Container) -> bool:
    """Whether a file holds a model under TencentPretrain's names."""
    return FIRST in container.specs


def open_tencentpretrain(container: Container, role: str, converter: Converter) -> Checkpoint:
    """A TencentPretrain file under transformers' names.

    Raises:
        PlanError: It is no LLaMA, or nothing says how many heads it has.
    """
    path, specs = container.path, container.specs
    prefix = "encoder.transformer."
    layers = 1 + max((int(name.split(".")[2]) for name in specs if name.startswith(prefix)), default=-1)
    gate = specs.get(f"{prefix}0.feed_forward.linear_gate.weight")
    if gate is None:
        raise PlanError(f"{role}: {path} has no gated feed-forward in layer 0: no LLaMA")
    heads = head_count(path, specs[FIRST].width, role)
    shape = ModelShape(specs[FIRST].width, gate.rows, heads, heads, layers, specs[FIRST].rows, 1e-6)
    tensors: dict[str, LazyTensor] = {}
    rows = llama.all_rows(layers)
    lacking = [theirs for _, _, _, theirs in rows if theirs not in specs]
    if lacking:
        raise PlanError(f"{role}: {path} is incomplete:", [f"{name}: missing" for name in lacking[:20]])
    for row, name, _, theirs in rows:
        stored = Stored(container, theirs)
        tensors[name] = derive(PairRows(shape.head_dim, halves=True), stored) if row.paired else stored
    tensors |= inv_freq_tensors(shape, converter)
    ordered = {name: tensors[name] for name in llama.in_state_dict_order(tensors)}
    made = converter.small_files(shape) | tokenizer_beside(path.parent)
    return Checkpoint(path.parent, "tencentpretrain", "bin", {path.name: container}, ordered, made=made)


def head_count(path: Path, width: int, role: str) -> int:
    """Attention heads: from the JSON beside the file, or known for LLaMA's widths."""
    try:
        heads = json.loads((path.parent / CONFIG_NAME).read_bytes())["heads_num"]
        if type(heads) is int and heads > 0 and width % heads == 0:
            return heads
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if width not in llama.HEADS:
        raise PlanError(
            f"{role}: {path} is {width} wide, and its number of heads is not known: put {CONFIG_NAME} with heads_num beside it"
        )
    return llama.HEADS[width]


def encode_config(shape: ModelShape) -> bytes:
    """The JSON of numbers, with the fields and in the order of TencentPretrain's own files for LLaMA."""
    content = {
        "emb_size": shape.dim,
        "feedforward_size": shape.inner,
        "hidden_size": shape.dim,
        "hidden_act": "silu",
        "heads_num": shape.heads,
        "layers_num": shape.layers,
        "dropout": 0.1,
        "data_processor": "lm",
        "max_seq_length": 2048,
        "embedding": ["word"],
        "remove_transformer_bias": True,
        "remove_embedding_layernorm": True,
        "rotary_position_embedding": True,
        "encoder": "transformer",
        "feed_forward": "gated",
        "mask": "causal",
        "layernorm_positioning": "pre",
        "layernorm": "rms",
        "target": ["lm"],
    }
    return (json.dumps(content, indent=2) + "\n").encode()
