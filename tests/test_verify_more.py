"""Verify beyond lists: prose, pointers, the Hub's notes, releases, a glance before the hash, results for CI."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from blake3 import blake3
from huggingface_hub._local_folder import write_download_metadata

from tests.conftest import PEER, Run, flip_bit, sha256
from weightkit import manifests
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError, PlanError
from weightkit.verify import verify

BASE = PEER / "hf-bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(BASE, tmp_path / "w")
    return tmp_path / "w"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_a_model_card_as_belles_are(folder: Path, tmp_path: Path) -> None:
    """A table with code marks and links, NULs before digests, ``./`` before some names, Windows line ends, empty cells."""
    names = sorted(path.name for path in folder.iterdir())
    rows = [f"| [`{names[0]}`](https://x/y) | {md5(folder / names[0])} |"]
    rows += [f"| {sha256(folder / names[1])} | ./{names[1]} |", f"| {names[2]} | TBA |"]
    text = "# Card\r\n\r\n| file | digest |\r\n|---|---|\r\n" + "\r\n".join(rows) + "\r\n\r\n```\r\n"
    text += "".join(f"\0{md5(folder / name)}  ./{name}\r\n" for name in names[3:6]) + "```\r\nand so on\r\n"
    (tmp_path / "README.md").write_text(text, newline="")
    entries = manifests.read(tmp_path / "README.md")
    assert [entry.path for entry in entries] == [names[0], names[1], *names[3:6]]
    found = verify(folder, [tmp_path / "README.md"])
    assert found.count("ok") == 5
    flip_bit(folder / names[4], 3)
    assert verify(folder, [tmp_path / "README.md"]).count("FAILED") == 1


def test_a_card_of_several_releases_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(f"| a.bin | {'ab' * 32} |\n| a.bin | {'cd' * 32} |\n")
    with pytest.raises(FormatError, match="lists several releases"):
        manifests.read(tmp_path / "card.md")
    (tmp_path / "none.md").write_text("# Nothing\n| a.bin | TBA |\n" + f"| b.bin | {'f' * 64} |\n" + f"| c | {'ab' * 32} |\n")
    with pytest.raises(FormatError, match="holds no digest"):
        manifests.read(tmp_path / "none.md")


def test_a_real_list_of_another_project(tmp_path: Path) -> None:
    """As Chinese-LLaMA-Alpaca's SHA256.md has it: two columns of digests are of two files each, so rows name one file."""
    digest = "2a2c24d096f5d509f24946fdbd8c25e1ce4a0acb955902f7436d74c0c0379d86"
    (tmp_path / "SHA256.md").write_text(f"| LoRA | SHA256 |\n| :-- | :-: |\n| adapter_model.bin | `{digest}` |\n")
    (entry,) = manifests.read(tmp_path / "SHA256.md")
    assert entry.path == "adapter_model.bin"
    assert entry.digest.hex.startswith("2a2c24d0")


def test_a_git_lfs_pointer_is_a_list_of_one(folder: Path, tmp_path: Path) -> None:
    name = "pytorch_model-00001-of-00004.bin"
    pointer = tmp_path / name
    size = (folder / name).stat().st_size
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(folder / name)}\nsize {size}\n")
    assert verify(folder / name, [pointer]).ok
    pointer.write_text(pointer.read_text().replace(f"size {size}", f"size {size + 1}"))
    (found,) = verify(folder / name, [pointer]).checked
    assert found.status == "ok"  # the digest decides; the size is only looked at where a file is large


def test_the_hubs_own_notes(folder: Path) -> None:
    """Written by huggingface_hub itself, as a download to a folder leaves them: large files by SHA-256, small ones by git's."""
    for path in sorted(folder.iterdir()):
        etag = sha256(path)
        if path.suffix != ".bin":
            done = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True)
            etag = done.stdout.strip()
        write_download_metadata(folder, path.name, commit_hash="a" * 40, etag=etag)
    found = verify(folder)
    assert (found.count("ok"), found.ok) == (10, True)
    flip_bit(folder / "config.json", 5)
    assert [one.path for one in verify(folder).checked if one.status == "FAILED"] == ["config.json"]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512", "blake2b", "blake3"])
