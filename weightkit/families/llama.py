"""LLaMA as transformers names it.

Source: releases, section 2 (order proved on the index files of 7B, 13B and 30B); transformers 4.28.1,
``modeling_llama.py``. The names of norms and vocabulary tensors of related families are among those below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = [
    "HEADS",
    "HEADS_ENDS",
    "LAYER_TABLE",
    "PARTS",
    "SIZES",
    "TOP_TABLE",
    "VOCABULARIES",
    "Row",
    "all_rows",
    "block_of",
    "head_of",
    "in_state_dict_order",
    "inv_freq",
    "is_inv_freq",
    "is_norm",
    "is_vocabulary",
    "named_rows",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor in three layouts.

    Attributes:
        huggingface: transformers' name; of a layer's tensors without ``model.layers.N.``.
        meta: Meta's name; without ``layers.N.``.
        tencent: TencentPretrain's name; without ``encoder.transformer.N.``.
        axis: Axis along which Meta's model-parallel parts of it lie; None where each part holds it whole.
        paired: ``q`` or ``k`` where the rows of rotary pairs lie otherwise in transformers' layout.
    """

    huggingface: str
    meta: str
    tencent: str
    axis: int | None
    paired: str = ""


TOP_TABLE = (
    Row("model.embed_tokens.weight", "tok_embeddings.weight", "embedding.word.embedding.weight", 1),
    Row("model.norm.weight", "norm.weight", "encoder.layer_norm.weight", None),
    Row("lm_head.weight", "output.weight", "target.lm.output_layer.weight", 0),
)
LAYER_TABLE = (
    Row("self_attn.q_proj.weight", "attention.wq.weight", "self_attn.linear_layers.0.weight", 0, "q"),
    Row("self_attn.k_proj.weight", "attention.wk.weight", "self_attn.linear_layers.1.weight", 0, "k"),
    Row("self_attn.v_proj.weight", "attention.wv.weight", "self_attn.linear_layers.2.weight", 0),
    Row("self_attn.o_proj.weight", "attention.wo.weight", "self_attn.final_linear.weight", 1),
    Row("mlp.gate_proj.weight", "feed_forward.w1.weight", "feed_forward.linear_gate.weight", 0),
    Row("mlp.down_proj.weight", "feed_forward.w2.weight", "feed_forward.linear_2.weight", 1),
    Row("mlp.up_proj.weight", "feed_forward.w3.weight", "feed_forward.linear_1.weight", 0),
    Row("input_layernorm.weight", "attention_norm.weight", "layer_norm_1.weight", None),
    Row("post_attention_layernorm.weight", "ffn_norm.weight", "layer_norm_2.weight", None),
)
"""The rows stand in the order of Meta's files and, but for ``inv_freq``, of transformers 4.28's state dict (later versions
have up_proj before down_proj). Source: transformers 4.28.1 ``convert_llama_weights_to_hf.py``; TencentPretrain
``convert_llama_to_tencentpretrain.py``; all three run (peer-reference)."""

INV_FREQ = "self_attn.rotary_emb.inv_freq"
LAYER_ORDER = (
    *(row.huggingface for row in LAYER_TABLE[:4]),
    INV_FREQ,
    *(row.huggingface for row in LAYER_TABLE[4:]),
)
FIRST, LAST = ("model.embed_tokens.weight",), ("model.norm.weight", "lm_head.weight")


def all_rows(layers: int) -> list[tuple[Row, str, str, str]]:
    """Every tensor of a model: its row, and its whole names for transformers, Meta and TencentPretrain."""
    top = [(row, row.huggingface, row.meta, row.tencent) for row in TOP_TABLE]
    return top + [
        (
            row,
            f"model.layers.{layer}.{row.huggingface}",
            f"layers.{layer}.{row.meta}",
            f"encoder.transformer.{layer}.{row.tencent}",
        )
        for layer in range(layers)
        for row in LAYER_TABLE
    ]


