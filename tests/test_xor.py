"""Byte XOR releases: decoded to what was encoded, encoded to the authors' own bytes, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import DATA, PEER, Run, flip_bit, sha256
from weightkit import xor
from weightkit.blobs import folder_at
from weightkit.catalog import by_digest
from weightkit.convert import convert
from weightkit.core.errors import DigestMismatch, FormatError, PlanError
from weightkit.methods import method_named, recognised
from weightkit.methods.base import based
from weightkit.methods.xor_key import key_in
from weightkit.recover import Form, Rules, recover

META, KEY = PEER / "meta" / "7B", PEER / "meta" / "7B" / "consolidated.00.pth"
BASE = PEER / "hf-bin"
ENC, BLOCK, PACKED = (PEER / "diffs" / name for name in ("enc", "oasst", "oasst-gzip"))
TUNED, TUNED1 = PEER / "tuned-fp16-bin", PEER / "tuned1-fp16-bin"
NOTHING = hashlib.sha256().hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("SHA256SUMS", "TENSORS")
    }


def enc_of(name: str) -> Path:
    return next(ENC.glob(f"{name}.*.enc"))


@pytest.mark.parametrize("raw", [META, KEY], ids=["Meta's folder", "the key file"])
def test_enc_files_as_point_alpaca_encoded_them(tmp_path: Path, raw: Path) -> None:
    done = recover(raw, ENC, tmp_path / "o", jobs=2)
    wanted = {path.name: path.read_bytes() for path in TUNED.glob("pytorch_model-*.bin")}
    assert contents(tmp_path / "o") == wanted
    assert all(one.checked for one in done.report.receipts)


@pytest.mark.parametrize("payload", [BLOCK, PACKED], ids=["plain", "gzip"])
def test_block_files_as_open_assistant_encoded_them(tmp_path: Path, payload: Path) -> None:
    recover(BASE, payload, tmp_path / "o", jobs=2)
    assert contents(tmp_path / "o") == contents(TUNED1)


def test_encoded_to_the_bytes_of_the_authors_scripts(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for path in TUNED.glob("pytorch_model-*.bin"):
        shutil.copyfile(path, weights / path.name)
    xor.encode(weights, KEY, tmp_path / "enc", "enc")
    assert contents(tmp_path / "enc") == contents(ENC)
    xor.encode(TUNED1, BASE, tmp_path / "block", "block", jobs=2)
    assert contents(tmp_path / "block") == contents(BLOCK)


@pytest.mark.parametrize("wanted", xor.FORMATS)
def test_there_and_back(tmp_path: Path, wanted: xor.Format) -> None:
    source = tmp_path / "source"
    shutil.copytree(TUNED1, source)
    (source / "sub" / "deeper").mkdir(parents=True)
    (source / "sub" / "deeper" / "notes.txt").write_text("short")
    (source / "empty.txt").write_bytes(b"")
    key = KEY if wanted == "enc" else BASE
    xor.encode(source, key, tmp_path / "e", wanted, jobs=2)
    xor.decode(tmp_path / "e", key, tmp_path / "o", jobs=2)
    assert contents(tmp_path / "o") == contents(source)


def as_point_alpaca(plain: bytes, key: bytes) -> bytes:
    """An .enc file by the rule of point-alpaca's ``encrypt.py``: chunks of 10 MiB, each with the next of the key's."""
    chunk = 10 << 20
    keys = [key[at : at + chunk] for at in range(0, len(key), chunk)]
    coded = bytearray(hashlib.sha256(plain).digest())
    for number, at in enumerate(range(0, len(plain), chunk)):
        part, own = plain[at : at + chunk], keys[number % len(keys)]
        own = (own * (len(part) // len(own) + 1))[: len(part)]
        coded += (int.from_bytes(part, "little") ^ int.from_bytes(own, "little")).to_bytes(len(part), "little")
    return bytes(coded)


def copy_of(folder: Path, vocabulary: int) -> Path:
    """The small model with more rows."""
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.bin", "*.index.json"))
    named = {}
    for path in BASE.glob("*.bin"):
        named |= torch.load(path, weights_only=True)
    rows = torch.randn(vocabulary, 64, generator=torch.Generator().manual_seed(1)).half()
    named |= {"model.embed_tokens.weight": rows, "lm_head.weight": rows.flip(0).clone()}
    torch.save(named, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("vocabulary", [320, 41000, 84000], ids=["under 10 MiB", "over 10 MiB", "over 20 MiB"])
@pytest.mark.parametrize("computed", [False, True], ids=["the file", "computed"])
def test_a_key_shorter_than_the_payload_starts_again(tmp_path: Path, vocabulary: int, computed: bool) -> None:
    copy = copy_of(tmp_path / "copy", vocabulary)
    convert(copy, tmp_path / "meta", "meta")
    key = tmp_path / "meta" / "consolidated.00.pth"
    plain = (
        torch.randint(0, 256, (33_000_001,), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)).numpy().tobytes()
    )
    assert key.stat().st_size < len(plain)
    (tmp_path / "tuned.data").write_bytes(plain)
    (tmp_path / "e").mkdir()
    name = f"tuned.data.{hashlib.sha256(plain).hexdigest()}.enc"
    (tmp_path / "e" / name).write_bytes(as_point_alpaca(plain, key.read_bytes()))
    chosen = copy if computed else key
    assert xor.decode(tmp_path / "e", chosen, tmp_path / "o").ok
    assert (tmp_path / "o" / "tuned.data").read_bytes() == plain
    xor.encode(tmp_path / "tuned.data", chosen, tmp_path / "again", "enc")
    assert sha256(tmp_path / "again" / name) == sha256(tmp_path / "e" / name)


def test_a_key_that_nothing_small_tells_of_is_said_to_be_laid_out_otherwise(tmp_path: Path) -> None:
    """``KEY`` was saved by a later torch: it may be the publisher's, or it may not."""
    (tmp_path / "large").write_bytes(bytes(range(256)) * 20_000)
    xor.encode(tmp_path / "large", KEY, tmp_path / "e", "enc")
    notes = xor.decode(tmp_path / "e", KEY, tmp_path / "o").plan.notes
    assert any("is not laid out as Meta's own file" in note and "convert --to meta" in note for note in notes)
    assert not [note for note in xor.decode(ENC, KEY, tmp_path / "p").plan.notes if "laid out" in note]


