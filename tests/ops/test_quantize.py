"""Blocks of few bits: llama.cpp's own arithmetic on whatever floats there are, in pieces of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ops.test_add import computed, stored
from weightkit.core.dtypes import Q4_0, Q8_0, DType
from weightkit.core.lazy import derive
from weightkit.core.probes import NotFinite
from weightkit.ops.quantize import Quantize

gguf = pytest.importorskip("gguf")


def floats(seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of many sizes, with halves that are rounded away from zero, zeros of either sign and subnormals."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn((257, 96), generator=rng) * 2.0 ** torch.randint(-24, 12, (257, 1), generator=rng)
    rows[3], rows[4] = 0.0, -0.0
    rows[5] = torch.arange(96) / 2 - 20
    rows[5, ::32] = 127.0  # the scale is 1: halves are halves
    rows[6], rows[6, 0] = 0.49999997, 127.0
    rows[7, :32] = 1e-40
    return rows.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [Q8_0, Q4_0])
@pytest.mark.parametrize("block_bytes", [1, 5000, 1 << 20])
def test_as_the_package_of_llama_cpp(kind: DType, dtype: torch.dtype, block_bytes: int) -> None:
    rows = floats(1, dtype)
    with np.errstate(all="ignore"):
        wanted = gguf.quants.quantize(rows.float().numpy(), gguf.GGMLQuantizationType[kind.name.upper()])
    assert computed(derive(Quantize(kind), stored(rows)), block_bytes) == wanted.tobytes()


@pytest.mark.parametrize("kind", [Q8_0, Q4_0])
@pytest.mark.parametrize(
    ("value", "found"), [(float("inf"), {"infinite": 1, "nan": 0}), (float("nan"), {"infinite": 0, "nan": 1})]
)
def test_a_block_that_is_not_finite_is_told_by_its_scale(kind: DType, value: float, found: dict[str, int]) -> None:
    rows = floats(2, torch.float32)
    tensor = derive(Quantize(kind), stored(rows))
    look = NotFinite().begin(tensor.spec)
    look(computed(tensor))
    assert look.found() is None
    rows[9, 40] = value
    look = NotFinite().begin(tensor.spec)
    look(computed(derive(Quantize(kind), stored(rows))))
    assert look.found() == found


@pytest.mark.parametrize("tensor", [torch.zeros(64), torch.zeros(3, 40), torch.zeros((2, 32), dtype=torch.int64)])
def test_what_has_no_whole_blocks_of_floats_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="is not turned into|lies in blocks of 32"):
        derive(Quantize(Q8_0), stored(tensor))
