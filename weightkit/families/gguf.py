"""What GGUF files call things: kinds of files, and the ways in which a BPE tokenizer cuts text beforehand.

Source: gguf 0.19.0 ``constants.py`` (``LlamaFileType``, ``Keys``); llama.cpp ``conversion/base.py`` (``get_vocab_base_pre``)
and ``llama-vocab.cpp``, which has the same expressions under these names.
"""

from __future__ import annotations

import json
from typing import Any

from weightkit.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, Q4_0, Q8_0, DType

__all__ = ["FILE_TYPES", "HANDED_OVER", "QUANTIZATION_VERSION", "SUFFIX", "TYPES", "dtype_of", "file_name", "pre_tokenizer"]

TYPES: dict[str, DType] = {"f32": FLOAT32, "f16": FLOAT16, "bf16": BFLOAT16, "q8_0": Q8_0, "q4_0": Q4_0}
"""The word of ``--type`` -> what matrices are stored in."""

SUFFIX = ".gguf"

QUANTIZATION_VERSION = 2
"""ggml's number of how its blocks are laid out (``GGML_QNT_VERSION``)."""

FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
"""The word of ``--type`` -> ``general.file_type``."""

HANDED_OVER = (
    *("q4_1", "q5_0", "q5_1", "q2_k", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"),
    *("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "iq3_s", "iq3_m", "iq4_nl", "iq4_xs"),
)
"""Types that llama.cpp's own program makes of a file in f16."""

LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTES],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated", "invert": False},
        BYTES | {"use_regex": False},
    ],
}
"""llama.cpp's name -> the steps of ``pre_tokenizer`` in tokenizer.json that do the same."""


def pre_tokenizer(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name of how a tokenizer.json cuts text before it looks for pieces; None where none is the same."""
    said = tokenizer.get("pre_tokenizer")
    if not isinstance(said, dict) or tokenizer.get("normalizer") is not None:
        return None
    steps = said.get("pretokenizers") if said.get("type") == "Sequence" else [said]
    if not isinstance(steps, list) or not all(isinstance(one, dict) for one in steps):
        return None
    found = [{key: one[key] for key in one if key != "trim_offsets"} for one in steps]  # tells of places in the text alone
    return next(
        (name for name, cuts in CUTS.items() if json.dumps(cuts, sort_keys=True) == json.dumps(found, sort_keys=True)), None
    )


def dtype_of(kind: str) -> DType:
    """What matrices are stored in.

    Raises:
        ValueError: No type is called so, or llama.cpp's own program makes it.
    """
    if kind in TYPES:
        return TYPES[kind]
    if kind.lower() in HANDED_OVER:
        raise ValueError(
            f"{kind} is made by llama.cpp's own program, of a file in f16: write --type f16, then "
            f"llama-quantize {file_name('f16')} {file_name(kind.lower())} {kind.upper()}"
        )
    raise ValueError(f"{kind!r} is no type of a GGUF file; known: {', '.join(TYPES)}")


def file_name(kind: str) -> str:
    """What a file is called, as llama.cpp's converter called it in 2023."""
    return f"ggml-model-{kind}{SUFFIX}"
