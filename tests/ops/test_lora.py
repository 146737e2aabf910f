"""Merging one LoRA: against the formulas written out in torch, and against what PEFT of many versions merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import DATA, bits
from tests.ops.test_add import computed, stored
from weightkit.checkpoints.peft import open_adapter
from weightkit.core.dtypes import BY_NAME
from weightkit.core.lazy import LazyTensor, derive
from weightkit.methods import lora
from weightkit.methods.base import based, opened
from weightkit.methods.lora import Arithmetic
from weightkit.ops.lora import ROUNDINGS, MergeLora
from weightkit.ops.move import PairRows, TakeColumns, TakeRows, Transpose

GOLDEN = DATA / "peft-golden"
SCALE = 1.7

Formula = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def in_order(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """``up @ down`` in float32, fused, over ascending rank. float64's own rounding does not matter for these values."""
    total = torch.zeros(up.shape[0], down.shape[1])
    for k in range(up.shape[1]):
        total = (total.double() + up[:, k : k + 1].double() * down[k].double()).float()
    return total


def plain(w: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return w.clone().add_(in_order(up.float(), down.float()) * SCALE)


def cast_first(w: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    delta = in_order(up.to(w.dtype).float(), down.to(w.dtype).float())
    if w.dtype == torch.bfloat16:
        return w + delta.to(w.dtype) * SCALE
    return w + (delta * SCALE).to(w.dtype)


FORMULAS: dict[str, Formula] = {
    "per-adapter": plain,
    "once": plain,
    "peft-0.3": plain,
    "peft-0.12": plain,
    "peft-0.16": plain,
    "peft-0.6": cast_first,
    "peft-0.7": cast_first,
    "peft-safe": lambda w, up, down: w + (in_order(up.float(), down.float()) * SCALE).to(w.dtype),
    "peft-low-memory": lambda w, up, down: w.clone().add_(in_order(up.to(w.dtype).float(), down.to(w.dtype).float()) * SCALE),
    "torchtune": lambda w, up, down: w.clone().add_(in_order((SCALE * up).float(), down.float())),
    "unsloth": lambda w, up, down: (w.float() + in_order(up.float(), (down * SCALE).float())).to(w.dtype),
    "litgpt": lambda w, up, down: w + in_order(up.to(w.dtype).float(), down.to(w.dtype).float()).to(w.dtype) * SCALE,
}


def drawn(rows: int, width: int, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + width + rank)
    return (
        (torch.randn(rows, width, generator=generator) * 0.1).to(dtype),
        torch.randn(rank, width, generator=generator) * 0.3,
        torch.randn(rows, rank, generator=generator) * 0.3,
    )


def merged(w: torch.Tensor, down: torch.Tensor, up: torch.Tensor, rounding: str = "per-adapter") -> LazyTensor:
    dtype = BY_NAME[str(w.dtype).removeprefix("torch.")]
    shape = (w.shape[0], w.shape[1])
    op = MergeLora(shape, down.shape[0], SCALE, ROUNDINGS[rounding].of(dtype, embedding=False), dtype, dtype)
    return derive(op, stored(w), stored(down), stored(up))


def test_every_rounding_has_a_formula() -> None:
    assert set(FORMULAS) == set(ROUNDINGS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_each_rounding_is_its_formula(name: str, dtype: torch.dtype) -> None:
    w, down, up = drawn(100, 96, 8, dtype)
    assert computed(merged(w, down, up, name)) == bits(FORMULAS[name](w, up, down))


@pytest.mark.parametrize("scale", [2.0, 0.25, -4.0, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_scale_that_is_a_power_of_two_rounds_nothing(scale: float, dtype: torch.dtype) -> None:
    """It is applied in the same step as the sum; tiny and huge values, too."""
    w, down, up = drawn(64, 96, 4, dtype)
    down[:, ::7] *= 1e-30
    up[::5] *= 1e-12
    w[::3] = 0
    kind = BY_NAME[str(dtype).removeprefix("torch.")]
    op = MergeLora((64, 96), 4, scale, ROUNDINGS["per-adapter"], kind, kind)
    wanted = w.clone().add_(in_order(up, down) * scale)
    assert computed(derive(op, stored(w), stored(down), stored(up))) == bits(wanted)


@pytest.mark.parametrize(("rows", "width"), [(1, 64), (63, 64), (64, 64), (65, 8), (130, 33), (320, 64)])
@pytest.mark.parametrize("block_bytes", [1, 300, 1 << 12, 1 << 20])
def test_the_blocks_asked_for_change_nothing(rows: int, width: int, block_bytes: int) -> None:
    w, down, up = drawn(rows, width, 4, torch.float16)
    assert computed(merged(w, down, up), block_bytes) == bits(plain(w, up, down))


def test_rows_columns_and_heads_taken_of_a_merged_weight_are_its_own() -> None:
    w, down, up = drawn(192, 64, 4, torch.float16)
    wanted = plain(w, up, down)
    lazy = merged(w, down, up)
    assert computed(derive(TakeRows(37, 150), lazy), 500) == bits(wanted[37:150])
    assert computed(derive(TakeColumns(3, 50), lazy), 500) == bits(wanted[:, 3:50])
    paired = wanted.view(12, 2, 8, 64).transpose(1, 2).reshape(192, 64)
    assert computed(derive(PairRows(16, halves=False), lazy), 500) == bits(paired)


def test_the_other_way_round_it_is_the_product_transposed() -> None:
    w, down, up = drawn(96, 64, 4, torch.float16)
    flipped = w.t().contiguous()
    dtype = BY_NAME["float16"]
    op = MergeLora((64, 96), 4, SCALE, ROUNDINGS["per-adapter"], dtype, dtype)
    lazy = derive(op, stored(flipped), derive(Transpose(96), stored(up)), derive(Transpose(4), stored(down)))
    assert computed(lazy) == bits(plain(w, up, down).t())


VERSIONS = {
    "peft-0.2.0-fp16": "peft-0.3",
    "peft-0.3.0-fp16": "peft-0.3",
    "peft-0.3.0-whole": "peft-0.3",
    "peft-0.6.2-fp16": "peft-0.3",
    "peft-0.7.1-fp16": "peft-0.7",
    "peft-0.7.1-embedding": "peft-0.7",
    "peft-0.11.1-fp16": "peft-0.6",
    "peft-0.11.1-bf16": "peft-0.6",
    "peft-0.11.1-safe": "peft-0.6",
    "peft-0.12.0-fp16": "peft-0.12",
    "peft-0.12.0-bf16": "peft-0.12",
    "peft-0.12.0-embedding": "peft-0.12",
    "peft-0.13.2-bf16": "peft-0.12",
    "peft-0.13.2-low-memory": "peft-low-memory",
    "peft-0.17.1-embedding": "peft-0.16",
    "peft-0.21.2-fp16": "peft-0.16",
    "peft-0.21.2-fp32": "per-adapter",
    "peft-0.21.2-safe": "peft-safe",
    "peft-0.21.2-low-memory": "peft-low-memory",
    "peft-0.21.2-whole": "per-adapter",
    "peft-0.21.2-patterns": "peft-0.16",
    "peft-0.21.2-conv1d": "per-adapter",
}
"""Adapter as a version of PEFT saved it -> the rounding that is to give what the same version's merge gave."""


def base_of(folder: Path) -> Path:
    dtype = {"bf16": "bfloat16", "fp32": "float32"}.get(folder.name.rpartition("-")[2], "float16")
    return GOLDEN / f"base-{'gpt2' if folder.name.endswith(('conv1d', 'linear')) else 'llama'}-{dtype}.safetensors"


def test_every_adapter_that_peft_saved_is_tried() -> None:
    there = {path.name for path in GOLDEN.glob("peft-*")}
    assert there == set(VERSIONS) | {"peft-0.2.0-merged-linear", "peft-0.21.2-dora"}


@pytest.mark.parametrize("name", VERSIONS)
def test_what_peft_merged_comes_out_bit_for_bit(name: str) -> None:
    folder = GOLDEN / name
    base = opened(based(base_of(folder), "--base"))
    wanted = {key: bits(value) for key, value in load_file(folder / "merged.safetensors").items()}
    found = lora.merged(base, open_adapter(folder, "--lora"), Arithmetic(VERSIONS[name])).tensors
    assert wanted
    for key, tensor in found.items():
        assert computed(tensor, 1000) == wanted.get(key, computed(base.tensors[key])), key


def test_the_merged_linear_form_of_peft_0_2() -> None:
    """``enable_lora``: parts of a joined weight. PEFT 0.2's own merge of it fails, so the formula is its source's."""
    folder = GOLDEN / "peft-0.2.0-merged-linear"
    base = opened(based(base_of(folder), "--base"))
    loaded = torch.load(folder / "adapter_model.bin", weights_only=True)
    weights = load_file(base_of(folder))
    name = "transformer.h.0.attn.c_attn"
    down = loaded[f"base_model.model.{name}.lora_A.weight"]
    up = loaded[f"base_model.model.{name}.lora_B.weight"].squeeze(-1)
    assert (down.shape, up.shape) == ((16, 64), (128, 8))
    delta = torch.zeros(64, 192)
    delta[:, :64], delta[:, 128:] = in_order(up[:64], down[:8]).t() * 1.5, in_order(up[64:], down[8:]).t() * 1.5
    wanted = weights[f"{name}.weight"].clone().add_(delta)
    found = lora.merged(base, open_adapter(folder, "--lora"), Arithmetic()).tensors
    assert computed(found[f"{name}.weight"], 700) == bits(wanted)
