"""What a conversion between layouts may not lose without a word: tensors, settings of the rotary embedding, files beside."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import PEER, Run, bits
from weightkit.checkpoints.params import encode_params, shape_from_params
from weightkit.convert import convert, index_from_params
from weightkit.core.errors import FormatError, Incomplete, PlanError, WeightkitError
from weightkit.diff import make_diff
from weightkit.families.converters import ModelShape, converter_named
from weightkit.inspect import inspect
from weightkit.manifest import of_tensors
from weightkit.merge import merge_lora
from weightkit.recover import recover
from weightkit.verify import verify

META, HF = PEER / "meta" / "7B", PEER / "hf-bin-nofreq"
SHARD = "pytorch_model-00001-of-00004.bin"


def copied(source: Path, to: Path, **config: Any) -> Path:
    """A copy in which a JSON of numbers is changed."""
    shutil.copytree(source, to)
    for one in to.iterdir():
        one.chmod(0o644)
    name = to / ("params.json" if (to / "params.json").exists() else "config.json")
    name.write_text(json.dumps({**json.loads(name.read_text()), **config}))
    return to


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """A torch file with other tensors."""
    named = torch.load(file, weights_only=True)
    change(named)
    torch.save(named, file)


def loaded(file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("to", ["meta", "tencentpretrain"])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.0.mlp.up_proj.weight_scale",
        "vision_tower.patch.weight",
        "lm_head.bias",
    ],
)
def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path, name: str, to: Any) -> None:
    source = copied(HF, tmp_path / "x")
    changed(source / SHARD, lambda named: named.update({name: torch.ones(16).half()}))
    with pytest.raises(PlanError, match=name):
        convert(source, tmp_path / "o", to)
    assert not (tmp_path / "o").exists()


def test_names_of_tensors_without_a_place_are_bounded(tmp_path: Path) -> None:
    source = copied(HF, tmp_path / "x")
    changed(source / SHARD, lambda named: named.update({f"vision.{n}": torch.ones(1).half() for n in range(500)}))
    with pytest.raises(PlanError, match="500 tensors") as caught:
        convert(source, tmp_path / "o", "meta")
    assert len(str(caught.value)) < 600


def test_a_tied_head_is_called_so(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.mkdir()
    named: dict[str, torch.Tensor] = {}
    for file in sorted(HF.glob("*.bin")):
        named |= loaded(file)
    del named["lm_head.weight"]
    torch.save(named, source / "pytorch_model.bin")
    config = json.loads((HF / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(PlanError, match="tied to its embedding"):
        convert(source, tmp_path / "o", "meta")


@pytest.mark.parametrize(
    "config", [{"rope_theta": 1e6}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}], ids=["4", "5"]
)
def test_theta_goes_to_meta_and_back(tmp_path: Path, config: dict[str, Any]) -> None:
    source = copied(HF, tmp_path / "x", **config)
    convert(source, tmp_path / "m", "meta")
    assert json.loads((tmp_path / "m" / "params.json").read_text())["rope_theta"] == 1e6
    wanted = 1.0 / (1e6 ** (torch.arange(0, 16, 2).float() / 16))
    part = loaded(tmp_path / "m" / "consolidated.00.pth")
    assert bits(part["layers.0.attention.inner_attention.rope.freqs"]) == bits(wanted.half())
    convert(tmp_path / "m", tmp_path / "back", "hf", converter="transformers-4.28.1+inv-freq-exact")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rope_theta"] == 1e6
    stored = loaded(tmp_path / "back" / "pytorch_model.bin")["model.layers.0.self_attn.rotary_emb.inv_freq"]
    assert bits(stored) == bits(wanted)
    with pytest.raises(PlanError, match=r"rope_theta is 1000000\.0"):
        convert(source, tmp_path / "t", "tencentpretrain")


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize("word", ["rope_type", "type"])
def test_llama_3s_scaling_goes_to_meta_and_back(tmp_path: Path, word: str) -> None:
    scaling = {word: "llama3", **LLAMA3}
    source = copied(HF, tmp_path / "x", rope_theta=500000.0, rope_scaling=scaling)
    convert(source, tmp_path / "m", "meta")
    params = json.loads((tmp_path / "m" / "params.json").read_text())
    assert (params["rope_theta"], params["use_scaled_rope"]) == (500000.0, True)
    convert(tmp_path / "m", tmp_path / "back", "hf")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "llama3", **LLAMA3}
    assert config["rope_theta"] == 500000.0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": 32.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "rope_scaling"),
        ({"head_dim": 32}, "head_dim"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 512}, "sliding_window"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
@pytest.mark.parametrize("to", ["meta", "tencentpretrain"])
def test_settings_that_the_layout_has_no_word_for(tmp_path: Path, config: dict[str, Any], said: str, to: Any) -> None:
    with pytest.raises(PlanError, match=said):
        convert(copied(HF, tmp_path / "x", **config), tmp_path / "o", to)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"moe": {"num_experts": 8}}, "moe"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"head_dim": 32}, "head_dim"),
        ({"hidden_dim": 512}, "hidden_dim"),
        ({"rope_theta": "x"}, "rope_theta"),
    ],
)
def test_params_that_are_not_understood(tmp_path: Path, params: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightkitError, match=said):
        convert(copied(META, tmp_path / "x", **params), tmp_path / "o", "hf")


def test_heads_against_the_frequencies(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"n_heads 8 makes a head 8 wide, rope\.freqs 16"):
        convert(copied(META, tmp_path / "m", n_heads=8), tmp_path / "o", "hf")
    with pytest.raises(PlanError, match=r"num_attention_heads 8 makes a head 8 wide, .*inv_freq 16"):
        convert(copied(PEER / "hf-bin", tmp_path / "h", num_attention_heads=8), tmp_path / "o", "meta")


def test_one_part_twice(tmp_path: Path) -> None:
    convert(META, tmp_path / "m", "meta", parts=2)
    named = loaded(tmp_path / "m" / "consolidated.00.pth")
    torch.save(named, tmp_path / "m" / "consolidated.01.pth")
    with pytest.raises(PlanError, match=r"consolidated\.01\.pth holds the same as consolidated\.00\.pth"):
        recover(tmp_path / "m", PEER / "diffs" / "knowlm", tmp_path / "o")


def doubled(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(HF.glob("*.bin")):
        found |= loaded(file)
    return {name: (one * 2).contiguous() for name, one in found.items()}


def test_two_models_in_one_folder(tmp_path: Path) -> None:
    """The one that transformers loads is taken, and the other is named."""
    both = copied(HF, tmp_path / "both")
    save_file(doubled(both), both / "model.safetensors", metadata={"format": "pt"})
    found = inspect(both)
    assert [one.name for one in found.files] == ["model.safetensors"]
    (note,) = found.notes
    assert "pytorch_model-00001-of-00004.bin" in note
    assert "not read" in note
    done = recover(both, PEER / "diffs" / "knowlm", tmp_path / "o")
    assert any("not read" in one for one in done.plan.notes)
    lists = tmp_path / "TENSORS"
    lists.write_bytes(tensors_of(HF))
    checked = verify(both, [lists])
    assert not checked.ok
    assert any(one.status == "extra" and one.path == SHARD for one in checked.checked)


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    both = copied(HF, tmp_path / "both")
    torch.save(doubled(both), both / "pytorch_model.bin")
    found = inspect(both)
    assert [one.name for one in found.files] == ["pytorch_model.bin"]
    assert any("not read" in one and SHARD in one for one in found.notes)


def test_another_set_of_shards_beside_the_indexed_one(tmp_path: Path) -> None:
    both = copied(HF, tmp_path / "both")
    shutil.copy(both / SHARD, both / "pytorch_model-00001-of-00002.bin")
    assert any("not read" in one and "pytorch_model-00001-of-00002.bin" in one for one in inspect(both).notes)
    assert not inspect(HF).notes


def tensors_of(folder: Path) -> bytes:
    """The list of a folder's tensors."""
    return of_tensors(folder)[1]


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers"])
def test_a_config_of_another_model(tmp_path: Path, field: str) -> None:
    source = copied(HF, tmp_path / "x", **{field: 4096})
    said = f"config.json says {field} 4096"
    assert any(said in one for one in inspect(source).notes)
    assert any(said in one for one in convert(source, tmp_path / "o", "hf").plan.notes)
    with pytest.raises(PlanError, match=said):
        convert(source, tmp_path / "m", "meta")


