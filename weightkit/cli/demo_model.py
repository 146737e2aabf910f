"""A small release to try things on: two LLaMA-shaped models of random numbers, made by a fixed rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from weightkit.containers.layout import one_each
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core.dtypes import FLOAT16
from weightkit.core.spec import TensorSpec
from weightkit.families import llama

__all__ = ["build", "flip_bit"]

HIDDEN, INNER, LAYERS, TOKENS = 64, 176, 2, 320

Array = np.ndarray[tuple[int, ...], np.dtype[np.float16]]


def shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape, in the order of a state dict."""
    square, wide = (HIDDEN, HIDDEN), (INNER, HIDDEN)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (TOKENS, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            found[f"model.layers.{layer}.{name}.weight"] = square
        for name in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            found[f"model.layers.{layer}.{name}.weight"] = wide[::-1] if "down" in name else wide
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{layer}.{name}.weight"] = (HIDDEN,)
    found["lm_head.weight"] = (TOKENS, HIDDEN)
    return {name: found[name] for name in llama.in_state_dict_order(found)}


def noise(count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Numbers in [-1, 1), by a fixed rule: the same with any numpy."""
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(seed * 1000003 + 1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def build(folder: Path) -> tuple[Path, Path]:
    """Write a base and a tuned sibling, in float16, as torch 1.13 writes them. Returns the two folders."""
    base: dict[str, Array] = {}
    tuned: dict[str, Array] = {}
    for seed, (name, shape) in enumerate(shapes().items()):
        count = int(np.prod(shape))
        center = 1.0 if llama.is_norm(name) else 0.0
        base[name] = (center + noise(count, seed) / 32).reshape(shape).astype(np.float16)
        tuned[name] = (base[name].astype(np.float64) + noise(count, seed + 500).reshape(shape) / 4096).astype(np.float16)
    for name, tensors in (("base", base), ("tuned", tuned)):
        write(folder / name, tensors)
    return folder / "base", folder / "tuned"


def write(folder: Path, tensors: dict[str, Array]) -> None:
    """A transformers folder with one file of weights."""
    folder.mkdir(parents=True)
    layout = one_each((name, TensorSpec(FLOAT16, array.shape)) for name, array in tensors.items())
    encoding = TorchZip("zip-1.13", "pytorch_model")
    arrays = list(tensors.values())
    payloads = ([arrays[run].tobytes()] for run in encoding.order(layout))
    (folder / "pytorch_model.bin").write_bytes(b"".join(encoding.encode(layout, payloads)))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "torch_dtype": "float16",
        "vocab_size": TOKENS,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def flip_bit(path: Path) -> int:
    """Flip one bit in the middle of a file, as a bad disk would; returns which byte."""
    position = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    return position
