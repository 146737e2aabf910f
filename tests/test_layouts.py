"""Meta's and TencentPretrain's layouts: against what the authors' converters wrote, and there and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import PEER, Run, bits, sha256
from tests.test_recover import KNOWLM, STANFORD, tensors
from weightkit.blobs import MemoryBlob
from weightkit.checkpoints import layout_named, open_checkpoint
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import open_adapter
from weightkit.convert import convert
from weightkit.core.errors import FormatError, PlanError
from weightkit.families.converters import converter_named
from weightkit.proof.contents import tensor_digests
from weightkit.recover import Form, Rules, recover

META = PEER / "meta" / "7B"
SHARED = PEER / "meta-shared" / "7B"
CONVERTED = "2973b264144d0656e208b83daabb0c6eb9fdb078a8f34f7914d7a8a5bba0d184"  # by transformers 4.28.1's own converter
SMALL = {
    "config.json": "78a6d7ae871cf2371d65d1bf90810105c5402a45726cc964bfb4caa7a3f0c047",
    "generation_config.json": "062a37a6d986c38231880f5cce4fa9a0145aeefcf8be9ab23ddf7d600c037aea",
    "special_tokens_map.json": "ff3b4a612c4e447acb02d40071bddd989fe0da87eb5b7fe0dbadfc4f74de7531",
    "tokenizer.model": "aca6d87d0b1c1be511920c06196d02930cf1fa4c5455c9f50108939b7bd0a6a5",
    "tokenizer_config.json": "516c6167c884793a738c440e29ccb80c15e1493ffc965affc69a1a8ddef4572a",
}


@pytest.mark.parametrize("base", [META, SHARED], ids=["parts", "views"])
def test_a_release_comes_from_metas_files_as_from_the_converted_ones(tmp_path: Path, base: Path) -> None:
    recover(base, PEER / "diffs" / "knowlm", tmp_path / "o")
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == KNOWLM
    recover(base, PEER / "diffs" / "stanford", tmp_path / "s", rules=Rules(new_rows="mean"))
    assert sha256(tmp_path / "s" / "pytorch_model.bin") == STANFORD


@pytest.mark.parametrize("parts", [2, 4])
def test_the_same_from_several_parts(tmp_path: Path, parts: int) -> None:
    convert(META, tmp_path / "m", "meta", parts=parts)
    assert len(list((tmp_path / "m").glob("consolidated.*.pth"))) == parts
    recover(tmp_path / "m", PEER / "diffs" / "knowlm", tmp_path / "o")
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == KNOWLM


def test_converted_as_transformers_4_28_1_converts(tmp_path: Path) -> None:
    convert(META, tmp_path / "o", "hf")
    assert {name: sha256(tmp_path / "o" / name) for name in SMALL} == SMALL
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == CONVERTED


def test_to_tencentpretrain_as_its_own_script(tmp_path: Path) -> None:
    wanted = (PEER / "tencentpretrain" / "tp.bin").read_bytes()
    for number, source in enumerate((META, PEER / "hf-bin")):
        convert(source, tmp_path / str(number), "tencentpretrain")
        assert (tmp_path / str(number) / "tp.bin").read_bytes() == wanted


def parts_by_hand(source: dict[str, torch.Tensor], count: int) -> list[dict[str, torch.Tensor]]:
    """Meta's rule for model-parallel parts, in plain torch (peer-numerics, section 3)."""
    columns = ("attention.wo.weight", "feed_forward.w2.weight", "tok_embeddings.weight")
    found: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for name, tensor in source.items():
        whole = "norm" in name or name == "rope.freqs"
        cut = [tensor] * count if whole else tensor.chunk(count, dim=1 if name.endswith(columns) else 0)
        for part, piece in zip(found, cut, strict=True):
            part[name] = piece.clone()
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_parts_are_cut_as_metas_are(tmp_path: Path, count: int) -> None:
    convert(META, tmp_path / "o", "meta", parts=count)
    whole = torch.load(META / "consolidated.00.pth", weights_only=True)
    for number, wanted in enumerate(parts_by_hand(whole, count)):
        found = torch.load(tmp_path / "o" / f"consolidated.{number:02d}.pth", weights_only=True)
        assert list(found) == list(wanted)
        assert {name: bits(one) for name, one in found.items()} == {name: bits(one) for name, one in wanted.items()}