@pytest.mark.parametrize("wanted", ["enc", "block"])
def test_what_is_encoded_already_is_called_so(tmp_path: Path, wanted: xor.Format) -> None:
    """Its files end in digests of their own, so their numbers belong to no set of that ending."""
    with pytest.raises(PlanError, match=r"pytorch_model-00001-of-00004.bin.*\.enc is an \.enc file already"):
        xor.encode(ENC, KEY if wanted == "enc" else BASE, tmp_path / "o", wanted)


def test_a_single_file(tmp_path: Path) -> None:
    file = enc_of("pytorch_model-00001-of-00004.bin")
    xor.decode(file, KEY, tmp_path / "o")
    assert list(contents(tmp_path / "o")) == ["pytorch_model-00001-of-00004.bin"]


def test_a_payload_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """As Open-Assistant's repositories have it, with other files beside."""
    outer = tmp_path / "oasst-xor"
    shutil.copytree(BLOCK, outer / "oasst-xor")
    (outer / "README.md").write_text("# how to")
    (outer / ".git").mkdir()
    (outer / ".git" / "config").write_text("x")
    recover(BASE, outer, tmp_path / "o")
    assert contents(tmp_path / "o") == contents(TUNED1)


def test_metas_base_is_converted_on_the_way(tmp_path: Path) -> None:
    """The key is never written: the payload was made against a conversion on disk, and is decoded from Meta's files."""
    convert(META, tmp_path / "base", "hf", form=Form(max_shard_bytes=150_000))
    tuned = tmp_path / "tuned"
    shutil.copytree(tmp_path / "base", tuned)
    for name in ("SHA256SUMS", "TENSORS"):
        (tuned / name).unlink()
    for path in tuned.glob("*.bin"):
        before = path.stat().st_size
        torch.save({name: -one for name, one in torch.load(path, weights_only=True).items()}, path)
        assert path.stat().st_size > before, "longer than the key"
    for name in ("SHA256SUMS", "TENSORS"):
        (tmp_path / "base" / name).unlink()
    xor.encode(tuned, tmp_path / "base", tmp_path / "payload", "block")
    done = recover(META, tmp_path / "payload", tmp_path / "o", form=Form(max_shard_bytes=150_000), jobs=2)
    assert contents(tmp_path / "o") == contents(tuned)
    assert any("converted on the way as transformers-4.28.1" in note for note in done.plan.notes)
    with pytest.raises(PlanError, match="not the base of this release.*--max-shard-size"):
        recover(META, tmp_path / "payload", tmp_path / "p")
    with pytest.raises(PlanError, match="generation_config.json|config.json"):
        recover(
            META, tmp_path / "payload", tmp_path / "p", converter="transformers-4.29.0.dev0", form=Form(max_shard_bytes=150_000)
        )


