"""Eight jobs of the command line, and the inputs that torch and safetensors write for them on the spot.

A model has random weights and the small files of ``tests/data/peer``; differences and payloads are made by the commands
that make them, from copies, so that nothing of the project is an input and every input can be watched.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from tests.rigs.child import finished

PEER = Path(__file__).parents[1] / "data" / "peer"
SMALL = ("generation_config.json", "special_tokens_map.json", "tokenizer.model", "tokenizer_config.json")
TOKENS, HEADS = 320, 4

NAMES = ("recover", "recover-safetensors", "merge", "convert", "xor-decode", "make-diff", "make-diff-exact", "recover-exact")

State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Size:
    """A model's numbers."""

    hidden: int
    layers: int
    shards: int

    @property
    def inner(self) -> int:
        """Width of the MLP, as Meta's ``multiple_of`` of 256 rounds it."""
        return -(-(8 * self.hidden // 3) // 256) * 256


SMALLEST, LARGER = Size(64, 2, 3), Size(256, 4, 6)


@dataclass(frozen=True, slots=True)
class Job:
    """A command and where it writes."""

    name: str
    words: tuple[str, ...]

    def into(self, out: Path) -> list[str]:
        """The command's words, with the folder that it is to write."""
        return [str(out) if word == "OUT" else word for word in self.words]


def make_jobs(root: Path, size: Size, names: Sequence[str] = NAMES, jobs: int = 2) -> list[Job]:
    """Write the inputs below a folder, and name the jobs that read them."""
    base, tuned, meta, lora = root / "base", root / "tuned", root / "meta", root / "lora"
    generator = torch.Generator().manual_seed(17)
    before = transformers_state(size, generator)
    after = {name: one.float() + 0.01 * torch.randn(one.shape, generator=generator) for name, one in before.items()}
    write_shards(base, before, size, "float16")
    write_shards(tuned, after, size, "float32")
    write_meta(meta, size, generator)
    write_lora(lora, size, generator)
    (root / "diff-safetensors").mkdir()
    differences = {name: after[name] - before[name].float() for name in before}
    safetensors.torch.save_file(differences, root / "diff-safetensors" / "model.safetensors", metadata={"format": "pt"})
    write_small(root / "diff-safetensors", size, "float32")
    key = meta / "7B" / "consolidated.00.pth"
    pair = ("--raw", str(base), "--tuned", str(tuned))
    common = ("--jobs", str(jobs), "-q")
    for words in (
        ("make-diff", *pair, "--dtype", "float32", "--out", str(root / "diff"), "-q"),
        ("make-diff", *pair, "--method", "exact", "--out", str(root / "diff-exact"), "-q"),
        ("xor", "encode", str(base), "--key", str(key), "--format", "enc", "--out", str(root / "payload"), "-q"),
    ):
        ending = finished(words)
        if ending.status != 0:
            raise RuntimeError(f"{' '.join(words)}: {ending.text}")
    diff = ("--raw", str(base), "--diff")
    words_of = {
        "recover": ("recover", *diff, str(root / "diff"), "--out", "OUT"),
        "recover-safetensors": ("recover", *diff, str(root / "diff-safetensors"), "--max-shard-size", "400kB", "--out", "OUT"),
        "merge": ("merge", "--base", str(base), "--lora", str(lora), "--out", "OUT"),
        "convert": ("convert", str(meta / "7B"), "OUT", "--to", "hf", "--max-shard-size", "400kB"),
        "xor-decode": ("xor", "decode", str(root / "payload"), "--key", str(key), "--out", "OUT"),
        "make-diff": ("make-diff", *pair, "--dtype", "float32", "--out", "OUT"),
        "make-diff-exact": ("make-diff", *pair, "--method", "exact", "--out", "OUT"),
        "recover-exact": ("recover", *diff, str(root / "diff-exact"), "--out", "OUT"),
    }
    return [Job(name, (*words_of[name], *common)) for name in names]


def transformers_state(size: Size, generator: torch.Generator) -> State:
    """float16 weights under transformers' names."""

    def random(*shape: int) -> torch.Tensor:
        return (0.02 * torch.randn(shape, generator=generator)).half()

    state = {"model.embed_tokens.weight": random(TOKENS, size.hidden)}
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}."
        state |= {f"{prefix}self_attn.{name}_proj.weight": random(size.hidden, size.hidden) for name in "qkvo"}
        state |= {f"{prefix}mlp.{name}_proj.weight": random(size.inner, size.hidden) for name in ("gate", "up")}
        state[f"{prefix}mlp.down_proj.weight"] = random(size.hidden, size.inner)
        state |= {f"{prefix}{name}_layernorm.weight": 1 + random(size.hidden) for name in ("input", "post_attention")}
    return state | {"model.norm.weight": 1 + random(size.hidden), "lm_head.weight": random(TOKENS, size.hidden)}


def write_shards(folder: Path, state: State, size: Size, dtype: str) -> None:
    """A transformers folder: so many .bin files of torch's own, and their index."""
    folder.mkdir()
    names = list(state)
    where = {}
    for shard in range(size.shards):
        file = f"pytorch_model-{shard + 1:05}-of-{size.shards:05}.bin"
        members = names[len(names) * shard // size.shards : len(names) * (shard + 1) // size.shards]
        torch.save({name: state[name] for name in members}, folder / file)
        where |= dict.fromkeys(members, file)
    total = sum(one.nbytes for one in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")
    write_small(folder, size, dtype)


def write_small(folder: Path, size: Size, dtype: str) -> None:
    """The small files of a transformers folder."""
    for name in SMALL:
        shutil.copyfile(PEER / "hf-bin" / name, folder / name)
    config = json.loads((PEER / "hf-bin" / "config.json").read_text())
    config |= {"hidden_size": size.hidden, "intermediate_size": size.inner, "num_hidden_layers": size.layers}
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}, indent=2) + "\n")


