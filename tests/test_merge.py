"""``merge`` and ``recover --lora``: the authors' bytes, order and vocabularies, refusals, Meta's parts, what is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import DATA, PEER, Run, bits, sha256
from tests.test_recover import KNOWLM, tensors
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.peft import in_base, open_adapter
from weightkit.core.dtypes import FLOAT32
from weightkit.core.errors import FormatError, PlanError
from weightkit.merge import Form, merge_lora
from weightkit.methods.lora import Arithmetic
from weightkit.ops.lora import ROUNDINGS
from weightkit.recover import recover

BASE = PEER / "hf-bin"
ALPACA = PEER / "lora-alpaca-bin"
ZH1, ZH2 = PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"
ONE = Form(max_shard_bytes=10**10)

BY_ALPACA_LORA = "177387c2f0ba3d9c3f31e219828504b80e2d3d0c2480abea55e8d0b9faca9628"
BY_KNOWLM = "6344a4700d368a4d5906ce4fa4f246fe259cd404e4431e72dc88af3e72c5010e"
BY_CHINESE = "ed6418ce906573c1e6b66d73a78551da435f56dad16759ff84f95360307fd9e5"


def copied(adapter: Path, to: Path, **config: Any) -> Path:
    """A copy of an adapter with some fields of its config changed."""
    shutil.copytree(adapter, to)
    file = to / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return to


@pytest.mark.parametrize("adapter", ["lora-alpaca-bin", "lora-alpaca-st"])
def test_alpaca_lora_from_either_container(tmp_path: Path, adapter: str) -> None:
    merge_lora(BASE, [PEER / adapter], tmp_path / "o", form=ONE)
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == BY_ALPACA_LORA
    assert (tmp_path / "o" / "config.json").read_bytes() == (BASE / "config.json").read_bytes()


def test_knowlm_in_float32(tmp_path: Path) -> None:
    merge_lora(BASE, [ALPACA], tmp_path / "o", form=ONE, dtype=FLOAT32)
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == BY_KNOWLM
    assert json.loads((tmp_path / "o" / "config.json").read_text())["torch_dtype"] == "float32"


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("sums", ["fma", "mul-add"])
def test_two_adapters_with_growing_vocabularies(tmp_path: Path, sums: Any, jobs: int) -> None:
    """The adapters hold float16 values, so both orders of sums give the authors' bytes."""
    done = merge_lora(BASE, [ZH1, ZH2], tmp_path / "o", how=Arithmetic(sums=sums), form=ONE, jobs=jobs)
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == BY_CHINESE
    assert "14 weights (q_proj, k_proj, v_proj, o_proj, gate_proj, down_proj, up_proj), rank 8, scale 4" in done.plan.steps[0]
    assert "2 tensors whole (331 tokens)" in done.plan.steps[1]
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert (config["vocab_size"], config["pad_token_id"]) == (331, 330)
    assert (tmp_path / "o" / "tokenizer.model").read_bytes() == (ZH2 / "tokenizer.model").read_bytes()


