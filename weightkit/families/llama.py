"""LLaMA as transformers names it.

Source: releases, section 2 (order proved on the index files of 7B, 13B and 30B); transformers 4.28.1,
``modeling_llama.py``. The names of norms and vocabulary tensors of related families are among those below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

__all__ = ["block_of", "in_state_dict_order", "inv_freq", "is_inv_freq", "is_norm", "is_vocabulary"]

LAYER_ORDER = (
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.rotary_emb.inv_freq",
    "mlp.gate_proj.weight",
    "mlp.down_proj.weight",
    "mlp.up_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
"""Order of a layer's tensors in the state dict of transformers 4.28 (later versions put up_proj before down_proj)."""

FIRST, LAST = ("model.embed_tokens.weight",), ("model.norm.weight", "lm_head.weight")

VOCABULARY = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
"""Ends of the names of tensors with one row for each token."""

BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)")


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
