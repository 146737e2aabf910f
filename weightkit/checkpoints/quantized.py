"""Checkpoints whose weights are quantized: told by config.json, by a file beside it, or by tensors where those are silent.

What each method stores, by the last part of its tensors' names. Source: AutoGPTQ, GPTQModel (qweight, qzeros, scales, g_idx),
AutoAWQ (the same without g_idx, packed along the outputs), bitsandbytes (``QuantState.as_dict``, ``Linear8bitLt``),
compressed-tensors (weight_packed, weight_scale), transformers' fine-grained FP8 (weight_scale_inv), HQQ, ExLlamaV2, AQLM,
gpt-oss (MXFP4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.core.lazy import LazyTensor

__all__ = ["Quantized", "left_over_notes", "original_of", "quantized"]

METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "mxfp4": "MXFP4",
    "hqq": "HQQ",
    "aqlm": "AQLM",
}
"""``quant_method`` -> its name for people."""

FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files beside the config that say it, too. Source: AutoGPTQ; AutoAWQ; NVIDIA ModelOpt."""

KINDS = {
    "bitsandbytes__nf4": "bitsandbytes, 4 bits",
    "bitsandbytes__fp4": "bitsandbytes, 4 bits",
    "absmax": "bitsandbytes, 4 bits",
    "nested_absmax": "bitsandbytes, 4 bits",
    "quant_map": "bitsandbytes, 4 bits",
    "SCB": "bitsandbytes, 8 bits",
    "weight_format": "bitsandbytes, 8 bits",
    "weight_packed": "compressed-tensors",
    "q_invperm": "EXL2",
    "weight_scale_2": "ModelOpt FP4",
    "gate_up_proj_blocks": "MXFP4",
    "down_proj_blocks": "MXFP4",
}
"""The last word of a name that only this method has -> the method."""

SCALES = ("weight_scale_inv", "weight_scale", "scale_weight")
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
NOT_ORIGINAL = re.compile(r"gptq|awq|bnb|quant|exl2|gguf|hqq|aqlm|nf4|fp4|fp8|int[48]|w[48]a|[48][-_]?bits?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Quantized:
    """That weights are quantized.

    Attributes:
        method: With what: ``GPTQ``.
        shown_by: What shows it: ``its config``, or a tensor's name.
    """

    method: str
    shown_by: str

    def __str__(self) -> str:
        return f"quantized ({self.method}), as {self.shown_by} shows"


def quantized(checkpoint: Checkpoint) -> Quantized | None:
    """With what a checkpoint is quantized; None where nothing shows that it is, or its tensors show that it is not."""
    found = by_tensors(checkpoint.tensors)
    return found if found is None and plain(checkpoint) else told(checkpoint, found)


def left_over_notes(checkpoint: Checkpoint) -> list[str]:
    """A note, where a config speaks of quantized weights and the tensors are plain floats: dequantized, merged, or copied."""
    said = told(checkpoint, None)
    if said is None or quantized(checkpoint) is not None:
        return []
    where = "quantization_config in its config.json" if said.shown_by == "its config" else said.shown_by.removeprefix("its ")
    return [
        f"{checkpoint.name}: {where} speaks of {said.method}, and none of its tensors is quantized: it is left over; take it "
        "out of what is written, or transformers looks for quantized weights"
    ]


def plain(checkpoint: Checkpoint) -> bool:
    """Whether every matrix is stored in floats of 16 bits or more."""
    kinds = [one.spec.dtype for one in checkpoint.tensors.values() if len(one.spec.shape) >= 2]
    return bool(kinds) and all(one.kind == "float" and one.itemsize >= 2 for one in kinds)


def told(checkpoint: Checkpoint, found: Quantized | None) -> Quantized | None:
    """What the config says, then what tensors have shown, then a file beside it."""
    said = checkpoint.json("config.json").get("quantization_config")
    if isinstance(said, dict) and said:
        method = str(said.get("quant_method") or "")[:40]
        return Quantized(METHODS.get(method.lower(), method) or (found.method if found else "an unnamed method"), "its config")
    if found is not None:
        return found
    file = next((name for name in FILES if checkpoint.folder.holds(name)), None)
    return Quantized("by a tool of its own", f"its {file}") if file else None


def by_tensors(tensors: Mapping[str, LazyTensor]) -> Quantized | None:
    """The same by names, dtypes and shapes of tensors."""
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        method = KINDS.get(kind)
        if kind == "qweight" and f"{module}.scales" in tensors and tensor.spec.dtype.kind == "int":
            method = packed(tensors, module)
        elif kind == "weight" and any(f"{module}.{one}" in tensors for one in SCALES):
            stored = tensor.spec.dtype
            if stored.name.startswith("float8"):
                method = "FP8"
            elif stored.name in ("int8", "uint8"):
                method = "integers with scales, as compressed-tensors stores them"
        elif kind == "W_q" and tensor.spec.dtype.kind == "int":
            method = "HQQ"
        elif kind == "codebooks" and f"{module}.codes" in tensors:
            method = "AQLM"
        if method is not None:
            return Quantized(method, name)
    return None


def packed(tensors: Mapping[str, LazyTensor], module: str) -> str:
    """GPTQ packs the inputs of a weight, AWQ its outputs, so that there are fewer columns than scales have."""
    columns = [tensors[f"{module}.{one}"].spec.shape[-1:] for one in ("qweight", "scales")]
    if f"{module}.g_idx" in tensors:
        return "GPTQ"
    return "GPTQ or AWQ" if columns[0] == columns[1] else "AWQ"


def original_of(checkpoint: Checkpoint) -> str:
    """The name on the Hub of what was quantized, where the config gives one; else empty. Paths of somebody's disk are none."""
    config = checkpoint.json("config.json")
    for key in ("base_model", "base_model_name_or_path", "_name_or_path"):
        name = config.get(key)
        if isinstance(name, str) and len(name) <= 96 and HUB.fullmatch(name) and not NOT_ORIGINAL.search(name):
            return name
    return ""
