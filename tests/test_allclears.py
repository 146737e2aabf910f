"""What must not end in ok: inputs that would be replaced, parts of models, lists that prove nothing, bytes that are none."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from tests.conftest import PEER, Run

SECOND, FOURTH = "pytorch_model-00002-of-00004.bin", "pytorch_model-00004-of-00004.bin"
ENC, OASST, HF, META = PEER / "diffs" / "enc", PEER / "diffs" / "oasst", PEER / "hf-bin", PEER / "meta" / "7B"


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}


def sums(folder: Path, into: Path, pattern: str = "*") -> Path:
    """A list as sha256sum writes it."""
    lines = [f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}\n" for one in sorted(folder.glob(pattern))]
    into.write_text("".join(lines))
    return into


def enc(folder: Path, name: str, data: bytes) -> None:
    """An .enc file, by the rule of point-alpaca's encrypt.py."""
    key, digest = (META / "consolidated.00.pth").read_bytes(), hashlib.sha256(data).digest()
    folder.mkdir(exist_ok=True)
    body = bytes(x ^ y for x, y in zip(data, key, strict=False))
    (folder / f"{name}.{digest.hex()}.enc").write_bytes(digest + body)


def cut(folder: Path) -> Path:
    """A model whose last shard is gone, from the index as well."""
    (folder / FOURTH).unlink()
    index = folder / "pytorch_model.bin.index.json"
    said = json.loads(index.read_text())
    said["weight_map"] = {name: file for name, file in said["weight_map"].items() if file != FOURTH}
    index.write_text(json.dumps(said))
    return folder


# outputs are never inputs


@pytest.mark.parametrize("inside", [False, True])
def test_the_key_is_not_replaced(weightkit: Run, tmp_path: Path, inside: bool) -> None:
    if inside:  # the key lies under a name that will be written
        out = tmp_path / "o"
        out.mkdir()
        key = out / "pytorch_model-00001-of-00004.bin"
        shutil.copy(META / "consolidated.00.pth", key)
        words = ["--raw", META, "--diff", ENC, "--key", key]
    else:
        out = copied(HF, tmp_path / "o")
        words = ["--raw", HF, "--diff", OASST, "--key", out]
    before = contents(out)
    done = weightkit("recover", *words, "--out", out, "--overwrite")
    assert done.returncode == 1
    assert "--key" in done.stderr
    assert contents(out) == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("linked", ["file", "list", "hard"])
def test_an_input_that_lies_in_out_is_not_replaced(weightkit: Run, tmp_path: Path, linked: str, dry: list[str]) -> None:
    """By a link from the input's folder into --out, as a list of --checksums, by a second name of the file."""
    assert weightkit("recover", "--raw", HF, "--diff", OASST, "--out", "o").returncode == 0
    out, words = tmp_path / "o", ["--raw", HF, "--diff", OASST]
    if linked == "list":
        words += ["--checksums", out / "SHA256SUMS"]
    else:
        base, name = copied(HF, tmp_path / "base"), "config.json" if linked == "file" else SECOND
        (out / name).write_bytes((HF / name).read_bytes())
        (base / name).unlink()
        (base / name).symlink_to(out / name) if linked == "file" else (base / name).hardlink_to(out / name)
        words[1] = base
    before = contents(out)
    done = weightkit("recover", *words, "--out", out, "--overwrite", *dry)
    assert done.returncode == 1, done.stdout
    assert "input" in done.stderr
    assert contents(out) == before


def test_metas_tokenizer_above_the_weights_is_not_replaced(weightkit: Run, tmp_path: Path) -> None:
    """--out is the folder above: tokenizer.model there is Meta's own, which the conversion copies."""
    root = copied(PEER / "meta", tmp_path / "m")
    before = contents(root)
    done = weightkit("convert", root / "7B", root, "--to", "hf", "--overwrite")
    assert done.returncode == 1, done.stdout
    assert "input" in done.stderr
    assert contents(root) == before