def test_every_algorithm(weightkit: Run, folder: Path, tmp_path: Path, algorithm: str) -> None:
    """Lists by this command, checked by other programs, and the other way round."""
    done = weightkit("manifest", folder, "--algorithm", algorithm, "-o", tmp_path / "list")
    assert done.returncode == 0
    if algorithm == "blake2b":
        assert (tmp_path / "list").read_text().startswith("BLAKE2b (config.json) = ")
        plain = subprocess.run(["b2sum", folder / "config.json"], capture_output=True, text=True, check=True).stdout
        (tmp_path / "B2SUMS").write_text(f"{plain.split()[0]}  config.json\n")
        assert verify(folder, [tmp_path / "B2SUMS"]).ok
    if algorithm == "blake3":
        lines = [f"BLAKE3 ({path.name}) = {blake3(path.read_bytes()).hexdigest()}" for path in sorted(folder.iterdir())]
        digests = {entry.digest.hex for entry in manifests.parse("\n".join(lines), tmp_path / "list")}
        assert {line.split()[-1] for line in (tmp_path / "list").read_text().splitlines()} == digests
        (tmp_path / "list").write_text("\n".join(lines) + "\n")
    else:
        program = {"blake2b": "b2sum"}.get(algorithm, f"{algorithm}sum")
        subprocess.run([program, "-c", tmp_path / "list"], cwd=folder, check=True, capture_output=True)
    assert verify(folder, [tmp_path / "list"]).ok


def test_several_algorithms_name_themselves(weightkit: Run, folder: Path, tmp_path: Path) -> None:
    weightkit("manifest", folder, "--algorithm", "md5", "--algorithm", "sha256", "-o", tmp_path / "list")
    subprocess.run(["md5sum", "--ignore-missing", "-c", tmp_path / "list"], cwd=folder, check=True, capture_output=True)
    assert verify(folder, [tmp_path / "list"]).count("ok") == 20
    assert weightkit("manifest", folder, "-o", tmp_path / "list").returncode == 1


def big(path: Path, head: bytes, size: int = 3 << 20, tail: bytes = b"") -> None:
    path.write_bytes(head + bytes(size - len(head) - len(tail)) + tail)


@pytest.mark.parametrize(
    ("name", "head", "hint"),
    [
        ("pytorch_model.bin", b"PK\3\4", "is cut off: a zip archive without its directory"),
        ("pytorch_model.bin", b"<!DOCTYPE html>", "is a web page"),
        ("model.safetensors", b"<html>", "is a web page"),
    ],
)
def test_a_glance_before_the_hash(tmp_path: Path, name: str, head: bytes, hint: str) -> None:
    big(tmp_path / name, head)
    (tmp_path / "list").write_text(f"{'ab' * 32}  {name}\n")
    (found,) = verify(tmp_path / name, [tmp_path / "list"]).checked
    assert (found.status, found.actual) == ("FAILED", None)
    assert hint in found.hint