def test_new_rows_without_a_tokenizer_of_their_own(tmp_path: Path) -> None:
    adapter = copied_files(PEER / "lora-zh1-bin", tmp_path / "a", ("adapter_config.json", "adapter_model.bin"))
    done = merge_lora(HF, [adapter], tmp_path / "o")
    assert any("330 rows" in one and "tokenizer" in one for one in done.plan.notes)
    whole = merge_lora(HF, [PEER / "lora-zh1-bin"], tmp_path / "p")
    assert not any("tokenizer that goes along" in one for one in whole.plan.notes)


def test_a_diff_without_a_config(tmp_path: Path) -> None:
    diff = copied_files(PEER / "diffs" / "knowlm", tmp_path / "d", ("pytorch_model.bin",))
    done = recover(HF, diff, tmp_path / "o")
    assert any("no config.json" in one for one in done.plan.notes)


def test_parts_without_a_tokenizer(tmp_path: Path) -> None:
    raw = copied_files(META, tmp_path / "m", ("params.json", "consolidated.00.pth"))
    done = convert(raw, tmp_path / "o", "hf")
    assert not (tmp_path / "o" / "tokenizer_config.json").exists()
    assert any("no tokenizer" in one for one in done.plan.notes)


def copied_files(source: Path, to: Path, names: Sequence[str]) -> Path:
    """Some files of a folder in another."""
    to.mkdir()
    for name in names:
        shutil.copyfile(source / name, to / name)
    return to


