"""Meta's own bytes: its layouts proved by published digests and sizes, written as torch wrote them, and computed as a key."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import DATA, PEER, Run, flip_bit, sha256
from weightkit import catalog, identify_path, manifests, xor
from weightkit.checkpoints import meta_layout, open_checkpoint
from weightkit.checkpoints.params import encode_params
from weightkit.convert import Form, Order, convert, prepare
from weightkit.core.digest import Digest
from weightkit.core.errors import DigestMismatch, FormatError, PlanError
from weightkit.families import llama
from weightkit.families.converters import ModelShape
from weightkit.manifests import Entry
from weightkit.methods.base import based
from weightkit.methods.xor_key import key_in
from weightkit.proof import metas
from weightkit.recover import recover

LAYOUTS = DATA / "meta-layout"
ONE = LAYOUTS / "7B" / "consolidated.00.pth"
ENC = LAYOUTS / "enc"
HF, TUNED = PEER / "hf-bin", PEER / "tuned-fp16-bin"

SIZES = {"7B": 13476939516, "13B": 13016334699, "30B": 16265763099, "65B": 16323959449}
NUMBERS = {
    "7B": (4096, 11008, 32, 32, 1e-6),
    "13B": (5120, 13824, 40, 40, 1e-6),
    "30B": (6656, 17920, 52, 60, 1e-6),
    "65B": (8192, 22016, 64, 80, 1e-5),
}
"""Width, width of the MLP, heads, layers, epsilon. Source: LLaMA's own params.json."""


def sparse(folder: Path, size: str) -> Path:
    """A copy of LLaMA in transformers' layout, all zeros, in a file that takes no room on the disk."""
    dim, inner, heads, layers, eps = NUMBERS[size]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, dim), "model.norm.weight": (dim,)}
    for number in range(layers):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            shapes[f"model.layers.{number}.{name}.weight"] = (dim, dim)
        for name, shape in (("gate", (inner, dim)), ("up", (inner, dim)), ("down", (dim, inner))):
            shapes[f"model.layers.{number}.mlp.{name}_proj.weight"] = shape
        for name in ("input", "post_attention"):
            shapes[f"model.layers.{number}.{name}_layernorm.weight"] = (dim,)
    shapes["lm_head.weight"] = (32000, dim)
    at, header = 0, {}
    for name, shape in shapes.items():
        end = at + 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    config = {"model_type": "llama", "hidden_size": dim, "num_attention_heads": heads, "rms_norm_eps": eps}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_the_published_sizes_come_out_to_the_byte(tmp_path: Path, size: str) -> None:
    plan = prepare(sparse(tmp_path / "hf", size), tmp_path / "o", "meta", order="meta")
    assert {file.nbytes for file in plan.files} == {SIZES[size]}
    assert len(plan.files) == {"7B": 1, "13B": 2, "30B": 4, "65B": 8}[size]
    assert any("is not known but of 13B's first" in note for note in plan.notes) == (size in ("13B", "30B"))


def index(hidden: int, inner: int, layers: int, tokens: int, nbytes: int, buffer: int) -> bytes:
    """The index of a conversion in shards of 10 GB: weights of ``nbytes`` bytes an element, buffers of ``buffer``."""
    named = [("model.embed_tokens.weight", tokens * hidden * nbytes)]
    for number in range(layers):
        layer = f"model.layers.{number}."
        named += [(f"{layer}self_attn.{one}_proj.weight", hidden * hidden * nbytes) for one in "qkvo"]
        named += [(f"{layer}self_attn.rotary_emb.inv_freq", 64 * buffer)]
        named += [(f"{layer}mlp.{one}_proj.weight", hidden * inner * nbytes) for one in ("gate", "down", "up")]
        named += [(f"{layer}{one}_layernorm.weight", hidden * nbytes) for one in ("input", "post_attention")]
    named += [("model.norm.weight", hidden * nbytes), ("lm_head.weight", tokens * hidden * nbytes)]
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in named:
        if held + size > 10 * 10**9 and shards[-1]:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    files = {
        name: f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin" for number, shard in enumerate(shards, 1) for name in shard
    }
    total = {"metadata": {"total_size": sum(size for _, size in named)}, "weight_map": files}
    return (json.dumps(total, indent=2, sort_keys=True) + "\n").encode()


GENERATION = (
    b'{\n  "_from_model_config": true,\n  "bos_token_id": 1,\n  "eos_token_id": 2,\n  "pad_token_id": 0,\n'
    b'  "transformers_version": "4.28.0.dev0"\n}\n'
)
"""generation_config.json of BELLE's releases; its SHA-256 stands in the published name: fd7ff399..."""

