"""The bytes of safetensors files, against what the safetensors library writes from the same tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import bits
from weightkit.blobs import open_local
from weightkit.containers import open_file
from weightkit.containers.layout import Item, Layout, Run, one_each
from weightkit.containers.safetensors import Safetensors
from weightkit.core.dtypes import BY_NAME, FLOAT32
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec

DTYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=8))
def test_written_as_the_library_writes(described: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    tensors = {name: torch.ones(shape).to(getattr(torch, dtype)) for name, (dtype, shape) in described.items()}
    wanted = safetensors.torch.save(tensors, {"format": "pt"})
    layout = one_each((name, TensorSpec(BY_NAME[dtype], shape)) for name, (dtype, shape) in described.items())
    encoding = Safetensors()
    payloads = [[bits(tensors[layout.items[run].name])] for run in encoding.order(layout)]
    assert b"".join(bytes(chunk) for chunk in encoding.encode(layout, payloads)) == wanted
    assert encoding.nbytes(layout) == len(wanted)


def test_tied_tensors_are_refused() -> None:
    spec = TensorSpec(FLOAT32, (2,))
    with pytest.raises(ValueError, match="tied"):
        Safetensors().order(Layout((Item("a", spec, 0), Item("b", spec, 0)), (Run(spec),)))


def broken(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "takes 8 bytes"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "malformed"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "begin at 4"),
        ({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, "dtype F33"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "malformed"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "is cut short"),
        ({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "bytes after its last"),
        ([], "no safetensors"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"{" * 500, "no JSON"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, header: object, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        open_file(open_local(broken(tmp_path / "model.safetensors", header, bytes(8))))


def test_a_header_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    path = broken(tmp_path / "model.safetensors", b"{", length=1 << 40)
    with pytest.raises(FormatError):
        open_file(open_local(path))