def test_a_size_that_is_known_is_looked_at_first(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    big(tmp_path / "real" / "a.bin", b"x")
    pointer = tmp_path / "a.bin"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize {4 << 20}\n")
    (found,) = verify(tmp_path / "real" / "a.bin", [pointer]).checked
    assert found.hint == f"has {3 << 20} bytes, wanted {4 << 20}"
    big(tmp_path / "real" / "a.bin", b"x", 4 << 20)
    (found,) = verify(tmp_path / "real" / "a.bin", [pointer]).checked
    assert found.actual is not None


def test_what_counts_as_failure(weightkit: Run, folder: Path) -> None:
    weightkit("manifest", folder, "-o", folder / "SHA256SUMS")
    assert weightkit("verify", folder, "--fail-on-extra").returncode == 0
    (folder / "extra.txt").write_text("x")
    assert weightkit("verify", folder).returncode == 0
    assert weightkit("verify", folder, "--fail-on-extra").returncode == 3
    (folder / "config.json").unlink()
    assert weightkit("verify", folder).returncode == 3
    assert weightkit("verify", folder, "--no-fail-on-missing").returncode == 0
    done = weightkit("verify", folder, "--no-fail-on-missing", "--junit", "junit.xml", "--json")
    assert json.loads(done.stdout)["ok"] is True


def test_junit_xml(weightkit: Run, folder: Path, tmp_path: Path) -> None:
    weightkit("manifest", folder, "-o", folder / "SHA256SUMS")
    flip_bit(folder / "config.json", 1)
    (folder / "tokenizer.model").unlink()
    (folder / "extra \1 & <name>.txt").write_text("x")
    assert weightkit("verify", folder, "--junit", "junit.xml").returncode == 3
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "11", "2")
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    assert failed == {"config.json", "tokenizer.model"}
    assert sum(case.find("skipped") is not None for case in suite) == 1


def test_a_release(weightkit: Run, tmp_path: Path) -> None:
    """params.json as Meta wrote it for 13B; a file of another name is found by its digest."""
    content = '{"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-06, "vocab_size": -1}'
    (tmp_path / "params.json").write_text(content)
    assert verify(tmp_path / "params.json", releases=["llama-13b"]).ok
    assert verify(tmp_path, releases=["llama-13b"]).count("missing") > 0
    shutil.copyfile(tmp_path / "params.json", tmp_path / "mine.json")
    found = verify(tmp_path / "mine.json", releases=["llama-13b"])
    assert found.ok
    assert {one.expected.algorithm for one in found.checked if one.expected} == {"md5", "sha256", "blake3"}
    with pytest.raises(PlanError, match="is in none of the lists"):
        verify(tmp_path / "mine.json", releases=["llama-7b"])
    with pytest.raises(PlanError, match="no digest of it is known"):
        verify(tmp_path, releases=["alpaca-7b"])
    (tmp_path / "params.json").write_text(content + "\n")
    done = weightkit("verify", tmp_path / "params.json", "--release", "llama-13b")
    assert done.returncode == 3
    assert "has 102 bytes, wanted 101" in done.stdout


def test_digests_of_nothing_are_never_accepted(tmp_path: Path) -> None:
    for algorithm in ("md5", "sha256", "blake2b"):
        (tmp_path / "a").write_bytes(b"")
        nothing = hashlib.new(algorithm).hexdigest()
        (tmp_path / "list").write_text(f"{nothing}  a\n")
        with pytest.raises(FormatError, match="empty file"):
            verify(tmp_path / "a", [tmp_path / "list"])
        (tmp_path / "list.md").write_text(f"| a.bin | {nothing} |\n")
        with pytest.raises(FormatError, match="holds no digest"):
            manifests.read(tmp_path / "list.md")
    with pytest.raises(ValueError, match="placeholder"):
        Digest("sha256", "f" * 64)


def test_paths_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "list.md").write_text(
        f"| ../secret.bin | {'ab' * 32} |\n{'cd' * 32}  /etc/passwd\n| good.bin | {'ef' * 32} |\n"
    )
    assert [entry.path for entry in manifests.read(tmp_path / "list.md")] == ["good.bin"]


def test_a_file_that_fails_ends_in_the_command_that_examines_it(weightkit: Run, folder: Path) -> None:
    name = "pytorch_model-00001-of-00004.bin"
    wanted = sha256(folder / name)
    (folder / "SHA256SUMS").write_text(f"{wanted}  {name}\n")
    flip_bit(folder / name, 5000)
    done = weightkit("verify", folder)
    assert done.returncode == 3
    assert done.stdout.splitlines()[-2] == f"next: weightkit explain {folder / name} --expect sha256:{wanted}"
    said = weightkit("explain", folder / name, "--expect", f"sha256:{wanted}")
    assert said.returncode == 3
    assert "CRC" in said.stdout
