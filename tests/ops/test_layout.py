"""Moving rows and columns, against torch's own cat, slices and the formula of the authors' converter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import bits
from tests.ops.test_add import computed, stored
from weightkit.core.lazy import derive
from weightkit.ops.move import JoinColumns, JoinRows, PairRows, TakeColumns, TakeRows


def permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """As the converter of transformers 4.28.1 has it (peer-numerics, section 3), for any number of rows."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 7), st.integers(1, 500))
def test_pairs_there_and_back(heads: int, half: int, width: int, block_bytes: int) -> None:
    torch.manual_seed(heads)
    weight = torch.randn(heads * 2 * half, width)
    there = derive(PairRows(2 * half, halves=True), stored(weight))
    assert computed(there, block_bytes) == bits(permute(weight, heads))
    assert computed(derive(PairRows(2 * half, halves=False), there), block_bytes) == bits(weight)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 300))
def test_parts_joined_and_taken_again(counts: list[int], block_bytes: int) -> None:
    torch.manual_seed(len(counts))
    parts = [torch.randn(count, 6) for count in counts]
    below = derive(JoinRows(tuple(counts)), *map(stored, parts))
    assert computed(below, block_bytes) == bits(torch.cat(parts))
    beside = derive(JoinColumns(), *(stored(part.t().contiguous()) for part in parts))
    assert computed(beside, block_bytes) == bits(torch.cat([part.t() for part in parts], dim=1))
    at = 0
    for part in parts:
        assert computed(derive(TakeRows(at, at + len(part)), below), block_bytes) == bits(part)
        assert computed(derive(TakeColumns(at, at + len(part)), beside), block_bytes) == bits(part.t())
        at += len(part)


def test_what_does_not_fit_is_refused_on_paper() -> None:
    one, other = stored(torch.zeros(4, 2)), stored(torch.zeros(3, 3))
    for op, inputs in (
        (JoinRows((4, 3)), (one, other)),
        (JoinRows((4, 4)), (one, one, one)),
        (JoinColumns(), (one, other)),
        (JoinColumns(), (one, stored(torch.zeros(4, 2).half()))),
        (TakeRows(2, 5), (one,)),
        (TakeColumns(0, 3), (one,)),
        (PairRows(3, halves=True), (one,)),
        (PairRows(8, halves=True), (one,)),
        (PairRows(2, halves=True), (stored(torch.zeros(4)),)),
    ):
        with pytest.raises(ValueError, match=r"."):
            derive(op, *inputs)
