"""The arithmetic, as laws over bits: NaN, infinities, subnormals and minus zero come along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import bits
from weightkit.blobs import MemoryBlob, known
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BFLOAT16, BY_NAME, FLOAT16, FLOAT32, DType
from weightkit.core.lazy import LazyTensor, Stored, derive
from weightkit.core.passes import blocks
from weightkit.core.spec import TensorSpec
from weightkit.ops.add import Add, Cast, Subtract

FLOATS = [FLOAT32, FLOAT16, BFLOAT16]


def stored(tensor: torch.Tensor) -> Stored:
    dtype = BY_NAME[str(tensor.dtype).removeprefix("torch.")]
    return known("t", TensorSpec(dtype, tuple(tensor.shape)), bits(tensor))


def computed(tensor: LazyTensor, block_bytes: int = 1 << 20) -> bytes:
    return b"".join(bytes(block) for (block,) in blocks([tensor], block_bytes))


def of_bits(raw: bytes, dtype: DType) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=getattr(torch, dtype.name))


def exact_sum(one: torch.Tensor, other: torch.Tensor, dtype: DType) -> np.ndarray[Any, Any]:
    """The sum in numpy, which adds float16 and float32 by itself; another implementation than torch's."""
    kind = {"float16": np.float16, "float32": np.float32}[dtype.name]
    with np.errstate(all="ignore"):
        return one.numpy().astype(kind) + other.numpy().astype(kind)  # type: ignore[no-any-return]


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.binary(min_size=64, max_size=64), st.sampled_from([FLOAT16, FLOAT32]))
def test_the_sum_is_the_ieee_sum(one: bytes, other: bytes, dtype: DType) -> None:
    base, diff = of_bits(one, dtype), of_bits(other, dtype)
    found = of_bits(computed(derive(Add(dtype), stored(base), stored(diff))), dtype).numpy()
    wanted = exact_sum(diff, base, dtype)
    assert ((found.view(np.uint8) == wanted.view(np.uint8)).all()) or np.array_equal(found, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(found)[~np.isnan(found)], np.signbit(wanted)[~np.isnan(wanted)])


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_bfloat16_is_added_as_float32_and_rounded_once(one: bytes, other: bytes) -> None:
    base, diff = of_bits(one, BFLOAT16), of_bits(other, BFLOAT16)
    found = of_bits(computed(derive(Add(BFLOAT16), stored(base), stored(diff))), BFLOAT16)
    wanted = (diff.float() + base.float()).bfloat16()
    assert torch.equal(found.nan_to_num(0.5), wanted.nan_to_num(0.5))


@pytest.mark.parametrize("base", FLOATS, ids=str)
@pytest.mark.parametrize("diff", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_mixed_dtypes_are_cast_first(base: DType, diff: DType, dtype: DType) -> None:
    torch.manual_seed(1)
    one, other = (torch.randn(40, 30).to(getattr(torch, each.name)) for each in (base, diff))
    target = getattr(torch, dtype.name)
    assert computed(derive(Add(dtype), stored(one), stored(other))) == bits(other.to(target) + one.to(target))
    assert computed(derive(Subtract(dtype), stored(one), stored(other))) == bits(other.to(target) + (-one.to(target)))
    assert computed(derive(Cast(dtype), stored(one))) == bits(one.to(target))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (0, 3), (3, 0), (5, 4), (2, 3, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize("block_bytes", [1, 4, 13, 64, 1 << 20])
def test_no_shape_and_no_block_size_changes_a_bit(shape: tuple[int, ...], block_bytes: int) -> None:
    torch.manual_seed(2)
    one, other = torch.randn(shape), torch.randn(shape).half()
    assert computed(derive(Add(FLOAT32), stored(one), stored(other)), block_bytes) == bits(other.float() + one)


def test_integers_are_added_as_integers() -> None:
    one, other = torch.tensor([1, -(2**62)]), torch.tensor([2**62, -(2**62)])
    assert computed(derive(Add(BY_NAME["int64"]), stored(one), stored(other))) == bits(one + other)


@pytest.mark.parametrize(
    ("one", "other", "dtype"),
    [
        (torch.zeros(2), torch.zeros(3), FLOAT32),
        (torch.zeros(2, 2), torch.zeros(4), FLOAT32),
        (torch.zeros(2, dtype=torch.int8), torch.zeros(2), FLOAT32),
        (torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool), BY_NAME["bool"]),
        (torch.zeros(2).to(torch.float8_e5m2), torch.zeros(2).to(torch.float8_e5m2), BY_NAME["float8_e5m2"]),
    ],
)
def test_what_does_not_fit_is_refused_on_paper(one: torch.Tensor, other: torch.Tensor, dtype: DType) -> None:
    with pytest.raises(ValueError, match="differ|turned|addition"):
        derive(Add(dtype), stored(one), stored(other))


def test_a_shared_input_is_read_once() -> None:
    reads: list[tuple[int, int]] = []

    @dataclass(frozen=True)
    class Counting(MemoryBlob):
        def read(self, start: int, stop: int) -> Buffer:
            reads.append((start // 16, stop // 16))
            return MemoryBlob.read(self, start, stop)

    tensor = torch.randn(8, 4)
    leaf = Stored(Counting(bits(tensor)), "t", TensorSpec(FLOAT32, (8, 4)), 0)
    doubled = derive(Add(FLOAT32), leaf, leaf)
    found = list(blocks([doubled, derive(Subtract(FLOAT32), leaf, doubled)], 32))
    assert b"".join(bytes(one) for one, _ in found) == bits(tensor + tensor)
    assert b"".join(bytes(other) for _, other in found) == bits(tensor)
    assert reads == [(0, 2), (2, 4), (4, 6), (6, 8)]
