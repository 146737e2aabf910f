"""How fast merging LoRAs is, and how much memory it takes, against the yardstick and against PEFT, in the same run.

    python benchmarks/merge.py --work /somewhere/with/15GB --layers 4 --runs 3 --peft

The model has the true width of LLaMA-7B in float16; the adapter is like Chinese-LLaMA-Alpaca's: seven projections, and
embedding and head whole with 49953 rows (``--tokens 32000`` leaves those out, as alpaca-lora does). The yardstick is
``cp -r`` of the merged folder followed by ``openssl dgst -sha256`` of its files; ``--peft`` lets PEFT load the same base and
adapter, ``merge_and_unload`` and ``save_pretrained`` in safetensors, which is quicker than ``.bin``. All take turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
from common import HIDDEN, INNER, TOKENS, payload, timed, write, yardstick

from weightkit.containers.layout import one_each
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core.dtypes import FLOAT16, FLOAT32
from weightkit.core.spec import TensorSpec

PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
    "mlp.up_proj": (INNER, HIDDEN),
}

PEFT = """
import sys, torch
from peft import PeftModel
from transformers import LlamaForCausalLM
base, adapter, out, tokens = sys.argv[1:]
model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float16)
if int(tokens) != model.config.vocab_size:
    model.resize_token_embeddings(int(tokens), mean_resizing=False)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""


def write_adapter(folder: Path, layers: int, rank: int, tokens: int) -> None:
    """An adapter as PEFT writes it, of random float32 factors."""
    folder.mkdir(parents=True)
    tensors: dict[str, TensorSpec] = {}
    for layer in range(layers):
        for name, (rows, width) in PROJECTIONS.items():
            for which, shape in (("A", (rank, width)), ("B", (rows, rank))):
                tensors[f"base_model.model.model.layers.{layer}.{name}.lora_{which}.weight"] = TensorSpec(FLOAT32, shape)
    whole = {} if tokens == TOKENS else {"model.embed_tokens.weight": "embed_tokens", "lm_head.weight": "lm_head"}
    tensors |= {f"base_model.model.{name}": TensorSpec(FLOAT16, (tokens, HIDDEN)) for name in whole}
    rng = np.random.default_rng(rank)
    layout = one_each(tensors.items())
    encoding = TorchZip("zip-1.13", "adapter_model")
    with (folder / "adapter_model.bin").open("wb") as file:
        items = (layout.items[run] for run in encoding.order(layout))
        file.writelines(encoding.encode(layout, (payload(item.name, item.spec, 0.0, 0.01, rng) for item in items)))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 4 * rank,
        "target_modules": [name.rpartition(".")[2] for name in PROJECTIONS],
        "modules_to_save": sorted(whole.values()) or None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def main() -> None:
    """Build the inputs, take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; its content is removed")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=49953)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin")
    parser.add_argument("--max-shard-bytes", type=int, default=10 * 10**9)
    parser.add_argument("--peft", action="store_true", help="run PEFT, too; it must be installed")
    parser.add_argument("options", nargs="*", help="more options of weightkit merge, after --")
    options = parser.parse_args()
    base, adapter, out, other = (options.work / name for name in ("base", "adapter", "out", "peft-out"))
    if not base.exists():
        made = {"chosen": options.format, "max_shard_bytes": options.max_shard_bytes}
        write(base, options.layers, "float16", center=1.0, scale=0.02, **made)
    shutil.rmtree(adapter, ignore_errors=True)
    write_adapter(adapter, options.layers, options.rank, options.tokens)
    merge = [sys.executable, "-m", "weightkit", "merge", "--base", str(base), "--lora", str(adapter), "--out", str(out)]
    merge += ["--jobs", str(options.jobs), "--quiet", *options.options]
    ratios, peaks, ours, theirs, against = [], [], [], [], []
    for number in range(options.runs + 1):
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = timed(*merge)
        copying, hashing = yardstick(out)
        line = f"merge {seconds:.2f} s, cp {copying:.2f} s + openssl {hashing:.2f} s, peak {peak} MiB"
        if options.peft:
            shutil.rmtree(other, ignore_errors=True)
            took, its_peak = timed(sys.executable, "-c", PEFT, str(base), str(adapter), str(other), str(options.tokens))
            line += f"; peft {took:.2f} s, peak {its_peak} MiB"
        if number:  # the first turn warms the cache
            ratios.append(seconds / (copying + hashing))
            peaks.append(peak)
            ours.append(seconds)
            theirs.append(copying + hashing)
            against += [seconds / took] if options.peft else []
        print(line, flush=True)
    nbytes = sum(path.stat().st_size for path in out.iterdir())
    print(f"output {nbytes} bytes in {len(list(out.iterdir()))} files, {options.layers} layers, {options.jobs} jobs")
    print(f"merge {statistics.median(ours):.2f} s, yardstick {statistics.median(theirs):.2f} s (medians of {options.runs})")
    print(f"ratio {statistics.median(ratios):.2f} (of pairs: {min(ratios):.2f} to {max(ratios):.2f}), peak {max(peaks)} MiB")
    if against:
        print(f"ratio to peft {statistics.median(against):.2f} (of pairs: {min(against):.2f} to {max(against):.2f})")


if __name__ == "__main__":
    main()
