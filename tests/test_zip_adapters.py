"""Adapters that came as a ``.zip``: read where they lie, to the same bytes as the folder; hostile archives in one line."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import PEER, Run, sha256
from weightkit.blobs import ZipFolder, folder_at, zip_at
from weightkit.blobs.members import MOST_PLACES, PROVED, ZipBlob
from weightkit.checkpoints.form import Form
from weightkit.core.blob import Folder
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.identify import identify_path
from weightkit.inspect import inspect
from weightkit.merge import merge_lora
from weightkit.verify import verify_files

ADAPTER = PEER / "lora-alpaca-bin"
FILES = sorted(one.name for one in ADAPTER.iterdir())
BY_ALPACA_LORA = "177387c2f0ba3d9c3f31e219828504b80e2d3d0c2480abea55e8d0b9faca9628"
"""What alpaca-lora's own export_hf_checkpoint.py, with peft 0.3.0, makes of these inputs."""


def zipped(path: Path, *, root: str = "", method: int = zipfile.ZIP_DEFLATED, more: dict[str, bytes] | None = None) -> Path:
    """The adapter as an archive, written by Python's zipfile."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name in FILES:
            file.write(ADAPTER / name, root + name)
        for name, content in (more or {}).items():
            file.writestr(name, content)
    return path


def by_a_mac(path: Path) -> Path:
    """As Finder writes it: a folder, and beside each file what Finder knows of it."""
    more = {f"__MACOSX/alpaca/._{name}": b"\0\5\26\7" * 20 for name in FILES} | {"alpaca/.DS_Store": b"\0\0\0\1Bud1"}
    return zipped(path, root="alpaca/", more=more)


def by_windows(path: Path) -> Path:
    """With backslashes, as the archives of .NET before 4.6.1; and a folder's own entry, and a file beside it."""
    zipped(path, root="alpaca_", more={"read_me.txt": b"hello"})
    content = path.read_bytes().replace(b"alpaca_", b"alpaca\\")
    path.write_bytes(content)
    return path


