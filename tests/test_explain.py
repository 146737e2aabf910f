"""For each cause a case from real containers, and the right sentence; an intact file is never accused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import PEER, Run, flip_bit, sha256
from tests.test_merge import adapter_in_float32, copied
from tests.test_recover import KNOWLM, tensors
from weightkit.convert import convert
from weightkit.core.digest import ALGORITHMS, hash_file
from weightkit.core.errors import PlanError
from weightkit.explain import digest_from, explain, naive_sum
from weightkit.merge import Form, merge_lora
from weightkit.methods.lora import Arithmetic
from weightkit.proof.causes.naive import LAYER_SUM
from weightkit.recover import recover

BASE = PEER / "hf-bin"
ONE = Form(max_shard_bytes=10**10)
INTACT = [*sorted((PEER / "hf-bin").iterdir()), *sorted((PEER / "diffs" / "knowlm").iterdir())]


def whole(folder: Path, change: Callable[[dict[str, torch.Tensor]], object] = lambda model: None, **more: object) -> Path:
    """The small model in one file, saved by torch itself, with something done to it."""
    folder.mkdir()
    model = {name: value.clone() for name, value in tensors(BASE).items()}
    change(model)
    torch.save(model, folder / "pytorch_model.bin", **more)  # type: ignore[arg-type]
    shutil.copyfile(BASE / "config.json", folder / "config.json")
    return folder


@pytest.mark.parametrize("path", INTACT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_intact_file_is_never_accused(path: Path) -> None:
    for digest in (sha256(path), f"sha256:{sha256(path).upper()}"):
        found = explain(path, expect=digest)
        assert found.matches
        assert "there is nothing to explain" in found.sentence
    assert explain(path, against=path).matches


def test_folders_that_are_the_same(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "copy")
    assert explain(BASE, against=tmp_path / "copy").matches


@pytest.mark.parametrize("profile", ["1.9", "2.1", "2.13"])
def test_container_only(tmp_path: Path, profile: str) -> None:
    recover(BASE, PEER / "diffs" / "knowlm", tmp_path / "o", form=Form(torch_compat=profile))
    found = explain(tmp_path / "o" / "pytorch_model.bin", expect=KNOWLM)
    assert not found.matches
    assert found.sentence.startswith("container only: every tensor is right")
    assert "torch 1.13" in found.sentence
    assert found.command == f"weightkit convert {tmp_path / 'o'} OUT --to hf --torch-compat 1.13"
    recover(BASE, PEER / "diffs" / "knowlm", tmp_path / "right")
    against = explain(tmp_path / "o", against=tmp_path / "right")
    assert "container only: every tensor is right" in against.sentence
    assert against.command.endswith("--torch-compat 1.13")
    safe = tmp_path / "safe"
    recover(BASE, PEER / "diffs" / "knowlm", safe, form=Form(format="safetensors"))
    assert "container only" in explain(safe, against=tmp_path / "right").sentence


def test_the_command_it_names_mends_it(weightkit: Run, tmp_path: Path) -> None:
    recover(BASE, PEER / "diffs" / "knowlm", tmp_path / "o", form=Form(torch_compat="2.13"))
    found = explain(tmp_path / "o" / "pytorch_model.bin", expect=KNOWLM)
    words = found.command.replace("OUT", "mended").split()[1:]
    assert weightkit(*words).returncode == 0
    assert sha256(tmp_path / "mended" / "pytorch_model.bin") == KNOWLM


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        ("float32", "inv_freq should be exact, in float32"),
        ("float16", "inv_freq should be in float16"),
        ("absent", "inv_freq should not be there"),
    ],
)
def test_frequencies(tmp_path: Path, there: str, sentence: str) -> None:
    """The base has them rounded through float16, in float32."""
    exact = 1.0 / (10000.0 ** (torch.arange(0, 16, 2).float() / 16))

    def change(model: dict[str, torch.Tensor]) -> None:
        for name in [name for name in model if name.endswith("inv_freq")]:
            if there == "absent":
                del model[name]
            else:
                model[name] = exact.to(getattr(torch, there)).clone()

    here, right = whole(tmp_path / "here"), whole(tmp_path / "right", change)
    found = explain(here / "pytorch_model.bin", expect=sha256(right / "pytorch_model.bin"))
    assert found.sentence == f"{sentence}; all other tensors are right"
    back = explain(right / "pytorch_model.bin", expect=sha256(here / "pytorch_model.bin"))
    assert "inv_freq" in back.sentence
    assert "rounded through float16, in float32" in back.sentence
    compared = explain(here, against=right).sentence
    wanted = {
        "float32": "inv_freq has other bits: exact on one side",
        "float16": "inv_freq is stored in float32 here, in float16 there",
        "absent": "inv_freq is stored here (2 buffers), not there",
    }
    assert compared.startswith(wanted[there])
    if there == "absent":
        assert explain(right, against=here).sentence.startswith("inv_freq is missing here (2 buffers)")


def test_small_files_field_by_field(tmp_path: Path) -> None:
    """generation_config.json of another transformers: the digest wanted was published (Open-Assistant's base)."""
    file = BASE / "generation_config.json"
    found = explain(file, expect="aee09e21813368c49baaece120125ae3")
    assert "transformers-4.29.0.dev0" in found.sentence
    assert 'transformers_version: "4.28.1" here, "4.29.0.dev0" wanted' in found.sentence
    assert "--as transformers-4.29.0.dev0" in found.command
    unknown = explain(file, expect="ab" * 16)
    assert "most often only the version of transformers" in unknown.sentence
    other = tmp_path / "other"
    shutil.copytree(BASE, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "use_cache": False}, indent=2) + "\n")
    found = explain(BASE, against=other)
    assert found.sentence.startswith("small files only: config.json; of config.json fields that differ: use_cache: true here")
    reordered = tmp_path / "config.json"
    reordered.write_text(json.dumps(json.loads((BASE / "config.json").read_text())))
    assert "same fields, written otherwise" in explain(reordered, against=BASE / "config.json").sentence
    cut = tmp_path / "cut" / "config.json"
    cut.parent.mkdir()
    cut.write_bytes((BASE / "config.json").read_bytes()[:-1])
    assert "its newline at the end is missing" in explain(cut, expect=sha256(BASE / "config.json")).sentence
    windows = tmp_path / "windows" / "config.json"
    windows.parent.mkdir()
    windows.write_bytes((BASE / "config.json").read_bytes().replace(b"\n", b"\r\n"))
    assert "Windows line ends" in explain(windows, expect=sha256(BASE / "config.json")).sentence


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_small_files_under_every_algorithm(tmp_path: Path, algorithm: str) -> None:
    cut = tmp_path / "config.json"
    cut.write_bytes((BASE / "config.json").read_bytes()[:-1])
    wanted = hash_file(BASE / "config.json", [algorithm])[algorithm]
    assert "its newline at the end is missing" in explain(cut, expect=str(wanted)).sentence