CONFIG = b"""{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 5120,
  "initializer_range": 0.02,
  "intermediate_size": 13824,
  "model_type": "llama",
  "num_attention_heads": 40,
  "num_hidden_layers": 40,
  "pad_token_id": 0,
  "rms_norm_eps": 1e-06,
  "tie_word_embeddings": false,
  "torch_dtype": "float16",
  "transformers_version": "4.28.0.dev0",
  "use_cache": true,
  "vocab_size": 32000
}
"""
"""config.json of BELLE-13B-2M, as transformers 4.28.0.dev0 wrote it."""

PROVED = {
    "7B by BELLE-EXT's generation_config.json": (GENERATION, "md5", "f9b33d359f17a437f6c24b4de6f2272e"),
    "7B by point-alpaca's index": (index(4096, 11008, 32, 32001, 4, 2), "md5", "e813854dede95a03e5f5b459c7fb32b2"),
    "7B by BELLE-EXT-13B's index": (index(5120, 13824, 40, 79458, 2, 2), "md5", "7aef01bb265647be2a9acd1c7ea69bd8"),
    "13B by BELLE-13B-2M's generation_config.json": (GENERATION, "md5", "b1cc6321ba72757b82842cc44ffadbf3"),
    "13B by BELLE-13B-2M's config.json": (CONFIG, "md5", "029965adbff7a240f33d040dedca0a54"),
    "13B by BELLE-13B-2M's index": (
        index(5120, 13824, 40, 32000, 2, 2),
        "sha256",
        "25e931c8477a4fe8af4365fcaf5c4fe8779730b683bfe9fe0c543a4d6ee2f5f9",
    ),
}
"""Whose beginning is proved by which file: the file's bytes, and the digest of its .enc file as published.

Source: BELLE's model cards (BELLE-LLaMA-EXT-7B, -EXT-13B, -13B-2M), point-alpaca's README; of the last one the Git LFS page of
BELLE-LLaMA-13B-2M-enc. An .enc file is the file's SHA-256, then the file XORed with the key: so each digest proves as many
bytes of the key as the file has.
"""

PLAIN = {"fd7ff399": 137, "07ca8ede": 26788, "af10ab40": 33444, "e366f0c9": 472, "72e91e29": 33444}
"""Beginning of a file's SHA-256, which stands in its published name -> its size."""


def first_bytes(plan_of: Path, nbytes: int) -> bytes:
    """How the first part begins that is written of a copy."""
    found = b""
    for (chunk,) in prepare(plan_of, plan_of.parent / "o", "meta").files[0].chunks(1 << 16):
        found += bytes(chunk)
        if len(found) >= nbytes:
            return found[:nbytes]
    return found


def encrypted(plain: bytes, key: bytes) -> bytes:
    return hashlib.sha256(plain).digest() + bytes(one ^ other for one, other in zip(plain, key, strict=True))


@pytest.mark.parametrize("what", PROVED)
def test_the_first_bytes_are_proved_by_published_digests(tmp_path: Path, what: str) -> None:
    plain, algorithm, wanted = PROVED[what]
    assert PLAIN[hashlib.sha256(plain).hexdigest()[:8]] == len(plain)
    key = first_bytes(sparse(tmp_path / "hf", what.split()[0]), len(plain))
    assert hashlib.new(algorithm, encrypted(plain, key)).hexdigest() == wanted


def test_small_files_of_metas_come_out_by_their_published_digests() -> None:
    """params.json and checklist.chk of 7B and 13B. Source: LLaMA's own checklists, llama.cpp's SHA256SUMS."""
    wanted = {"7B": ("7e89e242", "7935c843"), "13B": ("4ab77bec", "183eb00c")}
    for size, (params, checklist) in wanted.items():
        dim, inner, heads, layers, eps = NUMBERS[size]
        content = encode_params(ModelShape(dim, inner, heads, heads, layers, 32000, eps))
        assert hashlib.sha256(content).hexdigest().startswith(params)
        known = {one.path: one for one in catalog.load(f"llama-{size.lower()}").entries() if one.digest.algorithm == "md5"}
        parts = [Entry(path, one.digest) for path, one in known.items() if path.endswith(".pth")]
        listed = manifests.encode([*parts, Entry("params.json", Digest("md5", hashlib.md5(content).hexdigest()))])
        assert hashlib.sha256(listed).hexdigest().startswith(checklist)


