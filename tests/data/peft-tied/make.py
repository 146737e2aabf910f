"""Made the models, adapters and merged weights beside it: ``python make.py``, PEFT 0.21.2, transformers 5.24.0, torch 2.13.0.

A folder for each small model with tied embeddings, as ``save_pretrained`` wrote it, and below it one for each adapter, drawn
from a seed, with ``merged.safetensors``: every tensor that ``merge_and_unload`` changed or added, as ``save_pretrained`` of
the merged model stores them, and in its metadata what that model's config says of tying.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

HERE = Path(__file__).parent
SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
MODELS: dict[str, tuple[Any, torch.dtype]] = {
    "qwen3": (Qwen3Config, torch.bfloat16),
    "llama": (LlamaConfig, torch.float16),
    "gemma3": (Gemma3TextConfig, torch.bfloat16),
}
CASES: dict[str, dict[str, Any]] = {
    "whole-embedding": {"modules_to_save": ["embed_tokens"]},
    "whole-head": {"modules_to_save": ["lm_head"]},
    "whole-both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole-kept-tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "lora-embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "lora-head": {"target_modules": ["q_proj", "lm_head"]},
    "lora-both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "lora-kept-tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "lora-head-kept-tied": {"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True},
    "copied": {"save": {"save_embedding_layers": True}},
}
WANTED = {
    "qwen3": list(CASES),
    "llama": ["whole-embedding", "whole-head", "lora-both"],
    "gemma3": ["whole-embedding", "whole-head", "lora-head"],
}


def base(kind: str) -> torch.nn.Module:
    config, dtype = MODELS[kind]
    model = AutoModelForCausalLM.from_config(config(**SHAPE))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            one = 1.0 if "norm" in name and kind != "gemma3" else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + one)
    return model.to(dtype)


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def case(kind: str, name: str, save: dict[str, Any] | None = None, **config: Any) -> None:
    """Train nothing: draw what is trainable, save it, load it on a fresh base as a user would, merge, save."""
    folder = HERE / kind / name
    shutil.rmtree(folder, ignore_errors=True)
    config = {"target_modules": ["q_proj"], **config}
    tuned = peft.get_peft_model(load(HERE / kind), peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, **config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, tensor in sorted(tuned.named_parameters()):
            if tensor.requires_grad:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    tuned.save_pretrained(folder, **(save or {}))
    (folder / "README.md").unlink(missing_ok=True)
    written = folder / "adapter_config.json"
    written.write_text(written.read_text().replace(str(HERE / kind), kind))  # no path of this machine
    merged = peft.PeftModel.from_pretrained(load(HERE / kind), folder).merge_and_unload()
    with tempfile.TemporaryDirectory() as there:
        merged.save_pretrained(there)
        state = load_file(Path(there) / "model.safetensors")
        tied = json.loads((Path(there) / "config.json").read_text())["tie_word_embeddings"]
    fresh = load_file(HERE / kind / "model.safetensors")
    changed = {key: one for key, one in state.items() if key not in fresh or not torch.equal(one, fresh[key])}
    save_file(changed, folder / "merged.safetensors", {"tie_word_embeddings": json.dumps(tied)})
    print(kind, name, sorted(changed), tied)


if __name__ == "__main__":
    for kind, names in WANTED.items():
        base(kind).save_pretrained(HERE / kind)
        for name in names:
            case(kind, name, **CASES[name])
