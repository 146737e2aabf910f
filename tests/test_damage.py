"""Every byte of a torch record that is used is covered by the record's CRC, in whatever order it is read."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import PEER, Run
from weightkit.blobs import open_local
from weightkit.containers import open_file
from weightkit.core import records
from weightkit.core.errors import FormatError
from weightkit.core.lazy import LazyTensor, derive
from weightkit.core.passes import blocks, reading
from weightkit.ops.move import TakeColumns, TakeRows, Transpose

ROWS, WIDTH = 256, 64


def values() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)).half()


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save(tensors, path)
    return path


def damage(path: Path, mark: bytes) -> None:
    """Flip a bit of some bytes."""
    content = bytearray(path.read_bytes())
    content[content.index(mark)] ^= 0x40
    path.write_bytes(content)


def whole_pass(tensor: LazyTensor, block_nbytes: int = 1024) -> bytes:
    with reading([tensor]):
        return b"".join(bytes(block) for (block,) in blocks([tensor], block_nbytes))


WAYS: dict[str, Callable[[LazyTensor], LazyTensor]] = {
    "whole": lambda tensor: tensor,
    "first rows": lambda tensor: derive(TakeRows(0, 8), tensor),
    "last rows": lambda tensor: derive(TakeRows(ROWS - 8, ROWS), tensor),
    "middle rows": lambda tensor: derive(TakeRows(100, 108), tensor),
    "columns": lambda tensor: derive(TakeColumns(8, 16), tensor),
    "transposed": lambda tensor: derive(Transpose(ROWS), tensor),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", [0, ROWS // 2, ROWS - 1])
def test_a_flipped_bit_is_noticed_whatever_is_read(tmp_path: Path, way: str, row: int) -> None:
    path = saved(tmp_path / "a.pth", {"w": values()})
    tensor = open_file(open_local(path)).tensors["w"]
    assert tensor.whole
    good = whole_pass(WAYS[way](tensor))
    assert len(good) == WAYS[way](tensor).spec.nbytes
    damage(path, values()[row].numpy().tobytes())
    with pytest.raises(FormatError, match="damaged: its bytes have CRC-32"):
        whole_pass(WAYS[way](open_file(open_local(path)).tensors["w"]))


@pytest.mark.parametrize("kind", ["tiled", "transposed", "slice", "stepped"])
def test_a_flipped_bit_is_noticed_in_shared_storages_and_views(tmp_path: Path, kind: str) -> None:
    whole = values()
    views = {
        "tiled": {"a": whole[:100], "b": whole[100:]},
        "transposed": {"a": whole.T},
        "slice": {"a": whole[10:20]},
        "stepped": {"a": whole[::2]},
    }[kind]
    path = saved(tmp_path / "a.pth", views)
    for name, view in views.items():
        assert whole_pass(open_file(open_local(path)).tensors[name]) == view.contiguous().numpy().tobytes()
    damage(path, whole[-1].numpy().tobytes())  # of the slice: a byte of the record that no tensor uses
    for name in views:
        with pytest.raises(FormatError, match="damaged: its bytes have CRC-32"):
            whole_pass(open_file(open_local(path)).tensors[name])


def test_a_record_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = values()
    path = saved(tmp_path / "a.pth", {f"t{row}": whole[row] for row in range(ROWS)})
    tensors = open_file(open_local(path)).tensors
    taken: list[int] = []

    def crc32(data: bytes, crc: int) -> int:
        taken.append(len(data))
        return zlib.crc32(data, crc)

    monkeypatch.setattr(records, "crc32", crc32)
    with reading(tensors.values()):
        for tensor in tensors.values():
            whole_pass(tensor)
    assert sum(taken) == whole.nbytes
    travelled = pickle.loads(pickle.dumps(tensors["t0"]))
    assert travelled == tensors["t0"]
    assert not travelled.record.sound


def test_a_plain_pass_reads_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.pth", {"w": values()})

    def never(*_: object) -> None:
        raise AssertionError("a record was read beforehand")

    monkeypatch.setattr(records, "crc32", never)
    assert whole_pass(open_file(open_local(path)).tensors["w"]) == values().numpy().tobytes()


def rewritten(path: Path, change: Callable[[str, int], int]) -> None:
    """Other CRCs in the directory of a zip file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\1\2")
    while content[at : at + 4] == b"PK\1\2":
        crc, sizes = struct.unpack_from("<L", content, at + 16)[0], struct.unpack_from("<3H", content, at + 28)
        name = content[at + 46 : at + 46 + sizes[0]].decode()
        struct.pack_into("<L", content, at + 16, change(name, crc))
        at += 46 + sum(sizes)
    path.write_bytes(content)


def test_a_crc_of_0_is_a_crc(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"w": values()})
    rewritten(path, lambda name, crc: 0 if "/data/" in name else crc)
    with pytest.raises(FormatError, match="the file itself records 00000000"):
        whole_pass(open_file(open_local(path)).tensors["w"])


def test_a_file_without_crcs_has_none(tmp_path: Path) -> None:
    """As ``torch.serialization.set_crc32_options(False)`` leaves it (torch 2.6 on): 0 in every record."""
    path = saved(tmp_path / "a.pth", {"w": values()})
    rewritten(path, lambda name, crc: 0)
    tensor = open_file(open_local(path)).tensors["w"]
    assert tensor.record is None
    assert whole_pass(tensor) == values().numpy().tobytes()


@pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="torch before 2.6")
def test_torch_without_crcs_writes_0_everywhere(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pth", {"w": values()})
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert {one.CRC for one in archive.infolist()} == {0}
    assert open_file(open_local(path)).tensors["w"].record is None


def test_the_pickle_is_covered_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"weights": values()})
    content = bytearray(path.read_bytes())
    content[content.index(b"weights")] = ord("x")
    path.write_bytes(content)
    with pytest.raises(FormatError, match="its pickle is damaged: it has CRC-32"):
        open_file(open_local(path))


@pytest.mark.parametrize("parts", [1, 2])
def test_convert_notices_damage_in_any_number_of_parts(weightkit: Run, tmp_path: Path, parts: int) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in (PEER / "hf-bin").iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    name = "model.layers.0.mlp.gate_proj.weight"  # each part has some of its rows
    shard, found = next((path, found) for path in base.glob("*.bin") if name in (found := torch.load(path, weights_only=True)))
    mark = found[name][-1].numpy().tobytes()
    damage(shard, mark)
    done = weightkit("convert", base, tmp_path / "out", "--to", "meta", "--parts", parts)
    assert done.returncode == 1
    assert "CRC-32" in done.stderr
    assert not list((tmp_path / "out").glob("*.pth"))