def big_base(folder: Path) -> Path:
    """Wide enough for differences of one in ten thousand to show."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    model = {
        f"model.layers.{layer}.mlp.up_proj.weight": (torch.randn(512, 512, generator=generator) * 0.05).half()
        for layer in range(2)
    }
    model |= {"model.norm.weight": torch.ones(512).half(), "model.embed_tokens.weight": torch.randn(64, 512).half()}
    torch.save(model, folder / "pytorch_model.bin")
    (folder / "config.json").write_text("{}")
    return folder


def big_adapter(folder: Path, seed: int) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(2):
        module = f"base_model.model.model.layers.{layer}.mlp.up_proj"
        found[f"{module}.lora_A.weight"] = torch.randn(16, 512, generator=generator) * 0.05
        found[f"{module}.lora_B.weight"] = torch.randn(512, 16, generator=generator) * 0.05
    torch.save(found, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16, "lora_alpha": 23, "peft_type": "LORA"}))
    return folder


def test_roundings_sums_and_orders(tmp_path: Path) -> None:
    base, one, two = big_base(tmp_path / "b"), big_adapter(tmp_path / "one", 1), big_adapter(tmp_path / "two", 2)

    def merged(name: str, adapters: list[Path], how: Arithmetic | None = None) -> Path:
        merge_lora(base, adapters, tmp_path / name, how=how)
        return tmp_path / name

    right = merged("right", [one, two])
    for name, adapters, how, told, exactly in (
        ("sums", [one, two], Arithmetic(sums="mul-add"), "another sum order: ", "sums fma"),
        ("once", [one, two], Arithmetic("once"), "one rounding more or less: ", "rounding per-adapter"),
        ("order", [two, one], None, "one rounding more or less: ", "LoRA order: one, then two"),
    ):
        mine = merged(name, adapters, how)
        found = explain(mine, against=right)
        assert found.sentence.startswith(told), (name, found)
        assert any(line.startswith("by ULPs: 1: ") for line in found.lines)
        surely = explain(mine, against=right, base=base, lora=adapters)
        assert exactly in surely.sentence, (name, surely)
        by_digest = explain(mine / "pytorch_model.bin", expect=sha256(right / "pytorch_model.bin"), base=base, lora=adapters)
        assert exactly in by_digest.sentence
        assert by_digest.command.startswith("weightkit merge --base")


def test_what_names_the_order_mends_it(weightkit: Run, tmp_path: Path) -> None:
    base, one, two = big_base(tmp_path / "b"), big_adapter(tmp_path / "one", 1), big_adapter(tmp_path / "two", 2)
    merge_lora(base, [one, two], tmp_path / "right")
    merge_lora(base, [two, one], tmp_path / "wrong")
    wanted = sha256(tmp_path / "right" / "pytorch_model.bin")
    found = explain(tmp_path / "wrong" / "pytorch_model.bin", expect=wanted, base=base, lora=[two, one])
    assert weightkit(*found.command.replace("OUT", "mended").split()[1:]).returncode == 0
    assert sha256(tmp_path / "mended" / "pytorch_model.bin") == wanted


def test_adapters_whose_folders_are_called_alike(weightkit: Run, tmp_path: Path) -> None:
    """The command names each by its whole path, whatever the folders are called."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    base = big_base(tmp_path / "b")
    one, two = big_adapter(tmp_path / "first" / "lora (7B), then", 1), big_adapter(tmp_path / "second" / "lora (7B), then", 2)
    merge_lora(base, [one, two], tmp_path / "right")
    merge_lora(base, [two, one], tmp_path / "wrong")
    wanted = sha256(tmp_path / "right" / "pytorch_model.bin")
    found = explain(tmp_path / "wrong" / "pytorch_model.bin", expect=wanted, base=base, lora=[two, one])
    assert found.command.index(str(one)) < found.command.index(str(two))