@pytest.mark.parametrize("way", ["hf-meta-hf", "hf-tp-hf", "parts", "safetensors"])
def test_a_round_trip_returns_the_same_bytes(tmp_path: Path, way: str) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    convert(META, a, "hf")
    if way == "hf-meta-hf":
        convert(a, b, "meta")
    elif way == "hf-tp-hf":
        convert(a, b, "tencentpretrain")
    elif way == "parts":
        convert(a, tmp_path / "four", "meta", parts=4)
        convert(tmp_path / "four", b, "meta", parts=2)
    else:
        convert(a, tmp_path / "s", "hf", form=Form(format="safetensors"))
        convert(tmp_path / "s", b, "hf", form=Form(format="bin"))
    convert(b, c, "hf")
    assert (c / "pytorch_model.bin").read_bytes() == (a / "pytorch_model.bin").read_bytes()


def test_order_of_chinese_llama(tmp_path: Path) -> None:
    """A plain dict in the order of transformers' state dict, without frequencies (peer-numerics, section 7)."""
    convert(META, tmp_path / "o", "meta", order="chinese-llama")
    found = list(torch.load(tmp_path / "o" / "consolidated.00.pth", weights_only=True))
    layer = [
        *(f"attention.w{one}.weight" for one in "qkvo"),
        *(f"feed_forward.w{one}.weight" for one in "123"),
        "attention_norm.weight",
        "ffn_norm.weight",
    ]
    wanted = ["tok_embeddings.weight", *(f"layers.{number}.{name}" for number in range(2) for name in layer)]
    assert found == [*wanted, "norm.weight", "output.weight"]


def test_a_vocabulary_that_does_not_divide_goes_to_the_last_part(tmp_path: Path) -> None:
    recover(PEER / "hf-bin", PEER / "diffs" / "stanford", tmp_path / "o", rules=Rules(new_rows="mean"))
    convert(tmp_path / "o", tmp_path / "m", "meta", parts=2)
    rows = [
        torch.load(tmp_path / "m" / f"consolidated.0{part}.pth", weights_only=True)["output.weight"].shape[0] for part in (0, 1)
    ]
    assert rows == [160, 161]
    convert(tmp_path / "m", tmp_path / "again", "hf", converter="transformers-4.28.1+vocabulary-found")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["vocab_size"] == 321
    found = tensors(tmp_path / "again")["lm_head.weight"]
    assert bits(found) == bits(tensors(tmp_path / "o")["lm_head.weight"].half())


def grouped(folder: Path, dim: int = 64, heads: int = 8, kv_heads: int = 2) -> Path:
    """A model with grouped key and value heads in Meta's layout, as LLaMA 2's larger ones; bfloat16 as there."""
    torch.manual_seed(0)
    narrow, inner = dim // heads * kv_heads, 256
    named = {
        "tok_embeddings.weight": torch.randn(40, dim),
        "norm.weight": torch.ones(dim),
        "output.weight": torch.randn(40, dim),
    }
    for name, shape in {
        "attention.wq": (dim, dim),
        "attention.wk": (narrow, dim),
        "attention.wv": (narrow, dim),
        "attention.wo": (dim, dim),
        "feed_forward.w1": (inner, dim),
        "feed_forward.w2": (dim, inner),
        "feed_forward.w3": (inner, dim),
    }.items():
        named[f"layers.0.{name}.weight"] = torch.randn(shape)
    named |= {f"layers.0.{name}.weight": torch.ones(dim) for name in ("attention_norm", "ffn_norm")}
    folder.mkdir(parents=True)
    torch.save({name: one.bfloat16() for name, one in named.items()}, folder / "consolidated.00.pth")
    params = {"dim": dim, "multiple_of": 256, "n_heads": heads, "n_kv_heads": kv_heads, "n_layers": 1, "norm_eps": 1e-5}
    (folder / "params.json").write_text(json.dumps({**params, "vocab_size": -1}))
    return folder