def write_meta(folder: Path, size: Size, generator: torch.Generator) -> None:
    """Meta's layout: one part, its numbers, its checklist, the vocabulary above it."""
    place = folder / "7B"
    place.mkdir(parents=True)
    renamed = {"embed_tokens": "tok_embeddings", "lm_head": "output", "self_attn": "attention", "mlp": "feed_forward"}
    renamed |= {
        "q_proj": "wq",
        "k_proj": "wk",
        "v_proj": "wv",
        "o_proj": "wo",
        "gate_proj": "w1",
        "down_proj": "w2",
        "up_proj": "w3",
    }
    renamed |= {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    state = {}
    for name, tensor in transformers_state(size, generator).items():
        parts = name.removeprefix("model.").split(".")
        state[".".join(renamed.get(part, part) for part in parts)] = tensor
    state["rope.freqs"] = 1.0 / 10000 ** (torch.arange(0, size.hidden // HEADS, 2).float() / (size.hidden // HEADS))
    torch.save(state, place / "consolidated.00.pth")
    numbers = {"dim": size.hidden, "multiple_of": 256, "n_heads": HEADS, "n_layers": size.layers, "norm_eps": 1e-6}
    (place / "params.json").write_text(json.dumps(numbers | {"vocab_size": -1}))
    shutil.copyfile(PEER / "meta" / "tokenizer.model", folder / "tokenizer.model")
    listed = ("consolidated.00.pth", "params.json")
    lines = (f"{hashlib.md5((place / name).read_bytes()).hexdigest()}  {name}\n" for name in listed)
    (place / "checklist.chk").write_text("".join(lines))


def write_lora(folder: Path, size: Size, generator: torch.Generator) -> None:
    """An adapter of q_proj and v_proj, named as PEFT names it."""
    folder.mkdir()
    shutil.copyfile(PEER / "lora-alpaca-bin" / "adapter_config.json", folder / "adapter_config.json")
    state = {}
    for layer in range(size.layers):
        for name in ("q_proj", "v_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_"
            state[f"{prefix}A.weight"] = 0.05 * torch.randn((8, size.hidden), generator=generator)
            state[f"{prefix}B.weight"] = 0.05 * torch.randn((size.hidden, 8), generator=generator)
    torch.save(state, folder / "adapter_model.bin")
