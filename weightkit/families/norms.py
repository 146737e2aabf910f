"""Which families store the weight of a norm as the w of (1 + w): near 0 in a model as in a difference of two.

Source: transformers 5.24.0, all ``modeling_*.py`` that have ``1 + self.weight``; PaliGemma and its kin hold a Gemma.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CENTRED", "norms_around_zero"]

CENTRED = (
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "recurrent_gemma",
    "t5gemma",
    "t5gemma2",
    "vaultgemma",
    "paligemma",
    "shieldgemma2",
    "colpali",
    "nemotron",
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
)
"""Values of ``model_type``."""

ARCHITECTURES = ("Gemma", "Gemma2", "Gemma3", "RecurrentGemma", "T5Gemma", "VaultGemma", "PaliGemma", "Nemotron", "Qwen3Next")
"""How an architecture's class begins, before ``For``, where a config has no ``model_type``."""


def norms_around_zero(config: Mapping[str, Any]) -> bool:
    """Whether a config is of such a family: by its own type, or by its text model's."""
    text = config.get("text_config")
    kinds = [one.get("model_type") for one in (config, text) if isinstance(one, dict)]
    if any(isinstance(kind, str) for kind in kinds):
        return any(kind in CENTRED for kind in kinds)
    names = config.get("architectures")
    return any(str(name).partition("For")[0] in ARCHITECTURES for name in (names if isinstance(names, list) else []))
