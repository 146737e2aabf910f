"""What explain says of files that differ in one known way: the true cause, no other, and a command only where it mends."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import PEER, Run, flip_bit, sha256
from weightkit.convert import convert
from weightkit.core.dtypes import FLOAT16
from weightkit.explain import explain
from weightkit.merge import Form
from weightkit.recover import recover

Model = dict[str, torch.Tensor]
Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
UP, HEAD, EMBEDDING = "model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.embed_tokens.weight"
FILE = "pytorch_model.bin"


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released model, saved by this torch."""
    place = tmp_path_factory.mktemp("right")
    recover(PEER / "hf-bin", PEER / "diffs" / "knowlm", place / "recovered")
    return saved(place / "reference", torch.load(place / "recovered" / FILE, weights_only=True))


def saved(folder: Path, model: Model) -> Path:
    folder.mkdir()
    torch.save(model, folder / FILE)
    shutil.copyfile(PEER / "hf-bin" / "config.json", folder / "config.json")
    return folder


def load(folder: Path) -> Model:
    model: Model = torch.load(folder / FILE, weights_only=True)
    return model


def tuned(model: Model) -> Model:
    noise = torch.randn(model[UP].shape, generator=torch.Generator().manual_seed(3))
    return {**model, UP: model[UP] + noise * 1e-3}


def with_nan(model: Model) -> Model:
    head = model[HEAD].clone()
    head[5, 7] = float("nan")
    return {**model, HEAD: head}


def layers_swapped(model: Model) -> Model:
    other = {"0": "1", "1": "0"}
    return {n: model[".".join(other.get(p, p) for p in n.split("."))] for n in model}


def turned(model: Model) -> Model:
    return {n: v.t().contiguous() if v.dim() == 2 and v.shape[0] == v.shape[1] else v for n, v in model.items()}


def wide_turned(model: Model) -> Model:
    return {n: v.t().contiguous() if n.endswith("up_proj.weight") else v for n, v in model.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (tuned, f"other weights: 1 of 23 tensors differ ({UP}), in "),
        (
            lambda m: {**m, Q: m[K], K: m[Q]},
            f"tensors are exchanged: {Q} here is {K} there; {K} here is {Q} there; all else is",
        ),
        (with_nan, "NaN or infinity: 1 element of lm_head.weight is none here but numbers there; all else is right"),
        (lambda m: dict(sorted(m.items())), "container only: every tensor is right; the order of tensors is another"),
        (lambda m: {n: v.half().float() for n, v in m.items()}, "through float16: the values here are the other side's"),
        (lambda m: {n: v + 1e-3 if v.dim() == 2 else v for n, v in m.items()}, "other weights: 16 of 23 tensors differ"),
        (
            layers_swapped,
            "layers are exchanged: layer 0 here is layer 1 there; layer 1 here is layer 0 there; all else is right",
        ),
        (turned, "transposed: 8 matrices (model.layers.0.self_attn.q_proj.weight first) have rows and columns exchanged"),
        (wide_turned, "transposed: 2 matrices (model.layers.0.mlp.up_proj.weight first) have rows and columns exchanged"),
        (lambda m: {**m, HEAD: m[EMBEDDING].clone()}, "a tied head here: lm_head.weight is model.embed_tokens.weight here"),
        (lambda m: {n: v.half() for n, v in m.items()}, "another dtype or size: model.embed_tokens.weight is float16"),
    ],
)
def test_one_known_difference_has_its_own_sentence(
    tmp_path: Path, right: Path, change: Callable[[Model], Model], sentence: str
) -> None:
    other = saved(tmp_path / "other", change(load(right)))
    found = explain(other / FILE, against=right / FILE)
    assert found.sentence.startswith(sentence)
    assert "damage" not in found.sentence
    assert "download" not in found.sentence
    assert found.command == ""
    assert not any("of 0 elements" in line for line in found.lines)
    back = explain(right / FILE, against=other / FILE)
    assert "damage" not in back.sentence
    assert "download" not in back.sentence


