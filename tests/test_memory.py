"""Peak resident memory of whole processes: bounded, whatever the size of the model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.big import shapes, sparse_folder
from tests.peak import peak
from weightkit.containers.layout import one_each
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core.dtypes import FLOAT16
from weightkit.core.spec import TensorSpec

GIB = 1 << 30


def refused(tmp_path: Path, *words: str, env: dict[str, str] | None = None) -> int:
    """What a command says that it takes, when it refuses to begin with what it is allowed; in bytes."""
    command = [sys.executable, "-m", "weightkit", *words]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "o").exists()
    said = re.search(r"this takes ([\d.]+) MB of memory, and --max-memory allows", done.stderr)
    assert said, done.stderr
    return int(float(said[1]) * 10**6)


def recovery(tmp_path: Path, layers: int, *more: str) -> int:
    """Recover a model of 7B's width with a float32 diff into one torch file; returns the peak. Cleans up.

    The least of three, with one arena of the allocator's: how many blocks are on their way at once, and what the allocator
    keeps for each thread, hang on the machine, and make a few per cent of the peak.
    """
    folder = tmp_path / f"{layers}"
    sparse_folder(folder / "b", shapes(layers), "float16", 1.0)
    sparse_folder(folder / "d", shapes(layers), "float32", 0.001)
    found = []
    for _ in range(3):
        words = ("recover", "--raw", "b", "--diff", "d", "--out", "o", "--format", "bin", "--quiet", *more)
        found.append(peak(folder, *words, env={"MALLOC_ARENA_MAX": "1"}))
        assert (folder / "o" / "pytorch_model.bin").stat().st_size > GIB
        shutil.rmtree(folder / "o")
    return min(found)


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    one, two = recovery(tmp_path, 1), recovery(tmp_path, 2)
    assert max(one, two) < 0.4 * GIB
    assert abs(two - one) < 0.08 * one


@pytest.mark.rig
def test_memory_of_four_layers_and_of_eight(tmp_path: Path) -> None:
    four, eight = recovery(tmp_path, 4), recovery(tmp_path, 8)
    assert max(four, eight) < GIB
    assert abs(eight - four) < 0.08 * four


def test_the_plan_keeps_its_promise(tmp_path: Path) -> None:
    """What is allowed is not passed, with many jobs over many files; what cannot be kept is refused (see test_recover)."""
    tensors = {f"model.layers.{layer}.mlp.up_proj.weight": (2000, 11008) for layer in range(8)} | {"model.norm.weight": (64,)}
    sparse_folder(tmp_path / "b", tensors, "float16", 1.0)
    sparse_folder(tmp_path / "d", tensors, "float32", 0.001, files=4)
    words = ("recover", "--raw", "b", "--diff", "d", "--out", "o", "--format", "bin", "--jobs", "4", "--quiet")
    assert peak(tmp_path, *words, "--max-memory", "400MiB") <= 400 << 20


def wide_meta_base(folder: Path, layers: int) -> None:
    """Meta's layout at the width of a 65B with its 64 heads; all else is small. Holes for all values."""
    width, inner = 8192, 256
    named = {"tok_embeddings.weight": (64, width), "norm.weight": (width,), "output.weight": (64, width)}
    for layer in range(layers):
        named |= {f"layers.{layer}.attention.{one}.weight": (width, width) for one in ("wq", "wk", "wv", "wo")}
        named |= {f"layers.{layer}.feed_forward.{one}.weight": (inner, width) for one in ("w1", "w3")}
        named |= {f"layers.{layer}.feed_forward.w2.weight": (width, inner)}
        named |= {f"layers.{layer}.{one}_norm.weight": (width,) for one in ("attention", "ffn")}
    layout = one_each((name, TensorSpec(FLOAT16, shape)) for name, shape in named.items())
    folder.mkdir()
    hole = bytes(1 << 20)
    encoding = TorchZip("zip-1.9", "archive")
    with (folder / "consolidated.00.pth").open("wb") as file:
        payloads = ((hole[:rest] for rest in pieces(layout.runs[run].spec.nbytes)) for run in encoding.order(layout))
        for chunk in encoding.encode(layout, payloads):
            file.seek(len(chunk), 1) if len(chunk) > 1 << 16 else file.write(chunk)
    params = {"dim": width, "n_heads": 64, "n_layers": layers, "norm_eps": 1e-5}
    (folder / "params.json").write_text(json.dumps(params))


