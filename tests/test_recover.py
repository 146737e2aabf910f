"""Recoveries against the bytes that the authors' own tools wrote from the same inputs (see data/ORIGIN.md)."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.conftest import PEER, bits, sha256
from weightkit.blobs import open_local
from weightkit.containers import open_file
from weightkit.core.dtypes import BFLOAT16, FLOAT16, FLOAT32
from weightkit.core.errors import PlanError
from weightkit.families import llama
from weightkit.recover import Form, Rules, prepare, recover
from weightkit.run.execute import Done

BASE = PEER / "hf-bin"
DIFFS = PEER / "diffs"
KNOWLM = "bfd6f5e1f148c73ecc530b6398b372d0f9d678b167f689f902a7de705feea9b6"
KNOWLM_FP16 = "5a267d90158b8402112a1df9226b995947e5c35a3520604d7a18f1a3dd7454f0"
KNOWLM_SAFETENSORS = "e1b3f2102ca5b6eccbecf9d46b134e5188d522c7b8c49e78707b8ad0caec1a2c"
STANFORD = "c2c90733426140d8fb390a58c82062559e0bc7f546cb2e3ddf3cd1f27dd15a1b"
FASTCHAT = "406e5de8a627b60b6eb1046169460c0cd8c03cf1384a5f922a75065e930d2d67"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by torch and safetensors themselves."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.bin")):
        found |= torch.load(path, weights_only=True)
    for path in sorted(folder.glob("*.safetensors")):
        found |= safetensors.torch.load_file(path)
    return found


def written(done: Done) -> dict[str, str]:
    assert done.ok
    return {receipt.path: receipt.sha256 for receipt in done.report.receipts}


@pytest.mark.parametrize(
    ("diff", "rules", "form", "name", "wanted"),
    [
        ("knowlm", Rules(), Form(), "pytorch_model.bin", KNOWLM),
        ("knowlm", Rules(FLOAT32), Form(torch_compat="2.0.1"), "pytorch_model.bin", KNOWLM),
        ("knowlm", Rules(FLOAT16), Form(), "pytorch_model.bin", KNOWLM_FP16),
        ("knowlm-modern-safetensors", Rules(), Form(), "model.safetensors", KNOWLM_SAFETENSORS),
        ("stanford", Rules(new_rows="mean"), Form(), "pytorch_model.bin", STANFORD),
        ("fastchat", Rules(), Form(), "pytorch_model.bin", FASTCHAT),
        ("fastchat-sharded", Rules(), Form(max_shard_bytes=10**10), "pytorch_model.bin", FASTCHAT),
    ],
)
def test_bytes_are_the_authors(tmp_path: Path, diff: str, rules: Rules, form: Form, name: str, wanted: str) -> None:
    assert written(recover(BASE, DIFFS / diff, tmp_path / "o", rules=rules, form=form))[name] == wanted
    assert sha256(tmp_path / "o" / name) == wanted


def test_small_files_are_the_diffs(tmp_path: Path) -> None:
    files = written(recover(BASE, DIFFS / "stanford", tmp_path / "o", rules=Rules(new_rows="mean")))
    for name in ("tokenizer.model", "added_tokens.json", "special_tokens_map.json", "config.json", "generation_config.json"):
        assert files[name] == sha256(DIFFS / "stanford" / name)


def test_small_files_may_be_the_bases(tmp_path: Path) -> None:
    recover(BASE, DIFFS / "fastchat", tmp_path / "o", form=Form(config_from="base", tokenizer_from="base"))
    assert (tmp_path / "o" / "config.json").read_bytes() == (BASE / "config.json").read_bytes()
    assert (tmp_path / "o" / "tokenizer_config.json").read_bytes() == (BASE / "tokenizer_config.json").read_bytes()


def test_tokenizer_comes_from_the_base_where_the_diff_has_none(tmp_path: Path) -> None:
    diff = shutil.copytree(DIFFS / "knowlm", tmp_path / "diff")
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (diff / name).unlink()
    recover(BASE, diff, tmp_path / "o")
    assert (tmp_path / "o" / "tokenizer.model").read_bytes() == (BASE / "tokenizer.model").read_bytes()


def test_config_follows_the_dtype_and_is_else_untouched(tmp_path: Path) -> None:
    recover(BASE, DIFFS / "knowlm", tmp_path / "o", rules=Rules(FLOAT16))
    before = (DIFFS / "knowlm" / "config.json").read_text()
    assert (tmp_path / "o" / "config.json").read_text() == before.replace('"float32"', '"float16"')


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("compat", ["1.9", "1.13", "2.1", "2.13"])
def test_any_profile_is_read_back_by_torch(tmp_path: Path, compat: str, jobs: int) -> None:
    recover(BASE, DIFFS / "fastchat-sharded", tmp_path / "o", form=Form(torch_compat=compat), jobs=jobs)
    recover(BASE, DIFFS / "fastchat", tmp_path / "whole")
    found, wanted = tensors(tmp_path / "o"), tensors(tmp_path / "whole")
    assert {name: bits(one) for name, one in found.items()} == {name: bits(one) for name, one in wanted.items()}
    profile = {"1.9": "zip-1.9", "1.13": "zip-1.13", "2.1": "zip-2.1", "2.13": "zip-2.7"}[compat]
    assert open_file(open_local(tmp_path / "o" / "pytorch_model-00001-of-00002.bin")).profile == profile


def test_index_is_that_of_save_pretrained(tmp_path: Path) -> None:
    recover(BASE, DIFFS / "fastchat-sharded", tmp_path / "o")
    text = (tmp_path / "o" / "pytorch_model.bin.index.json").read_text()
    index = json.loads((DIFFS / "fastchat-sharded" / "pytorch_model.bin.index.json").read_text())
    assert text == json.dumps(index, indent=2, sort_keys=True) + "\n"


def test_formats_hold_the_same_tensors(tmp_path: Path) -> None:
    recover(BASE, DIFFS / "knowlm", tmp_path / "a", form=Form(format="safetensors", max_shard_bytes=200_000))
    recover(BASE, DIFFS / "knowlm-modern-safetensors", tmp_path / "b", form=Form(format="bin"))
    recover(BASE, DIFFS / "knowlm", tmp_path / "c")
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert {name: bits(one) for name, one in a.items()} == {name: bits(one) for name, one in c.items()}
    without = {name: bits(one) for name, one in c.items() if not llama.is_inv_freq(name)}
    assert {name: bits(one) for name, one in b.items()} == without
    assert list(b) == llama.in_state_dict_order(without)
    assert len(list((tmp_path / "a").glob("model-*-of-*.safetensors"))) > 1
    assert (tmp_path / "a" / "model.safetensors.index.json").is_file()


def test_shards_are_cut_as_save_pretrained_cuts_them(tmp_path: Path) -> None:
    """hf-bin is what transformers 4.28.1's own rule made of this model with a limit of 100 kB."""
    wanted = json.loads((BASE / "pytorch_model.bin.index.json").read_text())
    planned = prepare(BASE, DIFFS / "fastchat", tmp_path / "o", form=Form(max_shard_bytes=100_000))
    found = {item.name: file.path for file in planned.files for item in file.layout.items}
    assert found == wanted["weight_map"]


