"""Peak resident memory of whole processes: bounded, whatever the size of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.big import shapes, sparse_folder

GIB = 1 << 30


PROBE = (
    "import resource, subprocess, sys; "
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def peak(tmp_path: Path, *words: str) -> int:
    """``ru_maxrss`` of one command, in bytes; run from a small process, since a child begins with its parent's peak."""
    command = [sys.executable, "-c", PROBE, sys.executable, "-m", "weightkit", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


def recovery(tmp_path: Path, layers: int, *more: str) -> int:
    """Recover a model of 7B's width with a float32 diff into one torch file; returns the peak. Cleans up."""
    folder = tmp_path / f"{layers}"
    sparse_folder(folder / "b", shapes(layers), "float16", 1.0)
    sparse_folder(folder / "d", shapes(layers), "float32", 0.001)
    found = peak(folder, "recover", "--raw", "b", "--diff", "d", "--out", "o", "--format", "bin", "--quiet", *more)
    out = folder / "o" / "pytorch_model.bin"
    assert out.stat().st_size > GIB
    out.unlink()
    return found


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    one, two = recovery(tmp_path, 1), recovery(tmp_path, 2)
    assert max(one, two) < 0.4 * GIB
    assert abs(two - one) < 0.05 * one


@pytest.mark.slow
def test_memory_of_four_layers_and_of_eight(tmp_path: Path) -> None:
    four, eight = recovery(tmp_path, 4), recovery(tmp_path, 8)
    assert max(four, eight) < GIB
    assert abs(eight - four) < 0.05 * four


def test_the_plan_keeps_its_promise(tmp_path: Path) -> None:
    """What is allowed is not passed, with many jobs over many files; what cannot be kept is refused (see test_recover)."""
    tensors = {f"model.layers.{layer}.mlp.up_proj.weight": (2000, 11008) for layer in range(8)} | {"model.norm.weight": (64,)}
    sparse_folder(tmp_path / "b", tensors, "float16", 1.0)
    sparse_folder(tmp_path / "d", tensors, "float32", 0.001, files=4)
    words = ("recover", "--raw", "b", "--diff", "d", "--out", "o", "--format", "bin", "--jobs", "4", "--quiet")
    assert peak(tmp_path, *words, "--max-memory", "400MiB") <= 400 << 20


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
