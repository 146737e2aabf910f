"""What transformers' LLaMA converter wrote beside the weights, release by release, byte for byte.

A converter is named ``transformers-<version>``, as ``transformers-4.28.1``. Where one version is known with two outcomes,
or a detail is not settled, the variant is named behind a plus: ``transformers-4.28.0.dev0+inv-freq-16``.

Source: releases, section 2, and derived-digests (small files whose rebuilt bytes have a published digest); transformers
4.28.1 ``convert_llama_weights_to_hf.py``, ``configuration_llama.py``, ``PretrainedConfig.to_json_string``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["CONVERTERS", "DEFAULT_CONVERTER", "LLAMA_3_SCALING", "MODIFIERS", "Converter", "ModelShape", "converter_named"]


LLAMA_3_SCALING: dict[str, int | float] = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}
"""What Meta's ``use_scaled_rope`` stands for. Source: llama-models ``apply_scaling``; config.json of Llama-3.1-8B."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers that make one LLaMA another.

    Attributes:
        dim: Width, called ``hidden_size`` by transformers.
        inner: Width of the MLP.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        layers: Layers.
        tokens: Rows of the embedding.
        norm_eps: Epsilon of the norms.
        rope_theta: Base of the rotary frequencies.
        rope_scaled: Whether they are scaled as LLaMA 3.1's.
    """

    dim: int
    inner: int
    heads: int
    kv_heads: int
    layers: int
    tokens: int
    norm_eps: float
    rope_theta: float = 10000.0
    rope_scaled: bool = False

    @property
    def head_dim(self) -> int:
        """Rows of one head."""
        return self.dim // self.heads

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, as the names stand in ``llama.TOP_TABLE`` and ``llama.LAYER_TABLE``."""
        wide, narrow = self.dim, self.kv_heads * self.head_dim
        vocabulary, square, gate = (self.tokens, wide), (wide, wide), (self.inner, wide)
        return {
            "model.embed_tokens.weight": vocabulary,
            "model.norm.weight": (wide,),
            "lm_head.weight": vocabulary,
            "self_attn.q_proj.weight": square,
            "self_attn.k_proj.weight": (narrow, wide),
            "self_attn.v_proj.weight": (narrow, wide),
            "self_attn.o_proj.weight": square,
            "mlp.gate_proj.weight": gate,
            "mlp.up_proj.weight": gate,
            "mlp.down_proj.weight": gate[::-1],
            "input_layernorm.weight": (wide,),
            "post_attention_layernorm.weight": (wide,),
        }


InvFreq = Literal["float32", "float16", "exact", "none"]


@dataclass(frozen=True, slots=True)
class Converter:
    """One way in which the original weights were turned into the transformers layout.

    Attributes:
        version: The version of transformers that stands in the files.
        inv_freq: The rotary buffers: ``float32`` (float32 holding float16-rounded values, as a model loaded in float16
            keeps them), ``float16`` (stored in 16 bits), ``exact`` (float32, never rounded), ``none``.
        max_position_embeddings: Whether config.json has it (2048).
        token_ids: bos, eos and pad in generation_config.json.
        tokens: The texts of bos, eos and unk in the tokenizer's files.
        model_max_length: In tokenizer_config.json.
        special_tokens: special_tokens_map.json: ``objects`` (AddedToken objects), ``empty`` or ``empty-newline``.
        tokens_in_config: ``written``: config.json has the converter's default of 32000 tokens, whatever the checkpoint
            holds; ``found``: it has the rows of the embedding.
    """

    version: str
    inv_freq: InvFreq = "float32"
    max_position_embeddings: bool = True
    token_ids: tuple[int, int, int] = (1, 2, 0)
    tokens: tuple[str, str, str] = ("<s>", "</s>", "<unk>")
    model_max_length: int = 1000000000000000019884624838656
    special_tokens: Literal["objects", "empty", "empty-newline"] = "objects"
    tokens_in_config: Literal["written", "found"] = "written"

    def config(self, shape: ModelShape, dtype: str = "float16") -> bytes:
        """config.json."""
        written: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": shape.dim,
            "initializer_range": 0.02,
            "intermediate_size": shape.inner,
            "model_type": "llama",
            "num_attention_heads": shape.heads,
            "num_hidden_layers": shape.layers,
            "pad_token_id": 0,
            "rms_norm_eps": shape.norm_eps,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
            "transformers_version": self.version,
            "use_cache": True,
            "vocab_size": 32000 if self.tokens_in_config == "written" else shape.tokens,
        }
        if self.max_position_embeddings:
            written["max_position_embeddings"] = 2048
        if shape.kv_heads != shape.heads:
            written["num_key_value_heads"] = shape.kv_heads
        if shape.rope_theta != 10000.0:
            written["rope_theta"] = shape.rope_theta
        if shape.rope_scaled:
            written |= {"rope_scaling": {"rope_type": "llama3", **LLAMA_3_SCALING}, "max_position_embeddings": 131072}
        return sorted_json(written)

    def generation_config(self) -> bytes:
        """generation_config.json."""
        bos, eos, pad = self.token_ids
        return sorted_json(
            {
                "_from_model_config": True,
                "bos_token_id": bos,
                "eos_token_id": eos,
                "pad_token_id": pad,
                "transformers_version": self.version,
            }
        )

    def special_tokens_map(self) -> bytes:
        """special_tokens_map.json."""
        if self.special_tokens != "objects":
            return b"{}" + (b"\n" if self.special_tokens == "empty-newline" else b"")
        bos, eos, unk = (added(text) for text in self.tokens)
        return plain_json({"bos_token": bos, "eos_token": eos, "unk_token": unk})

    def tokenizer_config(self) -> bytes:
        """tokenizer_config.json."""
        bos, eos, unk = ({"__type": "AddedToken", **added(text)} for text in self.tokens)
        return plain_json(
            {
                "add_bos_token": True,
                "add_eos_token": False,
                "bos_token": bos,
                "clean_up_tokenization_spaces": False,
                "eos_token": eos,
                "model_max_length": self.model_max_length,
                "pad_token": None,
                "sp_model_kwargs": {},
                "tokenizer_class": "LlamaTokenizer",
                "unk_token": unk,
            }
        )

    def small_files(self, shape: ModelShape, dtype: str = "float16") -> dict[str, bytes]:
        """All small files that follow from the numbers alone, by name."""
        return {
            "config.json": self.config(shape, dtype),
            "generation_config.json": self.generation_config(),
            "special_tokens_map.json": self.special_tokens_map(),
            "tokenizer_config.json": self.tokenizer_config(),
        }