def test_a_difference_added_twice_or_not_at_all(tmp_path: Path, right: Path) -> None:
    """The base tells; without it the facts alone are said."""
    model = load(right)
    base = {n: v - 1e-3 if v.dim() == 2 else v for n, v in model.items()}
    saved(tmp_path / "base", base)
    twice = saved(tmp_path / "twice", {n: 2 * v - base[n] for n, v in model.items()})
    assert "whether a difference was added twice" in explain(twice, against=right).sentence
    assert explain(twice, against=right, base=tmp_path / "base").sentence.startswith("added twice: ")
    shutil.copytree(tmp_path / "base", tmp_path / "bare")
    assert explain(tmp_path / "bare", against=right, base=tmp_path / "base").sentence.startswith("nothing was added: ")


def test_a_tied_head_written_out(tmp_path: Path, right: Path) -> None:
    model = load(right)
    tied = saved(tmp_path / "tied", {**model, HEAD: model[EMBEDDING]})
    apart = saved(tmp_path / "apart", {**model, HEAD: model[EMBEDDING].clone()})
    found = explain(apart / FILE, against=tied / FILE)
    assert "lm_head.weight and model.embed_tokens.weight share one storage there (tied)" in found.sentence
    assert found.command == ""
    assert "share one storage here (tied)" in explain(tied / FILE, against=apart / FILE).sentence


def test_a_flipped_bit_is_what_the_crc_says(tmp_path: Path, right: Path) -> None:
    shutil.copytree(right, tmp_path / "bad")
    at = (right / FILE).read_bytes().index(load(right)[UP].numpy().tobytes()[4096:4160]) + 80
    flip_bit(tmp_path / "bad" / FILE, at)
    found = explain(tmp_path / "bad" / FILE, against=right / FILE)
    assert found.sentence.startswith(f"damage: a bad region, bytes 4176 to 4176 of {UP}: record ")
    assert found.sentence.endswith("all else is right: download the file again")
    back = explain(right / FILE, against=tmp_path / "bad" / FILE)
    assert back.sentence.startswith("damage in what it was compared with (--against): ")


def test_appended_bytes_are_cut_off_by_the_command(tmp_path: Path, right: Path) -> None:
    folder = tmp_path / "with a blank"
    shutil.copytree(right, folder)
    with (folder / FILE).open("ab") as file:
        file.write(bytes(10))
    for found in (
        explain(folder / FILE, against=right / FILE),
        explain(folder, against=right),
        explain(folder / FILE, expect=sha256(right / FILE)),
    ):
        assert found.sentence.startswith(f"10 bytes were appended after the end of {FILE}")
        subprocess.run(found.command.replace("OUT", "mended"), shell=True, check=True, cwd=tmp_path)
        assert (tmp_path / "mended").read_bytes() == (right / FILE).read_bytes()


def test_another_sharding_is_called_so_and_mended(weightkit: Run, tmp_path: Path, right: Path) -> None:
    convert(PEER / "hf-bin", tmp_path / "one", "hf", form=Form(max_shard_bytes=10**10))
    convert(tmp_path / "one", tmp_path / "small", "hf", form=Form(max_shard_bytes=200_000))
    for here, there in ((tmp_path / "small", tmp_path / "one"), (tmp_path / "one", tmp_path / "small")):
        found = explain(here, against=there)
        assert "other shards: " in found.sentence
        assert "order of tensors" not in found.sentence
        out = tmp_path / f"{here.name} mended"
        words = [str(out) if word == "OUT" else word for word in shlex.split(found.command)[1:]]
        assert weightkit(*words).returncode == 0
        for path in there.glob("*.bin"):
            assert path.read_bytes() == (out / path.name).read_bytes()


def test_another_dtype_is_mended_where_it_can_be(weightkit: Run, tmp_path: Path, right: Path) -> None:
    """Towards fewer bits the values follow; towards more they are lost."""
    convert(right, tmp_path / "half", "hf", dtype=FLOAT16)
    found = explain(right / FILE, against=tmp_path / "half" / FILE)
    words = shlex.split(found.command.replace("OUT", "mended"))[1:]
    assert weightkit(*words).returncode == 0
    assert sha256(tmp_path / "mended" / FILE) == sha256(tmp_path / "half" / FILE)
    assert explain(tmp_path / "half" / FILE, against=right / FILE).command == ""