def test_a_file_under_other_names_is_explained_too(tmp_path: Path) -> None:
    """TencentPretrain's: its tensors are handed out under transformers' names, its bytes are those of its own."""
    convert(BASE, tmp_path / "mine", "tencentpretrain", form=Form(torch_compat="2.1"))
    convert(BASE, tmp_path / "right", "tencentpretrain")
    (mine,), (right,) = ((tmp_path / name).glob("*.bin") for name in ("mine", "right"))
    assert explain(mine, expect=sha256(right)).sentence.startswith("container only: every tensor is right")


def test_rotary_pairs_in_the_other_order(tmp_path: Path) -> None:
    def change(model: dict[str, torch.Tensor]) -> None:
        for name in [name for name in model if name.endswith(("q_proj.weight", "k_proj.weight"))]:
            model[name] = model[name].view(4, 2, 8, 64).transpose(1, 2).reshape(64, 64).clone()

    here, right = whole(tmp_path / "here", change), whole(tmp_path / "right")
    assert explain(here, against=right).sentence.startswith("q/k permutation: ")
    assert explain(right, against=here).sentence.startswith("q/k permutation: ")


def test_a_missing_vocabulary_row(tmp_path: Path) -> None:
    def change(model: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            model[name] = torch.cat([model[name], model[name][:1]])

    here, right = whole(tmp_path / "here"), whole(tmp_path / "right", change)
    assert "1 vocabulary row missing in model.embed_tokens.weight" in explain(here, against=right).sentence
    assert "1 vocabulary row too many" in explain(right, against=here).sentence


def test_a_bad_region(tmp_path: Path) -> None:
    right, here = whole(tmp_path / "right"), whole(tmp_path / "here")
    content = bytearray((here / "pytorch_model.bin").read_bytes())
    at = content.index(bytes(tensors(BASE)["lm_head.weight"].numpy().tobytes()[:64])) + 4096
    for offset in range(512):
        content[at + offset] ^= 0xA5
    (here / "pytorch_model.bin").write_bytes(content)
    found = explain(here, against=right)
    assert found.sentence.startswith("damage: a bad region, bytes 4096 to 4607 of lm_head.weight")
    told = explain(here / "pytorch_model.bin", expect=sha256(right / "pytorch_model.bin"))
    assert told.sentence.startswith("damage: ")
    assert "CRC" in told.sentence
    cut = tmp_path / "cut.bin"
    cut.write_bytes((right / "pytorch_model.bin").read_bytes()[:-100])
    assert explain(cut, expect=sha256(right / "pytorch_model.bin")).sentence.startswith(("damage", "cut.bin is cut off"))
    flip_bit(here / "pytorch_model.bin", len(content) - 30)
    assert not explain(here / "pytorch_model.bin", expect=sha256(right / "pytorch_model.bin")).matches


def test_through_bfloat16_other_weights_and_other_models(tmp_path: Path) -> None:
    def narrow(model: dict[str, torch.Tensor]) -> None:
        for name in [name for name in model if name.endswith("proj.weight")]:
            model[name] = model[name].bfloat16().half()

    right = whole(tmp_path / "right")
    assert explain(whole(tmp_path / "narrow", narrow), against=right).sentence.startswith("through bfloat16: ")
    noise = whole(tmp_path / "noise", lambda model: model.update({k: v + 0.5 for k, v in model.items() if "proj" in k}))
    assert explain(noise, against=right).sentence.startswith("other weights: ")
    fewer = whole(tmp_path / "fewer", lambda model: model.pop("model.norm.weight"))
    assert explain(fewer, against=right).sentence.startswith("another model, or incomplete")
    wide = whole(tmp_path / "wide", lambda model: model.update({"lm_head.weight": model["lm_head.weight"].float()}))
    assert explain(wide, against=right).sentence.startswith("another dtype or size: lm_head.weight")


def test_naive_sums_are_a_diagnosis(tmp_path: Path) -> None:
    value = sum(float(one.double().sum()) for one in tensors(BASE).values())
    assert abs(naive_sum(BASE).value - value) < 1e-3
    assert naive_sum(BASE).near == ()
    torch.save({"w": torch.full((1000,), 50.6371836)}, tmp_path / "pytorch_model.bin")
    assert naive_sum(tmp_path).near == ("Stanford Alpaca-7B: 50637.1836",)
    assert abs(32 * LAYER_SUM - 238.734375) < 0.02  # MOSS-RLHF issue 34: 49715.3515625 instead of 49954.0859375
    torch.save({"w": torch.full((1024,), 49715.3515625 / 1024, dtype=torch.float64)}, tmp_path / "pytorch_model.bin")
    assert any("without the inv_freq of 32 layers" in one and "MOSS" in one for one in naive_sum(tmp_path).near)


def test_what_cannot_be_explained_is_refused(weightkit: Run, tmp_path: Path) -> None:
    for digest in ("nonsense", "1" * 64, "ab" * 7):
        with pytest.raises(PlanError, match="is no digest"):
            digest_from(digest)
    with pytest.raises(PlanError, match="digest of nothing"):
        explain(BASE / "config.json", expect="d41d8cd98f00b204e9800998ecf8427e")
    with pytest.raises(PlanError, match="does not exist"):
        explain(tmp_path / "nothing", expect="ab" * 32)
    with pytest.raises(PlanError, match="is no file"):
        explain(BASE, expect="ab" * 32)
    assert weightkit("explain", BASE).returncode == 2
    payload = next((PEER / "diffs" / "enc").glob("*.enc"))
    assert "no file of weights that could be looked into" in explain(payload, expect="ab" * 32).sentence
    done = weightkit("explain", BASE / "config.json", "--expect", sha256(BASE / "config.json"))
    assert done.returncode == 0
    done = weightkit("explain", BASE / "pytorch_model-00001-of-00004.bin", "--expect", "ab" * 32, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["matches"] is False
    done = weightkit("explain", BASE, "--naive-sum")
    assert "a sum proves nothing" in done.stdout


def test_adapters_of_float32_make_the_digest_hang_on_the_sums(tmp_path: Path) -> None:
    """With the whole small model: the digest alone tells how the published file was merged."""
    one = adapter_in_float32(tmp_path / "a", rank=16)
    two = copied(one, tmp_path / "b", lora_alpha=3)
    merge_lora(BASE, [one, two], tmp_path / "right", how=Arithmetic("torchtune", "mul-add"), form=ONE)
    merge_lora(BASE, [one, two], tmp_path / "mine", form=ONE)
    right, mine = (tmp_path / name / "pytorch_model.bin" for name in ("right", "mine"))
    found = explain(mine, expect=sha256(right), base=BASE, lora=[one, two])
    assert "rounding torchtune, sums mul-add" in found.sentence