def test_one_part_is_written_as_torch_wrote_metas(tmp_path: Path) -> None:
    convert(HF, tmp_path / "o", "meta")
    assert (tmp_path / "o" / "consolidated.00.pth").read_bytes() == ONE.read_bytes()
    assert (tmp_path / "o" / "params.json").read_bytes() == (LAYOUTS / "7B" / "params.json").read_bytes()
    listed = (tmp_path / "o" / "checklist.chk").read_text()
    names = ("consolidated.00.pth", "params.json")
    assert listed == "".join(f"{hashlib.md5((tmp_path / 'o' / one).read_bytes()).hexdigest()}  {one}\n" for one in names)


def test_more_parts_are_written_as_torch_wrote_metas(tmp_path: Path) -> None:
    convert(HF, tmp_path / "o", "meta", parts=2)
    for path in sorted((LAYOUTS / "65B").glob("*.pth")):
        assert (tmp_path / "o" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture
def as_13b(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of the small model stand in for 13B's."""
    inner = open_checkpoint(HF, "x").spec("model.layers.0.mlp.gate_proj.weight").shape[0]
    monkeypatch.setattr(meta_layout, "SHARING", {(64, 2): (inner, 2)})


@pytest.mark.usefixtures("as_13b")
@pytest.mark.parametrize(("order", "folder"), [("meta", "13B"), ("meta-cuda-0", "13B-cuda-0")])
def test_shared_storages_are_written_as_torch_writes_them(tmp_path: Path, order: Order, folder: str) -> None:
    done = convert(HF, tmp_path / "o", "meta", parts=2, order=order)
    for path in sorted((LAYOUTS / folder).glob("*.pth")):
        assert (tmp_path / "o" / path.name).read_bytes() == path.read_bytes()
    assert any("is not known but of 13B's first" in note for note in done.plan.notes)


def test_an_order_that_is_13bs_is_refused_for_others(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is for parts of 13B and 30B"):
        convert(HF, tmp_path / "o", "meta", order="meta-cuda-0")


@pytest.mark.parametrize("size", ["7B", "65B", "13B"])
def test_metas_files_survive_the_way_through_transformers(tmp_path: Path, request: pytest.FixtureRequest, size: str) -> None:
    if size == "13B":
        request.getfixturevalue("as_13b")
    parts = len(list((LAYOUTS / size).glob("*.pth")))
    convert(LAYOUTS / size, tmp_path / "hf", "hf", converter="transformers-4.28.1")
    convert(tmp_path / "hf", tmp_path / "o", "meta", parts=parts)
    for path in (LAYOUTS / size).glob("*.pth"):
        assert (tmp_path / "o" / path.name).read_bytes() == path.read_bytes()


def sharded(folder: Path, named: dict[str, torch.Tensor], *, shards: int, format: str = "bin") -> Path:
    """A folder of transformers' layout with its tensors dealt out over shards."""
    folder.mkdir()
    shutil.copy(HF / "config.json", folder)
    suffix, stem = (".bin", "pytorch_model") if format == "bin" else (".safetensors", "model")
    weight_map = {}
    for number in range(shards):
        name = f"{stem}-{number + 1:05d}-of-{shards:05d}{suffix}"
        own = {key: one.clone() for at, (key, one) in enumerate(named.items()) if at % shards == number}
        torch.save(own, folder / name) if format == "bin" else save_file(own, folder / name)
        weight_map |= dict.fromkeys(own, name)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.bin")):
        found |= torch.load(path, weights_only=True)
    return found


def without(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one for name, one in named.items() if not name.endswith("inv_freq")}


def half(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one.half() if name.endswith("inv_freq") else one for name, one in named.items()}


def tencent(at: Path) -> Path:
    shutil.copytree(PEER / "tencentpretrain", at)
    (at / "tp_config.json").write_text('{"heads_num": 4}')
    return at


SHAPES: dict[str, Callable[[Path], Path]] = {
    "decapoda: many shards, inv_freq in float16": lambda at: sharded(at, half(all_tensors(HF)), shards=7),
    "many shards, inv_freq in float32": lambda at: sharded(at, all_tensors(HF), shards=5),
    "elinas: one file without inv_freq": lambda at: sharded(at, without(all_tensors(HF)), shards=1),
    "huggyllama: safetensors in shards": lambda at: sharded(at, without(all_tensors(HF)), shards=2, format="safetensors"),
    "one safetensors file with inv_freq": lambda at: sharded(at, all_tensors(HF), shards=1, format="safetensors"),
    "in float32": lambda at: sharded(at, {name: one.float() for name, one in all_tensors(HF).items()}, shards=3),
    "names in reverse": lambda at: sharded(at, dict(reversed(all_tensors(HF).items())), shards=3),
    "as published, without inv_freq": lambda at: Path(shutil.copytree(PEER / "hf-bin-nofreq", at)),
    "TencentPretrain's": lambda at: tencent(at),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_any_float16_copy_gives_the_same_key(tmp_path: Path, shape: str) -> None:
    folder = SHAPES[shape](tmp_path / "copy")
    key = key_in(based(folder, "--raw"))
    assert key.blob is None
    assert b"".join(bytes(chunk) for chunk in key.stream.chunks(1 << 16)) == ONE.read_bytes()
    done = recover(folder, ENC, tmp_path / "o")
    assert done.ok
    for path in TUNED.iterdir():
        assert (tmp_path / "o" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("index", [True, False], ids=["with an index", "without"])
def test_a_base_in_one_file_of_one_is_whole(tmp_path: Path, index: bool) -> None:
    """``pytorch_model-00001-of-00001.bin``, as some tools call it: nothing is missing."""
    base = sharded(tmp_path / "base", all_tensors(HF), shards=1)
    if not index:
        (base / "pytorch_model.bin.index.json").unlink()
    recover(base, PEER / "diffs" / "knowlm", tmp_path / "o")
    recover(HF, PEER / "diffs" / "knowlm", tmp_path / "p")
    for path in (tmp_path / "p").glob("*.bin"):
        assert (tmp_path / "o" / path.name).read_bytes() == path.read_bytes()


def test_frequencies_of_other_bits_are_said_and_computed(tmp_path: Path) -> None:
    named = {name: one * 1.5 if name.endswith("inv_freq") else one for name, one in all_tensors(HF).items()}
    done = recover(sharded(tmp_path / "copy", named, shards=2), ENC, tmp_path / "o")
    assert done.ok
    assert any("has other bits than Meta's frequencies" in note for note in done.plan.notes)


def rounded(at: Path) -> Path:
    named = {name: one.bfloat16().half() if one.dtype == torch.float16 else one for name, one in all_tensors(HF).items()}
    return sharded(at, named, shards=2)


def one_removed(folder: Path) -> Path:
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "stored in bfloat16": (
        lambda at: sharded(at, {name: one.bfloat16() for name, one in without(all_tensors(HF)).items()}, shards=1),
        "went through bfloat16",
    ),
    "rounded to bfloat16, stored in float16": (rounded, "went through bfloat16"),
    "a few matrices stored in bfloat16": (
        lambda at: sharded(
            at, {name: one.bfloat16() if "gate" in name else one for name, one in all_tensors(HF).items()}, shards=2
        ),
        r"2 of its 16 matrices, as model.layers.0.mlp.gate_proj.weight, went through bfloat16",
    ),
    "a matrix rounded to bfloat16, stored in float16": (
        lambda at: sharded(
            at, {name: one.bfloat16().half() if "1.mlp.up" in name else one for name, one in all_tensors(HF).items()}, shards=2
        ),
        r"1 of its 16 matrices, as model.layers.1.mlp.up_proj.weight, went through bfloat16",
    ),
    "float32 that float16 does not hold": (
        lambda at: sharded(at, {name: one.float() * 1.0001 for name, one in all_tensors(HF).items()}, shards=2),
        "has values in float32 that float16 does not hold, as model.embed_tokens.weight",
    ),
    "a shard alone": (
        lambda at: sharded(at, all_tensors(HF), shards=3) / "pytorch_model-00002-of-00003.bin",
        "is one of 3 files of a copy; name the folder",
    ),
    "a shard is not there": (
        lambda at: one_removed(sharded(at, all_tensors(HF), shards=3)),
        "pytorch_model-00002-of-00003.bin not there",
    ),
    "a layer is missing": (
        lambda at: sharded(at, {name: one for name, one in all_tensors(HF).items() if "layers.1.mlp.up" not in name}, shards=1),
        "it lacks model.layers.1.mlp.up_proj.weight",
    ),
    "more tensors than a LLaMA has": (
        lambda at: sharded(at, {**all_tensors(HF), "model.layers.0.self_attn.q_proj.bias": torch.ones(64).half()}, shards=1),
        "no place for",
    ),
}


@pytest.mark.parametrize("way", REFUSED)
def test_a_copy_that_gives_no_key_is_refused_with_the_reason(tmp_path: Path, way: str) -> None:
    make, said = REFUSED[way]
    with pytest.raises(PlanError, match=said):
        recover(make(tmp_path / "copy"), ENC, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_grown_vocabulary_is_no_key(tmp_path: Path) -> None:
    """A sparse 7B with one row more."""
    folder = sparse(tmp_path / "hf", "7B")
    with (folder / "model.safetensors").open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length).decode()
        grown = json.loads(header)
        more = 0
        for entry in grown.values():
            start, end = entry["data_offsets"]
            one = 8192 if entry["shape"][0] == 32000 else 0
            entry["shape"][0] += 1 if one else 0
            entry["data_offsets"] = [start + more, end + more + one]
            more += one
        text = json.dumps(grown).encode()
        file.seek(0)
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + max(entry["data_offsets"][1] for entry in grown.values()))
    with pytest.raises(PlanError, match=r"has 32001 tokens .* Meta's LLaMA-7B 32000: it was tuned"):
        recover(folder, ENC, tmp_path / "o")


def test_another_model_is_no_key_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch, match="it is another model, or a tuned one"):
        recover(TUNED, ENC, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_key_of_another_root_is_told_by_the_small_files(tmp_path: Path) -> None:
    """As of BELLE-13B-2M, whose key is a part of 13B."""
    key = tmp_path / "consolidated.00.pth"
    shutil.copy(LAYOUTS / "65B" / "consolidated.00.pth", key)
    payload = tmp_path / "e"
    xor.encode(TUNED, key, payload, "enc")
    with pytest.raises(
        DigestMismatch, match=r"the right one's root is consolidated\.00, as in the parts of 13B.*is consolidated"
    ):
        recover(HF, payload, tmp_path / "o")
    with pytest.raises(
        DigestMismatch, match=r"the right one's root is consolidated, as in LLaMA-7B; this one's is consolidated\.00"
    ):
        recover(key, ENC, tmp_path / "o")


@pytest.mark.parametrize("order", ["saved again", "chinese-llama"])
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "file"])
def test_a_part_that_is_laid_out_otherwise_is_a_copy(tmp_path: Path, order: str, alone: bool) -> None:
    """Its values are the original's; the bytes around them are not, so the key is computed of them."""
    folder = tmp_path / "again"
    if order == "saved again":
        folder.mkdir()
        torch.save(torch.load(ONE, weights_only=True), folder / "consolidated.00.pth")
        shutil.copy(LAYOUTS / "7B" / "params.json", folder)
    else:
        convert(HF, folder, "meta", order="chinese-llama")
    done = recover(folder / "consolidated.00.pth" if alone else folder, ENC, tmp_path / "o")
    assert done.ok
    assert (tmp_path / "o" / "config.json").read_bytes() == (TUNED / "config.json").read_bytes()
    assert any("computed of" in note for note in done.plan.notes)
    assert recover(folder, next(ENC.glob("pytorch_model-00001*")), tmp_path / "p").ok


def test_a_key_that_is_no_torch_file_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch, match=r"the right one is a torch zip with root consolidated, .*; this one is none"):
        xor.decode(ENC, HF / "config.json", tmp_path / "o")