def added(text: str) -> dict[str, Any]:
    """An AddedToken's fields, in the order of the files."""
    return {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def sorted_json(value: dict[str, Any]) -> bytes:
    """As ``PretrainedConfig.to_json_string``: two blanks, keys sorted, newline."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def plain_json(value: dict[str, Any]) -> bytes:
    """As ``PreTrainedTokenizerBase.save_pretrained``: the same, keys sorted, no ASCII escapes, newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


DEFAULT_CONVERTER = "transformers-4.28.1"

CONVERTERS: dict[str, Converter] = {
    "transformers-4.27.0.dev0": Converter(
        "4.27.0.dev0", "float16", False, token_ids=(0, 1, 0), tokens=("", "", ""), special_tokens="empty"
    ),
    "transformers-4.28.0.dev0": Converter("4.28.0.dev0", "float32", False),
    "transformers-4.28.0": Converter("4.28.0"),
    "transformers-4.28.1": Converter("4.28.1"),
    "transformers-4.29.0.dev0": Converter("4.29.0.dev0"),
}
"""Name -> converter. Proved by a published digest: index and generation_config.json of each; config.json of 4.28.0.dev0 (7B,
13B), 4.28.0 and 4.29.0.dev0 (30B), 4.28.1 (run); tokenizer files of 4.28.1 and 4.29.0.dev0. Not settled: the tokenizer
files of 4.27.0.dev0 and 4.28.0.dev0, hence the variants below."""

MODIFIERS: dict[str, dict[str, Any]] = {
    "inv-freq-16": {"inv_freq": "float16"},
    "inv-freq-32": {"inv_freq": "float32"},
    "inv-freq-exact": {"inv_freq": "exact"},
    "no-inv-freq": {"inv_freq": "none"},
    "max-position": {"max_position_embeddings": True},
    "no-max-position": {"max_position_embeddings": False},
    "bos-0": {"token_ids": (0, 1, 0)},
    "bos-1": {"token_ids": (1, 2, 0)},
    "empty-tokens": {"tokens": ("", "", "")},
    "named-tokens": {"tokens": ("<s>", "</s>", "<unk>")},
    "max-length-2048": {"model_max_length": 2048},
    "no-special-tokens": {"special_tokens": "empty"},
    "no-special-tokens-newline": {"special_tokens": "empty-newline"},
    "special-tokens": {"special_tokens": "objects"},
    "vocabulary-found": {"tokens_in_config": "found"},
}
"""Variant -> what it changes."""


def converter_named(name: str) -> Converter:
    """``transformers-4.28.1``, ``transformers-4.28`` (its last release), ``transformers-4.28.0.dev0+inv-freq-16``.

    Raises:
        ValueError: No such converter or variant is known.
    """
    base, *variants = name.split("+")
    exact = CONVERTERS.get(base)
    releases = [known for known in CONVERTERS if known.startswith(f"{base}.") and "dev" not in known]
    if exact is None and not releases:
        raise ValueError(f"{base!r} is no converter that is known; known: {', '.join(CONVERTERS)}")
    found = exact or CONVERTERS[releases[-1]]
    for variant in variants:
        if variant not in MODIFIERS:
            raise ValueError(f"{variant!r} is no variant of a converter; known: {', '.join(MODIFIERS)}")
        found = replace(found, **MODIFIERS[variant])
    return found
