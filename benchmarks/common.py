"""What the benchmarks share: a model of LLaMA-7B's true width made of random numbers, and the yardstick."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weightkit.checkpoints.shards import encode_index, index_name, shard, shard_names
from weightkit.containers import format_named
from weightkit.containers.layout import one_each
from weightkit.core.dtypes import BY_NAME
from weightkit.core.spec import TensorSpec
from weightkit.families import llama

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
    format = format_named(chosen)
    names = shard_names(format, len(shards))
    by_name = dict(named)
    for path, members in zip(names, shards, strict=True):
        layout = one_each((name, by_name[name]) for name in members)
        encoding = format.encoding(path, None, None, same=False)
        payloads = (
            payload(layout.items[run].name, layout.items[run].spec, center, scale, rng) for run in encoding.order(layout)
        )
        with (folder / path).open("wb") as file:
            file.writelines(encoding.encode(layout, payloads))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "vocab_size": TOKENS,
        "num_attention_heads": 32,
        "model_type": "llama",
        "num_hidden_layers": layers,
        "torch_dtype": dtype,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if len(shards) > 1:
        listing = {path: [(name, by_name[name]) for name in members] for path, members in zip(names, shards, strict=True)}
        (folder / index_name(format)).write_bytes(encode_index(listing))


def timed(*words: str) -> tuple[float, int]:
    """Seconds of wall time and peak resident MiB of one command."""
    start = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{words} ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_maxrss // 1024


def yardstick(out: Path) -> tuple[float, float]:
    """Seconds that ``cp -r`` of a folder takes, and ``openssl dgst -sha256`` of the copy's files."""
    copy = out.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    copying, _ = timed("cp", "-r", str(out), str(copy))
    hashing, _ = timed("openssl", "dgst", "-sha256", *sorted(str(path) for path in copy.iterdir()))
    shutil.rmtree(copy)
    return copying, hashing