def test_without_a_crc_only_a_hole_is_called_damage(tmp_path: Path, right: Path) -> None:
    convert(right, tmp_path / "safe", "hf", form=Form(format="safetensors"))
    good = (tmp_path / "safe" / "model.safetensors").read_bytes()
    at = good.index(load(right)[UP].numpy().tobytes()[:64])
    for name, content in (
        ("hole", good[: at + 4096] + bytes(4096) + good[at + 8192 :]),
        ("bit", good[: at + 80] + bytes([good[at + 80] ^ 1]) + good[at + 81 :]),
    ):
        shutil.copytree(tmp_path / "safe", tmp_path / name)
        (tmp_path / name / "model.safetensors").write_bytes(content)
    hole = explain(tmp_path / "hole", against=tmp_path / "safe")
    assert hole.sentence.startswith("damage: a hole of zeros, bytes 409")
    bit = explain(tmp_path / "bit", against=tmp_path / "safe")
    assert bit.sentence.startswith("these tensors differ, and nothing in them tells why: 1 of 23 tensors")
    assert bit.command == ""


def test_a_pointer_is_called_one(tmp_path: Path, right: Path) -> None:
    digest = sha256(right / FILE)
    for name in (FILE, "config.json"):
        pointer = tmp_path / name
        pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 1\n")
        found = explain(pointer, expect=digest)
        assert "is a Git-LFS pointer, not the file itself" in found.sentence
        assert "damage" not in found.sentence
    assert "Git-LFS pointer" in explain(tmp_path / "config.json", against=right / "config.json").sentence


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_bytes_after_before_or_missing_are_told_of_either_side(tmp_path: Path, right: Path, kind: str) -> None:
    if kind == "safetensors":
        convert(right, tmp_path / "good", "hf", form=Form(format="safetensors"))
    else:
        saved(tmp_path / "good", {})
        torch.save(load(right), tmp_path / "good" / FILE, _use_new_zipfile_serialization=kind == "zip")
    good = next(one for one in (tmp_path / "good").iterdir() if one.suffix in (".bin", ".safetensors"))
    content = good.read_bytes()
    bad = tmp_path / "a bad one" / good.name
    bad.parent.mkdir()
    for spoilt, told, back in (
        (
            content + bytes(10),
            "10 bytes were appended after the end of",
            "10 bytes stand after the end of what it was compared",
        ),
        (b"HTTP 200\n" + content, "9 bytes were put before the beginning of", "9 bytes stand before the beginning of what it"),
        (
            content[:-100],
            f"{bad} is cut off: the last 100 bytes are missing",
            "what it was compared with (--against) is cut off",
        ),
    ):
        bad.write_bytes(spoilt)
        found = explain(bad, against=good)
        assert found.sentence.startswith(told)
        assert explain(good, against=bad).sentence.startswith(back)
        if found.command:
            subprocess.run(found.command.replace("OUT", "mended"), shell=True, check=True, cwd=tmp_path)
            assert (tmp_path / "mended").read_bytes() == content
        assert bool(found.command) == (len(spoilt) > len(content))


@pytest.mark.parametrize(
    ("value", "other", "sentence"),
    [
        (0.0, -0.0, "zeros of the other sign: 64 elements of lm_head.weight are 0.0 on one side and -0.0 on the other"),
        (1e-40, 0.0, "denormals flushed to zero: 64 elements of lm_head.weight are zero here"),
        (0.5, 0.0, "zeros: 64 elements of lm_head.weight are zero here and not there, in row 5; all else is right"),
        (0.5, -0.5, "negated: 64 elements of lm_head.weight have the other sign"),
    ],
)
def test_what_all_elements_that_differ_have_in_common(
    tmp_path: Path, right: Path, value: float, other: float, sentence: str
) -> None:
    for name, filled in (("good", value), ("other", other)):
        head = load(right)[HEAD].clone()
        head[5] = filled
        saved(tmp_path / name, {**load(right), HEAD: head})
    found = explain(tmp_path / "other" / FILE, against=tmp_path / "good" / FILE).sentence
    assert found.startswith(sentence)
    assert "damage" not in found


