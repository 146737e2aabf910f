"""Infinities, NaN and differences of nothing: counted in the pass that writes them, and said as what they are.

Expected counts are torch's own, of what torch computes from the same tensors.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import Run
from tests.ops.test_add import stored
from tests.test_recover import make, tensors
from weightkit.convert import convert
from weightkit.core.dtypes import BY_NAME
from weightkit.core.passes import blocks
from weightkit.core.probes import NotFinite, NotZero
from weightkit.diff import make_diff
from weightkit.merge import merge_lora
from weightkit.recover import Rules, recover

UP = "model.layers.0.mlp.up_proj.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
FLOATS = [name for name, dtype in BY_NAME.items() if dtype.kind == "float"]


def every_value(dtype: torch.dtype) -> torch.Tensor:
    """All bit patterns of 8 and 16 bits; of wider types, those that matter."""
    size = dtype.itemsize
    if size == 1:
        return torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype)
    if size == 2:
        return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    inf, nan, most = float("inf"), float("nan"), torch.finfo(dtype).max
    return torch.tensor([0.0, -0.0, most, -most, inf, -inf, nan, -nan, 1.0, torch.finfo(dtype).tiny], dtype=dtype)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("block_nbytes", [16, 1 << 20])
def test_every_bit_pattern_is_what_torch_says_it_is(name: str, block_nbytes: int) -> None:
    dtype = getattr(torch, name)
    every = every_value(dtype)
    for some in (
        every,
        every[torch.isfinite(every.double())],
        every[every.double() < 0],
        every[every.double() != every.double()],
    ):
        wide = some.double()
        wanted = {"infinite": int(torch.isinf(wide).sum()), "nan": int(torch.isnan(wide).sum())}
        tensor = stored(some.reshape(-1, 1))
        look = NotFinite().begin(tensor.spec)
        for (block,) in blocks([tensor], block_nbytes):
            look(block)
        assert look.found() == (wanted if any(wanted.values()) else None)


@pytest.mark.parametrize("name", ["complex64", "complex128"])
def test_a_complex_element_counts_once(name: str) -> None:
    inf, nan = float("inf"), float("nan")
    tensor = stored(torch.tensor([complex(inf, nan), complex(nan, nan), complex(1, inf), 1 + 2j], dtype=getattr(torch, name)))
    look = NotFinite().begin(tensor.spec)
    look(tensor.read(0, 4))
    assert look.found() == {"infinite": 2, "nan": 1}


@pytest.mark.parametrize(
    ("values", "zero"),
    [
        (torch.zeros(9), True),
        (-torch.zeros(9, dtype=torch.bfloat16), True),
        (torch.tensor([0.0] * 8 + [1e-45]), False),
        (torch.tensor([0, 0, -(2**63)]), False),
        (torch.tensor([False, True]), False),
    ],
)
def test_zero_is_zero_of_either_sign(values: torch.Tensor, zero: bool) -> None:
    tensor = stored(values)
    look = NotZero().begin(tensor.spec)
    for (block,) in blocks([tensor], 8):
        look(block)
    assert look.found() is (None if zero else True)


def lora(folder: Path, a: torch.Tensor, b: torch.Tensor) -> Path:
    folder.mkdir()
    name = "base_model.model." + Q.removesuffix(".weight")
    torch.save({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, folder / "adapter_model.bin")
    config = {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def note(notes: tuple[str, ...] | list[str], about: str = "infinite|NaN") -> str:
    found = [one for one in notes if any(word in one for word in about.split("|"))]
    assert len(found) == 1, notes
    return found[0]


def test_merge_counts_what_overflows(tmp_path: Path) -> None:
    weight = torch.ones(4, 4, dtype=torch.float16)
    weight[1, 1], weight[2, 2] = 60000.0, -60000.0
    base = make(tmp_path / "b", {Q: weight}, {"torch_dtype": "float16"})
    a, b = torch.full((1, 4), 100.0), torch.full((4, 1), 100.0)
    b[2] = -100.0
    done = merge_lora(base, [lora(tmp_path / "l", a, b)], tmp_path / "o")
    out = tensors(tmp_path / "o")[Q]
    assert int(torch.isinf(out).sum()) == 2
    assert note(done.plan.notes) == (
        f"{Q}: 2 elements are infinite: a sum is larger than float16 holds (65504); --dtype float32 holds more"
    )


def test_merge_tells_what_the_base_held_already(tmp_path: Path) -> None:
    weight = torch.ones(4, 4, dtype=torch.float16)
    weight[1, 1] = float("nan")
    base = make(tmp_path / "b", {Q: weight}, {"torch_dtype": "float16"})
    done = merge_lora(base, [lora(tmp_path / "l", torch.ones(1, 4), torch.ones(4, 1))], tmp_path / "o")
    assert note(done.plan.notes) == (
        f"{Q}: 1 element is NaN: {base / 'pytorch_model.bin'} holds such values already, in {Q}: "
        "look whether that download is whole"
    )


@pytest.mark.parametrize(("dtype", "holds"), [("float16", "65504"), ("bfloat16", "3.39e+38")])
def test_convert_counts_what_a_narrower_type_does_not_hold(tmp_path: Path, dtype: str, holds: str) -> None:
    weight = torch.ones(4, 4)
    weight[0, 0], weight[1, 1] = 3.4e38, -3.4e38
    base = make(tmp_path / "b", {UP: weight})
    done = convert(base, tmp_path / "o", "hf", dtype=dtype)
    assert int(torch.isinf(tensors(tmp_path / "o")[UP]).sum()) == 2
    assert note(done.plan.notes).startswith(f"{UP}: 2 elements are infinite: a value is larger than {dtype} holds ({holds})")
    assert "sum" not in note(done.plan.notes)


def test_convert_says_both_kinds_and_both_causes(tmp_path: Path) -> None:
    weight = torch.ones(4, 4)
    weight[0, 0], weight[1, 1], weight[2, 2] = 1e30, float("inf"), float("nan")
    base = make(tmp_path / "b", {UP: weight, "model.norm.weight": torch.tensor([float("nan")] + [1.0] * 3)})
    done = convert(base, tmp_path / "o", "hf", dtype="float16")
    said = note(done.plan.notes)
    assert said.startswith(f"{UP} and 1 more tensor: 2 elements are infinite and 2 are NaN: {base / 'pytorch_model.bin'} holds")
    assert "a value is larger than float16 holds (65504)" in said


def test_a_plain_copy_counts_nothing(tmp_path: Path) -> None:
    base = make(tmp_path / "b", {UP: torch.full((4, 4), float("inf"))})
    assert not any("infinite" in one for one in convert(base, tmp_path / "o", "hf").plan.notes)


def test_make_diff_counts_in_the_difference_and_in_what_comes_back(weightkit: Run, tmp_path: Path) -> None:
    below, above = torch.ones(4, 4, dtype=torch.float16), torch.ones(4, 4, dtype=torch.float16)
    below[0, 0], above[0, 0] = -60000.0, 60000.0
    make(tmp_path / "b", {UP: below}), make(tmp_path / "t", {UP: above})
    made = make_diff(tmp_path / "b", tmp_path / "t", tmp_path / "d")
    assert int(torch.isinf(above - below).sum()) == 1
    assert made.changed == 1
    assert made.not_finite == 2
    in_diff, back = (one for one in made.plan.notes if "infinite" in one)
    assert (
        in_diff
        == f"{UP}: 1 element of the difference is infinite: it is larger than float16 holds (65504); --dtype float32 holds more"
    )
    assert back.startswith(f"{UP}: 1 element that recovering gives is infinite: ")
    said = weightkit("make-diff", "--raw", "b", "--tuned", "t", "--out", "e")
    assert said.returncode == 0
    assert "ok:" not in said.stdout
    as_json = json.loads(weightkit("make-diff", "--raw", "b", "--tuned", "t", "--out", "f", "--json").stdout)
    assert sum("infinite" in one for one in as_json["notes"]) == 2


def test_make_diff_of_infinities_that_come_back_is_not_ok(weightkit: Run, tmp_path: Path) -> None:
    above = torch.ones(4, 4)
    above[0, 0] = float("inf")
    make(tmp_path / "b", {UP: torch.ones(4, 4)}), make(tmp_path / "t", {UP: above})
    said = weightkit("make-diff", "--raw", "b", "--tuned", "t", "--out", "e")
    assert "ok:" not in said.stdout
    assert "all 16 elements come back, bit for bit, but some are infinite or NaN" in said.stdout
    assert "t/pytorch_model.bin holds such values already" in said.stdout + said.stderr


def test_make_diff_of_nan_says_that_its_bits_are_the_processors(tmp_path: Path) -> None:
    above = torch.ones(4, 4)
    above[0, 0] = float("nan")
    make(tmp_path / "b", {UP: torch.ones(4, 4)}), make(tmp_path / "t", {UP: above})
    made = make_diff(tmp_path / "b", tmp_path / "t", tmp_path / "d")
    assert "which bits a NaN has is the processor's affair" in next(one for one in made.plan.notes if "recovering gives" in one)


def test_what_was_rounded_before_it_was_subtracted_does_not_come_back(weightkit: Run, tmp_path: Path) -> None:
    make(tmp_path / "b", {UP: torch.ones(4, 4)}), make(tmp_path / "t", {UP: torch.full((4, 4), 1.0001)})
    said = weightkit("make-diff", "--raw", "b", "--tuned", "t", "--out", "e", "--dtype", "float16")
    assert "ok:" not in said.stdout
    assert "come back as TUNED rounded to float16" in said.stdout


def test_a_model_against_itself_is_said(weightkit: Run, tmp_path: Path) -> None:
    torch.manual_seed(1)
    weight = torch.randn(4, 4)
    make(tmp_path / "b", {UP: weight}), make(tmp_path / "t", {UP: weight})
    made = make_diff(tmp_path / "b", tmp_path / "t", tmp_path / "d")
    assert "the difference is zero in all 1 tensors" in note(made.plan.notes, "zero")
    done = recover(tmp_path / "b", tmp_path / "d", tmp_path / "o")
    assert "the diff is zero in all 1 tensors" in note(done.plan.notes, "zero")


def test_a_diff_that_begins_with_zeros_is_none_of_nothing(tmp_path: Path) -> None:
    weight = torch.randn(4096, 4)
    above = weight.clone()
    above[-1, -1] += 1
    make(tmp_path / "b", {UP: weight}), make(tmp_path / "t", {UP: above})
    made = make_diff(tmp_path / "b", tmp_path / "t", tmp_path / "d")
    assert not any("zero" in one for one in made.plan.notes)
    assert not any("zero" in one for one in recover(tmp_path / "b", tmp_path / "d", tmp_path / "o").plan.notes)


def test_recover_tells_an_input_from_a_sum(tmp_path: Path) -> None:
    below, change = torch.ones(4, 4, dtype=torch.float16), torch.zeros(4, 4, dtype=torch.float16)
    below[0, 0], change[1, 1] = float("inf"), float("nan")
    make(tmp_path / "b", {UP: below}), make(tmp_path / "d", {UP: change})
    done = recover(tmp_path / "b", tmp_path / "d", tmp_path / "o", rules=Rules())
    assert f"1 element is infinite and 1 is NaN: {tmp_path / 'b'}" in note(done.plan.notes)
    assert "a sum is" not in note(done.plan.notes)