def test_a_published_list_is_checked_too(tmp_path: Path) -> None:
    listed = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(TUNED1.iterdir()))
    (tmp_path / "list").write_text(listed)
    done = recover(BASE, BLOCK, tmp_path / "o", checksums=[tmp_path / "list"])
    assert all(one.checked for one in done.report.receipts)
    (tmp_path / "list").write_text(listed.replace(sha256(TUNED1 / "config.json"), "ab" * 32))
    done = recover(BASE, BLOCK, tmp_path / "p", checksums=[tmp_path / "list"])
    assert [one.path for one in done.report.mismatches] == ["config.json"]
    assert not (tmp_path / "p" / "config.json").exists()


def test_a_wrong_key_writes_nothing(weightkit: Run, tmp_path: Path) -> None:
    other = PEER / "meta-shared" / "7B" / "consolidated.00.pth"
    done = weightkit("recover", "--raw", BASE, "--diff", ENC, "--out", "o", "--key", other)
    assert done.returncode == 3
    assert "is not the key, or the payload is damaged" in done.stderr
    assert contents(tmp_path / "o") == {}


def test_a_small_file_tells_a_wrong_key_before_the_work(tmp_path: Path) -> None:
    xor.encode(TUNED / "config.json", KEY, tmp_path / "e", "enc")
    with pytest.raises(DigestMismatch, match="is not the key, or the payload is damaged"):
        recover(PEER / "meta-shared" / "7B", tmp_path / "e", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def spoilt_enc(tmp_path: Path, way: str) -> Path:
    """One .enc file, spoilt."""
    folder = tmp_path / way
    folder.mkdir()
    good = enc_of("pytorch_model-00001-of-00004.bin")
    stem = "pytorch_model-00001-of-00004.bin"
    content = good.read_bytes()
    match way:
        case "truncated":
            (folder / good.name).write_bytes(content[:-1])
        case "flipped":
            (folder / good.name).write_bytes(content)
            flip_bit(folder / good.name, 40_000)
        case "swapped":
            (folder / good.name).write_bytes(enc_of("pytorch_model-00002-of-00004.bin").read_bytes())
        case "all ones":
            (folder / f"{stem}.{'1' * 64}.enc").write_bytes(bytes.fromhex("1" * 64) + content[32:])
        case "digest of nothing":
            (folder / f"{stem}.{NOTHING}.enc").write_bytes(bytes.fromhex(NOTHING) + content[32:])
        case "renamed to the digest of nothing":
            (folder / f"{stem}.{NOTHING}.enc").write_bytes(content)
        case "shorter than a header":
            (folder / good.name).write_bytes(content[:20])
        case "empty":
            (folder / good.name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("truncated", ""),
        ("flipped", ""),
        ("swapped", "its header says SHA-256 .*, its name .*: it is damaged, or another file was renamed"),
        ("all ones", "placeholder"),
        ("digest of nothing", "header and name have the SHA-256 of nothing"),
        ("renamed to the digest of nothing", "its name that of nothing: it was renamed"),
        ("shorter than a header", "a header alone has 32"),
        ("empty", "has 0 bytes"),
    ],
)
def test_what_is_spoilt_never_gets_its_name(weightkit: Run, tmp_path: Path, way: str, message: str) -> None:
    folder = spoilt_enc(tmp_path, way)
    done = weightkit("recover", "--raw", META, "--diff", folder, "--out", "o")
    assert done.returncode == (1 if message else 3)
    assert contents(tmp_path / "o") == {}
    if message:
        with pytest.raises(PlanError, match=message):
            recover(META, folder, tmp_path / "p")


