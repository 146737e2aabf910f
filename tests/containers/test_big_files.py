"""Files above 4 GiB: sizes, offsets and digests that real torch releases gave, and reading through sparse files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from weightkit.blobs import open_local
from weightkit.containers import open_file
from weightkit.containers.layout import one_each
from weightkit.containers.safetensors import Safetensors
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BY_NAME
from weightkit.core.spec import TensorSpec

NAME = "pytorch_model-00001-of-00002"
ZEROS = bytes(1 << 20)

# Measured with the releases named: a dict of small0 float16 0..5 (2, 3), big uint8 zeros, after float32 0..4, empty
# float32 (0,), last int64 0..2; and with 2.13.0 at the boundaries of 32 bits.
WHOLE = [
    ("zip-1.9", 4_400_000_000, 4_400_001_831, "e34ea3e088ad8564d37de5f4772025ef5d77c9a47f40aecfeaaf1863936ef276"),
    ("zip-1.13", 4_400_000_000, 4_400_002_170, "7d63849c0311ceaaf84202149298a29332b8616d12c0ea987f42849c916bfba6"),
    ("zip-2.1", 4_400_000_000, 4_400_002_657, "f57ad27c15606209908fcecfd3d50582ec15d364ca1bfd387666fccc36e4beef"),
    ("zip-2.7", 4_400_000_000, 4_400_003_096, "5c2306c4a1664813debcce1cfb7f0e463030094695478bd2a5225fae9a44bec1"),
    ("zip-2.7", 4294967295, None, "41b2af2cac26408a0a94b6e45f02b2e19b6e142619dff32269896454556cd906"),
    ("zip-2.7", 4294966063, None, "a15eaa663606cf828badbf6d8f0997dce9be77b8d06bdaa93a71ccfb0031f30a"),
    ("zip-2.7", 4294966062, None, "865647db6373b82e1ad858b9a60b800d862f5eaf97c79290f5c356cbe0b3a119"),
]


def specs(big: int) -> list[tuple[str, TensorSpec]]:
    return [
        ("small0", TensorSpec(BY_NAME["float16"], (2, 3))),
        ("big", TensorSpec(BY_NAME["uint8"], (big,))),
        ("after", TensorSpec(BY_NAME["float32"], (5,))),
        ("empty", TensorSpec(BY_NAME["float32"], (0,))),
        ("last", TensorSpec(BY_NAME["int64"], (3,))),
    ]


def zeros(count: int) -> Iterator[Buffer]:
    while count:
        yield ZEROS[:count]
        count -= min(count, len(ZEROS))


def payloads(big: int) -> dict[int, list[bytes] | Iterator[Buffer]]:
    return {
        0: [np.arange(6, dtype=np.float16).tobytes()],
        1: zeros(big),
        2: [np.arange(5, dtype=np.float32).tobytes()],
        3: [],
        4: [np.arange(3, dtype=np.int64).tobytes()],
    }


@pytest.mark.parametrize(("profile", "big", "size"), [(one[0], one[1], one[2]) for one in WHOLE if one[2]])
def test_sizes_are_known_without_the_data(profile: str, big: int, size: int) -> None:
    root = "archive" if profile == "zip-1.9" else NAME
    assert TorchZip(profile, root).nbytes(one_each(specs(big))) == size


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "big", "size", "digest"), WHOLE)
def test_bytes_are_those_of_torch(profile: str, big: int, size: int | None, digest: str) -> None:
    root = "archive" if profile == "zip-1.9" else NAME
    encoding, layout, data = TorchZip(profile, root), one_each(specs(big)), payloads(big)
    sha256, total = hashlib.sha256(), 0
    for chunk in encoding.encode(layout, (data[run] for run in encoding.order(layout))):
        sha256.update(chunk)
        total += len(chunk)
    assert sha256.hexdigest() == digest
    assert total == (size or total) == encoding.nbytes(layout)


def write_sparse(path: Path, chunks: Iterator[Buffer]) -> None:
    """Write a file with holes where it has long runs of zeros: gigabytes that take no room."""
    with path.open("wb") as file:
        for chunk in chunks:
            if chunk is ZEROS:
                file.seek(len(chunk), 1)
            else:
                file.write(chunk)


def test_torch_file_is_read_behind_four_gigabytes(tmp_path: Path) -> None:
    path, big = tmp_path / f"{NAME}.bin", 4_400_000_000
    encoding, layout, data = TorchZip("zip-2.7", NAME), one_each(specs(big)), payloads(big)
    write_sparse(path, encoding.encode(layout, (data[run] for run in encoding.order(layout))))
    source = open_file(open_local(path)).tensors
    assert np.frombuffer(source["after"].read(1, 4), np.float32).tolist() == [1, 2, 3]
    assert np.frombuffer(source["last"].read(0, 3), np.int64).tolist() == [0, 1, 2]
    assert bytes(source["big"].read(big - 5, big)) == bytes(5)
    loaded = torch.load(str(path), mmap=True, weights_only=True)  # torch 2.1 wants a str
    assert loaded["last"].tolist() == [0, 1, 2]
    assert loaded["big"].numel() == big


def test_safetensors_file_is_read_behind_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    layout = one_each([("big", TensorSpec(BY_NAME["int64"], (600_000_000,))), ("last", TensorSpec(BY_NAME["float32"], (4,)))])
    last = np.arange(4, dtype=np.float32).tobytes()
    write_sparse(path, Safetensors().encode(layout, [zeros(4_800_000_000), [last]]))
    assert path.stat().st_size == Safetensors().nbytes(layout)
    assert bytes(open_file(open_local(path)).tensors["last"].read(1, 3)) == last[4:12]
    with safetensors.safe_open(path, "pt") as file:
        assert file.get_tensor("last").tolist() == [0, 1, 2, 3]
