"""Settings that change what a model computes from the same tensors: carried between layouts, or refused.

Source: transformers 5.24.0 ``modeling_rope_utils.py`` (``rope_parameters``, before 5.0 ``rope_theta`` and ``rope_scaling``);
Meta's llama-models ``args.py`` and ``model.py`` (``rope_theta``, ``use_scaled_rope``: factor 8 and the numbers of LLaMA 3.1).
"""

from __future__ import annotations

from typing import Any

from weightkit.core.spec import TensorSpec
from weightkit.families.converters import LLAMA_3_SCALING, ModelShape

__all__ = ["frequencies_problem", "refuse_settings", "rope_of_config"]

THETA = 10000.0

PLAIN: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1.0,),
    "sliding_window": (),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "clip_qkv": (),
    "logit_scale": (1.0,),
    "logits_scaling": (1.0,),
    "embedding_multiplier": (1.0,),
    "residual_multiplier": (1.0,),
    "attention_multiplier": (),
    "quantization_config": (),
}
"""Field of config.json -> the values beside null with which a model computes as LLaMA does."""


def rope_of_config(config: dict[str, Any]) -> tuple[float, bool]:
    """The base of the rotary frequencies, and whether they are scaled as LLaMA 3.1's.

    Raises:
        ValueError: They are scaled otherwise, or it is no number.
    """
    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = said if isinstance(said, dict) else {"rope_type": said}
    theta = scaling.get("rope_theta") or config.get("rope_theta") or THETA
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        raise ValueError(f"says rope_theta {str(theta)[:40]!r} in its config.json; wanted a number")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("default", None):
        return float(theta), False
    if kind == "llama3" and all(scaling.get(name) == value for name, value in LLAMA_3_SCALING.items()):
        return float(theta), True
    raise ValueError(
        f"has rope_scaling {str(said)[:160]} in its config.json, which this layout has no word for: it would be another model"
    )


def refuse_settings(config: dict[str, Any], shape: ModelShape) -> None:
    """Refuse a config whose model computes otherwise than the layouts of the original weights can say.

    Raises:
        ValueError: It does, or contradicts the tensors.
    """
    for name, wanted in (("head_dim", shape.head_dim), ("num_key_value_heads", shape.kv_heads)):
        said = config.get(name)
        if said is not None and said != wanted:
            raise ValueError(f"says {name} {str(said)[:40]} in its config.json, and its tensors make it {wanted}")
    for name, plain in PLAIN.items():
        said = config.get(name)
        if said is None or said in plain or (name == "sliding_window" and config.get("use_sliding_window") is False):
            continue
        raise ValueError(f"has {name} {str(said)[:60]} in its config.json, which this layout has no word for")


def frequencies_problem(name: str, spec: TensorSpec, shape: ModelShape, field: str) -> str | None:
    """What is wrong where stored frequencies, two rows of a head each, are of another width of head than the numbers make it.

    Args:
        name: The tensor's name.
        spec: Its dtype and shape, (head_dim / 2,).
        shape: The model's numbers.
        field: What the number of heads is called there.
    """
    if len(spec.shape) != 1 or spec.shape[0] * 2 == shape.head_dim:
        return None
    return (
        f"{field} {shape.heads} makes a head {shape.head_dim} wide, {name} {spec.shape[0] * 2}: the number is of another model"
    )