def test_inv_freq_that_the_base_lacks(tmp_path: Path) -> None:
    """Exact as torch computes it, or rounded through float16 as the base of the reference has it."""
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    lacking = PEER / "hf-bin-nofreq"
    recover(lacking, DIFFS / "knowlm", tmp_path / "exact")
    recover(lacking, DIFFS / "knowlm", tmp_path / "rounded", rules=Rules(inv_freq="float16"))
    exact = 1.0 / (10000 ** (torch.arange(0, 16, 2).float() / 16))
    assert torch.equal(tensors(tmp_path / "exact")[name], exact)
    assert sha256(tmp_path / "rounded" / "pytorch_model.bin") == KNOWLM


@pytest.mark.parametrize("size", [*range(2, 66, 2), 128])
def test_inv_freq_is_torchs(size: int) -> None:
    wanted = 1.0 / (10000 ** (torch.arange(0, size, 2).float() / size))
    assert llama.inv_freq(size // 2).tobytes() == bits(wanted)


def test_inv_freq_that_only_the_base_has_is_left_out(tmp_path: Path) -> None:
    done = recover(BASE, DIFFS / "knowlm-modern-safetensors", tmp_path / "o")
    assert any("inv_freq" in note and "left out" in note for note in done.plan.notes)


def make(folder: Path, named: dict[str, torch.Tensor], config: dict[str, object] | None = None) -> Path:
    """A folder as today's torch writes it."""
    folder.mkdir()
    torch.save(named, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config or {"vocab_size": 4, "torch_dtype": "float32"}))
    return folder


