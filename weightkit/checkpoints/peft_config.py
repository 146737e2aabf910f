"""``adapter_config.json``: what it says of the merge of an adapter, every field applied, known to change nothing, or refused.

Source: PEFT 0.2 to 0.21, ``LoraConfig``, ``tuners/lora``; read and run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weightkit.checkpoints.peft_targets import Targets, read_targets
from weightkit.core.errors import FormatError, PlanError

__all__ = ["CONFIG", "Config", "read_config"]

CONFIG = "adapter_config.json"

APPLIED = {
    "r",
    "lora_alpha",
    "peft_type",
    "fan_in_fan_out",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "enable_lora",
    "init_lora_weights",
    "ensure_weight_tying",
    "modules_to_save",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
}
"""Fields of the config that decide something here."""

WITHOUT_EFFECT = {
    "alpha",  # absent in PEFT; some trainers repeat lora_alpha so
    "auto_mapping",
    "base_model_name_or_path",
    "bias",  # whole tensors in the file, told by their names
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",  # of use_qalora, which is refused
    "revision",
    "runtime_config",
    "task_type",
}
"""Fields that are known to change nothing in a merge: they say what was trained and how, not what it means."""

PROMPT_FIELDS = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")
"""Of PEFT 0.2's base class: null for a LoRA."""

REFUSED = {
    "use_dora": "DoRA (a magnitude for each row) is not merged",
    "use_qalora": "QALoRA is not merged",
    "lora_bias": "a bias beside lora_B is not merged",
    "target_parameters": "LoRAs of bare parameters, as expert layers have them, are not merged",
    "layer_replication": "it repeats layers of the base, which is not done",
    "trainable_token_indices": "single trained rows of the embedding are not merged",
    "alora_invocation_tokens": "an activated LoRA cannot be merged: it works from some token on",
    "megatron_config": "parallel layers of Megatron are not merged",
    "loftq_config": "LoftQ changes the base",
    "corda_config": "CorDA changes the base",
    "lora_ga_config": "LoRA-GA changes the base",
    "velora_config": "VeLoRA is not merged",
    "monteclora_config": "MonteCLoRA is not merged",
    "use_bdlora": "block-diagonal LoRA is not merged",
    "arrow_config": "Arrow routes between adapters: there is nothing to merge",
    "kasa_config": "KaSA is not merged",
}
"""Fields that must be null, false or empty: what it means where they are not."""

PLAIN_INIT = ("gaussian", "orthogonal", "eva")
"""Values of ``init_lora_weights`` beside true and false that leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ do not."""


@dataclass(frozen=True, slots=True)
class Config:
    """What an adapter's config says of its merge.

    Attributes:
        rank: Of the modules that have none of their own.
        alpha: Likewise.
        ranks: Pattern of module names -> rank.
        alphas: Pattern of module names -> alpha.
        root: Whether the scale is alpha / sqrt(rank) (rsLoRA).
        transposed: Whether weights are stored (in, out) (``fan_in_fan_out``).
        enabled: Of a weight that joins several, which have a LoRA (``enable_lora``); empty where that is not so.
        saved: Ends of the names of modules that were trained whole (``modules_to_save``).
        kept_tied: Whether a tied embedding stays one with its head (``ensure_weight_tying``).
        targets: Which modules have a LoRA.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    root: bool = False
    transposed: bool = False
    enabled: tuple[bool, ...] = ()
    saved: tuple[str, ...] = ()
    kept_tied: bool = False
    targets: Targets = field(default_factory=Targets)

    def saves(self, module: str) -> bool:
        """Whether a module was trained whole. Source: PEFT, ``_set_trainable``: by the end of its name."""
        return any(module.endswith(one) for one in self.saved)

    def scale(self, module: str) -> tuple[int, float]:
        """Rank of a module's LoRA and what its product is multiplied by."""
        rank = self.ranks.get(pattern_of(self.ranks, module), self.rank)
        alpha = self.alphas.get(pattern_of(self.alphas, module), self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.root else rank)


def pattern_of(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that a module's name ends in, whole names between dots. Source: PEFT, ``get_pattern_key``."""
    return next((one for one in patterns if re.fullmatch(rf"(?:.*\.)?(?:{one})", module)), module)


def read_config(fields: Mapping[str, Any], origin: str) -> Config:
    """The config, with every field either applied or known to change nothing.

    Raises:
        PlanError: A field asks for what is not built, or is not known.
        FormatError: A field has a value of the wrong kind.
    """
    kind = fields.get("peft_type", "LORA")
    if kind != "LORA":
        raise PlanError(f"{origin}: peft_type is {kind!r}: only LORA is merged")
    problems = [f"{name}: {REFUSED[name]}" for name in fields if name in REFUSED and fields[name]]
    unknown = set(fields) - APPLIED - WITHOUT_EFFECT - set(REFUSED) - set(PROMPT_FIELDS)
    problems += [
        f"{name} is {json.dumps(fields[name])}: what it does to a merge is not known here"
        for name in fields
        if name in unknown and fields[name] not in (None, False)
    ]
    problems += [f"{name}: of a prompt, not of a LoRA" for name in PROMPT_FIELDS if fields.get(name)]
    start = fields.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_INIT:
        problems.append(
            f"init_lora_weights is {start!r}: it changes the base; have its publisher convert it to a plain LoRA "
            "(path_initial_model_for_weight_conversion)"
        )
    if problems:
        raise PlanError(f"{origin} asks for what is not merged:", problems)
    enabled = fields.get("enable_lora") or []
    if not isinstance(enabled, list) or any(type(one) is not bool for one in enabled):
        raise FormatError(origin, f"enable_lora is {enabled!r}: wanted a list of true and false")
    return Config(
        positive_int(fields.get("r"), "r", origin),
        number(fields.get("lora_alpha"), "lora_alpha", origin),
        {key: positive_int(value, f"rank_pattern {key}", origin) for key, value in patterns(fields, "rank_pattern", origin)},
        {key: number(value, f"alpha_pattern {key}", origin) for key, value in patterns(fields, "alpha_pattern", origin)},
        root=bool(fields.get("use_rslora")),
        transposed=bool(fields.get("fan_in_fan_out")),
        enabled=tuple(enabled),
        saved=names(fields.get("modules_to_save"), "modules_to_save", origin),
        kept_tied=bool(fields.get("ensure_weight_tying")),
        targets=read_targets(fields, origin),
    )


def patterns(fields: Mapping[str, Any], name: str, origin: str) -> list[tuple[str, Any]]:
    """The entries of a field that maps patterns to numbers."""
    found = fields.get(name) or {}
    if not isinstance(found, dict):
        raise FormatError(origin, f"{name} is {found!r}: wanted an object")
    for key in found:
        try:
            re.compile(key)
        except re.error as error:
            raise FormatError(origin, f"{name}: {key!r} is no pattern: {error}") from error
    return list(found.items())


def names(value: object, field: str, origin: str) -> tuple[str, ...]:
    """A field that lists modules; one alone may stand for a list."""
    several = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(several, list) or any(not isinstance(one, str) for one in several):
        raise FormatError(origin, f"{field} is {value!r}: wanted a list of names")
    return tuple(several)


def positive_int(value: object, name: str, origin: str) -> int:
    """A rank."""
    if type(value) is not int or not 0 < value <= 1 << 20:
        raise FormatError(origin, f"{name} is {value!r}: wanted a number above 0")
    return value


def number(value: object, name: str, origin: str) -> float:
    """An alpha. A whole number stays one, so that ``alpha / rank`` is divided as Python divides it there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FormatError(origin, f"{name} is {value!r}: wanted a number")
    return value
