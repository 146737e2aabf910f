"""How fast recovering is, and how much memory it takes, against the yardstick on the same files and in the same run.

    python benchmarks/recover.py --work /somewhere/with/20GB --layers 4 --runs 3

The model has the true width of LLaMA-7B (hidden 4096, vocabulary 32000): float16 base, float32 diff. The yardstick is
``cp -r`` of the recovered folder followed by ``openssl dgst -sha256`` of its files. Yardstick and recovery take turns, the
page cache is warm, and the median ratio is what README quotes. Figures of single runs say little on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weightkit.checkpoints.huggingface import encode_index, shard, shard_names
from weightkit.containers.layout import Encoding, one_each
from weightkit.containers.safetensors import Safetensors
from weightkit.containers.torch_zip_writer import TorchZip, root_for
from weightkit.dtypes import BY_NAME
from weightkit.families import llama
from weightkit.spec import TensorSpec

HIDDEN, INNER, TOKENS = 4096, 11008, 32000
BLOCK = 1 << 20


def specs(layers: int, dtype: str) -> list[tuple[str, TensorSpec]]:
    """Names, dtypes and shapes of a LLaMA of 7B's width with so many layers."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (TOKENS, HIDDEN))
    shapes["model.norm.weight"] = (HIDDEN,)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return [(name, TensorSpec(BY_NAME[dtype], shapes[name])) for name in llama.in_state_dict_order(shapes)]


def payload(name: str, spec: TensorSpec, center: float, scale: float, rng: np.random.Generator) -> Iterator[bytes]:
    """Random numbers for a tensor; large ones repeat a block, which neither disk nor processor notices."""
    kind = np.float16 if spec.dtype.name == "float16" else np.float32
    count = min(spec.numel, BLOCK // spec.dtype.itemsize)
    block = (center * llama.is_norm(name) + scale * rng.standard_normal(count)).astype(kind).tobytes()
    left = spec.nbytes
    while left:
        yield block[:left]
        left -= min(left, len(block))


def write(folder: Path, layers: int, dtype: str, *, center: float, scale: float, chosen: str, max_shard_bytes: int) -> None:
    """A transformers folder of random weights."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(layers)
    named = specs(layers, dtype)
    shards = shard(named, max_shard_bytes)
    names = shard_names(chosen, len(shards))
    by_name = dict(named)
    for path, members in zip(names, shards, strict=True):
        layout = one_each((name, by_name[name]) for name in members)
        encoding: Encoding = Safetensors() if chosen == "safetensors" else TorchZip("zip-1.13", root_for(path, "zip-1.13"))
        payloads = (
            payload(layout.items[run].name, layout.items[run].spec, center, scale, rng) for run in encoding.order(layout)
        )
        with (folder / path).open("wb") as file:
            file.writelines(encoding.encode(layout, payloads))
    config = {
        "hidden_size": HIDDEN,
        "num_attention_heads": 32,
        "model_type": "llama",
        "num_hidden_layers": layers,
        "torch_dtype": dtype,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if len(shards) > 1:
        listing = {path: [(name, by_name[name]) for name in members] for path, members in zip(names, shards, strict=True)}
        index = f"{'model' if chosen == 'safetensors' else 'pytorch_model'}.{chosen}.index.json"
        (folder / index).write_bytes(encode_index(listing))


def timed(*words: str) -> tuple[float, int]:
    """Seconds of wall time and peak resident MiB of one command."""
    start = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{words} ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss // 1024


def main() -> None:
    """Build the inputs, take turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder with room; its content is removed")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin")
    parser.add_argument("--meta-parts", type=int, default=0, help="give the base in so many of Meta's parts")
    parser.add_argument("--max-shard-bytes", type=int, default=10 * 10**9)
    options = parser.parse_args()
    base, diff, out, copy = (options.work / name for name in ("base", "diff", "out", "copy"))
    made = {"chosen": options.format, "max_shard_bytes": options.max_shard_bytes}
    if not base.exists():
        write(base, options.layers, "float16", center=1.0, scale=0.02, **made)
        write(diff, options.layers, "float32", center=0.0, scale=0.0005, **made)
    if options.meta_parts:
        parts = options.work / f"meta-{options.meta_parts}"
        if not parts.exists():
            words = ["convert", str(base), str(parts), "--to", "meta", "--parts", str(options.meta_parts), "--quiet"]
            timed(sys.executable, "-m", "weightkit", *words)
        base = parts
    recover = [sys.executable, "-m", "weightkit", "recover", "--raw", str(base), "--diff", str(diff), "--out", str(out)]
    ratios, peaks, ours, theirs = [], [], [], []
    for number in range(options.runs + 1):
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = timed(*recover, "--jobs", str(options.jobs), "--quiet")
        shutil.rmtree(copy, ignore_errors=True)
        copying, _ = timed("cp", "-r", str(out), str(copy))
        hashing, _ = timed("openssl", "dgst", "-sha256", *sorted(str(path) for path in copy.iterdir()))
        shutil.rmtree(copy)
        if number:  # the first turn warms the cache
            ratios.append(seconds / (copying + hashing))
            peaks.append(peak)
            ours.append(seconds)
            theirs.append(copying + hashing)
        print(f"recover {seconds:.2f} s, cp {copying:.2f} s + openssl {hashing:.2f} s, peak {peak} MiB", flush=True)
    nbytes = sum(path.stat().st_size for path in out.iterdir())
    print(f"output {nbytes} bytes in {len(list(out.iterdir()))} files, {options.layers} layers, {options.jobs} jobs")
    print(f"recover {statistics.median(ours):.2f} s, yardstick {statistics.median(theirs):.2f} s (medians of {options.runs})")
    print(f"ratio {statistics.median(ratios):.2f} (of pairs: {min(ratios):.2f} to {max(ratios):.2f}), peak {max(peaks)} MiB")


if __name__ == "__main__":
    main()
