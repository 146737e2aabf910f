"""What the user said about the files to be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Form", "Order"]

Order = Literal["meta", "meta-cuda-0", "chinese-llama", "chinese-llama-low-memory"]
"""Order of the tensors in Meta's parts: Meta's own (with rope.freqs), or that of Chinese-LLaMA-Alpaca's scripts (without).
The parts of 13B and 30B name the GPU that they were saved from. Of the parts after the first it is not known which: with
``meta`` each has a GPU of its own (``cuda:1`` in ``consolidated.01.pth``), with ``meta-cuda-0`` all have the first.
Their low-memory script puts the tensors of the base's shards together in the order of the text of their numbers (1, 10, 11,
2): the same unless there are ten shards or more. Source: peers-measured, "Bytes of the files"."""


@dataclass(frozen=True, slots=True)
class Form:
    """What the user said about the files to be written; None stands for "as what is followed has it".

    Attributes:
        format: The name of a container format: ``bin`` or ``safetensors``.
        torch_compat: The torch version whose file bytes are written.
        max_shard_bytes: Cut anew into shards of at most so many bytes.
        config_from: For ``recover``: whose config.json and generation_config.json go along.
        tokenizer_from: For ``recover``: whose tokenizer files go along; None for the diff's, or the base's if it has none.
        parts: For Meta's layout, the number of parts; None for as many as Meta published of this size.
        order: For Meta's layout, the order of the tensors; None for Meta's own.
        type: For GGUF, what matrices are stored in: ``f32``, ``f16``, ``bf16``, ``q8_0``, ``q4_0``; None for ``f16``.
    """

    format: str | None = None
    torch_compat: str | None = None
    max_shard_bytes: int | None = None
    config_from: Literal["base", "diff"] = "diff"
    tokenizer_from: Literal["base", "diff"] | None = None
    parts: int | None = None
    order: Order | None = None
    type: str | None = None