def test_files_without_a_header_and_a_computed_key_are_not_called_unproved_under_a_list(tmp_path: Path) -> None:
    folder = tmp_path / "techgpt"
    folder.mkdir()
    for path in ENC.iterdir():
        name = path.name.removesuffix(".enc").rpartition(".")[0]
        (folder / f"{name}.{hashlib.sha256().hexdigest()}.enc").write_bytes(path.read_bytes()[32:])
    (tmp_path / "list").write_text("".join(f"{sha256(path)}  {path.name}\n" for path in TUNED.iterdir()))
    done = recover(HF, folder, tmp_path / "o", checksums=[tmp_path / "list"])
    assert all(one.checked for one in done.report.receipts)
    assert not [note for note in done.plan.notes if "have no digest that would prove it" in note]
    assert any("carry no check of their own, so only a list of the publisher's proves" in note for note in done.plan.notes)


def test_a_short_file_does_not_tell_a_root(tmp_path: Path) -> None:
    """All of Meta's files begin alike: sixteen bytes decode with any. The key is right here, and the payload is damaged."""
    key, tuned = LAYOUTS / "65B" / "consolidated.00.pth", Path(shutil.copytree(TUNED, tmp_path / "tuned"))
    (tuned / "added_tokens.json").write_text('{"[PAD]": 32000}')
    xor.encode(tuned, key, tmp_path / "e", "enc")
    flip_bit(next((tmp_path / "e").glob("config.json*")), 100)
    with pytest.raises(DigestMismatch) as said:
        xor.decode(tmp_path / "e", key, tmp_path / "o")
    assert "the right one" not in str(said.value)
    with pytest.raises(DigestMismatch, match="the right one's root is consolidated.00"):
        xor.decode(tmp_path / "e", HF, tmp_path / "o")


