"""What every operation owes, held against each class in ``ops``; and the laws of those that only move."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightkit import ops
from weightkit.blobs import MemoryBlob, known, open_local
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BY_NAME, FLOAT16, FLOAT32, Q4_0, Q8_0, DType
from weightkit.core.lazy import Derived, LazyTensor, Stored, derive
from weightkit.core.passes import blocks, reader
from weightkit.core.spec import TensorSpec
from weightkit.ops import move
from weightkit.ops.add import Add, Cast
from weightkit.ops.lora import ROUNDINGS, MergeLora
from weightkit.ops.move import DropLastAxis, JoinColumns, JoinRows, PairRows, TakeColumns, TakeRows, Transpose
from weightkit.ops.quantize import Quantize
from weightkit.ops.vocab import GrowRows


def classes() -> list[type]:
    """Every operation that there is."""
    modules = [importlib.import_module(f"weightkit.ops.{one.name}") for one in pkgutil.iter_modules(ops.__path__)]
    found = [
        value for module in modules for value in vars(module).values() if isinstance(value, type) and hasattr(value, "infer")
    ]
    return list(dict.fromkeys(found))


EXAMPLES: list[tuple[Any, tuple[TensorSpec, ...]]] = [
    (Add(FLOAT32), (TensorSpec(FLOAT32, (150, 16)), TensorSpec(FLOAT16, (150, 16)))),
    (Add(FLOAT16, -1), (TensorSpec(FLOAT16, (150, 16)), TensorSpec(FLOAT16, (150, 16)))),
    (Cast(FLOAT32), (TensorSpec(FLOAT32, (150, 16)),)),
    (Cast(FLOAT16), (TensorSpec(FLOAT32, (150, 16)),)),
    (GrowRows(140, 150, "mean", FLOAT32), (TensorSpec(FLOAT32, (140, 64)),)),
    (GrowRows(140, 150, "zero", FLOAT16), (TensorSpec(FLOAT16, (140, 64)),)),
    *(
        (
            MergeLora((150, 16), 3, scale, rounding.of(FLOAT32, embedding=True), FLOAT32, FLOAT32),
            (TensorSpec(FLOAT32, (150, 16)), TensorSpec(FLOAT32, (3, 16)), TensorSpec(FLOAT16, (150, 3))),
        )
        for rounding in ROUNDINGS.values()
        for scale in (2.0, 1.7)
    ),
    (JoinRows((70, 0, 80)), tuple(TensorSpec(FLOAT16, (rows, 9)) for rows in (70, 0, 80))),
    (JoinColumns(), tuple(TensorSpec(FLOAT16, (150, width)) for width in (4, 0, 5))),
    (TakeRows(0, 150), (TensorSpec(FLOAT16, (170, 9)),)),
    (TakeColumns(3, 7), (TensorSpec(FLOAT16, (150, 9)),)),
    (PairRows(30, halves=True), (TensorSpec(FLOAT16, (150, 9)),)),
    (PairRows(30, halves=False), (TensorSpec(FLOAT16, (150, 9)),)),
    (Transpose(9), (TensorSpec(FLOAT16, (9, 150)),)),
    (DropLastAxis(9), (TensorSpec(FLOAT16, (150, 9, 1)),)),
    (Quantize(Q8_0), (TensorSpec(FLOAT16, (150, 64)),)),
    (Quantize(Q4_0), (TensorSpec(FLOAT32, (150, 64)),)),
]


def numbers(spec: TensorSpec, seed: int) -> bytes:
    """Values of a float type that a sum does not lose itself in."""
    kind = {"float16": np.float16, "float32": np.float32}[spec.dtype.name]
    return np.random.default_rng(seed).standard_normal(spec.shape).astype(kind).tobytes()


def example(op: Any, specs: Sequence[TensorSpec]) -> Derived:
    return derive(op, *(known("x", spec, numbers(spec, seed)) for seed, spec in enumerate(specs)))


def test_every_op_has_an_example() -> None:
    assert {type(op) for op, _ in EXAMPLES} == set(classes())


@pytest.mark.parametrize("op", classes())
def test_every_op_says_what_it_holds_and_whether_it_needs_torch(op: Any) -> None:
    assert dataclasses.is_dataclass(op)
    assert op.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert {"infer", "begin", "held_nbytes", "torch"} <= set(vars(op))
    assert isinstance(op.torch, bool)


@pytest.mark.parametrize(("op", "specs"), EXAMPLES)
def test_what_is_held_is_a_number_of_bytes(op: Any, specs: tuple[TensorSpec, ...]) -> None:
    held = op.held_nbytes(*specs)
    assert isinstance(held, int)
    assert held >= 0


def test_ops_that_need_no_torch_import_none() -> None:
    plain = [(op, specs) for op, specs in EXAMPLES if not op.torch]
    assert plain
    code = f"""