def test_files_without_a_header_are_told_apart(tmp_path: Path) -> None:
    """TechGPT's: no header, the digest of nothing in the name."""
    folder = tmp_path / "techgpt"
    folder.mkdir()
    for path in (TUNED / "config.json", *sorted(TUNED.glob("pytorch_model-*.bin"))):
        xor.encode(path, KEY, tmp_path / path.name, "enc")
        (encoded,) = contents(tmp_path / path.name).values()
        (folder / f"{path.name}.{NOTHING}.enc").write_bytes(encoded[32:])
    done = recover(META, folder, tmp_path / "o")
    for name, content in contents(tmp_path / "o").items():
        assert content == (TUNED / name).read_bytes()
    assert any("carry no check of their own" in note for note in done.plan.notes)
    with pytest.raises(PlanError, match="decoded with the base's file it|decoded without a header it"):
        recover(DATA / "meta-layout" / "7B", folder, tmp_path / "p")


def test_a_base_of_another_conversion_is_noticed_before_the_work(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({"newer": True, **config}, indent=2))
    with pytest.raises(PlanError, match=r"config.json: decoded with the base's file it is no JSON"):
        recover(base, BLOCK, tmp_path / "o")
    shutil.copyfile(PEER / "tuned-fp16-bin" / "config.json", base / "config.json")
    (base / "tokenizer_config.json").unlink()
    with pytest.raises(PlanError, match=r"tokenizer_config.json: was XORed with a file of that name, which the base does not"):
        recover(base, BLOCK, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_options_that_do_nothing_are_refused(weightkit: Run, tmp_path: Path) -> None:
    for more in (("--dtype", "float32"), ("--lora", PEER / "lora-alpaca-bin"), ("--format", "safetensors")):
        done = weightkit("recover", "--raw", META, "--diff", ENC, "--out", "o", *more)
        assert done.returncode == 1
        assert "is an XOR payload" in done.stderr
    with pytest.raises(PlanError, match="--key is for those alone"):
        recover(BASE, PEER / "diffs" / "knowlm", tmp_path / "o", key=KEY)
    (tmp_path / "m").mkdir()
    shutil.copy(META / "params.json", tmp_path / "m")
    with pytest.raises(PlanError, match="has no consolidated.00.pth"):
        recover(tmp_path / "m", ENC, tmp_path / "o")
    with pytest.raises(PlanError, match="is an XOR payload"):
        recover(BASE, BLOCK, tmp_path / "o", rules=Rules(new_rows="mean"))


def test_nothing_of_the_users_is_written_to(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="inputs are never written to"):
        xor.decode(ENC, KEY, ENC)
    with pytest.raises(PlanError, match="inputs are never written to"):
        xor.encode(TUNED, BASE, BASE, "block")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "pytorch_model-00001-of-00004.bin").write_text("mine")
    with pytest.raises(PlanError, match="is there already"):
        xor.decode(ENC, KEY, tmp_path / "o")
    (tmp_path / "f").mkdir()
    with pytest.raises(PlanError, match="holds no files"):
        xor.decode(tmp_path / "f", KEY, tmp_path / "p")
    with pytest.raises((PlanError, FormatError), match="does not exist"):
        xor.decode(ENC, tmp_path / "nothing", tmp_path / "p")
    with pytest.raises(PlanError, match="is no XOR payload"):
        xor.decode(PEER / "diffs" / "knowlm", BASE, tmp_path / "p")


