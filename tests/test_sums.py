"""Lists of digests, against what coreutils itself writes and accepts."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError
from weightkit.manifests import Entry, encode, parse, read

ONE = hashlib.sha256(b"one").hexdigest()
NAMES = ["plain.bin", "with blank.bin", "*star", "back\\slash", "line\nfeed", "return\rhere", " leading", "ünï", "a (b) = c"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([number]))
    return tmp_path


@pytest.mark.parametrize("tool", ["md5sum", "sha1sum", "sha256sum", "sha512sum", "b2sum"])
@pytest.mark.parametrize("options", [[], ["--binary"], ["--tag"]], ids=str)
def test_what_coreutils_writes_is_read(folder: Path, tool: str, options: list[str]) -> None:
    if tool == "b2sum" and options != ["--tag"]:
        return  # 128 digits without a tag are SHA-512
    made = subprocess.run([tool, *options, "--", *NAMES], cwd=folder, capture_output=True, check=True)
    entries = parse(made.stdout.decode(), Path("list"))
    assert [entry.path for entry in entries] == NAMES
    algorithm = {"md5sum": "md5", "sha1sum": "sha1", "sha256sum": "sha256", "sha512sum": "sha512", "b2sum": "blake2b"}[tool]
    for entry in entries:
        assert entry.digest == Digest(algorithm, hashlib.new(algorithm, (folder / entry.path).read_bytes()).hexdigest())


def test_what_is_written_coreutils_accepts(folder: Path) -> None:
    entries = [Entry(name, Digest("sha256", hashlib.sha256((folder / name).read_bytes()).hexdigest())) for name in NAMES]
    (folder / "list").write_bytes(encode(entries))
    done = subprocess.run(["sha256sum", "--strict", "--check", "list"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read(folder / "list") == sorted(entries, key=lambda entry: entry.path)


@settings(max_examples=100)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, unique=True))
def test_any_name_comes_back(names: list[str]) -> None:
    names = [name for name in names if name.strip() and not set(name) & set("/\\:") and name.strip(".") and name != "\ufeff"]
    entries = [Entry(name, Digest("sha256", ONE)) for name in names if "\x00" not in name and name[0] not in " *"]
    if entries:
        assert parse(encode(entries).decode(), Path("list")) == sorted(entries, key=lambda entry: entry.path)


@pytest.mark.parametrize(
    "text",
    [
        f"{ONE.upper()}  a.bin\n",
        f"{ONE} a.bin\n",
        f"{ONE}  a.bin\r\n",
        f"# published somewhere\n\n{ONE} *a.bin",
        f"\ufeff{ONE}  a.bin\n",
        f"{ONE}  ./a.bin\n",
        f"{ONE}  a.bin\n{ONE}  a.bin\n",
        f"SHA256 (a.bin) = {ONE}\n",
    ],
)
def test_forms_that_are_read(text: str) -> None:
    assert parse(text, Path("list")) == [Entry("a.bin", Digest("sha256", ONE))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no digest"),
        ("# nothing\n", "no digest"),
        ("hello\n", "no line"),
        (f"{ONE[:-1]}  a.bin\n", "63 digits"),
        (f"{'f' * 64}  a.bin\n", "placeholder"),
        (f"{hashlib.sha256().hexdigest()}  a.bin\n", "empty file"),
        (f"{hashlib.md5().hexdigest()}  a.bin\n", "empty file"),
        (f"{ONE}  ../a.bin\n", "not inside"),
        (f"{ONE}  /etc/passwd\n", "not inside"),
        (f"{ONE}  b/../../a.bin\n", "not inside"),
        (f"{ONE}  ..\\a.bin\n", "not inside"),
        (f"{ONE}  C:\\a.bin\n", "not inside"),
        (f"{ONE}  a.bin\n{ONE[::-1]}  a.bin\n", "line 2"),
    ],
)
def test_lists_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        parse(text, Path("list"))


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "nothing", "."):
        with pytest.raises(FormatError):
            read(tmp_path / name)