def test_folders_are_the_same_only_if_all_files_are(tmp_path: Path) -> None:
    base = PEER / "hf-bin"
    first, second = (f"pytorch_model-0000{number}-of-00004.bin" for number in (1, 2))
    index = "pytorch_model.bin.index.json"
    for number, (change, told) in enumerate(
        (
            (lambda f: (f / index).unlink(), f"{index} is missing here"),
            (lambda f: (f / index).write_text((f / index).read_text() + "\n"), f"of {index} same fields, written otherwise"),
            (lambda f: (f / "notes.txt").write_text("x"), "notes.txt is only here"),
            (lambda f: (f / "config.json").unlink(), "config.json is missing here"),
            (lambda f: (f / second).unlink(), f"{second} is missing here"),
            (lambda f: exchange(f / first, f / second), f"{first} here is {second} there; {second} here is {first} there"),
        )
    ):
        folder = tmp_path / str(number)
        shutil.copytree(base, folder)
        change(folder)
        found = explain(folder, against=base)
        assert not found.matches
        assert told in found.sentence
        assert not explain(base, against=folder).matches


def exchange(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def test_names_with_another_prefix(tmp_path: Path, right: Path) -> None:
    other = saved(tmp_path / "other", {f"module.{name}": value for name, value in load(right).items()})
    assert "names begin with 'module.' here and not there; the values are the same" in explain(other, against=right).sentence


@pytest.mark.parametrize("kind", ["enc", "oasst", "oasst-gzip", "exact"])
def test_an_intact_payload_is_never_accused(weightkit: Run, tmp_path: Path, kind: str) -> None:
    """Its index and configs are no JSON, the files that its index names are not there yet: no damage, nothing missing."""
    payload = PEER / "diffs" / kind
    if kind == "exact":
        payload = tmp_path / "d"
        words = ["make-diff", "--raw", PEER / "hf-bin", "--tuned", PEER / "tuned-fp16-bin", "--method", "exact"]
        assert weightkit(*words, "--out", payload).returncode == 0
    same = weightkit("explain", payload, "--against", payload)
    assert (same.returncode, "hold the same files" in same.stdout) == (0, True)
    other = tmp_path / "other"
    shutil.copytree(payload, other)
    file = max(other.iterdir(), key=lambda one: one.stat().st_size)
    file.write_bytes(file.read_bytes() + b"x")
    told = weightkit("explain", other, "--against", payload)
    assert told.returncode == 3
    assert f"of {file.name} the bytes differ" in told.stdout
    assert "complete" not in told.stdout
    assert "damage" not in weightkit("explain", payload, "--against", PEER / "diffs" / "oasst").stdout
    one = weightkit("explain", file, "--against", payload / file.name)
    assert one.returncode == 3
    assert "small file" not in one.stdout
    for words in (
        ["inspect", payload],
        ["convert", payload, "o", "--to", "meta"],
        ["recover", "--raw", payload, "--diff", other],
    ):
        done = weightkit(*words, *(["--out", "o"] if words[0] == "recover" else []))
        assert done.returncode == 1
        assert "is not complete" not in done.stderr


def test_a_file_under_a_byte_xor_is_no_damage(weightkit: Run) -> None:
    done = weightkit("explain", PEER / "diffs" / "oasst" / "config.json", "--expect", sha256(PEER / "hf-bin" / "config.json"))
    assert "damage" not in done.stdout
    assert "byte XOR" in done.stdout


@pytest.mark.parametrize("name", ["tokenizer.model", "pytorch_model.bin.index.json"])
def test_a_cause_that_a_file_cannot_have_is_not_named(weightkit: Run, name: str) -> None:
    """No version of transformers stands in a tokenizer or in an index."""
    done = weightkit("explain", PEER / "hf-bin" / name, "--expect", "ab" * 32)
    assert done.returncode == 3
    assert "transformers" not in done.stdout