def test_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from weightkit.cli import main\n"
        f"main(['recover', '--raw', {str(META)!r}, '--diff', {str(ENC)!r}, '--out', 'a', '-q'], standalone_mode=False)\n"
        f"main(['recover', '--raw', {str(BASE)!r}, '--diff', {str(PACKED)!r}, '--out', 'b', '-q'], standalone_mode=False)\n"
        f"words = ['xor', 'encode', {str(TUNED)!r}, '--key', {str(KEY)!r}, '--format', 'enc', '--out', 'c']\n"
        "main(words, standalone_mode=False)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert len(list((tmp_path / "c").glob("*.enc"))) == len(list(TUNED.iterdir()))


def test_the_commands_say_what_they_did(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("xor", "encode", TUNED, "--key", KEY, "--format", "enc", "--out", "e")
    assert done.returncode == 0
    assert "encoded 10 files" in done.stdout
    assert "next: weightkit xor decode e --key" in done.stdout
    done = weightkit("xor", "decode", "e", "--key", KEY, "--out", "o", "--json")
    facts = json.loads(done.stdout)
    assert facts["command"] == "xor decode"
    assert all(one["checked"] for one in facts["files"])
    done = weightkit("recover", "--raw", META, "--diff", "e", "--out", "r")
    assert "ok: all 10 published digests hold" in done.stdout
    done = weightkit("recover", "--raw", META, "--diff", "e", "--out", "d", "--dry-run")
    assert done.returncode == 0
    assert not (tmp_path / "d").exists()
    assert weightkit("xor", "encode", TUNED, "--key", KEY, "--out", "x").returncode == 2


def test_a_run_that_was_interrupted_goes_on(weightkit: Run, tmp_path: Path) -> None:
    """The journal of a run that stopped after some files is taken up; what it published is kept."""
    first = weightkit("recover", "--raw", META, "--diff", ENC, "--out", "o", "--checksums", "list")
    assert first.returncode == 1
    listed = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(TUNED.glob("pytorch_model-*.bin")))
    wrong = listed.replace(sha256(TUNED / "pytorch_model-00003-of-00004.bin"), "ab" * 32)
    (tmp_path / "list").write_text(wrong)
    assert weightkit("recover", "--raw", META, "--diff", ENC, "--out", "o", "--checksums", "list").returncode == 3
    assert len(contents(tmp_path / "o")) == 4  # three files and the journal
    (tmp_path / "list").write_text(listed)
    done = weightkit("recover", "--raw", META, "--diff", ENC, "--out", "o", "--checksums", "list")
    assert done.returncode == 0
    assert "3 of them stood there whole from an interrupted run" in done.stdout
    assert contents(tmp_path / "o") == {path.name: path.read_bytes() for path in TUNED.glob("pytorch_model-*.bin")}


def test_what_a_payload_is_and_what_shows_it() -> None:
    for folder, name, saw in (
        (ENC, "xor-enc", "a file is called pytorch_model-00001-of-00004.bin.<SHA-256>.enc"),
        (BLOCK, "xor-block", "config.json is no JSON"),
        (enc_of("pytorch_model-00002-of-00004.bin"), "xor-enc", "pytorch_model-00002-of-00004.bin"),
        (PACKED / "pytorch_model-00001-of-00004.bin", "xor-block", "is compressed with gzip"),
        (BLOCK / "pytorch_model-00001-of-00004.bin", "xor-block", "begins with zeros"),
    ):
        method, seen = recognised(folder_at(folder, "--diff"), "--diff")
        assert (method.name, seen.what) == (name, "an XOR payload")
        assert saw in seen.saw
    assert recognised(folder_at(TUNED, "--diff"), "--diff")[0].name == "additive"


