"""What a file or folder is said to be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import PEER, Run
from weightkit.core.errors import PlanError
from weightkit.diff import make_diff
from weightkit.identify import identify
from weightkit.merge import merge_lora


def said(path: Path) -> str:
    return "\n".join(identify(path).lines)


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [
        ("hf-bin", ["a model; transformers' layout; 4 files; float16; 320 tokens", "inv_freq stored in float32"]),
        ("hf-bin-nofreq", ["inv_freq not stored", "written by torch 1.13 to 2.0"]),
        ("meta/7B", ["a model; Meta's layout"]),
        ("diffs/knowlm", ["a diff"]),
        ("diffs/stanford", ["a diff", "321 tokens"]),
        ("diffs/enc", ["a byte XOR of .enc files", "header and name agree"]),
        ("diffs/oasst", ["a byte XOR with files of the same names"]),
        ("diffs/oasst-gzip", ["a byte XOR with files of the same names"]),
        ("lora-zh2-bin", ["a LoRA adapter of rank 8 on 14 weights, 331 rows of embedding whole"]),
    ],
)
def test_what_kind_a_folder_is(folder: str, wanted: list[str]) -> None:
    for one in wanted:
        assert one in said(PEER / folder)


def test_published_files_by_their_digest(tmp_path: Path) -> None:
    content = '{"dim": 6656, "multiple_of": 256, "n_heads": 52, "n_layers": 60, "norm_eps": 1e-06, "vocab_size": -1}'
    (tmp_path / "whatever.json").write_text(content)
    found = identify(tmp_path / "whatever.json")
    assert found.releases == ("llama-30b",)
    assert found.lines[0].startswith("whatever.json is, by its digest, params.json of llama-30b: LLaMA-30B as Meta released it")


def test_small_files_that_many_share_prove_no_release() -> None:
    assert "small files that were published, too: generation_config.json" in said(PEER / "hf-bin")
    assert "is, by its digest" not in said(PEER / "hf-bin")


def test_llamas_own_widths_have_names(tmp_path: Path) -> None:
    """Real widths, one layer; the values are not LLaMA's."""
    model = {
        "model.embed_tokens.weight": torch.zeros(49954, 4096, dtype=torch.float16),
        "model.norm.weight": torch.ones(4096),
        "model.layers.0.mlp.up_proj.weight": torch.randn(4, 4096).half(),
    }
    torch.save(model, tmp_path / "pytorch_model.bin")
    text = said(tmp_path)
    assert "a model with a grown vocabulary: tuned or merged already; of LLaMA-7B's width, 1 layers" in text
    assert "49954 tokens (Chinese-Alpaca's vocabulary)" in text
    model["model.norm.weight"] = torch.randn(4096) * 0.001
    model["model.embed_tokens.weight"] = torch.zeros(32001, 4096, dtype=torch.float16)
    torch.save({name: one.half() for name, one in model.items()}, tmp_path / "pytorch_model.bin")
    assert "a diff, like Vicuna v0's" in said(tmp_path)


def test_through_bfloat16(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(64, 64).bfloat16().half()}, tmp_path / "pytorch_model.bin")
    assert "through bf16" in said(tmp_path)


def test_merged_and_exact(tmp_path: Path) -> None:
    merge_lora(PEER / "hf-bin", [PEER / "lora-zh1-bin"], tmp_path / "m")
    assert "330 tokens" in said(tmp_path / "m")
    make_diff(PEER / "hf-bin", PEER / "tuned-fp16-bin", tmp_path / "e", method="exact")
    assert "exact differences (.wkx)" in said(tmp_path / "e")
    assert "an exact difference (.wkx)" in said(next((tmp_path / "e").glob("*.wkx")))


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        (
            "a.bin",
            "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 5\n",
            "a Git-LFS pointer (lfs)",
        ),
        ("a.bin", "<!DOCTYPE html><p>", "is a web page"),
        ("a.bin", "", "is empty"),
        ("a.gguf", "GGUF....", "GGUF"),
        ("tokenizer.model", "nonsense", "is no sentencepiece model"),
        ("notes.txt", "hello", "5 bytes of another kind"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, name: str, content: str, wanted: str) -> None:
    (tmp_path / name).write_text(content)
    assert wanted in said(tmp_path / name)


def test_a_pointer_to_a_published_file_is_named(tmp_path: Path) -> None:
    digest = "745bf4e29a4dd6f411e72976d92b452da1b49168a4f41c951cfcc8051823cf08"  # LLaMA-13B's first part, as published
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 13016334699\n"
    (tmp_path / "consolidated.00.pth").write_text(text)
    assert "which is consolidated.00.pth of llama-13b" in said(tmp_path / "consolidated.00.pth")


def test_enc_files_by_their_name(tmp_path: Path) -> None:
    """What a BELLE file decodes to was published, in its name."""
    name = "config.json.db303d8f096e427bd21ff97bb169c84fb3ae11336a644e3da3506419d44f6429.enc"
    (tmp_path / name).write_bytes(bytes.fromhex(name.split(".")[2]) + b"x" * 472)
    assert "what it decodes to is config.json of" in said(tmp_path / name)
    (tmp_path / name).write_bytes(bytes(32) + b"x" * 472)
    assert "damaged or renamed" in said(tmp_path / name)


def test_the_command(weightkit: Run, tmp_path: Path) -> None:
    shutil.copytree(PEER / "hf-bin", tmp_path / "w")
    done = weightkit("identify", "w", "w/config.json", "--json")
    assert [one["path"] for one in json.loads(done.stdout)["files"]] == ["w", "w/config.json"]
    done = weightkit("identify", "w", "nowhere", "--full")
    assert done.returncode == 1
    assert "nowhere does not exist" in done.stderr
    assert "a model" in done.stdout
    with pytest.raises(PlanError):
        identify(tmp_path / "nowhere")