def test_in_the_bases_shards_the_tensors_are_the_same(tmp_path: Path) -> None:
    merge_lora(BASE, [ZH1, ZH2], tmp_path / "one", form=ONE)
    merge_lora(BASE, [ZH1, ZH2], tmp_path / "four", jobs=4)
    merge_lora(PEER / "meta" / "7B", [ZH1, ZH2], tmp_path / "meta")
    merge_lora(BASE, [ZH1, ZH2], tmp_path / "st", form=Form(format="safetensors"))
    wanted = tensors(tmp_path / "one")
    assert len(list((tmp_path / "four").glob("pytorch_model-*.bin"))) == 4
    for folder in ("four", "st", "meta"):
        found = tensors(tmp_path / folder)
        assert {name: bits(one) for name, one in found.items()} == {name: bits(one) for name, one in wanted.items()}
    index = json.loads((tmp_path / "four" / "pytorch_model.bin.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(one.numel() * one.element_size() for one in wanted.values())


def test_recover_merges_in_the_same_pass(tmp_path: Path) -> None:
    recover(BASE, PEER / "diffs" / "knowlm", tmp_path / "d")
    assert sha256(tmp_path / "d" / "pytorch_model.bin") == KNOWLM
    merge_lora(tmp_path / "d", [ZH1, ZH2], tmp_path / "two-steps")
    recover(PEER / "meta" / "7B", PEER / "diffs" / "knowlm", tmp_path / "one-step", lora=[ZH1, ZH2])
    for name in ("pytorch_model.bin", "tokenizer.model", "config.json"):
        assert (tmp_path / "one-step" / name).read_bytes() == (tmp_path / "two-steps" / name).read_bytes()


def unpermuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """As Chinese-LLaMA-Alpaca's scripts put it: from transformers' rotary order back to Meta's."""
    dim = weight.shape[0]
    return weight.view(heads, 2, dim // heads // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


META_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
AXIS = {"tok_embeddings": 1, "output": 0, "wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0}


def as_the_script_saves(model: dict[str, torch.Tensor], parts: int, heads: int) -> list[dict[str, torch.Tensor]]:
    """The dicts that Chinese-LLaMA-Alpaca's scripts hand to torch.save, in their order (peer-numerics, section 7)."""
    found: list[dict[str, torch.Tensor]] = [{} for _ in range(parts)]
    for name, value in model.items():
        if name.endswith("inv_freq"):
            continue
        short = name.removesuffix(".weight").removeprefix("model.")
        top = {"embed_tokens": "tok_embeddings", "norm": "norm", "lm_head": "output"}
        if short in top:
            meta = top[short]
        else:
            _, layer, rest = short.split(".", 2)
            meta = f"layers.{layer}.{META_NAMES[rest]}"
        value = unpermuted(value, heads) if meta.endswith(("wq", "wk")) else value
        axis = AXIS.get(meta.rpartition(".")[2])
        sizes = [value.shape[axis] // parts] * parts if axis is not None else []
        if sizes:
            sizes[-1] += value.shape[axis or 0] % parts
        cuts = value.split(sizes, dim=axis or 0) if sizes else [value] * parts
        for part, one in zip(found, cuts, strict=True):
            part[f"{meta}.weight"] = one.contiguous().clone()
    return found


@pytest.mark.parametrize("parts", [1, 2])
def test_metas_parts_as_the_chinese_scripts_write_them(tmp_path: Path, parts: int) -> None:
    """331 rows do not divide: the last part has one more. The file's bytes are those of torch.save of the installed torch."""
    version = ".".join(torch.__version__.split(".")[:2])
    merge_lora(BASE, [ZH1, ZH2], tmp_path / "hf", form=ONE)
    form = Form(torch_compat=version)
    merge_lora(BASE, [ZH1, ZH2], tmp_path / "o", to="meta", parts=parts, form=form)
    for part, wanted in enumerate(as_the_script_saves(tensors(tmp_path / "hf"), parts, 4)):
        name = f"consolidated.{part:02d}.pth"
        (tmp_path / "own").mkdir(exist_ok=True)
        torch.save(wanted, tmp_path / "own" / name)
        assert (tmp_path / "o" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    wanted_params = '{"dim": 64, "multiple_of": 256, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-06, "vocab_size": -1}'
    assert (tmp_path / "o" / "params.json").read_text() == wanted_params
    assert (tmp_path / "o" / "tokenizer.model").read_bytes() == (ZH2 / "tokenizer.model").read_bytes()
    assert (tmp_path / "o" / "special_tokens_map.json").exists()


def test_the_low_memory_scripts_order_follows_the_text_of_the_shards_numbers(tmp_path: Path) -> None:
    """With ten shards and more, L10 comes before L2."""
    merge_lora(BASE, [ALPACA], tmp_path / "many", form=Form(max_shard_bytes=20000))
    shards = sorted((tmp_path / "many").glob("pytorch_model-*.bin"))
    assert len(shards) > 10
    names = [list(torch.load(shard, weights_only=True)) for shard in shards]
    ordered = sorted(range(len(names)), key=lambda number: f"L{number + 1}-")
    wanted = [name for number in ordered for name in names[number] if not name.endswith("inv_freq")]
    second = copied(ALPACA, tmp_path / "second", lora_alpha=2)
    merge_lora(tmp_path / "many", [second], tmp_path / "o", to="meta", order="chinese-llama-low-memory")
    merge_lora(tmp_path / "many", [second], tmp_path / "plain", to="meta")
    found = torch.load(tmp_path / "o" / "consolidated.00.pth", weights_only=True)
    plain = torch.load(tmp_path / "plain" / "consolidated.00.pth", weights_only=True)
    back = {meta: huggingface for huggingface, meta in META_NAMES.items()}
    top = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}

    def huggingface(name: str) -> str:
        short = name.removesuffix(".weight")
        if short in top:
            return f"{top[short]}.weight"
        _, layer, rest = short.split(".", 2)
        return f"model.layers.{layer}.{back[rest]}.weight"

    assert [huggingface(name) for name in found] == wanted
    assert list(found) != list(plain)
    assert {name: bits(one) for name, one in found.items()} == {name: bits(one) for name, one in plain.items()}


@pytest.mark.parametrize("rounding", ["per-adapter", "once"])
def test_two_adapters_round_twice_or_once(tmp_path: Path, rounding: str) -> None:
    merge_lora(BASE, [ALPACA, copied(ALPACA, tmp_path / "b", lora_alpha=5)], tmp_path / "o", how=Arithmetic(rounding), form=ONE)
    name, layer = "model.layers.0.self_attn.q_proj.weight", "base_model.model.model.layers.0.self_attn.q_proj"
    loaded = torch.load(ALPACA / "adapter_model.bin", weights_only=True)
    product = loaded[f"{layer}.lora_B.weight"] @ loaded[f"{layer}.lora_A.weight"]
    weight = tensors(BASE)[name]
    if rounding == "once":
        wanted = ((weight.float() + product * 2.0) + product * 0.625).half()
    else:
        wanted = ((weight.float() + product * 2.0).half().float() + product * 0.625).half()
    assert bits(tensors(tmp_path / "o")[name]) == bits(wanted)


def test_the_order_is_asked_for_back(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"lora-zh1-bin does not fit:\n.*it has 330 tokens, the model before it 331"):
        merge_lora(BASE, [ZH2, ZH1], tmp_path / "o")
    tokens_only = copied(ZH1, tmp_path / "tokens", modules_to_save=None)
    loaded = torch.load(tokens_only / "adapter_model.bin", weights_only=True)
    torch.save({k: v for k, v in loaded.items() if "lora_" in k}, tokens_only / "adapter_model.bin")
    with pytest.raises(
        PlanError, match=r"tokenizer has 330 tokens, as .*lora-zh1-bin has, which comes after it: name that one"
    ):
        merge_lora(BASE, [tokens_only, ZH1], tmp_path / "o")
    merge_lora(BASE, [ZH1, tokens_only], tmp_path / "o")


def test_tokenizers_of_another_line_are_refused(tmp_path: Path) -> None:
    mixed = copied(ZH1, tmp_path / "mixed")
    shutil.copyfile(ZH2 / "tokenizer.model", mixed / "tokenizer.model")
    with pytest.raises(PlanError, match=r"tokenizer has 331 tokens, and there are rows for 330: the tokenizer is another"):
        merge_lora(BASE, [mixed], tmp_path / "o")
    other = copied(ZH2, tmp_path / "other")
    shutil.copyfile(ZH1 / "tokenizer.model", other / "tokenizer.model")
    with pytest.raises(PlanError, match=r"tokenizer has 330 tokens, its embedding 331: the tokenizer is another release's"):
        merge_lora(BASE, [other], tmp_path / "o")


def test_rows_filled_up_to_a_multiple_are_no_other_tokenizer(tmp_path: Path) -> None:
    padded = copied(ZH1, tmp_path / "padded")
    loaded = torch.load(padded / "adapter_model.bin", weights_only=True)
    for name in list(loaded):
        if "lora_" not in name:
            loaded[name] = torch.cat([loaded[name], torch.zeros(6, 64, dtype=torch.float16)])
    torch.save(loaded, padded / "adapter_model.bin")
    merge_lora(BASE, [padded], tmp_path / "o")
    assert json.loads((tmp_path / "o" / "config.json").read_text())["vocab_size"] == 336


def test_an_adapter_of_another_size(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_A.weight": torch.zeros(8, 128), f"{name}.lora_B.weight": torch.zeros(128, 8)},
        wide / "adapter_model.safetensors",
    )
    (wide / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16, "peft_type": "LORA"}')
    with pytest.raises(PlanError, match=r"trained on a model 128 wide, and the base is 64 wide"):
        merge_lora(BASE, [wide], tmp_path / "o")


def test_what_was_merged_is_not_merged_again(tmp_path: Path) -> None:
    merge_lora(BASE, [ZH1], tmp_path / "o")
    with pytest.raises(PlanError, match="is merged already: its model.embed_tokens.weight is that of"):
        merge_lora(tmp_path / "o", [ZH1], tmp_path / "again")
    merge_lora(tmp_path / "o", [ZH1], tmp_path / "again", allow_tuned_base=True)
    with pytest.raises(PlanError, match="is a diff, not a model"):
        merge_lora(PEER / "diffs" / "knowlm", [ALPACA], tmp_path / "d")


REFUSED = {
    "use_dora": (True, "DoRA"),
    "target_parameters": (["mlp.experts.up_proj"], "expert layers"),
    "layer_replication": ([[0, 2]], "repeats layers"),
    "trainable_token_indices": ([3], "single trained rows"),
    "init_lora_weights": ("pissa_niter_4", "changes the base"),
    "peft_type": ("ADALORA", "only LORA"),
    "num_virtual_tokens": (4, "of a prompt"),
    "a_field_of_2027": ({"x": 1}, r'a_field_of_2027 is {"x": 1}: what it does to a merge is not known'),
    "r": (0, "r is 0"),
    "lora_alpha": ("much", "lora_alpha is 'much'"),
    "rank_pattern": ({"(": 4}, "is no pattern"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_config_that_asks_for_more_is_refused_by_name(tmp_path: Path, field: str) -> None:
    value, message = REFUSED[field]
    adapter = copied(ALPACA, tmp_path / "a", **{field: value})
    with pytest.raises((PlanError, FormatError), match=message):
        merge_lora(BASE, [adapter], tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_dora_as_peft_saved_it_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match="use_dora: DoRA"):
        open_adapter(DATA / "peft-golden" / "peft-0.21.2-dora", "--lora")


def test_fields_without_effect_are_accepted(tmp_path: Path) -> None:
    adapter = copied(ALPACA, tmp_path / "a", a_field_of_2027=None, another=False, peft_version="9.9", use_dora=False)
    merge_lora(BASE, [adapter], tmp_path / "o", form=ONE)
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == BY_ALPACA_LORA


def respelt(to: Path, respell: Any) -> Path:
    """The alpaca adapter with its names spelt otherwise."""
    shutil.copytree(ALPACA, to)
    loaded = torch.load(to / "adapter_model.bin", weights_only=True)
    torch.save({respell(name): value for name, value in loaded.items()}, to / "adapter_model.bin")
    return to


SPELLINGS = {
    "with the adapter's name": lambda name: name.replace("lora_A.weight", "lora_A.default.weight").replace(
        "lora_B.weight", "lora_B.default.weight"
    ),
    "of a wrapped model": lambda name: "module." + name,
    "of a compiled model": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "without a prefix": lambda name: name.removeprefix("base_model.model."),
}


@pytest.mark.parametrize("way", SPELLINGS)
def test_names_are_spelt_in_many_ways(tmp_path: Path, way: str) -> None:
    merge_lora(BASE, [respelt(tmp_path / "a", SPELLINGS[way])], tmp_path / "o", form=ONE)
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == BY_ALPACA_LORA


def test_a_bare_models_names_are_found_with_and_without_its_prefix() -> None:
    assert in_base("base_model.model.layers.0.up_proj.weight", ["model.layers.0.up_proj.weight"])
    assert in_base("base_model.model.layers.0.up_proj.weight", ["layers.0.up_proj.weight"])
    assert in_base("base_model.model.layers.9.up_proj.weight", ["layers.0.up_proj.weight"]) is None


BROKEN = {
    "matches nothing": (lambda name: name.replace("layers.1", "layers.7"), "layers.7.self_attn.q_proj: matches nothing"),
    "half a LoRA": (lambda name: name.replace("1.self_attn.q_proj.lora_A", "2.self_attn.q_proj.lora_A"), "without its other"),
    "DoRA's magnitudes": (lambda name: name.replace("lora_A.weight", "lora_magnitude_vector"), "lora_magnitude_vector"),
    "no weight": (lambda name: name.replace("lora_A.weight", "something"), "neither a LoRA factor nor a weight"),
    "other modules": (lambda name: name.replace("lora_A.weight", "extra.weight").replace("lora_B", "more"), "extra.weight"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_no_name_is_skipped(tmp_path: Path, way: str) -> None:
    respell, message = BROKEN[way]
    with pytest.raises(PlanError, match=message):
        merge_lora(BASE, [respelt(tmp_path / "a", respell)], tmp_path / "o")


def test_the_config_must_be_there_and_agree(tmp_path: Path) -> None:
    adapter = copied(ALPACA, tmp_path / "a", r=4)
    with pytest.raises(PlanError, match=r"lora_A is \[8, 64\], lora_B \[64, 8\], and the config says rank 4"):
        merge_lora(BASE, [adapter], tmp_path / "o")
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(PlanError, match=r"has no adapter_config.json, which says the scale"):
        merge_lora(BASE, [adapter], tmp_path / "o")
    with pytest.raises(PlanError, match="holds no adapter"):
        merge_lora(BASE, [BASE], tmp_path / "o")
    with pytest.raises(PlanError, match="it is a LoRA adapter: name it with --lora"):
        recover(BASE, ALPACA, tmp_path / "o")
    with pytest.raises(PlanError, match="it is a payload: recover the model first"):
        merge_lora(PEER / "diffs" / "enc", [ALPACA], tmp_path / "o")


def test_an_adapter_is_never_executed_or_written_to(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/pwned",)

    adapter = copied(ALPACA, tmp_path / "a")
    torch.save({"x": Evil()}, adapter / "adapter_model.bin")
    with pytest.raises(FormatError):
        merge_lora(BASE, [adapter], tmp_path / "o")
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(PlanError, match=r"--out .* is --lora"):
        merge_lora(BASE, [ALPACA], ALPACA)


def adapter_in_float32(to: Path, *, rank: int = 8) -> Path:
    """An adapter whose product hangs on the order of sums, on the base's seven projections."""
    to.mkdir()
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name, weight in tensors(BASE).items():
        if name.endswith("proj.weight"):
            module = "base_model.model." + name.removesuffix(".weight")
            found[f"{module}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=generator) * 0.3
            found[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=generator) * 0.3
    save_file(found, to / "adapter_model.safetensors")
    (to / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 11, "peft_type": "LORA"}))
    return to


@pytest.mark.parametrize("sums", ["fma", "mul-add"])
def test_files_do_not_hang_on_the_machine(weightkit: Run, tmp_path: Path, sums: str) -> None:
    """The same file under MKL's and torch's AVX-512, AVX2 and SSE4.2 paths, and with one job and four."""
    adapter = adapter_in_float32(tmp_path / "a", rank=64)
    settings = [
        {},
        {"MKL_ENABLE_INSTRUCTIONS": "AVX512"},
        {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default"},
    ]
    found = set()
    for number, env in enumerate(settings):
        words = ["merge", "--base", BASE, "--lora", adapter, "--out", f"o{number}", "--sums", sums, "--dtype", "float32"]
        done = weightkit(*words, "--jobs", 1 + 3 * (number % 2), env=env)
        assert done.returncode == 0, done.stderr
        found.add((tmp_path / f"o{number}" / "SHA256SUMS").read_text())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("rounding", "sums", "profile"),
    [("peft-0.7", "mul-add", "1.13"), ("per-adapter", "mul-add", "2.1"), ("torchtune", "fma", "1.9"), ("once", "fma", "2.7")],
)
def test_seeking_finds_how_a_release_was_made(weightkit: Run, tmp_path: Path, rounding: str, sums: Any, profile: str) -> None:
    adapters = [adapter_in_float32(tmp_path / "a"), ZH1, ZH2]
    made = merge_lora(BASE, adapters, tmp_path / "theirs", how=Arithmetic(rounding, sums), form=Form(torch_compat=profile))
    words = ["merge", "--base", BASE, *(word for one in adapters for word in ("--lora", one)), "--out", "ours"]
    words += ["--checksums", "theirs/SHA256SUMS"]
    assert weightkit(*words).returncode == 3
    done = weightkit(*words, "--seek")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has the published digest with rounding" in done.stdout
    for one in made.report.receipts:
        assert sha256(tmp_path / "ours" / one.path) == one.sha256


def test_seeking_in_vain_says_so(weightkit: Run, tmp_path: Path) -> None:
    merge_lora(BASE, [ALPACA], tmp_path / "theirs", form=ONE)
    listed = (tmp_path / "theirs" / "SHA256SUMS").read_text()
    (tmp_path / "list").write_text(listed.replace(sha256(tmp_path / "theirs" / "pytorch_model.bin"), "ab" * 32))
    words = ["merge", "--base", BASE, "--lora", ALPACA, "--out", "o", "--max-shard-size", "10GB"]
    done = weightkit(*words, "--checksums", "list", "--seek")
    assert done.returncode == 3
    assert "--seek: none of" in done.stdout
    assert not (tmp_path / "o" / "pytorch_model.bin").exists()
    assert weightkit(*words, "--seek").returncode == 2


def test_the_command_says_what_it_did(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("merge", "--base", BASE, "--lora", ZH1, "--lora", ZH2, "--out", "o")
    assert done.returncode == 0
    assert "14 weights (q_proj" in done.stdout
    assert "rank 8, scale 4; 2 tensors whole (330 tokens)" in done.stdout
    assert "sums fma: " in done.stdout
    assert done.stderr == ""
    done = weightkit("merge", "--base", BASE, "--lora", ALPACA, "--out", "j", "--json")
    facts = json.loads(done.stdout)
    assert facts["ok"] is True
    assert facts["steps"]
    assert facts["command"] == "merge"
    assert facts["sums"]
    done = weightkit("merge", "--base", BASE, "--lora", ALPACA, "--out", "d", "--dry-run")
    assert done.returncode == 0
    assert not (tmp_path / "d").exists()
    done = weightkit("recover", "--raw", BASE, "--diff", PEER / "diffs" / "knowlm", "--lora", ALPACA, "--out", "r")
    assert done.returncode == 0
    assert "4 weights (q_proj, v_proj)" in done.stdout


def test_another_rounding_is_no_option(weightkit: Run) -> None:
    done = weightkit("merge", "--base", BASE, "--lora", ALPACA, "--out", "o", "--rounding", "twice")
    assert done.returncode == 2
    for name in ROUNDINGS:
        assert name in done.stderr


def test_embeddings_of_a_tied_base_are_told_apart(tmp_path: Path) -> None:
    """The base's two names lie on one storage; an adapter that holds only one of them whole unties the file."""
    base = tmp_path / "tied"
    base.mkdir()
    model = {name: value.clone() for name, value in tensors(BASE).items()}
    model["lm_head.weight"] = model["model.embed_tokens.weight"]
    torch.save(model, base / "pytorch_model.bin")
    shutil.copyfile(BASE / "config.json", base / "config.json")
    merge_lora(base, [ZH1], tmp_path / "o")
    found = torch.load(tmp_path / "o" / "pytorch_model.bin", weights_only=True)
    wanted = torch.load(ZH1 / "adapter_model.bin", weights_only=True)
    assert bits(found["lm_head.weight"]) == bits(wanted["base_model.model.lm_head.weight"])
    assert found["lm_head.weight"].shape == (330, 64)


def test_a_gpt2_is_merged_as_peft_merges_it(tmp_path: Path) -> None:
    golden = DATA / "peft-golden"
    base = golden / "base-gpt2-float16.safetensors"  # its norms are drawn like all else, so it looks like a difference
    merge_lora(base, [golden / "peft-0.21.2-conv1d"], tmp_path / "o", allow_tuned_base=True)
    found = load_file(next((tmp_path / "o").glob("*.safetensors")))
    for name, wanted in load_file(golden / "peft-0.21.2-conv1d" / "merged.safetensors").items():
        assert bits(found[name]) == bits(wanted)


def test_opening_reads_a_folder_or_its_file() -> None:
    assert open_adapter(ALPACA / "adapter_model.bin", "--lora").factors.keys() == open_adapter(ALPACA, "--lora").factors.keys()
    assert len(open_checkpoint(BASE, "--base").tensors) == 23