@pytest.mark.parametrize(
    "words",
    [
        ["convert", HF, "OUT", "--to", "hf", "--checksums", "LIST"],
        ["xor", "decode", OASST, "--key", HF, "--out", "OUT", "--checksums", "LIST"],
        ["merge", "--base", HF, "--lora", PEER / "lora-alpaca-bin", "--out", "OUT", "--checksums", "LIST"],
    ],
    ids=lambda words: words[0],
)
def test_every_door_keeps_its_lists(weightkit: Run, tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "o"
    listed = sums(HF, tmp_path / "l", "*.bin").read_text()
    out.mkdir()
    (out / "SHA256SUMS").write_text(listed)
    said = [{"OUT": out, "LIST": out / "SHA256SUMS"}.get(str(word), word) for word in words]
    done = weightkit(*said, "--overwrite")
    assert done.returncode == 1, done.stdout
    assert "input" in done.stderr
    assert (out / "SHA256SUMS").read_text() == listed


# --junit


@pytest.mark.parametrize("target", ["checked", "list", "other", "link", "listed but missing"])
def test_junit_replaces_nothing_but_its_own_report(weightkit: Run, tmp_path: Path, target: str) -> None:
    folder = copied(HF, tmp_path / "p")
    listed = sums(folder, tmp_path / "l")
    other = tmp_path / "other.xml"
    other.write_text("<?xml version='1.0'?><testsuite name='pytest'/>")
    link = tmp_path / "link.xml"
    link.symlink_to(other)
    config = folder / "config.json"
    if target == "listed but missing":
        config.unlink()
    at = {"checked": config, "list": listed, "other": other, "link": link}.get(target, config)
    before = [contents(folder), contents(tmp_path)]
    done = weightkit("verify", folder, "--checksums", listed, "--junit", at)
    assert done.returncode == 1
    assert "--junit" in done.stderr
    assert [contents(folder), contents(tmp_path)] == before


def test_junit_replaces_its_own_report(weightkit: Run, tmp_path: Path) -> None:
    listed = sums(HF, tmp_path / "l")
    for _ in range(2):
        assert weightkit("verify", HF, "--checksums", listed, "--junit", "r.xml").returncode == 0
    assert ElementTree.parse(tmp_path / "r.xml").getroot().get("tests") == "10"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["l", "r.xml"]
    assert weightkit("verify", HF, "--checksums", listed, "--junit", "no/such/r.xml").returncode == 1


# completeness


@pytest.mark.parametrize("stray", ["training_args.bin", "optimizer.pt", "rng_state_0.pth"])
def test_a_file_that_is_no_model_does_not_stand_for_the_shards(weightkit: Run, tmp_path: Path, stray: str) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for one in HF.glob("*.json"):
        shutil.copy(one, folder)
    torch.save({"lr": 1.0}, folder / stray)
    sums(folder, folder / "SHA256SUMS", "[!S]*")
    done = weightkit("verify", folder)
    assert done.returncode == 3
    assert f"missing  {SECOND}" in done.stdout
    for one in folder.iterdir():
        if one.name != "SHA256SUMS":
            enc(tmp_path / "e", one.name, one.read_bytes())
    done = weightkit("recover", "--raw", META, "--diff", "e", "--out", "o")
    assert done.returncode == 3
    assert SECOND in done.stderr


def test_a_folder_without_weights_is_no_model(weightkit: Run, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.model"):
        enc(tmp_path / "e", name, (HF / name).read_bytes())
    done = weightkit("recover", "--raw", META, "--diff", "e", "--out", "o")
    assert "with transformers" not in done.stdout
    assert "no weights" in done.stdout


@pytest.mark.parametrize("door", ["recover", "decode", "exact"])
def test_one_file_of_a_set_is_said_to_be_one(weightkit: Run, tmp_path: Path, door: str) -> None:
    one = next(ENC.glob(f"{SECOND}*"))
    if door == "exact":
        pytest.importorskip("zstandard")
        tuned = PEER / "tuned-fp16-bin"
        assert weightkit("make-diff", "--raw", HF, "--tuned", tuned, "--method", "exact", "--out", "x").returncode == 0
        words = ["recover", "--raw", HF, "--diff", tmp_path / "x" / f"{SECOND}.wkx"]
    elif door == "decode":
        words = ["xor", "decode", one, "--key", META]
    else:
        words = ["recover", "--raw", META, "--diff", one]
    done = weightkit(*words, "--out", "o")
    assert done.returncode == 0
    assert "with transformers" not in done.stdout
    assert "one file of 4" in done.stdout
    assert FOURTH in done.stdout
    said = json.loads(weightkit(*words, "--out", "o2", "--json").stdout)
    assert any("one file of 4" in note for note in said["notes"])


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "g", "o", "--to", "meta"],
        ["convert", "g", "o", "--to", "hf", "--format", "safetensors"],
        ["make-diff", "--raw", HF, "--tuned", "g", "--out", "o"],
        ["make-diff", "--raw", HF, "--tuned", "g", "--method", "exact", "--out", "o"],
        ["xor", "encode", "g", "--key", HF, "--format", "block", "--out", "o"],
        ["xor", "encode", "g", "--key", META / "consolidated.00.pth", "--format", "enc", "--out", "o"],
    ],
    ids=["meta", "hf", "additive", "exact", "block", "enc"],
)
def test_a_source_with_a_shard_missing_is_exit_3(weightkit: Run, tmp_path: Path, words: list[str]) -> None:
    cut(copied(HF, tmp_path / "g"))
    done = weightkit(*words)
    assert done.returncode == 3, done.stdout
    assert FOURTH in done.stderr
    assert not (tmp_path / "o").exists()