SIZES = {4096: "LLaMA-7B", 5120: "LLaMA-13B", 6656: "LLaMA-30B", 8192: "LLaMA-65B"}
"""Width -> its name."""

HEADS = {4096: 32, 5120: 40, 6656: 52, 8192: 64}
"""Width -> attention heads, of LLaMA 7B, 13B, 30B and 65B."""

PARTS = {4096: 1, 5120: 2, 6656: 4, 8192: 8}
"""Width -> parts in which Meta published it."""

VOCABULARIES = {
    32000: "LLaMA's vocabulary",
    32001: "LLaMA's vocabulary and one token ([PAD]), as Alpaca's and Vicuna v0's",
    32016: "LLaMA's vocabulary and 16 rows, as Open-Assistant's",
    49953: "Chinese-LLaMA's vocabulary",
    49954: "Chinese-Alpaca's vocabulary",
    55296: "Chinese-LLaMA-2's and Chinese-Alpaca-2's vocabulary",
    79458: "BELLE-EXT's and TechGPT's vocabulary",
}
"""Rows of a vocabulary -> whose it is."""

VOCABULARY = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
"""Ends of the names of tensors with one row for each token."""

HEADS_ENDS = ("lm_head.weight", "embed_out.weight")
"""Those among them that are heads."""

BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)")


def named_rows(rows: int) -> str:
    """What a vocabulary of so many rows is, in brackets."""
    return f" ({VOCABULARIES[rows]})" if rows in VOCABULARIES else ""


def block_of(name: str) -> int | None:
    """Number of the layer that a tensor belongs to; None where it belongs to none."""
    match = BLOCK.search(name)
    return int(match[1]) if match else None


def is_norm(name: str) -> bool:
    """Whether this is the weight of a norm, near 1 in a model and near 0 in a difference of two."""
    return bool(re.search(r"(?:^|[._])(?:\w*norm|ln_\w+)\.weight$", name))


def is_vocabulary(name: str) -> bool:
    """Whether the tensor has one row for each token."""
    return name.endswith(VOCABULARY)


def head_of(embedding: str) -> str:
    """The name of the head that belongs to an embedding."""
    if embedding.endswith("embed_in.weight"):
        return "embed_out.weight"
    before, found, _ = embedding.rpartition("language_model.model.embed_tokens.weight")
    return f"{before}language_model.lm_head.weight" if found else "lm_head.weight"


def is_inv_freq(name: str) -> bool:
    """Whether this is a buffer of rotary frequencies, which some converters store and others leave out."""
    return name.endswith("rotary_emb.inv_freq")


def in_state_dict_order(names: Iterable[str]) -> list[str]:
    """Names in the order of the state dict of transformers 4.28; names unknown to it come last in their own order."""

    def key(name: str) -> tuple[int, int, int]:
        match = BLOCK.search(name)
        if name in FIRST:
            return 0, 0, FIRST.index(name)
        if match and match[2] in LAYER_ORDER:
            return 1, int(match[1]), LAYER_ORDER.index(match[2])
        return (2, 0, LAST.index(name)) if name in LAST else (3, 0, 0)

    return sorted(names, key=key)


def inv_freq(count: int, theta: float = 10000.0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The rotary frequencies ``theta ** (-2i / (2 * count))``, float32, (count,).

    In the steps of transformers: exponent in float32, power in float32, reciprocal in float32. Bit-exact: each step is
    rounded correctly here (the power by way of float64), the same on every machine. Equal to what torch 2.13 gives for all
    even head sizes up to 64 and for 128, that of every LLaMA; for others torch's power is off by a last bit here and there.
    """
    exponents = np.arange(0, 2 * count, 2).astype(np.float32) / np.float32(2 * count)
    powers = np.array([float(theta) ** float(exponent) for exponent in exponents]).astype(np.float32)
    return np.float32(1) / powers
