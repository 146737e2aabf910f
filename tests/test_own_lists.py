"""Lists of digests that diffs, adapters and payloads carry of their own files: what is read must be as they say."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import PEER, Run
from tests.test_allclears import sums
from weightkit.core.errors import Incomplete
from weightkit.merge import merge_lora
from weightkit.proof import own_lists
from weightkit.recover import recover

HF, META, KNOWLM, ZH1 = PEER / "hf-bin", PEER / "meta" / "7B", PEER / "diffs" / "knowlm", PEER / "lora-zh1-bin"
OASST, ENC, SHARDED = PEER / "diffs" / "oasst", PEER / "diffs" / "enc", PEER / "diffs" / "fastchat-sharded"


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def exact(tmp_path: Path) -> Path:
    from weightkit.diff import make_diff

    make_diff(HF, PEER / "tuned-fp16-bin", tmp_path / "made", method="exact")
    (tmp_path / "made" / "SHA256SUMS").unlink()
    return tmp_path / "made"


KINDS: dict[str, tuple[Callable[[Path], Path], list[object]]] = {
    "additive": (lambda _: KNOWLM, ["recover", "--raw", HF, "--diff"]),
    "sharded": (lambda _: SHARDED, ["recover", "--raw", HF, "--diff"]),
    "enc": (lambda _: ENC, ["recover", "--raw", META, "--diff"]),
    "block": (lambda _: OASST, ["recover", "--raw", HF, "--diff"]),
    "decode": (lambda _: OASST, ["xor", "decode", "--key", HF]),
    "exact": (exact, ["recover", "--raw", HF, "--diff"]),
    "lora": (lambda _: ZH1, ["merge", "--base", HF, "--lora"]),
    "recover-lora": (lambda _: ZH1, ["recover", "--raw", HF, "--diff", KNOWLM, "--lora"]),
}
"""What carries the list, and the command that takes it last."""


def words(kind: str, payload: Path, *more: object) -> list[object]:
    command = KINDS[kind][1]
    return [*command, payload, "--out", "o", *more]


@pytest.mark.parametrize("name", ["SHA256SUMS", "MD5SUMS", "checklist.chk"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_holds_is_told(weightkit: Run, tmp_path: Path, kind: str, name: str) -> None:
    payload = copied(KINDS[kind][0](tmp_path), tmp_path / "d")
    digest = hashlib.sha256 if name == "SHA256SUMS" else hashlib.md5
    lines = [f"{digest(one.read_bytes()).hexdigest()}  {one.name}\n" for one in sorted(payload.iterdir())]
    (payload / name).write_text("".join(lines))
    done = weightkit(*words(kind, payload))
    assert done.returncode == 0, done.stderr
    assert f"its {name} must hold for" in done.stdout
    assert not (tmp_path / "o" / name).exists() or name == "SHA256SUMS"


@pytest.mark.parametrize("which", ["weights", "small"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_as_the_list_says_is_refused(weightkit: Run, tmp_path: Path, kind: str, which: str) -> None:
    payload = copied(KINDS[kind][0](tmp_path), tmp_path / "d")
    sums(payload, payload / "SHA256SUMS")
    name = max(payload.iterdir(), key=lambda one: one.stat().st_size).name
    if which == "small":
        if kind == "enc":
            pytest.skip("it has none")
        small = {"lora": "adapter_config.json", "recover-lora": "adapter_config.json"}
        name = next(payload.glob(small.get(kind, "config.json"))).name
    listed = (payload / "SHA256SUMS").read_text().splitlines()
    wrong = [f"{hashlib.sha256(b'another').hexdigest()}  {name}" if line.endswith(f"  {name}") else line for line in listed]
    (payload / "SHA256SUMS").write_text("\n".join(wrong) + "\n")
    done = weightkit(*words(kind, payload))
    assert done.returncode == 3, done.stdout
    assert name in done.stderr
    assert "SHA256SUMS" in done.stderr
    assert "right" not in done.stdout
    assert "nothing is published where an input" in done.stdout
    assert f"next: weightkit explain {payload / name} --expect sha256:" in done.stderr
    assert not list((tmp_path / "o").glob("[!.]*"))
    if KINDS[kind][1][0] != "xor":
        done = weightkit(*words(kind, payload, "--trust-inputs"))
        assert done.returncode == 0, done.stderr
        assert "were not checked (--trust-inputs)" in done.stdout


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("sharded", "pytorch_model-00002-of-*.bin"),
        ("enc", "*00003-of-00004*"),
        ("block", "pytorch_model-00003-of-00004.bin"),
        ("exact", "pytorch_model-00003-of-00004.bin.wkx"),
        ("exact", "config.json"),
        ("block", "tokenizer_config.json"),
        ("decode", "tokenizer_config.json"),
    ],
)
def test_what_is_listed_and_not_there(weightkit: Run, tmp_path: Path, kind: str, gone: str) -> None:
    payload = copied(KINDS[kind][0](tmp_path), tmp_path / "d")
    sums(payload, payload / "SHA256SUMS")
    (path,) = payload.glob(gone)
    path.unlink()
    done = weightkit(*words(kind, payload))
    assert done.returncode == 3, done.stderr
    assert path.name.split(".")[0] in done.stderr
    assert "is not complete" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_list_alone_tells_of_a_shard(tmp_path: Path) -> None:
    """Neither an index nor a number names it: two files of weights under names of their own, one of an XOR."""
    payload = copied(ENC, tmp_path / "d")
    one = next(payload.glob("pytorch_model-00001*"))
    sums(payload, payload / "SHA256SUMS")
    for path in payload.glob("pytorch_model*"):
        if path != one:
            path.unlink()
    one.rename(payload / one.name)
    with pytest.raises(Incomplete):
        recover(META, payload, tmp_path / "o")


def test_what_nothing_reads_is_not_asked_for(tmp_path: Path) -> None:
    """README and licence were not fetched or have been edited since; another container was not fetched."""
    diff = copied(KNOWLM, tmp_path / "d")
    for name in ("README.md", "LICENSE", "training_args.bin", "model.safetensors", "model.safetensors.index.json", "notes.txt"):
        (diff / name).write_text(name)
    sums(diff, diff / "SHA256SUMS")
    for name in ("LICENSE", "training_args.bin", "model.safetensors", "model.safetensors.index.json"):
        (diff / name).unlink()
    (diff / "README.md").write_text("edited")
    assert recover(HF, diff, tmp_path / "o").ok


def test_small_files_that_were_not_fetched_are_told(tmp_path: Path) -> None:
    diff = copied(KNOWLM, tmp_path / "d")
    sums(diff, diff / "SHA256SUMS")
    (diff / "config.json").unlink()
    done = recover(HF, diff, tmp_path / "o")
    assert any("SHA256SUMS lists config.json, which is not there" in note for note in done.plan.notes)


def test_a_list_of_the_result_is_no_list_of_the_diff(weightkit: Run, tmp_path: Path) -> None:
    words = ["make-diff", "--raw", HF, "--tuned", PEER / "tuned-fp16-bin", "--out", "d"]
    assert weightkit(*words).returncode == 0
    done = weightkit("recover", "--raw", HF, "--diff", "d", "--out", "o")
    assert done.returncode == 0, done.stderr
    assert "its SHA256SUMS must hold" in done.stdout
    assert "RELEASE.sha256 was not used: it may be of what comes out; --checksums d/RELEASE.sha256" in done.stdout
    done = weightkit("recover", "--raw", HF, "--diff", "d", "--out", "p", "--checksums", "d/RELEASE.sha256")
    assert done.returncode == 0, done.stderr
    assert "was not used" not in done.stdout


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("holds", [False, True])
def test_a_digest_beside_its_file(tmp_path: Path, bare: bool, holds: bool) -> None:
    lora = copied(ZH1, tmp_path / "l")
    digits = hashlib.md5((lora / "adapter_model.bin").read_bytes() if holds else b"another").hexdigest()
    (lora / "adapter_model.bin.md5").write_text(digits if bare else f"{digits} *adapter_model.bin\n")
    done = merge_lora(HF, lora, tmp_path / "o")
    assert done.ok is holds
    assert any("its adapter_model.bin.md5 must hold for 1 file " in note for note in done.plan.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "holds no digest"),
        (b"all files are fine\n", "is no line of a list"),
        (b"\xff\xfe", "no text"),
        (b"%s  params.json\n" % (b"ab" * 32), "has no digest of what is read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 9\n" % (b"4f" * 32), "Git-LFS pointer"),
    ],
)
def test_a_list_that_is_of_no_use_is_told(tmp_path: Path, text: bytes, said: str) -> None:
    diff = copied(KNOWLM, tmp_path / "d")
    (diff / "SHA256SUMS").write_bytes(text)
    done = recover(HF, diff, tmp_path / "o")
    assert done.ok
    assert any("SHA256SUMS" in note and said in note for note in done.plan.notes), done.plan.notes


@pytest.mark.parametrize("name", ["SHA256SUMS", "MD5SUMS", "pytorch_model.bin.sha256"])
@pytest.mark.parametrize("line", ["{}  {}", "{} *./{}", "SHA256 ({1}) = {0}"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_list_that_lists_itself_is_used(tmp_path: Path, name: str, line: str, whole: bool) -> None:
    """``sha256sum * > SHA256SUMS``: the shell made the file before it was hashed, empty; others are empty for good."""
    taken = hashlib.md5 if name == "MD5SUMS" else hashlib.sha256
    line = line.replace("SHA256", "MD5") if name == "MD5SUMS" else line
    payload = copied(KNOWLM, tmp_path / "d")
    lines = [line.format(taken(one.read_bytes()).hexdigest(), one.name) for one in sorted(payload.iterdir())]
    (payload / "__init__.py").touch()
    lines.append(line.format(taken().hexdigest(), "__init__.py"))
    (payload / name).write_text("\n".join([line.format(taken().hexdigest(), name), *lines]) + "\n")
    if not whole:
        (payload / "tokenizer.model").write_bytes(b"another")
    done = recover(HF, payload, tmp_path / "o")
    assert done.ok == whole
    assert any(f"its {name} must hold for 6 files" in note for note in done.plan.notes)


def test_a_single_file_has_its_list_beside_it(tmp_path: Path) -> None:
    diff = copied(KNOWLM, tmp_path / "d")
    (diff / "SHA256SUMS").write_text(f"{'ab' * 32}  pytorch_model.bin\n{'cd' * 32}  another.bin\n")
    done = recover(HF, diff / "pytorch_model.bin", tmp_path / "o")
    assert [Path(one.path).name for one in done.report.mismatches] == ["pytorch_model.bin"]


def test_the_first_list_that_has_a_file_goes(tmp_path: Path) -> None:
    """A list of MD5s that was forgotten when the files were made anew."""
    diff = copied(KNOWLM, tmp_path / "d")
    sums(diff, diff / "SHA256SUMS")
    (diff / "MD5SUMS").write_text("".join(f"{'ab' * 16}  {one.name}\n" for one in KNOWLM.iterdir()))
    assert recover(HF, diff, tmp_path / "o").ok


def test_a_payload_in_a_folder_of_its_own(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    inner = copied(OASST, tmp_path / "d" / "inner")
    (tmp_path / "d" / "SHA256SUMS").write_text(
        "".join(f"{hashlib.sha256(one.read_bytes()).hexdigest()}  ./inner/{one.name}\n" for one in sorted(inner.iterdir()))
    )
    done = weightkit("recover", "--raw", HF, "--diff", "d", "--out", "o")
    assert done.returncode == 0, done.stderr
    assert "its SHA256SUMS must hold" in done.stdout
    (inner / "config.json").write_bytes((inner / "config.json").read_bytes() + b"\0")
    assert weightkit("recover", "--raw", HF, "--diff", "d", "--out", "p").returncode != 0


@pytest.mark.parametrize("kind", ["bin", "safetensors", "without-crc"])
def test_a_large_file_that_checks_itself_is_not_read_twice(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each input byte is read once, but where nothing else would tell damage."""
    monkeypatch.setattr(own_lists, "SMALL_NBYTES", 1 << 16)
    diff = copied(KNOWLM, tmp_path / "d")
    file = diff / "pytorch_model.bin"
    if kind == "safetensors":
        save_file({name: one.contiguous() for name, one in torch.load(file).items()}, diff / "model.safetensors")
        file.unlink()
    elif kind == "without-crc":
        named = torch.load(file)
        torch.serialization.set_crc32_options(False)
        torch.save(named, file)
        torch.serialization.set_crc32_options(True)
    sums(diff, diff / "SHA256SUMS")
    done = recover(HF, diff, tmp_path / "o")
    hashed = {Path(one.blob.name).name for one in done.plan.inputs}
    assert "config.json" in hashed
    assert ("pytorch_model.bin" in hashed or "model.safetensors" in hashed) is (kind != "bin")
    assert any("not hashed for the list: pytorch_model.bin" in note for note in done.plan.notes) is (kind == "bin")


@pytest.mark.parametrize("method", ["enc", "exact"])
def test_nor_is_one_whose_result_has_a_digest(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_lists, "SMALL_NBYTES", 1 << 12)
    payload = copied(KINDS[method][0](tmp_path), tmp_path / "d")
    sums(payload, payload / "SHA256SUMS")
    done = recover(META if method == "enc" else HF, payload, tmp_path / "o")
    assert done.ok
    assert not [one for one in done.plan.inputs if one.blob.name.endswith((".enc", ".wkx"))]
    assert any("not hashed for the list" in note for note in done.plan.notes)