import sys
from weightkit.blobs import known
from weightkit.core.dtypes import DType
from weightkit.core.lazy import derive
from weightkit.core.passes import blocks
from weightkit.core.spec import TensorSpec
from weightkit.ops.move import *
from weightkit.ops.quantize import *
import weightkit.ops.add, weightkit.ops.lora, weightkit.ops.product, weightkit.ops.vocab
for op, specs in {plain!r}:
    list(blocks([derive(op, *(known("x", spec, bytes(spec.nbytes)) for spec in specs))], 64))
    assert "torch" not in sys.modules, op
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@dataclasses.dataclass(frozen=True)
class Shared(MemoryBlob):
    """Hands out its own memory, as a reader does that several share."""

    memory: bytearray = dataclasses.field(default_factory=bytearray, compare=False)

    def read(self, start: int, stop: int) -> Buffer:
        return memoryview(self.memory)[start:stop]


@pytest.mark.parametrize(("op", "specs"), EXAMPLES)
@pytest.mark.parametrize("block_nbytes", [1, 100, 1 << 20])
def test_no_op_writes_to_an_input_nor_over_what_it_gave_away(op: Any, specs: tuple[TensorSpec, ...], block_nbytes: int) -> None:
    contents = [numbers(spec, seed) for seed, spec in enumerate(specs)]
    blobs = [Shared(content, memory=bytearray(content)) for content in contents]
    tensor = derive(op, *(Stored(blob, "x", spec, 0) for blob, spec in zip(blobs, specs, strict=True)))
    given_away, then = [], []
    for (block,) in blocks([tensor], block_nbytes):
        given_away.append(block)
        then.append(bytes(block))
    assert [bytes(block) for block in given_away] == then
    assert [bytes(blob.memory) for blob in blobs] == contents


