"""Exact differences: lossless for every bit pattern and any file, read by a second reader written from the specification."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.conftest import GOLDEN, PEER, Run, bits, sha256
from tests.test_xor import contents
from weightkit.blobs import MemoryBlob, known
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BY_NAME
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.core.spec import TensorSpec
from weightkit.diff import make_diff
from weightkit.methods.wkx import Difference, Restored, Segment, read_directory
from weightkit.recover import recover
from weightkit.streams import planes

zstandard = pytest.importorskip("zstandard")
BASE, TUNED1 = PEER / "hf-bin", PEER / "tuned1-fp16-bin"
COMPRESS, DECOMPRESS = planes.compressor()

DTYPES = ["float16", "bfloat16", "float32", "float64", "int64", "int8", "uint8", "bool", "float8_e4m3fn", "complex128"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DTYPES), st.data())
def test_a_block_comes_back_whatever_its_bits(name: str, data: st.DataObject) -> None:
    dtype = BY_NAME[name]
    count = data.draw(st.integers(1, 9)) * dtype.itemsize
    new, old = data.draw(st.binary(min_size=count, max_size=count)), data.draw(st.binary(min_size=count, max_size=count))
    guess = data.draw(st.sampled_from([old, None, new]))
    records = planes.encode(new, guess, dtype, COMPRESS)
    back, taken = planes.decode(memoryview(records + b"more"), count, guess, dtype, DECOMPRESS)
    assert bytes(back) == new
    assert taken == len(records)


def test_neighbours_of_either_sign_are_near() -> None:
    """All 65536 float16 patterns against their neighbours in the order of the numbers: the difference is one."""
    every = np.arange(65536, dtype=np.uint16)
    ordered = np.sort(planes.in_order(every, 2).view(np.int16))
    assert (np.diff(ordered.astype(np.int32)) == 1).all()
    assert (planes.in_order(planes.in_order(every, 2), 2) == every).all()
    up = planes.in_order((ordered[1:]).view(np.uint16), 2)
    down = planes.in_order((ordered[:-1]).view(np.uint16), 2)
    assert set(planes.fold(planes.in_order(up, 2), planes.in_order(down, 2), 2)) == {2}
    finite = up.view(np.float16)[np.isfinite(up.view(np.float16))]
    assert (np.diff(finite.astype(np.float64)) >= 0).all()


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.sampled_from(["float16", "bfloat16", "float32"]), st.data())
def test_a_prediction_is_cast_as_torch_casts(raw: bytes, name: str, data: st.DataObject) -> None:
    to = data.draw(st.sampled_from(["float16", "bfloat16", "float32"]))
    values = torch.frombuffer(bytearray(raw), dtype=getattr(torch, name))
    wanted = torch.nan_to_num(values, nan=0.0, posinf=float("inf"), neginf=float("-inf")).to(getattr(torch, to))
    found = planes.cast_bits(raw, BY_NAME[name], BY_NAME[to])
    assert found is not None
    assert bytes(found) == (raw if name == to else bits(wanted))


def by_the_specification(path: Path, base: dict[str, bytes]) -> bytes:
    """A second reader, element by element, written from docs/exact-diff.md alone; two float types, and plain bytes."""
    content = path.read_bytes()
    assert content[:8] == content[-8:] == b"WKEXACT1"
    length = int.from_bytes(content[-16:-8], "little")
    directory = json.loads(content[-16 - length : -16])
    result, at = b"", 8

    def ordered(value: int, width: int) -> int:
        top = 1 << (8 * width - 1)
        return value ^ (top - 1) if value & top else value

    for one in directory["segments"]:
        end, left = at + one["stored"], one["bytes"]
        width = {"float16": 2, "float32": 4}[one["dtype"]] if "tensor" in one else 1
        row = width * (one["shape"][-1] if len(one.get("shape", [])) > 1 else 1)
        block = max(1, (1 << 20) // row) * row
        seen = 0
        while left:
            count = min(block, left) // width
            columns = []
            for _ in range(width):
                method, size = content[at], int.from_bytes(content[at + 1 : at + 5], "little")
                stored = content[at + 5 : at + 5 + size]
                columns.append(zstandard.ZstdDecompressor().decompress(stored, max_output_size=count) if method else stored)
                at += 5 + size
            for index in range(count):
                number = sum(column[index] << 8 * place for place, column in enumerate(columns))
                if "base" in one:
                    old = int.from_bytes(base[one["tensor"]][seen : seen + width], "little")
                    difference = (number >> 1) ^ -(number & 1)
                    number = ordered((ordered(old, width) + difference) % (1 << 8 * width), width)
                result += number.to_bytes(width, "little")
                seen += width
            left -= count * width
        assert at == end
    assert hashlib.sha256(result).hexdigest() == directory["file"]["sha256"]
    return result


def test_the_specification_is_enough_to_read_it(tmp_path: Path) -> None:
    make_diff(BASE, TUNED1, tmp_path / "d", method="exact")
    base: dict[str, bytes] = {}
    for path in sorted(BASE.glob("*.bin")):
        base |= {name: bits(value) for name, value in torch.load(path, weights_only=True).items()}
    for name in ("pytorch_model-00001-of-00004.bin", "pytorch_model-00002-of-00004.bin"):
        assert by_the_specification(tmp_path / "d" / f"{name}.wkx", base) == (TUNED1 / name).read_bytes()


@pytest.mark.parametrize("tuned", ["tuned1-fp16-bin", "tuned-fp32-bin", "tuned-fp16-bin"])
@pytest.mark.parametrize("base", ["hf-bin", "hf-bin-nofreq", "meta/7B"])
def test_files_come_back_byte_for_byte(tmp_path: Path, tuned: str, base: str) -> None:
    make_diff(PEER / base, PEER / tuned, tmp_path / "d", method="exact", jobs=2)
    done = recover(PEER / base, tmp_path / "d", tmp_path / "o", jobs=2)
    assert contents(tmp_path / "o") == contents(PEER / tuned)
    assert done.ok
    size = sum(path.stat().st_size for path in (tmp_path / "d").glob("*.wkx"))
    assert size < sum(path.stat().st_size for path in (PEER / tuned).glob("*.bin"))


def test_of_metas_files_from_metas_files(tmp_path: Path) -> None:
    """The tuned model is in Meta's layout, too: its tensors are found under their own names in the base's file."""
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    model = torch.load(PEER / "meta" / "7B" / "consolidated.00.pth", weights_only=True)
    torch.save({name: value + 0.01 for name, value in model.items()}, tuned / "consolidated.00.pth")
    shutil.copyfile(PEER / "meta" / "7B" / "params.json", tuned / "params.json")
    done = make_diff(PEER / "meta" / "7B", tuned, tmp_path / "d", method="exact")
    assert "100% of the tensors' bytes predicted" in done.plan.steps[0]
    recover(PEER / "meta" / "7B", tmp_path / "d", tmp_path / "o")
    assert sha256(tmp_path / "o" / "consolidated.00.pth") == sha256(tuned / "consolidated.00.pth")


@pytest.mark.parametrize("case", ["views", "ties", "legacy", "strided", "many dtypes", "empty", "nan"])
def test_whatever_is_in_a_file_comes_back(tmp_path: Path, case: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(70, 33, generator=generator)
    model: dict[str, Any] = {"a.weight": weight, "other": torch.arange(7)}
    legacy = False
    match case:
        case "views":
            model |= {"a.first": weight[:10], "a.second": weight[10:20]}
        case "ties":
            model["b.weight"] = weight
        case "legacy":
            legacy = True
        case "strided":
            model["a.t"] = weight.t()
            model["a.cut"] = weight[:, 3:9]
        case "many dtypes":
            model |= {name: torch.ones(5, 3).to(getattr(torch, name)) for name in ("bfloat16", "float64", "int8", "bool")}
        case "empty":
            model["none"] = torch.empty(0, 4)
        case "nan":
            model["a.weight"] = torch.frombuffer(bytearray(np.random.default_rng(1).bytes(70 * 33 * 4)), dtype=torch.float32)
            model["a.weight"] = model["a.weight"].view(70, 33)
    for name, values in (("base", {"a.weight": torch.randn(60, 33, generator=generator)}), ("tuned", model)):
        (tmp_path / name).mkdir()
        torch.save(values, tmp_path / name / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    make_diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "d", method="exact")
    recover(tmp_path / "base", tmp_path / "d", tmp_path / "o")
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == sha256(tmp_path / "tuned" / "pytorch_model.bin")


def test_goldens_of_every_torch_come_back(tmp_path: Path) -> None:
    """Files written by torch 1.8 to 2.13, each against a base that has some of its tensors in another dtype."""
    tried = 0
    for number, path in enumerate(sorted(GOLDEN.rglob("*.bin"))[:40]):
        folder = tmp_path / str(number)
        (folder / "t").mkdir(parents=True)
        shutil.copyfile(path, folder / "t" / "pytorch_model.bin")
        try:
            make_diff(folder / "t", folder / "t", folder / "d", method="exact")
        except WeightkitError:
            continue
        recover(folder / "t", folder / "d", folder / "o")
        assert sha256(folder / "o" / "pytorch_model.bin") == sha256(path)
        tried += 1
    assert tried > 10


@dataclass(frozen=True)
class Counted(MemoryBlob):
    """Bytes that say how often they are read."""

    reads: list[int] = field(default_factory=list, compare=False)

    def read(self, start: int, stop: int) -> Buffer:
        self.reads.append(stop - start)
        return super().read(start, stop)


def test_every_byte_is_read_once() -> None:
    """Records are as long as they compress to: a block's are found without reading the next one's twice."""
    spec = TensorSpec(BY_NAME["float16"], (3000, 1000))
    tuned, base = (np.random.default_rng(seed).standard_normal(3_000_000).astype("<f2").tobytes() for seed in (1, 2))
    parts = Segment(0, 100), Segment(100, spec.nbytes, "a.weight", spec, known("a.weight", spec, base))
    written = Difference(MemoryBlob(b"h" * 100 + tuned), "f", (*parts, Segment(100 + spec.nbytes, 0)))
    payload = Counted(b"".join(written.chunks(1 << 20)))
    entries = read_directory(payload)["segments"]
    payload.reads.clear()
    sums = tuple(one.get("base", {}).get("sha256", "") for one in entries)
    restored = Restored(payload, written.segments, tuple(one["stored"] for one in entries), sums)
    assert b"".join(restored.chunks(1 << 20)) == b"h" * 100 + tuned
    assert sum(payload.reads) == sum(restored.stored) == restored.needs.read_nbytes - spec.nbytes


def test_another_base_is_noticed(tmp_path: Path) -> None:
    make_diff(BASE, TUNED1, tmp_path / "d", method="exact")
    with pytest.raises(FormatError, match="is not the one that the diff was made with.*take the publisher's base"):
        recover(PEER / "tuned-fp16-bin", tmp_path / "d", tmp_path / "o")
    assert not list((tmp_path / "o").glob("*.bin"))
    with pytest.raises(PlanError, match=r"the base has float32 .*, the diff was made with float16"):
        recover(PEER / "tuned-fp32-bin", tmp_path / "d", tmp_path / "p")
    save_file({"x": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(PlanError, match="not in the base"):
        recover(tmp_path / "model.safetensors", tmp_path / "d", tmp_path / "p")
    with pytest.raises(PlanError, match="no tensor in common"):
        make_diff(tmp_path / "model.safetensors", TUNED1, tmp_path / "e", method="exact")


@pytest.mark.parametrize("at", [3, 40, 20_000, -30, -12, -2])
def test_damage_never_gets_a_name(weightkit: Run, tmp_path: Path, at: int) -> None:
    make_diff(BASE, TUNED1, tmp_path / "d", method="exact")
    file = tmp_path / "d" / "pytorch_model-00001-of-00004.bin.wkx"
    content = bytearray(file.read_bytes())
    content[at] ^= 0x10
    file.write_bytes(content)
    done = weightkit("recover", "--raw", BASE, "--diff", "d", "--out", "o")
    assert done.returncode in (1, 3)
    assert not (tmp_path / "o" / "pytorch_model-00001-of-00004.bin").exists()


@pytest.mark.parametrize("left", [0, 10, 31, 200, -1, -16, -40])
def test_a_cut_file_is_said_to_be(tmp_path: Path, left: int) -> None:
    make_diff(BASE, TUNED1, tmp_path / "d", method="exact")
    file = tmp_path / "d" / "pytorch_model-00001-of-00004.bin.wkx"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(FormatError):
        recover(BASE, tmp_path / "d", tmp_path / "o")


def test_a_directory_is_not_trusted(tmp_path: Path) -> None:
    make_diff(BASE, TUNED1, tmp_path / "d", method="exact")
    file = tmp_path / "d" / "pytorch_model-00001-of-00004.bin.wkx"
    content = file.read_bytes()
    length = int.from_bytes(content[-16:-8], "little")
    good = json.loads(content[-16 - length : -16])

    def put(directory: Any) -> None:
        text = json.dumps(directory).encode()
        file.write_bytes(content[: -16 - length] + text + len(text).to_bytes(8, "little") + b"WKEXACT1")

    for spoil in (
        {**good, "version": 2},
        {**good, "file": {**good["file"], "name": "../elsewhere"}},
        {**good, "file": {**good["file"], "sha256": "1" * 64}},
        {**good, "file": {**good["file"], "bytes": 5}},
        {**good, "segments": [{"bytes": -1, "stored": 0}, *good["segments"]]},
        {**good, "segments": good["segments"][:-1]},
        {**good, "segments": [{**one, "shape": [1 << 60, 9]} if "shape" in one else one for one in good["segments"]]},
        [],
        {},
    ):
        put(spoil)
        with pytest.raises((FormatError, PlanError)):
            recover(BASE, tmp_path / "d", tmp_path / "o")
    assert not (tmp_path / "elsewhere").exists()


def test_the_commands(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("make-diff", "--raw", BASE, "--tuned", TUNED1, "--out", "d", "--method", "exact")
    assert done.returncode == 0
    assert "restored again in the same pass" in done.stdout
    done = weightkit("recover", "--raw", BASE, "--diff", "d", "--out", "o", "--json")
    assert json.loads(done.stdout)["ok"] is True
    for more in (("--dtype", "float32"), ("--format", "safetensors")):
        assert weightkit("recover", "--raw", BASE, "--diff", "d", "--out", "p", *more).returncode == 1
        assert (
            weightkit("make-diff", "--raw", BASE, "--tuned", TUNED1, "--out", "e", "--method", "exact", *more).returncode == 2
        )
    again = weightkit("make-diff", "--raw", BASE, "--tuned", TUNED1, "--out", "d", "--method", "exact")
    assert again.returncode == 0
    assert "everything stands already" in again.stdout


@pytest.mark.parametrize("view", ["whole", "tiled", "transposed"])
def test_a_damaged_tuned_file_is_not_published(tmp_path: Path, view: str) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    for folder, factor in ((base, 1.0), (tuned, 1.5)):
        shutil.copytree(BASE, folder)
        for path in sorted(folder.glob("*.bin")):
            state = {name: one * factor for name, one in torch.load(path, weights_only=True).items()}
            name = next(name for name, one in state.items() if one.ndim == 2)
            if view == "transposed":
                state[name] = state[name].T.contiguous().T
            elif view == "tiled":
                state[name] = torch.cat([state[name], state[name]])[: len(state[name])]
            torch.save(state, path)
    path = sorted(tuned.glob("*.bin"))[0]
    state = torch.load(path, weights_only=True)
    name = next(name for name, one in state.items() if one.ndim == 2)
    sought = torch.empty(0, dtype=state[name].dtype).set_(state[name].untyped_storage()).numpy().tobytes()
    text = bytearray(path.read_bytes())
    text[text.index(sought) + len(sought) // 3] ^= 1
    path.write_bytes(text)
    with pytest.raises(FormatError, match="damaged: its bytes have CRC-32"):
        make_diff(base, tuned, tmp_path / "out", method="exact")
    assert not (tmp_path / "out" / f"{path.name}.wkx").exists()