def test_a_published_key_that_a_copy_is_not_is_refused(tmp_path: Path) -> None:
    key = key_in(based(sparse(tmp_path / "hf", "7B"), "--raw"))
    assert key.known() == ("llama-7b", "consolidated.00.pth")
    key.check("llama-7b consolidated.00.pth")
    with pytest.raises(PlanError, match=r"is consolidated.00.pth of llama-7b, by its checklist or size"):
        key.check("llama-13b consolidated.00.pth")


def test_a_copy_stands_in_for_the_key_of_a_release(tmp_path: Path, weightkit: Run) -> None:
    """By ``--key``, too, and when something is encoded: the authors' own bytes come out."""
    done = weightkit("recover", "--raw", PEER / "tencentpretrain", "--key", HF, "--diff", ENC, "-o", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    xor.encode(TUNED, HF, tmp_path / "e", "enc")
    for path in ENC.iterdir():
        assert (tmp_path / "e" / path.name).read_bytes() == path.read_bytes()
    done = weightkit("xor", "encode", TUNED, "--key", HF, "--format", "enc", "-o", tmp_path / "f")
    assert f"key: consolidated.00.pth, computed of {HF} on the way" in done.stdout
    assert "nothing here proves that the computed key is Meta's file" in done.stdout
    done = weightkit("xor", "decode", ENC, "--key", HF, "-o", tmp_path / "d", "--json")
    assert json.loads(done.stdout)["ok"]


def test_damage_in_a_copy_is_found(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(HF, tmp_path / "copy"))
    shard = sorted(copy.glob("*.bin"))[0]
    flip_bit(shard, shard.stat().st_size // 2)
    with pytest.raises(FormatError, match="CRC"):
        recover(copy, ENC, tmp_path / "o")
    assert not list((tmp_path / "o").glob("*.bin"))


TOLD = {
    "7B": "Meta's own layout, as of LLaMA-7B",
    "65B": "Meta's own layout, as of LLaMA-65B",
    "13B": "Meta's own layout, as of LLaMA-13B and 30B",
}


@pytest.mark.parametrize("size", TOLD)
def test_identify_names_the_layout_of_a_part(size: str) -> None:
    for path in sorted((LAYOUTS / size).glob("*.pth")):
        lines = "\n".join(identify_path(path).lines)
        assert TOLD[size] in lines
        assert "transformers' layout" not in lines
    assert TOLD[size] in "\n".join(identify_path(LAYOUTS / size).lines)


def test_identify_tells_a_part_that_was_saved_again(tmp_path: Path) -> None:
    torch.save(torch.load(ONE, weights_only=True), tmp_path / "consolidated.00.pth")
    assert "saved again by torch" in "\n".join(identify_path(tmp_path / "consolidated.00.pth").lines)
    convert(HF, tmp_path / "zh", "meta", order="chinese-llama")
    assert "in the order of Chinese-LLaMA-Alpaca's scripts" in "\n".join(identify_path(tmp_path / "zh").lines)
    assert "converted: Meta's names in Meta's order" in "\n".join(identify_path(PEER / "meta" / "7B").lines)
    named = torch.load(ONE, weights_only=True)
    freqs = named["layers.0.attention.inner_attention.rope.freqs"]
    two = {name: one for name, one in named.items() if not name.endswith("freqs")}
    top = {name: two.pop(name) for name in list(two)[:3]}
    torch.save({**top, "rope.freqs": freqs, **two}, tmp_path / "two.pth")
    assert "in the order of LLaMA-2's parts" in "\n".join(identify_path(tmp_path / "two.pth").lines)


def test_a_number_alone_makes_no_layers(tmp_path: Path, weightkit: Run) -> None:
    """A name or params.json may speak of a hundred million layers: a line, and not minutes."""
    name = "model.layers.99999999.self_attn.q_proj.weight"
    copy = sharded(tmp_path / "copy", {**all_tensors(HF), name: torch.zeros(64, 64).half()}, shards=1)
    for words in (
        ("convert", copy, "--to", "meta"),
        ("convert", copy, "--to", "tencentpretrain"),
        ("recover", "--raw", copy, "--diff", ENC),
    ):
        done = weightkit(*words, "-o", tmp_path / "o")
        assert (done.returncode, "speaks of layer 99999999" in done.stderr) == (1, True)
    many = Path(shutil.copytree(LAYOUTS / "7B", tmp_path / "7B"))
    params = json.loads((many / "params.json").read_text())
    (many / "params.json").write_text(json.dumps({**params, "n_layers": 99999999}))
    for more in ((), ("--dry-run", "--write-index")):
        done = weightkit("convert", many, "-o", tmp_path / "o", "--to", "hf", *more)
        assert (done.returncode, "n_layers is 99999999; wanted 10000 at most" in done.stderr) == (1, True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("to", ["meta", "tencentpretrain"])
def test_a_part_in_another_dtype_keeps_it(tmp_path: Path, to: str, dtype: str) -> None:
    """LLaMA-2's are in bfloat16: cut into other parts they are still, as only a conversion to transformers' layout casts."""
    kind = getattr(torch, dtype)
    named = {
        name: one.to(kind) + (1e-9 if dtype == "float32" else 0) for name, one in torch.load(ONE, weights_only=True).items()
    }
    (tmp_path / "two").mkdir()
    torch.save(named, tmp_path / "two" / "consolidated.00.pth")
    shutil.copy(LAYOUTS / "7B" / "params.json", tmp_path / "two")
    convert(tmp_path / "two", tmp_path / "o", to)  # type: ignore[arg-type]
    written = torch.load(next((tmp_path / "o").glob("*.[pb]*")), weights_only=True)
    for one, other in (("tok_embeddings", "embedding.word.embedding"), ("output", "target.lm.output_layer")):
        found = written[f"{one if to == 'meta' else other}.weight"]
        assert found.dtype == kind
        assert torch.equal(found, named[f"{one}.weight"])
    convert(tmp_path / "two", tmp_path / "hf", "hf", dtype=dtype)
    shards = all_tensors(tmp_path / "hf")
    assert torch.equal(shards["lm_head.weight"], named["output.weight"])


@pytest.mark.parametrize("name", ["encoder.layer_norm.bias", "encoder.transformer.0.lora_A.weight", "optimizer.step"])
def test_what_tencentpretrain_has_more_is_not_dropped(tmp_path: Path, name: str) -> None:
    """Meta's layout and transformers' refuse such a tensor; in silence it would be another model."""
    folder = tencent(tmp_path / "tp")
    path = next(folder.glob("*.bin"))
    torch.save({**torch.load(path, weights_only=True), name: torch.ones(4)}, path)
    with pytest.raises(PlanError, match="has a tensor that is none of a LLaMA, so it would be another model without it"):
        convert(folder, tmp_path / "o", "hf")


@pytest.mark.parametrize("to", ["hf", "meta", "tencentpretrain"])
def test_one_of_metas_files_alone_is_not_converted(tmp_path: Path, to: str) -> None:
    """Without params.json it is nothing but names that transformers does not know."""
    for path in (ONE, LAYOUTS / "13B" / "consolidated.01.pth"):
        with pytest.raises(PlanError, match=r"holds Meta's tensors, .* name its folder, with params\.json"):
            convert(path, tmp_path / "o", to)  # type: ignore[arg-type]


def test_identify_does_not_count_layers_that_are_not_there(tmp_path: Path) -> None:
    """A name alone may speak of a hundred million layers."""
    named = torch.load(ONE, weights_only=True)
    torch.save({**named, "layers.99999999.attention.wq.weight": torch.zeros(2, 64)}, tmp_path / "x.pth")
    assert "in an order of its own" in "\n".join(identify_path(tmp_path / "x.pth").lines)


@pytest.mark.parametrize("way", ["in bfloat16", "in float32", "grown"])
def test_identify_says_as_meta_wrote_it_of_nothing_that_meta_cannot_have_written(tmp_path: Path, way: str) -> None:
    named = without(all_tensors(HF))
    if way == "grown":
        named |= {name: torch.cat([one, one[:3]]) for name, one in named.items() if "embed" in name or "lm_head" in name}
    else:
        named = {name: one.to(getattr(torch, way[3:])) for name, one in named.items()}
    convert(sharded(tmp_path / "hf", named, shards=1), tmp_path / "o", "meta")
    told = "\n".join(identify_path(tmp_path / "o" / "consolidated.00.pth").lines)
    assert "as weightkit convert --order meta writes it" in told
    told = "\n".join(identify_path(tmp_path / "o").lines)
    assert "as Meta wrote it" not in told
    if way != "grown":
        assert f"in {way[3:]}" in told
        assert f"1 files; {way[3:]};" in told


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, str, dict[str, str]], None]]:
    """Puts entries into a catalog of their own; the small model stands in for LLaMA-7B."""
    found: dict[str, catalog.Release] = {}

    def entry(name: str, text: str, digests: dict[str, str]) -> None:
        root = tmp_path / "catalog" / name
        root.mkdir(parents=True)
        (root / "release.toml").write_text(f'title = "{name}"\n{text}')
        if digests:
            (root / "SHA256SUMS").write_text("".join(f"{digest}  {file}\n" for file, digest in digests.items()))
        found[name] = catalog.read(root / "release.toml")
        catalog.by_digest.cache_clear()

    monkeypatch.setattr(catalog, "releases", lambda: MappingProxyType(found))
    monkeypatch.setattr(metas, "RELEASES", {64: ("llama-7b", 2)})
    monkeypatch.setattr(llama, "PARTS", {64: 1})
    yield entry
    catalog.by_digest.cache_clear()