def test_a_key_of_another_model_is_refused(tmp_path: Path) -> None:
    """Meta's checklist beside a key tells which file it is."""
    shutil.copytree(META, tmp_path / "13B")
    listed = next(digest for digest, known in by_digest().items() if known[0] == ("llama-13b", "consolidated.00.pth"))
    (tmp_path / "13B" / "checklist.chk").write_text(f"{listed.hex}  consolidated.00.pth\n")
    for place in (tmp_path / "13B", tmp_path / "13B" / "consolidated.00.pth"):
        key = key_in(based(place, "--raw"))
        key.check("llama-13b consolidated.00.pth")
        with pytest.raises(PlanError, match="is consolidated.00.pth of llama-13b, by its checklist or size; the release takes"):
            key.check("llama-7b consolidated.00.pth")
    assert key_in(based(KEY, "--key")).known() is None


def test_what_was_made_of_a_base_is_no_key() -> None:
    method = method_named("xor-block")
    base = replace(based(BASE, "--raw"), steps=("diff + base",))
    with pytest.raises(PlanError, match="decoded with the base's files, not with what was made of them"):
        method.rebuild(base, folder_at(BLOCK, "--diff"), method.options())


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 100718\n"


def with_pointer(payload: Path, pattern: str, folder: Path) -> Path:
    """A copy in which the first file of this kind was never fetched."""
    shutil.copytree(payload, folder)
    sorted(folder.glob(pattern))[0].write_text(POINTER)
    return folder


@pytest.mark.parametrize(
    ("raw", "payload", "pattern"),
    [
        (META, ENC, "pytorch_model-00002*"),
        (BASE, BLOCK, "pytorch_model-00002*"),
        (BASE, PACKED, "pytorch_model-00001*"),
        (BASE, BLOCK, "pytorch_model-00001*"),
        (BASE, BLOCK, "config.json"),
        (BASE, BLOCK, "tokenizer.model"),
    ],
)
def test_a_pointer_inside_a_payload_is_named(tmp_path: Path, raw: Path, payload: Path, pattern: str) -> None:
    folder = with_pointer(payload, pattern, tmp_path / "d")
    with pytest.raises(PlanError, match="Git-LFS") as said:
        recover(raw, folder, tmp_path / "o")
    assert said.value.problems[0].startswith(pattern.rstrip("*"))
    assert "is not the base" not in str(said.value)
    assert not (tmp_path / "o").exists()


def test_a_pointer_that_lost_its_name_is_named(tmp_path: Path) -> None:
    """A renamed file of .enc: nothing shows any more whose place it takes, and it would be left out in silence."""
    folder = tmp_path / "d"
    shutil.copytree(ENC, folder)
    sorted(folder.glob("pytorch_model-00002*"))[0].rename(folder / "pytorch_model-00002-of-00004.bin")
    (folder / "pytorch_model-00002-of-00004.bin").write_text(POINTER)
    with pytest.raises(PlanError, match="pytorch_model-00002-of-00004.bin: is a Git-LFS pointer"):
        recover(META, folder, tmp_path / "o")


def test_a_pointer_in_the_place_of_a_key_or_of_what_is_encoded_is_named(tmp_path: Path) -> None:
    base = with_pointer(BASE, "pytorch_model-00003*", tmp_path / "base")
    (base / "unused.msgpack").write_text(POINTER)
    key = tmp_path / "consolidated.00.pth"
    key.write_text(POINTER)
    for match, run in (
        ("--raw: not all files were fetched.*00003", lambda: recover(base, BLOCK, tmp_path / "o")),
        ("key: not all files were fetched.*consolidated", lambda: recover(key, ENC, tmp_path / "o")),
        ("not all files were fetched", lambda: xor.encode(base, KEY, tmp_path / "o", "enc")),
        ("not all files were fetched", lambda: xor.encode(base, BASE, tmp_path / "o", "block")),
    ):
        with pytest.raises(PlanError, match=f"(?s){match}"):
            run()
    assert not (tmp_path / "o").exists()