def pieces(nbytes: int) -> list[int]:
    """Sizes of blocks of a mebibyte that make up so many bytes."""
    return [min(1 << 20, nbytes - at) for at in range(0, nbytes, 1 << 20)]


def test_heads_that_jobs_hold_are_counted(tmp_path: Path) -> None:
    """A head of a 65B is two blocks, and each job holds one."""
    wide_meta_base(tmp_path / "m", layers=4)
    words = ("convert", "m", "o", "--to", "hf", "--max-shard-size", "140MB", "--quiet")
    for jobs, allowed in ((8, 345), (16, 600)):
        assert peak(tmp_path, *words, "--jobs", str(jobs), "--max-memory", f"{allowed}MB") <= allowed * 10**6
        shutil.rmtree(tmp_path / "o")


def test_what_is_only_hashed_is_counted(tmp_path: Path) -> None:
    """Meta's part is made of transformers' shards, and is not stored: no more memory than is allowed."""
    wide_meta_base(tmp_path / "m", layers=1)
    made = ("convert", "m", "p", "--to", "meta", "--quiet")
    subprocess.run([sys.executable, "-m", "weightkit", *made], cwd=tmp_path, check=True)
    lines = (tmp_path / "p" / "SHA256SUMS").read_text().splitlines(keepends=True)
    (tmp_path / "list").write_text("".join(line for line in lines if line.endswith(".pth\n")))
    shutil.rmtree(tmp_path / "p")
    words = ("convert", "m", "o", "--to", "hf", "--format", "safetensors", "--max-shard-size", "140MB", "--quiet")
    allowed = ("--checksums", "list", "--jobs", "8", "--max-memory", "345MB")
    assert peak(tmp_path, *words, *allowed) <= 345 * 10**6
    assert not list((tmp_path / "o").glob("*.pth"))


def test_a_matrix_that_is_turned_is_counted(tmp_path: Path) -> None:
    """A LoRA on an embedding: 128256 tokens of rank 512 in float32, which are read by columns."""
    tokens, width, rank = 128256, 1024, 512
    named = {"model.embed_tokens.weight": (tokens, width), "model.norm.weight": (width,)}
    sparse_folder(tmp_path / "b", named, "float16", 1.0)
    prefix = "base_model.model.model.embed_tokens.lora_embedding"
    sparse_folder(tmp_path / "a", {f"{prefix}_A": (rank, tokens), f"{prefix}_B": (width, rank)}, "float32", 1.0)
    (tmp_path / "a" / "model.safetensors").rename(tmp_path / "a" / "adapter_model.safetensors")
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
    words = ("merge", "--base", "b", "--lora", "a", "--out", "o", "--quiet", "--max-memory", "400MB")
    assert peak(tmp_path, *words) <= 400 * 10**6


def test_the_plan_itself_is_counted(tmp_path: Path) -> None:
    """100 000 tensors, as mixtures of experts have: in one file, and in shards."""
    named = {f"model.layers.{n // 1000}.mlp.experts.{n % 1000}.up_proj.weight": (8, 8) for n in range(100_000)}
    for name, dtype, norm in (("b", "float16", 1.0), ("d", "float32", 0.001)):
        sparse_folder(tmp_path / name, named | {"model.norm.weight": (64,)}, dtype, norm)
    words = ("recover", "--raw", "b", "--diff", "d", "--out", "o", "--quiet", "--jobs", "1", "--max-memory")
    assert refused(tmp_path, *words, "300MB") > 300 * 10**6
    for more in ((), ("--max-shard-size", "10MB")):
        assert peak(tmp_path, *words, "400MB", *more) <= 400 * 10**6
        shutil.rmtree(tmp_path / "o")