RAW = 'kind = "raw"\nvocabulary = 320\n'


def test_a_release_takes_a_copy_for_its_key(tmp_path: Path, put: Callable[[str, str, dict[str, str]], None]) -> None:
    put("llama-7b", RAW, {"consolidated.00.pth": sha256(ONE)})
    put("belle-enc", 'kind = "xor"\nbase = "llama-7b"\nkey = "llama-7b consolidated.00.pth"\n', {})
    recipe = '[recipe]\nmethod = "xor-enc"\ndiff = "belle-enc"\nkey = "llama-7b consolidated.00.pth"\n'
    results = {path.name: sha256(path) for path in TUNED.iterdir()}
    put("belle", f'kind = "result"\nbase = "llama-7b"\n{recipe}', results)
    done = recover(HF, ENC, tmp_path / "o", release="belle")
    assert done.ok
    assert any("is computed of" in note and "proved by the digests of what comes out" in note for note in done.plan.notes)
    (tmp_path / "again").mkdir()
    torch.save(torch.load(ONE, weights_only=True), tmp_path / "again" / "consolidated.00.pth")
    shutil.copy(LAYOUTS / "7B" / "params.json", tmp_path / "again")
    done = recover(tmp_path / "again", ENC, tmp_path / "q", release="belle")
    assert done.ok
    assert any("is computed of" in note for note in done.plan.notes)
    done = recover(LAYOUTS / "7B", ENC, tmp_path / "p", release="belle")
    assert done.ok
    assert any("published digests of 1 input file" in note for note in done.plan.notes)