def test_grouped_heads(tmp_path: Path) -> None:
    source = grouped(tmp_path / "m")
    convert(source, tmp_path / "o", "hf")
    raw = torch.load(source / "consolidated.00.pth", weights_only=True)
    found = tensors(tmp_path / "o")
    for name, heads in (("q", 8), ("k", 2)):
        weight = raw[f"layers.0.attention.w{name}.weight"].half()
        rows = weight.shape[0]
        wanted = weight.view(heads, rows // heads // 2, 2, 64).transpose(1, 2).reshape(rows, 64)
        assert bits(found[f"model.layers.0.self_attn.{name}_proj.weight"]) == bits(wanted)
    assert json.loads((tmp_path / "o" / "config.json").read_text())["num_key_value_heads"] == 2
    convert(tmp_path / "o", tmp_path / "back", "meta")
    back = torch.load(tmp_path / "back" / "consolidated.00.pth", weights_only=True)
    assert all(bits(back[name]) == bits(one.half()) for name, one in raw.items())
    assert json.loads((tmp_path / "back" / "params.json").read_text())["n_kv_heads"] == 2


def spoil(folder: Path, change: dict[str, Any]) -> None:
    params = json.loads((folder / "params.json").read_text())
    params.update(change)
    (folder / "params.json").write_text(json.dumps({key: one for key, one in params.items() if one is not None}))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("first part missing", "is not complete: consolidated.00.pth not there"),
        ("last part missing", r"\[320, 32\] in 1 parts, params.json makes it \[320, 64\]: a part is missing"),
        ("parts swapped", "saved as consolidated.01.pth"),
        ("part of another model", "consolidated.01.pth is of another model"),
        ("part of another size", "a part is of another model"),
        ("other layers", "more than the 1 layers of params.json"),
        ("too few layers", "layers.2.attention.wq.weight: not in consolidated.00.pth"),
        ("other width", "params.json is of another model"),
        ("no heads", "n_heads is None"),
        ("heads that do not divide", "do not divide each other"),
        ("no params", "params.json: cannot be read"),
        ("params no JSON", "is no JSON"),
        ("params nested deep", "is no JSON"),
        ("LLaMA 3", "LLaMA 3"),
        ("part cut short", "cut short"),
    ],
)
def test_folders_of_meta_that_do_not_fit(tmp_path: Path, way: str, said: str) -> None:
    folder = tmp_path / "m"
    convert(META, folder, "meta", parts=2)
    first, last = (folder / f"consolidated.0{part}.pth" for part in (0, 1))
    if way == "first part missing":
        first.unlink()
    elif way == "last part missing":
        last.unlink()
    elif way == "parts swapped":
        first.rename(folder / "x")
        last.rename(first)
        (folder / "x").rename(last)
    elif way.startswith("part of"):
        other = torch.load(last, weights_only=True)
        other["norm.weight"] = other["norm.weight"] + (1 if way.endswith("model") else 0)
        if way.endswith("size"):
            other["layers.0.attention.wo.weight"] = torch.zeros(32, 32).half()
        torch.save(other, last)
    elif way == "part cut short":
        last.write_bytes(last.read_bytes()[:1000])
    elif way == "no params":
        (folder / "params.json").unlink()
    elif way == "params no JSON":
        (folder / "params.json").write_text("{")
    elif way == "params nested deep":
        (folder / "params.json").write_text("[" * 200_000)
    else:
        spoil(
            folder,
            {
                "other layers": {"n_layers": 1},
                "too few layers": {"n_layers": 3},
                "other width": {"dim": 128},
                "no heads": {"n_heads": None},
                "heads that do not divide": {"n_heads": 5},
                "LLaMA 3": {"vocab_size": 128256},
            }[way],
        )
    with pytest.raises((PlanError, FormatError), match=said):
        recover(folder, PEER / "diffs" / "knowlm", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_checklist_is_checked_beside_the_run(weightkit: Run, tmp_path: Path) -> None:
    raw = shutil.copytree(PEER / "meta", tmp_path / "raw") / "7B"
    words = ("recover", "--raw", raw, "--diff", PEER / "diffs" / "knowlm", "--verify-raw")
    assert weightkit(*words, "--out", "good").returncode == 0
    (raw / "params.json").write_text((META / "params.json").read_text().replace("-1", "-2"))
    done = weightkit(*words, "--out", "bad")
    assert done.returncode == 3
    assert "params.json" in done.stderr
    assert "e99683c475d5c495550ff4e3fc99fffe" in done.stderr
    assert not (tmp_path / "bad" / "pytorch_model.bin").exists()
    (raw / "checklist.chk").unlink()
    done = weightkit(*words, "--out", "none")
    assert (done.returncode, "has no checklist.chk" in done.stderr) == (1, True)


def test_each_input_byte_is_read_once(tmp_path: Path) -> None:
    """By the kernel's own counters, from two parts to a release: no more than there is, but for headers and samples."""
    code = (
        "import sys; from weightkit.recover import recover; import torch, weightkit.run.executors.threads\n"
        "count = lambda: int(open('/proc/self/io').read().split()[1])\n"
        "recover(*sys.argv[1:3], sys.argv[3] + '-first')\n"  # what is imported meanwhile is read, too
        "before = count(); recover(*sys.argv[1:4]); print(count() - before)"
    )
    convert(grouped(tmp_path / "m", dim=1024, kv_heads=8), tmp_path / "raw", "meta", parts=2)
    convert(tmp_path / "raw", tmp_path / "diff", "hf")
    named = torch.load(tmp_path / "diff" / "pytorch_model.bin", weights_only=True)
    torch.save({name: (one * 0).float() for name, one in named.items()}, tmp_path / "diff" / "pytorch_model.bin")
    words = [sys.executable, "-c", code, tmp_path / "raw", tmp_path / "diff", tmp_path / "o"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    inputs = sum(path.stat().st_size for folder in ("raw", "diff") for path in (tmp_path / folder).iterdir())
    assert inputs < int(done.stdout) < inputs * 1.02
    files = {path.name for path in (tmp_path / "o").iterdir()}
    assert not [name for name in files if name.startswith((".", "consolidated"))], "nothing in between"


def test_a_base_that_passed_through_bfloat16_is_noticed(weightkit: Run, tmp_path: Path) -> None:
    convert(META, tmp_path / "hf", "hf")
    named = torch.load(tmp_path / "hf" / "pytorch_model.bin", weights_only=True)
    torch.save({name: one.bfloat16().to(one.dtype) for name, one in named.items()}, tmp_path / "hf" / "pytorch_model.bin")
    assert "passed through" in weightkit("inspect", tmp_path / "hf").stdout
    assert "passed through" not in weightkit("inspect", META).stdout
    words = ("recover", "--diff", PEER / "diffs" / "knowlm", "--dry-run", "--out", "o")
    assert "bfloat16" in weightkit(*words, "--raw", tmp_path / "hf").stdout
    assert "bfloat16" not in weightkit(*words, "--raw", META).stdout


def test_tencentpretrain_of_a_width_that_is_not_known(tmp_path: Path) -> None:
    shutil.copy(PEER / "tencentpretrain" / "tp.bin", tmp_path / "tp.bin")
    with pytest.raises(PlanError, match="number of heads is not known"):
        convert(tmp_path / "tp.bin", tmp_path / "o", "hf")
    (tmp_path / "tp_config.json").write_text(json.dumps({"heads_num": 4}))
    convert(tmp_path / "tp.bin", tmp_path / "o", "hf")
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == CONVERTED


def test_tencentpretrain_with_a_name_that_is_odd(tmp_path: Path) -> None:
    named = torch.load(PEER / "tencentpretrain" / "tp.bin", weights_only=True)
    torch.save({**named, "encoder.transformer.x.y": torch.ones(4)}, tmp_path / "tp.bin")
    (tmp_path / "tp_config.json").write_text(json.dumps({"heads_num": 4}))
    with pytest.raises(PlanError, match=r"(?s)would be another model without it.*encoder\.transformer\.x\.y: none of a LLaMA"):
        convert(tmp_path / "tp.bin", tmp_path / "o", "hf", form=Form(torch_compat="1.13"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("parts", [3, 5])
def test_parts_that_do_not_divide(tmp_path: Path, parts: int) -> None:
    with pytest.raises(PlanError, match=f"does not divide into {parts} parts"):
        convert(META, tmp_path / "o", "meta", parts=parts)
    assert not (tmp_path / "o").exists()


def test_what_is_no_llama_is_not_cut(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    torch.save({"transformer.wte.weight": torch.zeros(4, 4)}, folder / "pytorch_model.bin")
    with pytest.raises(PlanError, match="is no LLaMA, or incomplete"):
        convert(folder, tmp_path / "o", "meta")


@dataclass(frozen=True)
class Memory:
    """A folder that is nowhere: its files' bytes by name. ``below`` says which part of the names it is."""

    files: tuple[tuple[str, bytes], ...]
    below: str = ""

    @property
    def name(self) -> str:
        return f"memory:{self.below}"

    @property
    def single(self) -> bool:
        return False

    def names(self) -> Sequence[str]:
        return sorted(name.removeprefix(self.below) for name, _ in self.files if name.startswith(self.below))

    def holds(self, name: str) -> bool:
        return name in self.names()

    def blob(self, name: str) -> MemoryBlob:
        if not self.holds(name):
            raise FormatError(f"{self.name}{name}", "is not there")
        return MemoryBlob(dict(self.files)[self.below + name], f"{self.name}{name}")

    def above(self) -> Memory | None:
        return Memory(self.files) if self.below else None


def in_memory(path: Path) -> Memory:
    """A folder and what lies beside and above it."""
    files = sorted(one for one in path.parent.rglob("*") if one.is_file())
    return Memory(tuple((str(one.relative_to(path.parent)), one.read_bytes()) for one in files), f"{path.name}/")


@pytest.mark.parametrize("folder", ["hf-bin", "meta/7B", "meta-shared/7B", "diffs/knowlm-modern-safetensors"])
@pytest.mark.parametrize("to", ["hf", "meta", "tencentpretrain"])
def test_a_folder_need_not_be_local(folder: str, to: str) -> None:
    """Every layout is read from, and planned to be written of, a folder that no path leads to."""
    found = []
    for place in (PEER / folder, in_memory(PEER / folder)):
        source = open_checkpoint(place, "SRC")
        converter = converter_named("transformers-4.28.1")
        model = Model(source.folder, "SRC", converter, source.tensors, follows=source)
        written = layout_named(to).write(model, Form(max_shard_bytes=150_000))
        content = {file.path: b"".join(chunk for (chunk,) in file.chunks(1 << 20)) for file in written.files}
        found.append((content, {file.path: file.content for file in written.small}, written.notes))
    assert found[0] == found[1]


def test_an_adapter_need_not_be_local() -> None:
    here, there = open_adapter(PEER / "lora-zh1-bin", "--lora"), open_adapter(in_memory(PEER / "lora-zh1-bin"), "--lora")
    assert here.config == there.config
    assert tensor_digests(here.whole) == tensor_digests(there.whole)
    assert here.folder.small_files() == there.folder.small_files()


def test_empty_tensors_on_one_place_are_not_tied(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    save_file({"a": torch.empty(0, 4), "b": torch.empty(0, 4), "c": torch.ones(2)}, tmp_path / "i" / "model.safetensors")
    convert(tmp_path / "i", tmp_path / "o", "hf", form=Form(max_shard_bytes=10**9))
    assert sorted(load_file(tmp_path / "o" / "model.safetensors")) == ["a", "b", "c"]


def test_command_line(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("convert", META, "o", "--to", "hf", "--as", "transformers-4.28")
    assert done.returncode == 0
    assert CONVERTED in done.stdout
    planned = weightkit("convert", META, "p", "--to", "hf", "--dry-run", "--json")
    sizes = {one["path"]: one["bytes"] for one in json.loads(planned.stdout)["files"]}
    assert sizes == {
        path.name: path.stat().st_size for path in (tmp_path / "o").iterdir() if path.name not in ("SHA256SUMS", "TENSORS")
    }
    assert not (tmp_path / "p").exists()
    unknown = weightkit("convert", META, "p", "--to", "hf", "--as", "transformers-3.0")
    assert (unknown.returncode, "transformers-4.28.1" in unknown.stderr) == (1, True)
    unknown = weightkit("convert", META, "p", "--to", "hf", "--as", "transformers-4.28.1+sideways")
    assert (unknown.returncode, "inv-freq-16" in unknown.stderr) == (1, True)
    assert weightkit("convert", META, META, "--to", "hf").returncode == 1
    assert os.listdir(META) == os.listdir(PEER / "meta" / "7B")  # noqa: PTH208
