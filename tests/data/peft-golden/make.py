"""Made the adapters and merged weights beside it; run once with each version of PEFT: ``python make.py CASE...``.

Everything is drawn from seeds, so that all versions start from the same weights. A case is a folder: the adapter as that
PEFT's ``save_pretrained`` wrote it, and ``merged.safetensors``, the weights that its own ``merge_and_unload`` changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def llama(dtype: torch.dtype) -> torch.nn.Module:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=80,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return seeded(LlamaForCausalLM(config), 1, 0.05).to(dtype)


def gpt2(dtype: torch.dtype) -> torch.nn.Module:
    config = GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=80, n_positions=32)
    return seeded(GPT2LMHeadModel(config), 2, 0.05).to(dtype)


def seeded(model: torch.nn.Module, seed: int, width: float) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in sorted(model.named_parameters()):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * width)
    return model


def case(
    name: str, dtype: str, make: Any = llama, load: dict[str, Any] | None = None, safe: bool = False, **config: Any
) -> None:
    """Train nothing: draw the adapter's weights, save it, load it on a fresh base as a user would, merge."""
    folder = HERE / f"peft-{peft.__version__}-{name}"
    base = make(DTYPES[dtype])
    fresh = {key: value.clone() for key, value in base.state_dict().items()}
    model = peft.get_peft_model(make(torch.float32), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, tensor in sorted(model.named_parameters()):
            if "lora_" in key or "modules_to_save" in key or (key.endswith("bias") and config.get("bias", "none") != "none"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    merged = peft.PeftModel.from_pretrained(base, folder, **(load or {})).eval()
    if peft.__version__ != "0.2.0":
        merged = merged.merge_and_unload(**({"safe_merge": True} if safe else {}))
        state = merged.state_dict()
    else:
        state = {
            key.removeprefix("base_model.model."): value for key, value in merged.state_dict().items() if "lora_" not in key
        }
    changed = {
        key: value.contiguous().clone()
        for key, value in state.items()
        if key in fresh and (value.shape != fresh[key].shape or not torch.equal(value, fresh[key]))
    }
    assert changed, name
    save_file(changed, folder / "merged.safetensors")
    for extra in ("README.md",):
        (folder / extra).unlink(missing_ok=True)
    print(name, len(changed))


def main(names: list[str]) -> None:
    all_proj = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"]
    plain: dict[str, Any] = {"r": 8, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_dropout": 0.0}
    cases: dict[str, Any] = {
        "fp16": lambda: case("fp16", "float16", **plain),
        "bf16": lambda: case("bf16", "bfloat16", **plain),
        "fp32": lambda: case("fp32", "float32", **plain),
        "safe": lambda: case("safe", "float16", safe=True, **plain),
        "low-memory": lambda: case("low-memory", "float16", load={"low_cpu_mem_usage": True}, **plain),
        "whole": lambda: case(
            "whole",
            "float16",
            r=4,
            lora_alpha=32,
            target_modules=all_proj,
            lora_dropout=0.0,
            modules_to_save=["embed_tokens", "lm_head"],
        ),
        "embedding": lambda: case(
            "embedding", "float16", r=4, lora_alpha=6, target_modules=["embed_tokens", "q_proj"], lora_dropout=0.0
        ),
        "patterns": lambda: case(
            "patterns",
            "float16",
            r=4,
            lora_alpha=6,
            target_modules=all_proj,
            lora_dropout=0.0,
            rank_pattern={"q_proj": 16, "mlp.down_proj": 2},
            alpha_pattern={"k_proj": 10},
            use_rslora=True,
        ),
        "conv1d": lambda: case(
            "conv1d",
            "float16",
            make=gpt2,
            r=8,
            lora_alpha=12,
            target_modules=["c_attn"],
            lora_dropout=0.0,
            fan_in_fan_out=True,
            bias="all",
        ),
        "dora": lambda: case("dora", "float16", use_dora=True, **plain),
        "merged-linear": lambda: case(
            "merged-linear",
            "float16",
            make=gpt2,
            r=8,
            lora_alpha=12,
            target_modules=["c_attn"],
            lora_dropout=0.0,
            fan_in_fan_out=True,
            enable_lora=[True, False, True],
            merge_weights=True,
        ),
    }
    for name in names:
        cases[name]()


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, make in (("base-llama", llama), ("base-gpt2", gpt2)):
        for dtype in DTYPES:
            path = HERE / f"{name}-{dtype}.safetensors"
            if not path.exists():
                save_file({k: v.contiguous().clone() for k, v in make(DTYPES[dtype]).state_dict().items()}, path)
    main(sys.argv[1:])
