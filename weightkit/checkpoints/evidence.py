"""What config.json says of where weights come from, beside what their values say: quantized, LLaMA-2, bfloat16."""

from __future__ import annotations

import re
from typing import Any

from weightkit.checkpoints.checkpoint import Checkpoint

__all__ = ["like_llama_one", "llama_two_marks", "mostly_bfloat16", "quantized_as"]

METHODS = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8", "fbgemm_fp8": "FP8"}
"""``quant_method`` -> its name for people."""

FILES = ("quantize_config.json", "hf_quant_config.json")
"""Files beside the config that say it, too. Source: AutoGPTQ; NVIDIA ModelOpt."""


def quantized_as(checkpoint: Checkpoint) -> str:
    """What a checkpoint says it was quantized with; empty where it does not."""
    found = checkpoint.json("config.json").get("quantization_config")
    if isinstance(found, dict) and found:
        method = str(found.get("quant_method") or "an unnamed method")
        return METHODS.get(method.lower(), method)
    return next((f"by its {name}" for name in FILES if checkpoint.folder.holds(name)), "")


def llama_two_marks(config: dict[str, Any]) -> list[str]:
    """What in a config speaks of LLaMA-2. Source: the configs of meta-llama/Llama-2-*-hf; LLaMA 1 has 2048 positions."""
    marks = []
    if re.search(r"llama-?_?2", str(config.get("_name_or_path", "")), re.IGNORECASE):
        marks.append(f"_name_or_path {config['_name_or_path']}")
    if config.get("model_type") == "llama" and config.get("max_position_embeddings") == 4096:
        marks.append("max_position_embeddings 4096")
    return marks


def like_llama_one(config: dict[str, Any]) -> bool:
    """Whether a config has LLaMA 1's positions and attention; early converters wrote no positions."""
    own = config.get("num_attention_heads")
    return (
        config.get("model_type") == "llama"
        and config.get("max_position_embeddings", 2048) == 2048
        and config.get("num_key_value_heads", own) == own
        and not llama_two_marks(config)
    )


def mostly_bfloat16(checkpoint: Checkpoint) -> bool:
    """Whether matrices are stored as bfloat16, most of them."""
    kinds = [one.spec.dtype.name for one in checkpoint.tensors.values() if len(one.spec.shape) == 2]
    return kinds.count("bfloat16") * 2 > len(kinds)