def exact(tmp_path: Path) -> tuple[Path, Path]:
    """A tuned model with files of its own, and its exact difference."""
    tuned = copied(PEER / "tuned-fp16-bin", tmp_path / "t")
    for name in ("modeling_own.py", "spiece.model", "qwen.tiktoken", "processor_config.json"):
        (tuned / name).write_text(name)
    (tuned / "SHA256SUMS").write_text("")
    make_diff(HF, tuned, tmp_path / "d", method="exact")
    return tuned, tmp_path / "d"


def test_an_exact_difference_brings_all_small_files(tmp_path: Path) -> None:
    tuned, diff = exact(tmp_path)
    recover(HF, diff, tmp_path / "o")
    for file in tuned.iterdir():
        if file.name != "SHA256SUMS":
            assert (tmp_path / "o" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("way", ["missing", "edited"])
def test_an_exact_difference_that_is_not_as_its_list_says(tmp_path: Path, way: str) -> None:
    _, diff = exact(tmp_path)
    if way == "missing":
        (diff / "config.json").unlink()
    else:
        (diff / "config.json").write_text("{}")
        done = recover(HF, diff, tmp_path / "o")
        assert [Path(one.path).name for one in done.report.mismatches] == ["config.json"]
        assert not list((tmp_path / "o").glob("[!.]*"))
        return
    with pytest.raises(Incomplete, match="config.json"):
        recover(HF, diff, tmp_path / "o")


def test_small_files_that_do_not_go_along_are_named(tmp_path: Path) -> None:
    source = copied(HF, tmp_path / "x")
    for name in ("modeling_own.py", "spiece.model", "processor_config.json"):
        (source / name).write_text(name)
    (note,) = [one for one in convert(source, tmp_path / "o", "hf").plan.notes if "not taken along" in one]
    assert all(name in note for name in ("modeling_own.py", "spiece.model", "processor_config.json"))
    assert not convert(HF, tmp_path / "p", "hf").plan.notes


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["consolidated.00.pth", "consolidated.01.pth", "consolidated.03.pth"], "consolidated.02.pth"),
        (["model_00001-of-00002.safetensors"], "model_00002-of-00002.safetensors"),
        (["weights-1-of-3.safetensors", "weights-3-of-3.safetensors"], "weights-2-of-3.safetensors"),
        ([f"weights-{n}-of-12.safetensors" for n in range(1, 12)], "weights-12-of-12.safetensors"),
        (["w-01-of-02.bin"], "w-02-of-02.bin"),
    ],
)
def test_a_gap_in_numbered_files(tmp_path: Path, names: list[str], missing: str) -> None:
    lines = []
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n")
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    found = verify(tmp_path)
    assert [one.path for one in found.checked if one.status == "missing"] == [missing]