def test_who_only_looks_says_what_is_missing(weightkit: Run, tmp_path: Path) -> None:
    folder = cut(copied(HF, tmp_path / "g"))
    for words in (["inspect", folder], ["identify", folder]):
        done = weightkit(*words)
        assert done.returncode == 0
        assert FOURTH in done.stdout
        assert "not complete" in done.stdout
        assert "not complete" not in weightkit(words[0], HF).stdout


# verify


def test_where_nothing_was_checked_nothing_is_ok(weightkit: Run, tmp_path: Path) -> None:
    folder = tmp_path / "e"
    folder.mkdir()
    shutil.copy(HF / "config.json", folder)
    words = ["verify", folder, "--checksums", sums(HF, tmp_path / "l", "*.bin"), "--no-fail-on-missing"]
    done = weightkit(*words, "--junit", "r.xml")
    assert done.returncode == 3
    assert "nothing was checked" in done.stdout
    assert int(ElementTree.parse(tmp_path / "r.xml").getroot().get("failures") or 0) > 0
    done = weightkit(*words, "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (3, False)


def rows(*digests: str) -> str:
    named = [f"pytorch_model-0000{number}-of-00004.bin" for number in range(1, 5)]
    return "\n".join(f"| {name} | `{digest}` |" for name, digest in zip(named, digests, strict=True))


@pytest.mark.parametrize("way", ["short", "long", "two names", "prose"])
def test_a_row_that_cannot_be_read_does_not_vanish(weightkit: Run, tmp_path: Path, way: str) -> None:
    digests = [hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(HF.glob("*.bin"))]
    text = rows(*digests)
    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert weightkit("verify", HF, "--checksums", readme).returncode == 0
    last = text.splitlines()[-1]
    spoilt = {
        "short": last.replace(digests[3], digests[3][:63]),
        "long": last.replace(digests[3], f"{digests[3]}a"),
        "two names": f"{last} old.bin |",
        "prose": f"{digests[3][:63]}  {FOURTH}",
    }[way]
    readme.write_text(text.replace(last, spoilt))
    done = weightkit("verify", HF, "--checksums", readme)
    assert done.returncode == 1, done.stdout
    assert "line 4" in done.stderr
    assert FOURTH in done.stderr


@pytest.mark.parametrize("etag", ["", "abc", "W/xyz", "0" * 63])
def test_a_note_of_the_hub_that_cannot_be_read_does_not_vanish(weightkit: Run, tmp_path: Path, etag: str) -> None:
    folder = copied(HF, tmp_path / "h")
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for one in sorted(HF.glob("*.bin")):
        digest = hashlib.sha256(one.read_bytes()).hexdigest()
        (notes / f"{one.name}.metadata").write_text(f"{'c' * 40}\n{digest}\n1700000000.0\n")
    assert weightkit("verify", folder).returncode == 0
    (notes / f"{SECOND}.metadata").write_text(f"{'c' * 40}\n{etag}\n1700000000.0\n")
    done = weightkit("verify", folder)
    assert done.returncode == 1, done.stdout
    assert SECOND in done.stderr


# --verify-raw, --dry-run


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_checklist_must_name_the_weights(weightkit: Run, tmp_path: Path, dry: list[str]) -> None:
    raw = copied(META, tmp_path / "7B")
    (raw / "checklist.chk").write_text(f"{hashlib.md5((raw / 'params.json').read_bytes()).hexdigest()}  params.json\n")
    done = weightkit("convert", raw, "o", "--to", "hf", "--verify-raw", *dry)
    assert done.returncode == 1, done.stdout
    assert "consolidated.00.pth" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_checklist_that_holds_is_said_to(weightkit: Run) -> None:
    done = weightkit("convert", META, "o", "--to", "hf", "--verify-raw")
    assert done.returncode == 0, done.stderr
    assert "checklist.chk holds" in done.stdout
    assert "consolidated.00.pth" in done.stdout


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_dry_run_refuses_what_the_run_refuses(weightkit: Run, tmp_path: Path, dry: list[str]) -> None:
    (tmp_path / "f").write_text("x")
    base = ["recover", "--raw", HF, "--diff", OASST]
    for more in (["--out", "f/x"], ["--out", "f/x/y"], ["--out", "o", "--verify-raw"]):
        assert weightkit(*base, *more, *dry).returncode == 1, more
    raw = copied(META, tmp_path / "7B")
    (raw / "checklist.chk").write_text(f"{'a' * 31}b  consolidated.00.pth\n{'a' * 31}b  consolidated.01.pth\n")
    done = weightkit("convert", raw, "o", "--to", "hf", "--verify-raw", *dry)
    assert done.returncode == 1
    assert "consolidated.01.pth" in done.stderr
    assert weightkit("make-diff", "--raw", HF, "--tuned", PEER / "tuned-fp16-bin", "--out", "f/x", *dry).returncode == 1


# XOR payloads that say nothing of what they decode to


@pytest.mark.parametrize("packed", ["oasst", "oasst-gzip"])
@pytest.mark.parametrize("way", ["cut", "other base"])
def test_what_comes_out_is_no_torch_file(weightkit: Run, tmp_path: Path, way: str, packed: str) -> None:
    payload, base = copied(PEER / "diffs" / packed, tmp_path / "d"), copied(HF, tmp_path / "base")
    wrong = payload / "pytorch_model-00003-of-00004.bin"
    if way == "cut":
        import gzip

        body = wrong.read_bytes()
        if packed == "oasst":
            wrong.write_bytes(body[:60000])
        else:
            wrong.write_bytes(gzip.compress(gzip.decompress(body)[:60000]))
    else:
        held = torch.load(base / wrong.name, weights_only=True)
        torch.save({name: one * 2 for name, one in held.items()}, base / wrong.name)
    done = weightkit("recover", "--raw", base, "--diff", payload, "--out", "o")
    assert done.returncode in (1, 3), done.stdout
    assert wrong.name in done.stderr
    assert not (tmp_path / "o" / wrong.name).exists()


def test_make_diff_keeps_mismatched_when_asked() -> None:
    """The command line hands the option on: it was taken and forgotten."""
    from unittest import mock

    from click.testing import CliRunner

    from weightkit import diff
    from weightkit.cli.make_diff import command

    seen: dict[str, object] = {}

    class Enough(Exception):
        pass

    def carry(*words: object, **more: object) -> None:
        seen.update(more)
        raise Enough

    with mock.patch.object(diff, "carry", carry):
        CliRunner().invoke(
            command,
            ["--raw", str(HF), "--tuned", str(PEER / "tuned-fp16-bin"), "--out", "nowhere-at-all", "--keep-mismatched"],
        )
    assert seen["keep_mismatched"] is True


@pytest.mark.parametrize("block", [97, 4096, 1 << 20])
def test_a_sound_file_goes_by_whatever_the_blocks(tmp_path: Path, block: int) -> None:
    """Checksums of records over blocks of any size; what torch and safetensors wrote is sound, one bit less is not."""
    from safetensors.torch import save_file

    from weightkit.core.errors import FormatError
    from weightkit.methods.xor_end import Sound
    from weightkit.streams import Known

    held = {"a": torch.arange(3001, dtype=torch.float32), "b": torch.ones(7, 5, dtype=torch.float16), "e": torch.empty(0)}
    torch.save(held, tmp_path / "m.bin")
    save_file(held, tmp_path / "m.safetensors")
    old = tmp_path / "old.bin"
    torch.save(held, old, _use_new_zipfile_serialization=False)
    files = [tmp_path / "m.bin", tmp_path / "m.safetensors", old, *HF.glob("*.bin"), META / "consolidated.00.pth"]
    files += sorted((PEER.parent / "torch-golden").rglob("*.bin")) + sorted((PEER.parent / "torch-golden").rglob("*.pt"))
    for one in files:
        data = one.read_bytes()
        assert b"".join(Sound(Known(data), one.name).chunks(block)) == data, one
    data = (tmp_path / "m.bin").read_bytes()
    at = data.index(held["a"].numpy().tobytes()) + 5000
    for wrong in (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data[:-300], data[: at - 64] + data[at:]):
        with pytest.raises(FormatError, match="no sound file of weights"):
            list(Sound(Known(wrong), "m.bin").chunks(block))
    with pytest.raises(FormatError, match="by its header"):
        list(Sound(Known((tmp_path / "m.safetensors").read_bytes()[:-1]), "m.safetensors").chunks(block))


@pytest.mark.parametrize("command", ["recover", "verify"])
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake: the tests may run as root, whom no mode keeps out."""
    import os
    import shutil

    from weightkit.core.errors import FormatError
    from weightkit.recover import recover_release
    from weightkit.verify import verify_files

    folder = tmp_path / "diff"
    shutil.copytree(PEER / "diffs" / "knowlm", folder)
    (folder / "SHA256SUMS").write_text("17" * 32 + "  config.json\n")
    real = os.scandir

    def scandir(path: object = ".") -> object:
        if str(path) == str(folder):
            raise OSError(5, "Input/output error", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    asked = {
        "recover": lambda: recover_release(PEER / "hf-bin", folder, tmp_path / "o"),
        "verify": lambda: verify_files(folder),
    }
    with pytest.raises(FormatError, match="cannot be read: Input/output error"):
        asked[command]()