def test_metas_bytes_are_called_so(tmp_path: Path, put: Callable[[str, str, dict[str, str]], None]) -> None:
    put("llama-7b", f'{RAW}[sizes]\n"consolidated.00.pth" = {ONE.stat().st_size}\n', {"consolidated.00.pth": sha256(ONE)})
    done = convert(HF, tmp_path / "o", "meta")
    assert any(note.startswith("these are Meta's bytes") for note in done.plan.notes)
    done = convert(TUNED, tmp_path / "t", "meta")
    told = next(note for note in done.plan.notes if note.startswith("not Meta's bytes"))
    assert "it was tuned, or rounded on the way" in told
    done = convert(HF, tmp_path / "c", "meta", form=Form(torch_compat="2.1"))
    assert any(
        "not Meta's bytes" in note and note.endswith("as torch 2.1 writes it (--torch-compat)") for note in done.plan.notes
    )
    wide = {name: one.float() if "embed" in name else one for name, one in all_tensors(HF).items()}
    done = convert(sharded(tmp_path / "wide", wide, shards=1), tmp_path / "d", "meta")
    assert any(note.endswith("it is in float16 and float32, theirs is in float16") for note in done.plan.notes)
    gate = {
        name: torch.cat([one, one], int("down" in name)) if ".mlp." in name else one for name, one in all_tensors(HF).items()
    }
    done = convert(sharded(tmp_path / "gate", gate, shards=1), tmp_path / "e", "meta")
    assert any("theirs 351709: it is of another model of this width" in note for note in done.plan.notes)
    done = convert(HF, tmp_path / "b", "meta", dtype="bfloat16")
    assert any("it is in bfloat16, theirs is in float16" in note for note in done.plan.notes)


