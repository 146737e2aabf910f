"""params.json: the numbers of a model, as Meta writes them, and what they must be."""

from __future__ import annotations

import json
from typing import Any

from weightkit.checkpoints.checkpoint import lone_file, read_json, whole
from weightkit.core.blob import Folder
from weightkit.core.errors import FormatError
from weightkit.families.converters import ModelShape

__all__ = ["PARAMS", "encode_params", "read_params", "shape_from_params", "vocabulary_of"]

PARAMS = "params.json"
LLAMA_TOKENS = 32000
LLAMA_3_TOKENS = 128256


def read_params(folder: Folder) -> dict[str, Any]:
    """The object in a folder's params.json, or in a single file."""
    name = lone_file(folder) or PARAMS
    try:
        blob = folder.blob(name)
    except FormatError as error:
        raise FormatError(error.path, f"{error.problem}; it stands beside consolidated.00.pth") from error
    return read_json(whole(blob), blob.name)


def shape_from_params(origin: str, params: dict[str, Any], tokens: int, inner: int) -> ModelShape:
    """The model's numbers.

    Args:
        origin: Where params.json was read, for messages.
        params: Its content.
        tokens: Rows of the embedding.
        inner: Width of the MLP; 0 to follow from the width, as the converter has it.

    Raises:
        FormatError: A number is missing or makes no sense.
    """
    for name in ("dim", "n_heads", "n_layers"):
        if type(params.get(name)) is not int or params[name] < 1:
            raise FormatError(origin, f"{name} is {params.get(name)!r}; wanted a number, as in LLaMA's own params.json")
    if tokens == LLAMA_3_TOKENS or params.get("vocab_size") == LLAMA_3_TOKENS:
        raise FormatError(origin, "is of LLaMA 3, whose layout is not converted; LLaMA 1 and 2 are")
    dim, heads = params["dim"], params["n_heads"]
    kv_heads = params.get("n_kv_heads") or heads
    if type(kv_heads) is not int or dim % heads or heads % kv_heads:
        raise FormatError(origin, f"dim {dim}, n_heads {heads} and n_kv_heads {kv_heads} do not divide each other")
    eps = params.get("norm_eps", 1e-6)
    if not isinstance(eps, int | float):
        raise FormatError(origin, f"norm_eps is {eps!r}; wanted a number")
    if not inner:
        multiple = params.get("multiple_of", 256)
        wide = int(params.get("ffn_dim_multiplier", 1) * int(8 * dim / 3))
        inner = multiple * ((wide + multiple - 1) // multiple)
    return ModelShape(dim, inner, heads, kv_heads, params["n_layers"], tokens, float(eps))


def vocabulary_of(params: dict[str, Any]) -> int:
    """Rows of the embedding, where only params.json is there: its vocab_size, or of Meta's own files, which say -1, 32000."""
    said = params.get("vocab_size")
    return said if type(said) is int and said > 0 else LLAMA_TOKENS


def encode_params(shape: ModelShape) -> bytes:
    """params.json as Meta's are: one line, no newline, vocabulary -1 (the tokenizer's)."""
    params: dict[str, int | float] = {"dim": shape.dim, "multiple_of": 256, "n_heads": shape.heads}
    if shape.kv_heads != shape.heads:
        params["n_kv_heads"] = shape.kv_heads
    return json.dumps({**params, "n_layers": shape.layers, "norm_eps": shape.norm_eps, "vocab_size": -1}).encode()
