"""What configs say of where weights come from, beside what their values say: LLaMA 1 or 2, bfloat16, another family."""

from __future__ import annotations

import re
from typing import Any

from weightkit.checkpoints.checkpoint import Checkpoint

__all__ = ["contradictions", "dtype_notes", "like_llama_one", "llama_two_marks", "mostly_bfloat16", "named_llama"]

HUB = r"[A-Za-z0-9][\w.-]*/"
TWO = re.compile(r"(?:^|[/_-])(?:meta-)?llama[-_]?2(?![0-9.])", re.IGNORECASE)
ONE = re.compile(HUB + r"llama-?(?:7|13|30|33|65)b(?:-hf|-hf-transformers-[\d.]+)?", re.IGNORECASE)
"""How repositories of the original weights were called: decapoda-research/llama-7b-hf, huggyllama/llama-13b."""

DISK = ("models", "model", "checkpoints", "ckpt", "weights", "output", "outputs", "data", "pretrained", "pretrained_models")
"""Folders that look like somebody's name on the Hub where a path has two parts."""


def llama_two_marks(config: dict[str, Any]) -> list[str]:
    """What in a config speaks of LLaMA-2. Source: the configs of meta-llama/Llama-2-*-hf; LLaMA 1 has 2048 positions."""
    marks = []
    if TWO.search(str(config.get("_name_or_path", ""))):
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


def dtype_notes(checkpoint: Checkpoint) -> list[str]:
    """A note, where a config says bfloat16 of weights stored otherwise; ``dtype`` is its name since transformers 4.56.

    Others are no sign: weights are loaded in the type that a config names, and often stored in a wider one, or in float16.
    """
    config = checkpoint.json("config.json")
    key = next((key for key in ("dtype", "torch_dtype") if str(config.get(key)).removeprefix("torch.") == "bfloat16"), None)
    stored = {one.spec.dtype.name for one in checkpoint.tensors.values() if len(one.spec.shape) == 2}
    if key is None or not stored or "bfloat16" in stored:
        return []
    kinds = " and ".join(sorted(stored))
    return [
        f"{checkpoint.name}: {key} is bfloat16 in its config, and its weights are stored as {kinds}: of two models, perhaps"
    ]


def named_llama(name: object) -> int | None:
    """Which LLaMA a name of the Hub speaks of, 1 or 2; None for others, and for what may be a path of somebody's disk."""
    if not isinstance(name, str) or not re.fullmatch(HUB + r"[\w.-]+", name) or name.partition("/")[0].lower() in DISK:
        return None
    if TWO.search(name):
        return 2
    return 1 if ONE.fullmatch(name) else None


DECIDE = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "hidden_act",
    "rope_theta",
    "max_position_embeddings",
)
"""Fields that change what a model computes from the same tensors, or for how long."""


def contradictions(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Where two configs of models of one shape speak of two models: ``field is a in the first's, b``."""
    found = [(key, here[key], there[key]) for key in DECIDE if key in here and key in there]
    kinds = [classes(one) for one in (here, there)]
    if all(kinds) and not (kinds[0] in kinds[1] or kinds[1] in kinds[0]):
        found.append(("architectures", here["architectures"][0], there["architectures"][0]))
    plain = (str, int, float)
    return [
        f"{key} is {str(one)[:60]} in the base's config, {str(other)[:60]}"
        for key, one, other in found
        if isinstance(one, plain) and isinstance(other, plain) and (key == "architectures" or one != other)
    ]


def classes(config: dict[str, Any]) -> str:
    """The family in the name of a config's class: ``llama``; a model built on another has both names in it."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return re.sub(r"For[A-Z].*|LMHeadModel|Model$", "", first).lower() if isinstance(first, str) else ""