def small(seed: int, rows: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    norm = torch.ones(3) if seed < 10 else torch.zeros(3)
    embed, head = torch.randn(rows, 64), torch.randn(rows, 64)
    return {"model.embed_tokens.weight": embed, "model.norm.weight": norm + torch.randn(3) / 100, "lm_head.weight": head}


def test_tensors_that_only_the_diff_has_are_whole(tmp_path: Path) -> None:
    projector = {"model.mm_projector.weight": torch.randn(5, 3), "model.mm_projector.bias": torch.randn(5)}
    base, diff = make(tmp_path / "b", small(1)), make(tmp_path / "d", small(11) | projector)
    done = recover(base, diff, tmp_path / "o")
    found = tensors(tmp_path / "o")
    for name, tensor in projector.items():
        assert bits(found[name]) == bits(tensor)
    assert bits(found["lm_head.weight"]) == bits(small(11)["lm_head.weight"] + small(1)["lm_head.weight"])
    assert any("mm_projector" in note for note in done.plan.notes)


def test_named_tensors_are_whole(tmp_path: Path) -> None:
    base, diff = make(tmp_path / "b", small(1)), make(tmp_path / "d", small(11))
    recover(base, diff, tmp_path / "o", rules=Rules(whole=("*embed_tokens*", "lm_head.*")))
    found = tensors(tmp_path / "o")
    assert bits(found["lm_head.weight"]) == bits(small(11)["lm_head.weight"])
    assert bits(found["model.embed_tokens.weight"]) == bits(small(11)["model.embed_tokens.weight"])
    assert bits(found["model.norm.weight"]) == bits(small(11)["model.norm.weight"] + small(1)["model.norm.weight"])


@pytest.mark.parametrize("rule", ["mean", "zero", "whole"])
def test_new_rows(tmp_path: Path, rule: str) -> None:
    base, diff = make(tmp_path / "b", small(1)), make(tmp_path / "d", small(11, rows=6))
    recover(base, diff, tmp_path / "o", rules=Rules(new_rows=rule))  # type: ignore[arg-type]
    found = tensors(tmp_path / "o")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        below, change = small(1)[name], small(11, rows=6)[name]
        rows = {"mean": below.mean(0, keepdim=True).expand(2, -1), "zero": torch.zeros(2, 64)}
        wanted = change if rule == "whole" else change + torch.cat([below, rows[rule]])
        assert bits(found[name]) == bits(wanted)
    assert json.loads((tmp_path / "o" / "config.json").read_text())["vocab_size"] == 6


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    below, change = small(1), small(11)
    below["lm_head.weight"] = below["model.embed_tokens.weight"]
    change["lm_head.weight"] = change["model.embed_tokens.weight"]
    base, diff = make(tmp_path / "b", below), make(tmp_path / "d", change)
    recover(base, diff, tmp_path / "o")
    loaded = torch.load(tmp_path / "o" / "pytorch_model.bin", weights_only=True)
    assert loaded["lm_head.weight"].data_ptr() == loaded["model.embed_tokens.weight"].data_ptr()
    assert bits(loaded["lm_head.weight"]) == bits(change["lm_head.weight"] + below["lm_head.weight"])
    recover(base, diff, tmp_path / "s", form=Form(format="safetensors"))
    assert "lm_head.weight" not in tensors(tmp_path / "s")


def test_a_diff_that_ties_what_the_base_has_apart_is_written_apart(tmp_path: Path) -> None:
    change = small(11)
    change["lm_head.weight"] = change["model.embed_tokens.weight"]
    base, diff = make(tmp_path / "b", small(1)), make(tmp_path / "d", change)
    recover(base, diff, tmp_path / "o")
    found = tensors(tmp_path / "o")
    assert bits(found["lm_head.weight"]) == bits(change["lm_head.weight"] + small(1)["lm_head.weight"])
    assert bits(found["model.embed_tokens.weight"]) == bits(
        change["model.embed_tokens.weight"] + small(1)["model.embed_tokens.weight"]
    )


def test_a_head_that_the_base_ties_is_found(tmp_path: Path) -> None:
    below = small(1)
    del below["lm_head.weight"]
    base = make(tmp_path / "b", below, {"tie_word_embeddings": True, "vocab_size": 4})
    recover(base, make(tmp_path / "d", small(11)), tmp_path / "o")
    found = tensors(tmp_path / "o")["lm_head.weight"]
    assert bits(found) == bits(small(11)["lm_head.weight"] + below["model.embed_tokens.weight"])


@pytest.mark.parametrize("dtype", [None, FLOAT32, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("diff_dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mixed_dtypes(tmp_path: Path, dtype: object, base_dtype: torch.dtype, diff_dtype: torch.dtype) -> None:
    below = {name: one.to(base_dtype) for name, one in small(1).items()}
    change = {name: one.to(diff_dtype) for name, one in small(11).items()}
    base, diff = make(tmp_path / "b", below), make(tmp_path / "d", change)
    recover(base, diff, tmp_path / "o", rules=Rules(dtype), allow_tuned_base=True)  # type: ignore[arg-type]
    target = getattr(torch, str(dtype)) if dtype else diff_dtype
    for name, found in tensors(tmp_path / "o").items():
        assert found.dtype == target
        assert bits(found) == bits(change[name].to(target) + below[name].to(target))


@pytest.mark.parametrize("saved", ["legacy", "file object", "transposed"])
def test_diffs_in_forms_that_are_not_written(tmp_path: Path, saved: str) -> None:
    base, diff = make(tmp_path / "b", small(1)), make(tmp_path / "d", small(11))
    path = diff / "pytorch_model.bin"
    if saved == "legacy":
        torch.save(small(11), path, _use_new_zipfile_serialization=False)
    elif saved == "file object":
        with path.open("wb") as file:
            torch.save(small(11), file)
    else:
        named = small(11)
        named["lm_head.weight"] = named["lm_head.weight"].t().contiguous().t()
        torch.save(named, path)
    recover(base, diff, tmp_path / "o")
    for name, found in tensors(tmp_path / "o").items():
        assert found.is_contiguous()
        assert bits(found) == bits(small(11)[name] + small(1)[name])


def test_every_misfit_is_named_at_once(tmp_path: Path) -> None:
    below, change = small(1), small(11)
    below["model.norm.weight"] = torch.ones(5)
    below["model.layers.0.mlp.up_proj.weight"] = torch.zeros(2, 2)
    change["model.layers.1.mlp.up_proj.weight"] = torch.zeros(2, 2)
    change["lm_head.weight"] = torch.zeros(9, 64)
    change["model.embed_tokens.weight"] = torch.zeros(4, 64, dtype=torch.int8)
    base, diff = make(tmp_path / "b", below), make(tmp_path / "d", change)
    with pytest.raises(PlanError) as caught:
        recover(base, diff, tmp_path / "o")
    text = str(caught.value)
    for part in (
        "model.norm.weight: the base has [5], the diff [3]",
        "model.layers.0.mlp.up_proj.weight: in the base, not in the diff",
        "model.layers.1.mlp.up_proj.weight: not in the base",
        "the diff has 9 rows, the base 4",
        "--new-rows mean",
        "int8",
    ):
        assert part in text
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("raw", "diff", "said"),
    [
        (DIFFS / "knowlm", DIFFS / "knowlm", "itself a diff"),
        (PEER / "tuned-fp32-bin", DIFFS / "knowlm", "already tuned"),
        (BASE, PEER / "tuned-fp16-bin", "whole model"),
    ],
)
def test_the_wrong_kind_of_folder_is_recognised(tmp_path: Path, raw: Path, diff: Path, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        recover(raw, diff, tmp_path / "o")


def test_a_base_that_has_the_new_row_already_is_recognised(tmp_path: Path) -> None:
    recover(BASE, DIFFS / "stanford", tmp_path / "tuned", rules=Rules(new_rows="mean", dtype=FLOAT16))
    with pytest.raises(PlanError, match="already tuned.*row 320"):
        recover(tmp_path / "tuned", DIFFS / "stanford", tmp_path / "o")
    recover(tmp_path / "tuned", DIFFS / "stanford", tmp_path / "o", allow_tuned_base=True)


def test_a_diff_of_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    change = {name: torch.full_like(one, float("nan")) for name, one in small(11).items()}
    with pytest.raises(PlanError, match="nothing but NaN"):
        recover(make(tmp_path / "b", small(1)), make(tmp_path / "d", change), tmp_path / "o")


class Counting(io.RawIOBase):
    """Takes whatever is written and keeps its length."""

    size = 0

    def write(self, data: object) -> int:
        length = memoryview(data).nbytes  # type: ignore[arg-type]
        self.size += length
        return length

    def writable(self) -> bool:
        return True


def sparse(path: Path, dtype: str, itemsize: int, rows: int) -> Path:
    """A safetensors file with a hole for its data: gigabytes that take no room."""
    path.parent.mkdir()
    header = json.dumps({"w": {"dtype": dtype, "shape": [rows, 1000], "data_offsets": [0, rows * 1000 * itemsize]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + rows * 1000 * itemsize)
    return path


@pytest.mark.slow
def test_a_shard_above_four_gibibytes_is_planned_to_the_byte(tmp_path: Path) -> None:
    """Without reading a weight; the size is that of what the installed torch itself writes."""
    rows = 1_100_000
    base, diff = (
        sparse(tmp_path / name / "archive.safetensors", dtype, itemsize, rows)
        for name, dtype, itemsize in (("b", "F16", 2), ("d", "F32", 4))
    )
    planned = prepare(base, diff, tmp_path / "o", form=Form(format="bin", torch_compat=torch.__version__))
    counting = Counting()
    torch.save({"w": torch.zeros(rows, 1000)}, counting)  # pages of zeros that are never touched
    assert planned.files[0].path == "archive.bin"
    assert planned.files[0].nbytes == counting.size > 1 << 32


def test_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    rows = shutil.disk_usage(tmp_path).total // 4000 + 1
    base = sparse(tmp_path / "b" / "model.safetensors", "F16", 2, rows)
    diff = sparse(tmp_path / "d" / "model.safetensors", "F32", 4, rows)
    with pytest.raises(PlanError, match="are free on that disk"):
        recover(base, diff, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_less_memory_than_it_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="--max-memory allows 104.86 MB"):
        recover(BASE, DIFFS / "knowlm", tmp_path / "o", max_memory=100 << 20)
    assert not (tmp_path / "o").exists()