def test_a_model_that_is_no_llama_is_not_compared(tmp_path: Path) -> None:
    assert not [note for note in convert(HF, tmp_path / "o", "meta").plan.notes if "Meta's bytes" in note]


def test_a_resumed_conversion_has_its_checklist(tmp_path: Path, weightkit: Run) -> None:
    """The same command again: nothing is written, all is compared, the checklist too."""
    for _ in range(2):
        done = weightkit("convert", HF, tmp_path / "o", "--to", "meta")
        assert done.returncode == 0, done.stderr
    assert "everything stands already" in done.stdout
    (tmp_path / "o" / "checklist.chk").write_text("x\n")
    done = weightkit("convert", HF, tmp_path / "o", "--to", "meta")
    assert done.returncode != 0


def test_checksums_that_meta_published_are_held_against_a_conversion(tmp_path: Path, weightkit: Run) -> None:
    (tmp_path / "checklist.chk").write_text(f"{hashlib.md5(ONE.read_bytes()).hexdigest()}  consolidated.00.pth\n")
    done = weightkit("convert", HF, tmp_path / "o", "--to", "meta", "--checksums", tmp_path / "checklist.chk")
    assert done.returncode == 0
    done = weightkit("convert", TUNED, tmp_path / "p", "--to", "meta", "--checksums", tmp_path / "checklist.chk")
    assert done.returncode == 3
    assert not (tmp_path / "p" / "checklist.chk").exists()