def test_an_index_alone_goes_by_the_rules_of_all_files(weightkit: Run, tmp_path: Path) -> None:
    """Never over a file that is there, through a link, or into the source; whole or not at all."""
    name, meta = "pytorch_model.bin.index.json", copied(PEER / "meta" / "7B", tmp_path / "m")
    words = ["--to", "hf", "--dry-run", "--write-index"]
    assert weightkit("convert", meta, "o", *words).returncode == 0
    assert [one.name for one in (tmp_path / "o").iterdir()] == [name]
    right = (tmp_path / "o" / name).read_bytes()
    (tmp_path / "o" / name).write_text("mine")
    done = weightkit("convert", meta, "o", *words)
    assert (done.returncode, "--overwrite" in done.stderr) == (1, True)
    assert (tmp_path / "o" / name).read_text() == "mine"
    (tmp_path / "o" / name).rename(tmp_path / "mine")
    (tmp_path / "o" / name).symlink_to("../mine")
    assert weightkit("convert", meta, "o", *words).returncode == 1
    assert weightkit("convert", meta, "o", *words, "--overwrite").returncode == 0
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "o" / name).read_bytes() == right
    assert not (tmp_path / "o" / name).is_symlink()
    for inside in (meta, meta / "sub"):
        done = weightkit("convert", meta, inside, *words)
        assert (done.returncode, "input" in done.stderr) == (1, True)
    assert weightkit("convert", meta, "mine", *words).returncode == 1


def meta_width(dim: int, multiple_of: int, ffn_dim_multiplier: float | None = None) -> int:
    """Meta's own rule. Source: llama, ``model.py``, ``TransformerBlock`` and ``FeedForward``."""
    hidden_dim = 4 * dim
    hidden_dim = int(2 * hidden_dim / 3)
    if ffn_dim_multiplier is not None:
        hidden_dim = int(ffn_dim_multiplier * hidden_dim)
    return multiple_of * ((hidden_dim + multiple_of - 1) // multiple_of)


WIDTHS = [(4096, 11008), (5120, 13824), (8192, 28672), (4096, 14336), (64, 172), (64, 192), (3200, 8640), (2048, 8192), (6, 7)]


@pytest.mark.parametrize(("dim", "inner"), WIDTHS)
def test_params_json_gives_the_width_of_the_mlp(dim: int, inner: int) -> None:
    params = json.loads(encode_params(ModelShape(dim, inner, 2, 2, 1, 32, 1e-5)))
    assert meta_width(dim, params["multiple_of"], params.get("ffn_dim_multiplier")) == inner
    assert shape_from_params("o", params, 32, 0).inner == inner
    if (dim, inner) == (8192, 28672):  # as LLaMA-2-70B's own
        assert (params["multiple_of"], params["ffn_dim_multiplier"]) == (4096, 1.3)


WRONG: list[dict[str, Any]] = [{"multiple_of": 0}, {"multiple_of": "256"}, {"ffn_dim_multiplier": "x"}, {"multiple_of": True}]


@pytest.mark.parametrize("wrong", WRONG)
def test_numbers_of_the_mlp_that_are_none(tmp_path: Path, wrong: dict[str, Any]) -> None:
    params = {"dim": 64, "multiple_of": 256, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-06, "vocab_size": 320, **wrong}
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(FormatError, match=f"{next(iter(wrong))} is|ffn_dim_multiplier x"):
        index_from_params(tmp_path, converter_named("transformers-4.28.1"))


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_the_eps_of_norms_goes_to_tencentpretrain_and_back(tmp_path: Path, eps: float) -> None:
    """TencentPretrain takes 1e-06 unless its JSON says layernorm_eps (its ``opts.py``)."""
    convert(copied(HF, tmp_path / "x", rms_norm_eps=eps), tmp_path / "t", "tencentpretrain")
    said = json.loads((tmp_path / "t" / "tp_config.json").read_text())
    assert said.get("layernorm_eps", 1e-6) == eps
    assert ("layernorm_eps" in said) is (eps != 1e-6)
    convert(tmp_path / "t", tmp_path / "back", "hf")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rms_norm_eps"] == eps
    convert(tmp_path / "t", tmp_path / "m", "meta")
    assert json.loads((tmp_path / "m" / "params.json").read_text())["norm_eps"] == eps


def test_metas_layout_has_no_place_for_a_tokenizer_json(tmp_path: Path) -> None:
    source = copied(HF, tmp_path / "x")
    (source / "tokenizer.model").unlink()
    (source / "tokenizer.json").write_text("{}")
    for to in ("meta", "tencentpretrain"):
        notes = convert(source, tmp_path / to, to).plan.notes
        assert any("no tokenizer.model" in one and "tokenizer.json" in one for one in notes), notes
        assert not any("tokenizer" in one for one in convert(HF, tmp_path / f"{to}-whole", to).plan.notes)
