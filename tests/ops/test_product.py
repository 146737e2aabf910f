"""The order of sums: the portable ways against exact arithmetic, the quick ones against them, whatever the instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightkit.ops import product
from weightkit.ops.product import Sums, exact_fma, exact_mul_add, kernel_for


def rounded(value: Fraction) -> Fraction:
    """A number rounded to the nearest float32, ties to even, by integers alone: another way than ours."""
    if value == 0:
        return value
    sign, value = (-1, -value) if value < 0 else (1, value)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    exponent -= value < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return sign * round(value / unit) * unit  # round() of a Fraction takes ties to even


def by_fractions(up: list[float], down: list[float], sums: str) -> Fraction:
    total = Fraction(0)
    for left, right in zip(up, down, strict=True):
        term = Fraction(left) * Fraction(right)
        total = rounded(total + (term if sums == "fma" else rounded(term)))
    return total


def close_to_ties() -> st.SearchStrategy[float]:
    """Few bits at many scales, so that sums lie half way between two float32 or just beside."""
    few = st.builds(lambda m, e: m * 2.0**e, st.integers(-4097, 4097), st.integers(-40, 12))
    tiny = st.builds(lambda m, e: m * 2.0**e, st.integers(-9, 9), st.integers(-80, -60))
    return st.one_of(few, tiny, st.floats(-1e6, 1e6, width=32))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(close_to_ties(), close_to_ties()), min_size=1, max_size=12), st.sampled_from(["fma", "mul-add"]))
def test_the_portable_ways_are_right_to_the_last_bit(pairs: list[tuple[float, float]], sums: str) -> None:
    up, down = [list(map(float, np.array(one, np.float32))) for one in zip(*pairs, strict=True)]
    out = torch.empty(1, 1)
    {"fma": exact_fma, "mul-add": exact_mul_add}[sums](torch.tensor([up]), torch.tensor(down).view(-1, 1), out)
    assert Fraction(float(out)) == by_fractions(up, down, sums)


def test_a_double_rounding_would_show() -> None:
    """1 + 2**-24 + 2**-70: half way to float64's eyes, above it in truth."""
    up, down = torch.tensor([[1.0, 1.0 + 2.0**-23]]), torch.tensor([[1.0], [2.0**-24 * (1 - 2.0**-23)]])
    exact = Fraction(1) + Fraction(1 + 2.0**-23) * Fraction(2.0**-24 * (1 - 2.0**-23))
    assert np.float32(np.float64(1.0) + np.float64(float(up[0, 1])) * np.float64(float(down[1, 0]))) == 1.0
    out = torch.empty(1, 1)
    exact_fma(up, down, out)
    assert Fraction(float(out)) == rounded(exact) == 1
    up[0, 1] = 1.0 + 2.0**-22
    exact = Fraction(1) + Fraction(float(up[0, 1])) * Fraction(float(down[1, 0]))
    exact_fma(up, down, out)
    assert Fraction(float(out)) == rounded(exact) == 1 + Fraction(2) ** -23


@pytest.mark.parametrize("sums", ["fma", "mul-add"])
@pytest.mark.parametrize(("rank", "width"), [(1, 64), (8, 64), (8, 4096), (16, 1000), (64, 512), (3, 7)])
def test_what_is_used_gives_the_same_bits(sums: Sums, rank: int, width: int) -> None:
    generator = torch.Generator().manual_seed(7)
    up, down = torch.randn(64, rank, generator=generator), torch.randn(rank, width, generator=generator)
    found, wanted = torch.empty(64, width), torch.empty(64, width)
    kernel_for(sums, rank, width).multiply(up, down, found)
    product.PORTABLE[sums](up, down, wanted)
    assert torch.equal(found.view(torch.int32), wanted.view(torch.int32))


def test_the_two_orders_differ_and_not_for_float16_factors() -> None:
    generator = torch.Generator().manual_seed(7)
    up, down = torch.randn(64, 8, generator=generator), torch.randn(8, 64, generator=generator)
    one, other = torch.empty(64, 64), torch.empty(64, 64)
    exact_fma(up, down, one)
    exact_mul_add(up, down, other)
    assert not torch.equal(one, other)
    exact_fma(up.half().float(), down.half().float(), one)
    exact_mul_add(up.half().float(), down.half().float(), other)
    assert torch.equal(one, other)


REPORT = """
import hashlib, numpy, torch
from weightkit.ops.product import kernel_for
draw = numpy.random.default_rng(11).standard_normal  # torch's own draws depend on the instruction set
for rank, width in ((8, 256), (64, 512)):
    up, down = torch.tensor(draw((64, rank), numpy.float32)), torch.tensor(draw((rank, width), numpy.float32))
    for sums in ("fma", "mul-add"):
        out = torch.empty(64, width)
        kernel = kernel_for(sums, rank, width)
        kernel.multiply(up, down, out)
        print(sums, hashlib.sha256(out.numpy().tobytes()).hexdigest())
        if rank == 8:
            print("#", sums, kernel.name)
"""


def test_the_bits_do_not_depend_on_the_instruction_set() -> None:
    """MKL and torch are held to AVX-512, AVX2 and SSE4.2, where they are here, and to other numbers of threads."""
    settings = [
        {},
        {"MKL_ENABLE_INSTRUCTIONS": "AVX512", "OMP_NUM_THREADS": "4"},
        {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
        {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    ]
    outputs = set()
    for one in settings:
        done = subprocess.run(
            [sys.executable, "-c", REPORT], env={**os.environ, **one}, capture_output=True, text=True, check=True
        )
        outputs.add(tuple(line for line in done.stdout.splitlines() if not line.startswith("#")))
    assert len(outputs) == 1, outputs