@pytest.mark.parametrize(("op", "specs"), EXAMPLES)
def test_rows_may_be_asked_for_again_in_any_order(
    op: Any, specs: tuple[TensorSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers of one tensor need not go in step; a large matrix is transposed in several passes over it."""
    monkeypatch.setattr(move, "BAND_NBYTES", 400)
    tensor = example(op, specs)
    row = tensor.spec.row_nbytes
    whole = b"".join(bytes(block) for (block,) in blocks([tensor]))
    read = reader(tensor)
    rng = np.random.default_rng(5)
    for _ in range(60):
        start, stop = sorted(int(one) for one in rng.integers(0, tensor.spec.rows + 1, 2))
        assert bytes(read(start, stop)) == whole[start * row : stop * row]


def stored(content: bytes, dtype: DType, shape: tuple[int, ...], path: Path) -> Stored:
    path.write_bytes(content)
    return Stored(open_local(path), "x", TensorSpec(dtype, shape), 0)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (PairRows(256, halves=True), [(1024, 2048)]),
        (PairRows(8, halves=False), [(1024, 2048)]),
        (JoinColumns(), [(1024, 512)] * 4),
        (JoinRows((300, 300, 424)), [(300, 2048), (300, 2048), (424, 2048)]),
        (TakeRows(100, 900), [(1024, 2048)]),
        (TakeColumns(64, 192), [(1024, 2048)]),
        (Transpose(256), [(256, 8192)]),
        (Transpose(1024), [(1024, 128)]),
        (DropLastAxis(2048), [(1024, 2048, 1)]),
    ],
)
@pytest.mark.parametrize("block_nbytes", [1 << 15, 1 << 18])
def test_no_more_is_held_than_is_said(
    op: Any, shapes: list[tuple[int, ...]], block_nbytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a block for each node and the caller's, none narrower than a row; tracemalloc knows what numpy allocates."""
    monkeypatch.setattr(move, "BAND_NBYTES", 1 << 20)
    leaves = [
        stored(bytes(TensorSpec(FLOAT16, shape).nbytes), FLOAT16, shape, tmp_path / str(n)) for n, shape in enumerate(shapes)
    ]
    tensor = derive(op, *leaves)
    block = max(block_nbytes, *(one.spec.row_nbytes for one in (tensor, *leaves)))
    allowed = op.held_nbytes(*(one.spec for one in leaves)) + (2 + len(leaves)) * block + (1 << 15)
    bits(tensor, block_nbytes)  # what is made once and kept for good does not count
    tracemalloc.start()
    try:
        for (_,) in blocks([tensor], block_nbytes):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= allowed


@st.composite
def parts(draw: st.DrawFn) -> tuple[list[Stored], list[int], int]:
    """Matrices of random bits, of any dtype, as parts one below the other; and how many bytes a block has."""
    dtype = draw(st.sampled_from(list(BY_NAME.values())))
    width = draw(st.integers(1, 9))
    counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    seed = draw(st.integers(0, 1000))
    specs = [TensorSpec(dtype, (count, width)) for count in counts]
    leaves = [known("x", spec, np.random.default_rng((seed, n)).bytes(spec.nbytes)) for n, spec in enumerate(specs)]
    return leaves, counts, draw(st.sampled_from([1, 2, 5, 16, 64, 300, 1 << 20]))


def bits(tensor: LazyTensor, block_nbytes: int) -> bytes:
    return b"".join(bytes(block) for (block,) in blocks([tensor], block_nbytes))


@settings(max_examples=150, deadline=None)
@given(parts())
def test_joining_and_taking_undo_each_other(drawn: tuple[list[Stored], list[int], int]) -> None:
    leaves, counts, block_nbytes = drawn
    below = derive(JoinRows(tuple(counts)), *leaves)
    turned = [derive(Transpose(count), leaf) for count, leaf in zip(counts, leaves, strict=True)]
    beside = derive(JoinColumns(), *turned)
    assert bits(derive(Transpose(beside.spec.shape[0]), beside), block_nbytes) == bits(below, block_nbytes)
    at = 0
    for count, leaf in zip(counts, leaves, strict=True):
        rows = derive(TakeRows(at, at + count), below)
        assert bits(rows, block_nbytes) == bits(leaf, block_nbytes)
        columns = derive(TakeColumns(at, at + count), beside)
        assert bits(derive(Transpose(columns.spec.shape[0]), columns), block_nbytes) == bits(leaf, block_nbytes)
        at += count
    cuts = [sum(counts[:n]) for n in range(len(counts) + 1)]
    again = [derive(TakeRows(low, high), below) for low, high in pairwise(cuts)]
    assert bits(derive(JoinRows(tuple(counts)), *again), block_nbytes) == bits(below, 1 << 20)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(BY_NAME.values())),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 2, 5, 16, 64, 300, 1 << 20]),
    st.binary(min_size=8, max_size=8),
)
def test_pairing_and_pairing_back_undo_each_other(
    dtype: DType, heads: int, half: int, width: int, block_nbytes: int, seed: bytes
) -> None:
    spec = TensorSpec(dtype, (heads * 2 * half, width))
    content = np.random.default_rng(int.from_bytes(seed)).bytes(spec.nbytes)
    leaf = known("x", spec, content)
    there = derive(PairRows(2 * half, halves=True), leaf)
    rows = np.frombuffer(content, np.uint8).reshape(heads, half, 2, -1)
    assert bits(there, block_nbytes) == rows.swapaxes(1, 2).tobytes()
    assert bits(derive(PairRows(2 * half, halves=False), there), block_nbytes) == content
    back = derive(PairRows(2 * half, halves=False), leaf)
    assert bits(derive(PairRows(2 * half, halves=True), back), block_nbytes) == content
