"""Large inputs that take no room: safetensors files with a hole for all but a few tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from weightkit.checkpoints.shards import encode_index, shard_names
from weightkit.containers.layout import one_each
from weightkit.containers.safetensors import SAFETENSORS, Safetensors
from weightkit.core.dtypes import BY_NAME
from weightkit.core.spec import TensorSpec

HIDDEN, INNER, TOKENS = 4096, 11008, 32000


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """A LLaMA of 7B's width with so many layers."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (TOKENS, HIDDEN)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found |= {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        found |= {f"{prefix}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, INNER)
        found |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (TOKENS, HIDDEN)}


def sparse_folder(folder: Path, tensors: dict[str, tuple[int, ...]], dtype: str, norm: float, files: int = 1) -> Path:
    """A transformers folder whose norms hold ``norm`` (alternating in sign where small), and all else zeros."""
    folder.mkdir(parents=True)
    names = list(tensors)
    cuts = [names[len(names) * part // files : len(names) * (part + 1) // files] for part in range(files)]
    listing = {}
    for name, members in zip(shard_names(SAFETENSORS, files), cuts, strict=True):
        layout = one_each((member, TensorSpec(BY_NAME[dtype], tensors[member])) for member in members)
        listing[name] = [(item.name, item.spec) for item in layout.items]
        encoding = Safetensors()
        with (folder / name).open("wb") as file:
            file.write(encoding.header(layout))
            for run in encoding.order(layout):
                item = layout.items[run]
                if "norm" in item.name:
                    values = np.full(item.spec.numel, norm)
                    values[::2] *= -1 if abs(norm) < 0.1 else 1
                    file.write(values.astype(dtype).tobytes())
                else:
                    file.seek(item.spec.nbytes, 1)
            file.truncate()
    if files > 1:
        (folder / "model.safetensors.index.json").write_bytes(encode_index(listing))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": TOKENS}) + "\n")
    return folder
