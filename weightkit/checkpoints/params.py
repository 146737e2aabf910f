"""params.json: the numbers of a model, as Meta writes them, and what they must be."""

from __future__ import annotations

import json
from typing import Any

from weightkit.checkpoints.checkpoint import lone_file, read_json, whole
from weightkit.core.blob import Folder
from weightkit.core.errors import FormatError
from weightkit.families.converters import ModelShape

__all__ = ["LLAMA_TOKENS", "PARAMS", "encode_params", "read_params", "shape_from_params", "vocabulary_of"]

PARAMS = "params.json"
LLAMA_TOKENS = 32000
LLAMA_3_TOKENS = 128256
MULTIPLE = 256
METAS: tuple[tuple[int, float], ...] = ((MULTIPLE, 1), (4096, 1.3), (1024, 1.3))
"""``multiple_of`` and ``ffn_dim_multiplier`` of LLaMA's own params.json: of LLaMA 1, of LLaMA-2-70B, of LLaMA 3."""

LARGEST_FACTOR = 1000
MOST_LAYERS = 10_000
"""More layers are no model's; a number alone must not make a table of millions."""

KNOWN = (
    *("dim", "n_heads", "n_kv_heads", "n_layers", "norm_eps", "multiple_of", "ffn_dim_multiplier", "vocab_size"),
    *("head_dim", "hidden_dim", "rope_theta", "use_scaled_rope"),
    *("max_seq_len", "max_batch_size", "model_parallel_size"),
)
"""Fields that are understood; those of the last line say how a model is run, not what it is."""


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
    if params["n_layers"] > MOST_LAYERS:
        raise FormatError(origin, f"n_layers is {params['n_layers']}; wanted {MOST_LAYERS} at most")
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
        multiple, factor = params.get("multiple_of", MULTIPLE), params.get("ffn_dim_multiplier") or 1
        if type(multiple) is not int or multiple < 1 or type(factor) not in (int, float) or not 0 < factor < LARGEST_FACTOR:
            said = f"multiple_of is {str(multiple)[:40]} and ffn_dim_multiplier {str(factor)[:40]}"
            raise FormatError(origin, f"{said}; wanted numbers, as in LLaMA's own params.json")
        inner = mlp_width(dim, multiple, factor)
    for name, found in (("head_dim", dim // heads), ("hidden_dim", inner)):
        if params.get(name) not in (None, found):
            raise FormatError(
                origin, f"says {name} {str(params[name])[:40]}, and the model has {found}: no LLaMA, or another's"
            )
    theta = params.get("rope_theta", 10000.0)
    if isinstance(theta, bool) or not isinstance(theta, int | float) or theta <= 0:
        raise FormatError(origin, f"rope_theta is {str(theta)[:40]!r}; wanted a number")
    other = [name for name, value in params.items() if name not in KNOWN and value is not None and value is not False]
    if other:
        raise FormatError(
            origin, f"has fields that are not known, so it may be no LLaMA: {', '.join(name[:40] for name in other[:5])}"
        )
    scaled = params.get("use_scaled_rope") is True
    return ModelShape(dim, inner, heads, kv_heads, params["n_layers"], tokens, float(eps), float(theta), scaled)


def vocabulary_of(params: dict[str, Any]) -> int:
    """Rows of the embedding, where only params.json is there: its vocab_size, or of Meta's own files, which say -1, 32000."""
    said = params.get("vocab_size")
    return said if type(said) is int and said > 0 else LLAMA_TOKENS


def mlp_width(dim: int, multiple: int, factor: float = 1) -> int:
    """The width that Meta's code gives the MLP. Source: llama ``model.py``, ``FeedForward``, of LLaMA 2 and 3."""
    wide = int(factor * int(8 * dim / 3))
    return multiple * ((wide + multiple - 1) // multiple)


def mlp_numbers(dim: int, inner: int) -> dict[str, int | float]:
    """``multiple_of``, and ``ffn_dim_multiplier`` where one is needed, with which Meta's code comes to a width of the MLP.

    Those of Meta's own models are tried first, then other multiples, then the shortest factor that will do.
    """
    powers = [1 << bits for bits in range(12, -1, -1)]
    for multiple, factor in (*METAS, *((power, 1) for power in powers)):
        if mlp_width(dim, multiple, factor) == inner:
            return {"multiple_of": multiple} | ({} if factor == 1 else {"ffn_dim_multiplier": factor})
    multiple = next(power for power in powers if power <= MULTIPLE and inner % power == 0)
    wanted = (inner + 1 - multiple / 2) / int(8 * dim / 3)
    factors = (round(wanted, digits) for digits in range(1, 18))
    return {"multiple_of": multiple, "ffn_dim_multiplier": next(f for f in factors if mlp_width(dim, multiple, f) == inner)}


def encode_params(shape: ModelShape) -> bytes:
    """params.json as Meta's are: one line, no newline, vocabulary -1 (the tokenizer's)."""
    rope: dict[str, float] = {} if shape.rope_theta == 10000.0 else {"rope_theta": shape.rope_theta}
    if shape.rope_scaled:
        rope["use_scaled_rope"] = True
    params: dict[str, int | float] = {"dim": shape.dim, **mlp_numbers(shape.dim, shape.inner), "n_heads": shape.heads}
    if shape.kv_heads != shape.heads:
        params["n_kv_heads"] = shape.kv_heads
    return json.dumps({**params, "n_layers": shape.layers, "norm_eps": shape.norm_eps, **rope, "vocab_size": -1}).encode()
