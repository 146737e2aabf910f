"""A base and its diffs of some megabytes, large enough for what happens within a file; written with torch and safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, INNER, TOKENS, LAYERS = 256, 704, 3000, 3


def tensors(seed: int, dtype: torch.dtype, center: float, scale: float) -> dict[str, torch.Tensor]:
    """Of a small LLaMA, in the order of its state dict."""
    rng = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (TOKENS, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (TOKENS, HIDDEN)}
    return {
        name: (scale * torch.randn(shape, generator=rng) + (center if "norm" in name else 0)).to(dtype)
        for name, shape in shapes.items()
    }


def write(folder: Path, found: dict[str, torch.Tensor], *, files: int = 2, kind: str = "bin", reverse: bool = False) -> Path:
    """A folder in transformers' layout; ``reverse``: the tensors of each file lie in it from the last to the first."""
    folder.mkdir(parents=True)
    names = list(found)
    each = -(-len(names) // files)
    stem, suffix = ("pytorch_model", "bin") if kind == "bin" else ("model", "safetensors")
    where = {}
    for number in range(files):
        members = names[number * each : (number + 1) * each]
        path = f"{stem}-{number + 1:05}-of-{files:05}.{suffix}" if files > 1 else f"{stem}.{suffix}"
        chosen = {name: found[name] for name in (reversed(members) if reverse else members)}
        torch.save(chosen, folder / path) if kind == "bin" else save_file(chosen, folder / path, {"format": "pt"})
        where |= dict.fromkeys(members, path)
    if files > 1:
        total = sum(one.numel() * one.element_size() for one in found.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "vocab_size": TOKENS,
        "num_attention_heads": 4,
        "model_type": "llama",
        "num_hidden_layers": LAYERS,
        "torch_dtype": "float16" if found["lm_head.weight"].dtype == torch.float16 else "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def base(folder: Path, **more: object) -> Path:
    """The base, in float16."""
    return write(folder, tensors(1, torch.float16, 1.0, 0.02), **more)  # type: ignore[arg-type]


def diff(folder: Path, dtype: torch.dtype = torch.float32, **more: object) -> Path:
    """A diff."""
    return write(folder, tensors(2, dtype, 0.0, 0.0005), **more)  # type: ignore[arg-type]
