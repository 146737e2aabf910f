"""Recover a model in memory, nothing written, load it into transformers and generate.

    python examples/open_in_memory.py BASE DIFF [PROMPT ...]

Without a tokenizer among the files of the release, PROMPT is numbers of tokens. Needs transformers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import weightkit


def main(base: str, diff: str, *prompt: str) -> int:
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        why = str(error).partition("\n")[0]
        print(f"this example needs transformers ({why}): pip install transformers", file=sys.stderr)
        return 1
    try:
        opened = weightkit.open(base, diff)
    except weightkit.WeightkitError as error:
        print(error, file=sys.stderr)
        return 1
    print(opened)
    with tempfile.TemporaryDirectory() as small:  # config and tokenizer, some kilobytes; the weights stay in memory
        for name, content in opened.small.items():
            if not name.endswith(".index.json"):
                (Path(small) / name).write_bytes(content)
        config = AutoConfig.from_pretrained(small)
        named = any("tokenizer" in name for name in opened.small)
        tokenizer = AutoTokenizer.from_pretrained(small) if named else None
    dtype = opened.get_tensor("model.norm.weight").dtype
    torch.set_default_dtype(dtype)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    torch.set_default_dtype(torch.float32)
    filled = weightkit.load_into(model, opened)
    print(f"{len(opened) - len(filled.unexpected_keys)} tensors filled")
    if tokenizer is not None:
        tokens = tokenizer(" ".join(prompt) or "The", return_tensors="pt").input_ids
    else:
        tokens = torch.tensor([[int(one) for one in prompt] or [1]])
    found = model.generate(tokens, max_new_tokens=8, do_sample=False)[0]
    print(tokenizer.decode(found) if tokenizer is not None else found.tolist())
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