def test_a_process_that_is_larger_is_counted(tmp_path: Path) -> None:
    """As that of a torch with CUDA: here another 180 MiB, held from the start."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text('import sys\nsys.held = b"1" * (180 << 20)\n')
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"PYTHONPATH": os.pathsep.join(paths)}
    sparse_folder(tmp_path / "b", shapes(1), "float16", 1.0)
    sparse_folder(tmp_path / "d", shapes(1), "float16", 0.001)
    words = ("recover", "--raw", "b", "--diff", "d", "--out", "o", "--quiet", "--jobs", "1", "--max-memory")
    takes = refused(tmp_path, *words, "345MB", env=env)
    assert takes > 345 * 10**6
    allowed = takes + 10**7
    assert peak(tmp_path, *words, str(allowed), env=env) <= allowed


def adapter(folder: Path, rank: int) -> Path:
    """A LoRA of one layer of 7B's width, with 49953 rows of embedding and head whole, as Chinese-LLaMA-Alpaca's are."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes(1).items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if name.endswith("proj.weight"):
            found |= {f"{module}.lora_A.weight": (rank, shape[1]), f"{module}.lora_B.weight": (shape[0], rank)}
        elif "norm" not in name:
            found[f"{module}.weight"] = (49953, 4096)
    sparse_folder(folder, found, "float32", 1.0)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 2 * rank}))
    return folder


def test_a_merge_is_bounded(tmp_path: Path) -> None:
    """True width, 49953 rows of float32 cast on the way, rank 128, two jobs; and again within what is allowed."""
    sparse_folder(tmp_path / "b", shapes(1), "float16", 1.0, files=2)
    adapter(tmp_path / "a", 128)
    words = ("merge", "--base", "b", "--lora", "a", "--jobs", "2", "--quiet", "--format", "bin")
    assert peak(tmp_path, *words, "--out", "o") < 0.45 * GIB
    assert peak(tmp_path, *words, "--out", "p", "--max-memory", "400MiB") <= 400 << 20


def test_decoding_is_bounded_and_so_is_the_exact_difference(tmp_path: Path) -> None:
    for name in ("tuned", "base"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "a.bin").open("wb") as file:
            file.truncate(400 << 20)
    peak(tmp_path, "xor", "encode", "tuned", "--key", "base/a.bin", "--format", "enc", "--out", "e", "--quiet")
    assert peak(tmp_path, "xor", "decode", "e", "--key", "base/a.bin", "--out", "o", "--quiet", "--jobs", "2") < 100 << 20
    sparse_folder(tmp_path / "b", shapes(1), "float16", 1.0, files=2)
    sparse_folder(tmp_path / "t", shapes(1), "float32", 1.0, files=2)
    exact = ("make-diff", "--raw", "b", "--tuned", "t", "--method", "exact", "--jobs", "2", "--quiet")
    assert peak(tmp_path, *exact, "--out", "d") < 300 << 20
    assert peak(tmp_path, "recover", "--raw", "b", "--diff", "d", "--jobs", "2", "--out", "r", "--quiet") < 300 << 20


def test_make_diff_is_bounded_too(tmp_path: Path) -> None:
    tensors = {f"model.layers.{layer}.mlp.up_proj.weight": (20000, 4096) for layer in range(4)} | {"model.norm.weight": (64,)}
    sparse_folder(tmp_path / "b", tensors, "float16", 1.0)
    sparse_folder(tmp_path / "t", tensors, "float32", 1.0)
    assert peak(tmp_path, "make-diff", "--raw", "b", "--tuned", "t", "--out", "o", "--quiet") < 0.4 * GIB


def test_verify_needs_next_to_nothing(tmp_path: Path) -> None:
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(600 << 20)
    listed = subprocess.run(["sha256sum", "model.bin"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (tmp_path / "SHA256SUMS").write_text(listed)
    assert peak(tmp_path, "verify", ".") < 64 << 20
