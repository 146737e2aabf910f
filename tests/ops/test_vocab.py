"""New vocabulary rows; the mean is torch's own, bit for bit, whatever the block size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import bits
from tests.ops.test_add import computed, stored
from weightkit.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from weightkit.core.lazy import derive
from weightkit.ops.move import TakeRows
from weightkit.ops.vocab import GrowRows


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 255, 256, 257, 320, 4095, 4096, 4097, 5000, 32000, 65537, 70001])
@pytest.mark.parametrize("source", [torch.float16, torch.float32])
def test_mean_is_torchs(rows: int, source: torch.dtype) -> None:
    torch.manual_seed(rows)
    tensor = (torch.randn(rows, 128) * 0.02).to(source)
    grown = computed(derive(GrowRows(rows, rows + 2, "mean", FLOAT32), stored(tensor)), 1 << 14)
    whole = tensor.float()
    assert grown == bits(torch.cat([whole, whole.mean(0, keepdim=True).expand(2, -1)]))


@pytest.mark.slow
def test_mean_is_torchs_beyond_a_million_rows() -> None:
    """From 2**20 rows on the cascade's step is 32."""
    torch.manual_seed(0)
    tensor = torch.randn((1 << 20) + 77, 64)
    grown = computed(derive(GrowRows(len(tensor), len(tensor) + 1, "mean", FLOAT32), stored(tensor)))
    assert grown[-256:] == bits(tensor.mean(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 5), st.integers(1, 40000), st.sampled_from(["mean", "zero"]))
def test_block_size_changes_nothing(old: int, more: int, block_bytes: int, fill: str) -> None:
    torch.manual_seed(old)
    tensor = torch.randn(old, 64)
    row = tensor.mean(0, keepdim=True) if fill == "mean" else torch.zeros(1, 64)
    grown = computed(derive(GrowRows(old, old + more, fill, FLOAT32), stored(tensor)), block_bytes)  # type: ignore[arg-type]
    assert grown == bits(torch.cat([tensor, row.expand(more, -1)]))


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_in_sixteen_bits_the_mean_is_taken_after_the_cast(dtype: DType) -> None:
    torch.manual_seed(3)
    target = getattr(torch, dtype.name)
    tensor = torch.randn(1000, 64)
    grown = computed(derive(GrowRows(1000, 1001, "mean", dtype), stored(tensor)))
    cast = tensor.to(target)
    assert grown == bits(torch.cat([cast, cast.float().mean(0, keepdim=True).to(target)]))


@pytest.mark.parametrize("fill", ["mean", "zero"])
@pytest.mark.parametrize("start", [0, 1, 200, 300, 302])
@pytest.mark.parametrize("block_bytes", [1, 5000, 1 << 20])
def test_rows_cut_out_of_a_grown_matrix_are_its_own(fill: str, start: int, block_bytes: int) -> None:
    """A part of a model in parts begins anywhere; the mean is that of all rows all the same."""
    torch.manual_seed(4)
    tensor = torch.randn(300, 64)
    grown = derive(GrowRows(300, 305, fill, FLOAT32), stored(tensor))  # type: ignore[arg-type]
    whole = computed(grown)
    assert computed(derive(TakeRows(start, 305), grown), block_bytes) == whole[start * 256 :]


def test_shapes_that_do_not_grow() -> None:
    for tensor, old, new in ((torch.zeros(4), 4, 5), (torch.zeros(4, 2), 5, 6), (torch.zeros(4, 2), 4, 3)):
        with pytest.raises(ValueError, match="grow"):
            derive(GrowRows(old, new, "zero", FLOAT32), stored(tensor))
