"""Pickles that want something run, zips that lie: nothing happens, and the error names what was found."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from weightkit.blobs import open_local
from weightkit.containers import open_file
from weightkit.core.errors import FormatError


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def zipped(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch pwned",), "posix.system"),
        (eval, ("1",), "builtins.eval"),
        (exec, ("1",), "builtins.exec"),
        (getattr, ("a", "b"), "builtins.getattr"),
        (subprocess.Popen, (["touch", "pwned"],), "Popen"),
        (torch.load, ("x",), "torch.serialization.load"),
        (torch.hub.load, ("x", "y"), "torch.hub.load"),
    ],
)
def test_a_call_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, function: Any, arguments: tuple[Any, ...], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"w": Calls(function, *arguments)}, protocol=protocol)
    named = named.replace("builtins", "__builtin__") if protocol == 2 else named
    with pytest.raises(FormatError, match=named.replace(".", r"\.")):
        open_file(open_local(zipped(tmp_path / "model.bin", pickled)))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02}q\x00",
        b"\x80\x02h\x00.",
        b"\x80\x02(((((.",
        b"\x80\x02Q.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02}K\x01b.",
        b"\x80\x02]q\x00h\x00s.",
        b"\x80\x02j\xff\xff\xff\x7f.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"ctorch\nload\n.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
        b"\x80\x02}(]K\x01u.",
        b"\x82\x01.",
        b"I1\n.",
        b"\x80\x02" + b"}q\x00X\x01\x00\x00\x00a" * 2000 + b".",
    ],
)
def test_malformed_pickles(tmp_path: Path, pickled: bytes) -> None:
    path = zipped(tmp_path / "model.bin", pickled)
    try:
        assert not open_file(open_local(path)).tensors
    except FormatError as error:
        assert str(path) in str(error)


def tensor_pickle(count: int = 4, offset: int = 0, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> bytes:
    """What torch pickles for one float32 tensor, with numbers of our own."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
        def persistent_id(self, one: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(one, Storage) else None

    out = io.BytesIO()
    rebuilt = Calls(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, stride, False, {})
    Pickler(out, 2).dump({"w": rebuilt})
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 400}, "has 16 bytes, wanted 1600"),
        ({"shape": (5,)}, "reaches past the end"),
        ({"offset": 1}, "reaches past the end"),
        ({"shape": (2, 2), "stride": (4, 1)}, "reaches past the end"),
        ({"shape": (1 << 62, 1 << 62), "stride": (1, 1)}, "reaches past the end"),
        ({"shape": (-1,)}, "no natural number"),
        ({"stride": (-1,)}, "no natural number"),
        ({"offset": -1}, "no natural number"),
        ({"shape": (2, 2)}, "does not write"),
    ],
)
def test_views_outside_their_storage(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(**change))
        archive.writestr("archive/data/0", bytes(16))
    with pytest.raises(FormatError, match=said):
        open_file(open_local(path))


def test_a_sound_one_of_the_same_make_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_pickle())
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    assert bytes(open_file(open_local(path)).tensors["w"].read(1, 3)) == struct.pack("<2f", 2, 3)


def test_storage_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="storage 0, is not in the file"):
        open_file(open_local(zipped(tmp_path / "model.bin", tensor_pickle())))


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2) + bytes(1000))
    with pytest.raises(FormatError, match="compressed"):
        open_file(open_local(path))


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_pickle())
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/data/1", bytes(16))
        one, other = archive.getinfo("archive/data/0"), archive.getinfo("archive/data/1")
        other.header_offset = one.header_offset
    with pytest.raises(FormatError, match="overlaps"):
        open_file(open_local(path))


def test_a_zip_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match="0 data.pkl"):
        open_file(open_local(path))