WAYS: dict[str, Callable[[Path], Path]] = {
    "deflated": zipped,
    "stored": lambda path: zipped(path, method=zipfile.ZIP_STORED),
    "in a folder": lambda path: zipped(path, root="chinese/alpaca lora/"),
    "make_archive": lambda path: Path(shutil.make_archive(str(path.with_suffix("")), "zip", ADAPTER)),
    "mac": by_a_mac,
    "windows": by_windows,
    "beside a README": lambda path: zipped(path, root="lora/", more={"README.md": b"read me", "LICENSE": b"x"}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_it_is_read_as_its_folder(way: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = folder_at(way(tmp_path / "a.zip"), "--lora")
    assert isinstance(folder, ZipFolder)
    assert list(folder.names()) == FILES
    assert not folder.single
    for name in FILES:
        blob = folder.blob(name)
        assert bytes(blob.read(0, blob.nbytes)) == (ADAPTER / name).read_bytes()
        assert pickle.loads(pickle.dumps(blob)) == blob
    assert folder.holds("adapter_config.json")
    assert not folder.holds("config.json")
    with pytest.raises(FormatError, match="is not in the archive"):
        folder.blob("config.json")


@pytest.mark.parametrize("way", ["deflated", "stored", "mac"])
def test_a_merge_has_the_bytes_of_the_authors_tool(way: str, tmp_path: Path) -> None:
    before = WAYS[way](tmp_path / "a.zip").read_bytes()
    merge_lora(PEER / "hf-bin", tmp_path / "a.zip", tmp_path / "o", form=Form(max_shard_bytes=10**10))
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == BY_ALPACA_LORA
    assert (tmp_path / "a.zip").read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.zip", "o"]


def test_identify_and_inspect_look_into_it(tmp_path: Path) -> None:
    found = identify_path(by_a_mac(tmp_path / "a.zip"))
    assert found.lines == ("a zip archive of 2 files, read where it lies", *identify_path(ADAPTER).lines)
    own, folders = inspect(tmp_path / "a.zip"), inspect(ADAPTER)
    assert (own.tensors, own.files, own.small) == (folders.tensors, folders.files, folders.small)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("notes.txt", "hello")
    assert any("holds no weights" in line for line in identify_path(tmp_path / "b.zip").lines)


def test_a_file_of_torch_is_not_taken_for_one(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "w.zip")
    assert zip_at(tmp_path / "w.zip") is None
    assert not isinstance(folder_at(tmp_path / "w.zip", "PATH"), ZipFolder)


def test_verify_checks_its_files(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", root="lora/")
    found = verify_files(archive)
    assert found.ok
    assert [(one.path, one.status, one.expected) for one in found.checked] == [(name, "ok", None) for name in FILES]
    assert all("CRC-32" in one.hint for one in found.checked)
    (tmp_path / "list").write_text(f"{sha256(ADAPTER / FILES[1])}  somewhere/{FILES[1]}\n")
    found = verify_files(archive, tmp_path / "list")
    assert [(one.path, one.status) for one in found.checked] == [(name, "ok") for name in FILES]
    assert [one.path for one in found.checked if one.expected] == FILES[1:]
    (tmp_path / "list").write_text(f"{sha256(archive)}  a.zip\n")
    assert [one.path for one in verify_files(archive, tmp_path / "list").checked if one.expected] == ["a.zip"]
    (tmp_path / "list").write_text(f"{'ab' * 32}  another.bin\n")
    with pytest.raises(PlanError, match=r"a\.zip and its files are in none of the lists"):
        verify_files(archive, tmp_path / "list")


def test_verify_uses_the_list_in_it(tmp_path: Path) -> None:
    sums = "".join(f"{sha256(ADAPTER / name)}  {name}\n" for name in FILES)
    archive = zipped(tmp_path / "a.zip", more={"SHA256SUMS": f"{sums}{'ab' * 32}  not-there.bin\n".encode()})
    found = verify_files(archive)
    assert {one.path: one.status for one in found.checked} == dict.fromkeys(FILES, "ok") | {"not-there.bin": "missing"}
    assert all(one.expected for one in found.checked)
    assert not found.ok


def test_a_release_is_found_in_it_by_digest(tmp_path: Path) -> None:
    """The adapter is not the published one, and has its name: so it FAILED."""
    found = verify_files(zipped(tmp_path / "a.zip"), releases="chinese-alpaca-7b-lora")
    assert [(one.path, one.status) for one in found.checked] == [(FILES[0], "ok"), (FILES[1], "FAILED")]


def test_the_commands_say_it_in_a_line(weightkit: Run, tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip")
    done = weightkit("verify", "a.zip", "--json")
    assert done.returncode == 0
    assert [one["status"] for one in json.loads(done.stdout)["files"]] == ["ok", "ok"]
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"adapter_model.bin") + 60] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    done = weightkit("verify", "a.zip")
    assert done.returncode == 3
    assert "FAILED   adapter_model.bin" in done.stdout
    done = weightkit("merge", "--base", PEER / "hf-bin", "--lora", "a.zip", "--out", "o")
    assert done.returncode == 1
    assert "a.zip/adapter_model.bin" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "o").exists()


# random access


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """12 MB that shrink by some; the places are half a member of a few hundred apart."""
    draw = random.Random(1)
    content = b"".join(draw.randbytes(1 << 18) + bytes(1 << 17) for _ in range(32))
    path = tmp_path_factory.mktemp("large") / "l.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("x.bin", content)
        file.writestr("x.json", "{}")
    return path, content


def test_any_bytes_are_read_in_any_order(large: tuple[Path, bytes]) -> None:
    path, content = large
    blob, draw = blob_of(path, "x.bin"), random.Random(2)
    for _ in range(60):
        start = draw.randrange(len(content))
        stop = min(len(content), start + draw.randrange(1, 1 << draw.randrange(1, 20)))
        assert bytes(blob.read(start, stop)) == content[start:stop]
    assert bytes(blob.read(len(content) - 5, len(content))) == content[-5:]
    assert bytes(blob.read(0, 5)) == content[:5]
    with pytest.raises(FormatError, match="ends too early"):
        blob.read(0, len(content) + 1)


def test_memory_is_bounded_whatever_its_size(large: tuple[Path, bytes]) -> None:
    """Python's own counting sees the decompressors' buffers in Python, not zlib's windows: those are counted as places."""
    path, content = large
    blob = blob_of(path, "x.bin")
    PROVED.members.clear()
    tracemalloc.start()
    for start in range(0, len(content) - 100, 1 << 20):
        blob.read(start, start + 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < len(content)
    assert 4 < len(PROVED.of(blob).places) <= MOST_PLACES


def test_an_archive_that_changes_is_noticed(tmp_path: Path) -> None:
    blob = blob_of(zipped(tmp_path / "a.zip"), "adapter_model.bin")
    blob.read(0, 10)
    zipped(tmp_path / "b.zip", root="x/").replace(tmp_path / "a.zip")
    with pytest.raises(FormatError, match="has changed"):
        blob.check()


def blob_of(path: Path, name: str) -> ZipBlob:
    folder = zip_at(path)
    assert folder is not None
    return folder.blob(name)


# hostile ones


def entry(content: bytes, name: str = "adapter_model.bin") -> int:
    """Where the directory's entry of a member begins."""
    return content.rindex(b"PK\1\2", 0, content.rindex(name.encode()))


def patched(path: Path, offset: int, form: str, value: int, name: str = "adapter_model.bin") -> Path:
    """The archive with one field of a directory's entry changed."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, entry(bytes(content), name) + offset, value)
    path.write_bytes(content)
    return path


def read_all(place: Path) -> None:
    folder: Folder | None = zip_at(place)
    assert folder is not None
    for name in folder.names():
        blob = folder.blob(name)
        blob.read(0, blob.nbytes)


def link(path: Path) -> Path:
    info = zipfile.ZipInfo("adapter_model.bin")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("adapter_config.json", "{}")
        file.writestr(info, "/etc/passwd")
    return path


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("adapter_model.bin", "w") as member:
        for _ in range(64):
            member.write(bytes(1 << 20))
    return path


def twice(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate"):
        return zipped(path, more={"adapter_model.bin": b"x"})


def overlapping(path: Path) -> Path:
    """Two entries of the directory that lead to the same bytes, as in the bombs of David Fifield."""
    zipped(path, method=zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as file:
        first = file.infolist()[0]
    return patched(path, 42, "<L", first.header_offset)


def crowd(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(10_001):
            file.writestr(f"{number}", b"")
    return path


def long_directory(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(40):
            file.writestr(f"{number:05}" + "x" * 60_000, b"")
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "leads up": (lambda p: zipped(p, more={"../x": b"x"}), "leads out of the archive"),
    "leads up in a hidden folder": (lambda p: zipped(p, more={"__MACOSX/../../x": b"x"}), "leads out of the archive"),
    "absolute": (lambda p: zipped(p, more={"/etc/x": b"x"}), "leads out of the archive"),
    "a drive": (lambda p: zipped(p, more={"C:/x": b"x"}), "leads out of the archive"),
    "control characters": (lambda p: zipped(p, more={"a\x1b[2Jb": b"x"}), "leads out of the archive or is none"),
    "twice": (twice, "holds two members called"),
    "a link": (link, "is a link or no plain file"),
    "encrypted": (lambda p: patched(zipped(p), 8, "<H", 1), "is encrypted"),
    "bzip2": (lambda p: zipped(p, method=zipfile.ZIP_BZIP2), "only stored and deflated members"),
    "a bomb": (bomb, "no weights shrink so"),
    "one byte less": (lambda p: patched(zipped(p), 24, "<L", 19466), "holds more than the 19466 bytes"),
    "one byte more": (lambda p: patched(zipped(p), 24, "<L", 19468), "holds 19467 bytes, and the archive says 19468"),
    "fewer packed": (lambda p: patched(zipped(p), 20, "<L", 900), "damaged|ends after"),
    "more packed": (lambda p: patched(zipped(p), 20, "<L", 1 << 30), "no sound header|no weights"),
    "another CRC": (lambda p: patched(zipped(p), 16, "<L", 1), "and the archive says 00000001"),
    "another CRC, stored": (lambda p: patched(zipped(p, method=0), 16, "<L", 1), "and the archive says 00000001"),
    "stored, and shrunk": (lambda p: patched(zipped(p, method=0), 24, "<L", 19460), "is stored, and has"),
    "lies elsewhere": (lambda p: patched(zipped(p), 42, "<L", 0x7FFFFFF0), "does not lie in the archive|cannot be read"),
    "overlapping": (overlapping, "overlaps another|in its own header"),
    "a crowd": (crowd, "holds 10001 members"),
    "a long directory": (long_directory, "its directory has more than"),
    "two adapters": (lambda p: zipped(p, root="a/", more={"b/adapter_config.json": b"{}"}), "several folders .*: a, b"),
    "nothing": (lambda p: Path(shutil.make_archive(str(p.with_suffix("")), "zip", empty(p))), "without files"),
    "no zip": (lambda p: written(p, b"<!DOCTYPE html>" * 99), "cannot be read as a zip archive"),
    "empty": (lambda p: written(p, b""), "cannot be read as a zip archive"),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def empty(path: Path) -> Path:
    folder = path.parent / "empty"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_to_be_trusted_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    make, told = HOSTILE[case]
    with pytest.raises(FormatError, match=told) as found:
        read_all(make(tmp_path / "a.zip"))
    assert "\n" not in str(found.value)
    assert str(tmp_path / "a.zip") in str(found.value)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    assert zip_at(tmp_path / "a.zip") is None
    with pytest.raises(WeightkitError):
        merge_lora(PEER / "hf-bin", tmp_path / "a.zip", tmp_path / "o")


def test_packed_bytes_behind_the_end_are_noticed(tmp_path: Path) -> None:
    """A deflated stream that ends before its packed bytes do hides something in them."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed.compress(b"{}") + packed.flush()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as file:
        file.writestr("x.json", body + b"more")
    path = patched(tmp_path / "a.zip", 10, "<H", 8, "x.json")
    for offset, value in ((16, zlib.crc32(b"{}")), (24, 2)):
        patched(path, offset, "<L", value, "x.json")
    with pytest.raises(FormatError, match="ends 4 bytes before its packed bytes do"):
        read_all(path)


def test_no_damage_goes_by_unnoticed(tmp_path: Path) -> None:
    """Every third byte flipped, and cut at every 40th: an error of ours, or the very bytes."""
    whole = zipped(tmp_path / "a.zip").read_bytes()
    wanted = {name: (ADAPTER / name).read_bytes() for name in FILES}
    changed = [whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :] for at in range(0, len(whole), 3)]
    changed = changed[:120] + changed[-150:]
    for content in [*changed, *(whole[:at] for at in range(0, len(whole), 40))]:
        (tmp_path / "b.zip").write_bytes(content)
        try:
            folder = zip_at(tmp_path / "b.zip")
            blobs = {} if folder is None else {name: folder.blob(name) for name in folder.names()}
            found = {name: bytes(blob.read(0, blob.nbytes)) for name, blob in blobs.items()}
        except FormatError:
            continue
        for name, bytes_of in found.items():
            assert bytes_of == wanted.get(name, bytes_of)
