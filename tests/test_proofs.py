"""Published files that are not stored: made of those that are, and hashed; nothing appears before they hold."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.conftest import DATA, PEER, flip_bit, sha256
from weightkit import convert, merge, recover
from weightkit.blobs import open_local
from weightkit.checkpoints.form import Form
from weightkit.cli import main
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.core.events import BytesWritten, Event, FileFinished, FileKept, FileProved
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules
from weightkit.proof.counterparts import roundest
from weightkit.publish import publish_release
from weightkit.run.execute import Done, carry_out, preview
from weightkit.run.executors.futures import Futures
from weightkit.run.plan import OutputFile, Plan
from weightkit.run.proving import again_nbytes, made_of, waits_for

BASE, META = PEER / "hf-bin", PEER / "meta/7B"
KNOWLM, SHARDED, STANFORD = PEER / "diffs/knowlm", PEER / "diffs/fastchat-sharded", PEER / "diffs/stanford"
LORAS = [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"]
RECOVERED = "bfd6f5e1f148c73ecc530b6398b372d0f9d678b167f689f902a7de705feea9b6"
"""pytorch_model.bin that KnowLM's own arithmetic gives, as torch 1.13 writes it; made with torch, not with weightkit."""
SAFE = Form(format="safetensors")

Doors = dict[str, Callable[[Path, Form, Path | None], Plan]]


def listed(folder: Path, *patterns: str) -> Path:
    """A list of the files of a folder whose names are so, as sha256sum writes it."""
    found = sorted({path for one in patterns for path in folder.glob(one)})
    path = folder.with_name(f"{folder.name}.sha256")
    path.write_text("".join(f"{sha256(one)}  {one.name}\n" for one in found))
    return path


def wrong(sums: Path, number: int = 0) -> Path:
    """The same list with one digest changed."""
    lines = sums.read_text().splitlines()
    lines[number] = ("1" if lines[number][0] == "0" else "0") + lines[number][1:]
    path = sums.with_name(f"wrong-{sums.name}")
    path.write_text("\n".join(lines) + "\n")
    return path


def recovery(
    out: Path, form: Form, sums: Path | None, diff: Path = KNOWLM, base: Path = BASE, rules: Rules | None = None
) -> Plan:
    return recover.prepare(base, diff, out, form=form, rules=rules, checksums=() if sums is None else sums)


def conversion(src: Path, out: Path, to: convert.Target, form: Form, sums: Path | None = None) -> Plan:
    return convert.prepare(src, out, to, form=form, checksums=() if sums is None else sums)


def merging(out: Path, form: Form, sums: Path | None = None, **more: object) -> Plan:
    return merge.prepare(BASE, LORAS, out, form=form, checksums=() if sums is None else sums, **more)  # type: ignore[arg-type]


def weights(plan: Plan) -> dict[str, int]:
    return {one.path: one.nbytes for one in plan.proofs if isinstance(one, OutputFile)}


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()} if folder.exists() else set()


KINDS = {
    "recovered, one .bin": (lambda out, form, sums: recovery(out, form, sums), Form(), SAFE, "pytorch_model.bin"),
    "recovered, shards as of the diff": (
        lambda out, form, sums: recovery(out, form, sums, SHARDED),
        Form(),
        SAFE,
        "pytorch_model*",
    ),
    "recovered, rows that the base lacks, another torch": (
        lambda out, form, sums: recovery(out, form, sums, STANFORD, rules=Rules(new_rows="mean")),
        Form(torch_compat="1.9"),
        Form(format="safetensors", torch_compat="1.9"),
        "pytorch_model*",
    ),
    "recovered of Meta's parts": (
        lambda out, form, sums: recovery(out, form, sums, KNOWLM, META),
        Form(),
        Form(format="safetensors", max_shard_bytes=150_000),
        "pytorch_model*",
    ),
    "merged, in four files": (lambda out, form, sums: merging(out, form, sums), Form(), SAFE, "pytorch_model*"),
    "merged, cut anew": (
        lambda out, form, sums: merging(out, form, sums),
        Form(max_shard_bytes=120_000),
        Form(max_shard_bytes=200_000),
        "pytorch_model*",
    ),
    "merged, cut as is said": (
        lambda out, form, sums: merging(out, form, sums),
        Form(max_shard_bytes=120_000),
        Form(format="safetensors", max_shard_bytes=120_000),
        "pytorch_model-*",
    ),
    "merged, safetensors published": (lambda out, form, sums: merging(out, form, sums), SAFE, Form(), "model*"),
    "converted, cut anew, safetensors": (
        lambda out, form, sums: conversion(META, out, "hf", form, sums),
        Form(max_shard_bytes=100_000),
        SAFE,
        "pytorch_model*",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_digests_are_those_of_a_run_that_stores_the_files(tmp_path: Path, kind: str) -> None:
    door, published, stored, pattern = KINDS[kind]
    carry_out(door(tmp_path / "p", published, None), tmp_path / "p")
    sums = listed(tmp_path / "p", pattern)
    carry_out(door(tmp_path / "s", stored, None), tmp_path / "s")
    done = carry_out(door(tmp_path / "o", stored, sums), tmp_path / "o", jobs=2)
    assert done.ok, done.report.mismatches
    assert {one.path.removeprefix("published-"): one.sha256 for one in done.report.proofs} == {
        one.name: sha256(one) for one in (tmp_path / "p").glob(pattern)
    }
    assert all(one.checked for one in done.report.proofs)
    assert {one: sha256(tmp_path / "o" / one) for one in names(tmp_path / "o")} == {
        one: sha256(tmp_path / "s" / one) for one in names(tmp_path / "s")
    }, "what is stored is what is stored without a list, TENSORS and SHA256SUMS too"
    assert not any(again_nbytes(one) for one in done.plan.proofs), "the inputs are read once"
    assert not names(tmp_path / "o") & set(weights(done.plan))


LAYOUTS = {
    "to transformers', of one part": ("meta", "hf", SAFE, None, "consolidated*"),
    "to transformers', of two parts": ("meta", "hf", Form(format="safetensors", max_shard_bytes=90_000), 2, "consolidated*"),
    "to Meta's": ("hf", "meta", Form(), None, "pytorch_model*"),
    "to one part, of two": ("meta", "meta", Form(), 2, "consolidated*"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_another_layout_was_published(tmp_path: Path, kind: str) -> None:
    published, to, form, parts, pattern = LAYOUTS[kind]
    made = convert.prepare(BASE, tmp_path / "p", published, parts=parts)  # type: ignore[arg-type]
    carry_out(made, tmp_path / "p")
    sums = listed(tmp_path / "p", pattern, "params.json")
    for src in (BASE, tmp_path / "p"):
        out = tmp_path / f"of-{src.name}"
        own = 1 if parts == 2 and to == "meta" else None
        plan = convert.prepare(src, out, to, form=form, parts=own, checksums=sums)  # type: ignore[arg-type]
        if to == "meta" and published == "meta":  # consolidated.00.pth is a name of both
            assert not plan.proofs
            continue
        done = carry_out(plan, out)
        assert done.ok, done.report.mismatches
        assert {one.path for one in done.report.proofs} == {line.split()[1] for line in sums.read_text().splitlines()} - names(
            out
        )
        failed = tmp_path / f"not-{src.name}"
        assert not carry_out(convert.prepare(src, failed, to, form=form, checksums=wrong(sums)), failed).ok  # type: ignore[arg-type]
        assert not [one for one in names(failed) if not one.startswith(".")]


def test_merged_parts_and_their_order(tmp_path: Path) -> None:
    carry_out(merging(tmp_path / "p", Form(), to="meta"), tmp_path / "p")
    sums = listed(tmp_path / "p", "consolidated*")
    done = carry_out(merging(tmp_path / "o", SAFE, sums, to="hf"), tmp_path / "o")
    assert done.ok
    assert [one.path for one in done.report.proofs] == ["consolidated.00.pth"]
    other = carry_out(merging(tmp_path / "w", SAFE, sums, to="hf", order="meta"), tmp_path / "w")
    assert [one.path for one in other.report.mismatches] == ["consolidated.00.pth"]


def said(*words: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in words])


def test_what_others_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is torch's. Said: what is proved, in how many files; for programs, both; before, what it takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text(f"{RECOVERED}  pytorch_model.bin\n")
    words = ["recover", "--raw", BASE, "--diff", KNOWLM, "--format", "safetensors", "--checksums", "list", "--out", "o"]
    before = said(*words, "--dry-run")
    assert before.exit_code == 0
    assert "hash and not write" in before.stdout
    assert "one more hash, of 696.6 kB, read from what was just written; the inputs are not read again" in before.stdout
    told = json.loads(said(*words, "--dry-run", "--json").stdout)
    assert [one["path"] for one in told["proofs"]] == ["pytorch_model.bin"]
    done = said(*words)
    assert done.exit_code == 0
    assert "ok: the published files would have been these bytes; written as safetensors, 1 file (all 1" in done.stdout
    assert f"{RECOVERED}  pytorch_model.bin (made of these and hashed; not stored)" in done.stdout
    facts = json.loads(said(*words, "--json").stdout)
    assert [(one["path"], one["sha256"], one["stored"]) for one in facts["proofs"]] == [("pytorch_model.bin", RECOVERED, False)]
    assert "model.safetensors" in [one["path"] for one in facts["files"]]
    assert said("verify", "o").exit_code == 0
    assert said("verify", "o", "--checksums", "o/TENSORS").exit_code == 0


def test_a_mismatch_publishes_nothing_and_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    carry_out(recovery(tmp_path / "p", Form(torch_compat="1.9"), None), tmp_path / "p")
    sums = listed(tmp_path / "p", "pytorch_model.bin")
    words = ["recover", "--raw", BASE, "--diff", KNOWLM, "--format", "safetensors", "--checksums", sums, "--out", "o"]
    failed = said(*words)
    assert failed.exit_code == 3
    assert "FAILED pytorch_model.bin: another digest than wanted" in failed.stderr
    assert "it was written by another torch than 1.13 (--torch-compat)" in failed.stderr
    assert "nothing is published: made of these tensors, the published files would have been other bytes" in failed.stdout
    assert not [one for one in names(tmp_path / "o") if not one.startswith(".")]
    kept = said(*words, "--keep-mismatched")
    assert kept.exit_code == 3
    assert {one for one in names(tmp_path / "o") if not one.startswith(".")} == {"pytorch_model.bin.mismatch"}
    assert sha256(tmp_path / "o/pytorch_model.bin.mismatch") == RECOVERED
    command = next(line for line in kept.stderr.splitlines() if line.startswith("next: weightkit explain"))
    why = said(*command.split()[2:])
    assert "container only: every tensor is right" in why.stdout
    assert said(*words, "--keep-mismatched", "--torch-compat", "1.9").exit_code == 0
    assert "model.safetensors" in names(tmp_path / "o")


def test_a_conversion_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    carry_out(conversion(META, tmp_path / "p", "hf", Form()), tmp_path / "p")
    sums = listed(tmp_path / "p", "pytorch_model*")
    words = ["convert", META, "o", "--to", "hf", "--format", "safetensors", "--max-shard-size", "100kB"]
    done = said(*words, "--checksums", sums)
    assert done.exit_code == 0
    assert "ok: the published files would have been these bytes; written as safetensors, 4 files (all 1 " in done.stdout
    failed = said(*words[:2], "w", *words[3:], "--checksums", wrong(sums))
    assert failed.exit_code == 3
    assert "nothing is published: made of these tensors, the published files would have been other bytes" in failed.stdout


class Stop(Exception):
    """Where a test lets a run end."""


def stopping(kind: type[Event], number: int) -> Callable[[Event], None]:  # type: ignore[valid-type]
    """Ends a run at the so-manieth event of a kind."""
    seen: Iterator[int] = iter(range(1, 1_000_000))

    def notify(event: Event) -> None:
        if isinstance(event, kind) and next(seen) == number:
            raise Stop

    return notify


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list of four published files and their index, which were stored."""
    root = tmp_path_factory.mktemp("merged")
    carry_out(merging(root / "p", Form()), root / "p")
    return listed(root / "p", "pytorch_model*")


@pytest.mark.parametrize(
    ("kind", "number"), [(BytesWritten, 3), (BytesWritten, 40), (FileProved, 1), (FileProved, 5), (FileFinished, 2)]
)
def test_taken_up_after_an_end_at_any_time(tmp_path: Path, merged: Path, kind: type, number: int) -> None:
    out, events = tmp_path / "o", []
    with pytest.raises(Stop):
        carry_out(merging(out, SAFE, merged), out, notify=stopping(kind, number))
    if kind is not FileFinished:
        assert not [one for one in names(out) if not one.startswith(".")], "nothing appears before all of it is proved"
    done = carry_out(merging(out, SAFE, merged), out, notify=events.append)
    assert done.ok
    assert len(done.report.proofs) == 5
    assert kind is BytesWritten or number == 1 or any(isinstance(one, FileKept) for one in events)
    assert not [one for one in names(out) if one.startswith(".") or one.endswith(".mismatch")]
    again = carry_out(merging(out, SAFE, merged), out)
    assert again.stood
    assert len(again.report.proofs) == 5


def test_what_stands_is_looked_at_and_not_only_remembered(tmp_path: Path, merged: Path) -> None:
    """A file that was stored and has changed since is noticed, on a second run too."""
    out = tmp_path / "o"
    carry_out(merging(out, SAFE, merged), out)
    flip_bit(out / "model-00002-of-00004.safetensors", -9)
    with pytest.raises(PlanError, match="is not what this command makes"):
        carry_out(merging(out, SAFE, merged), out)


def test_one_wrong_digest_of_several(tmp_path: Path, merged: Path) -> None:
    for number in range(5):
        out = tmp_path / str(number)
        done = carry_out(merging(out, SAFE, wrong(merged, number)), out, jobs=3)
        assert len(done.report.mismatches) == 1
        assert not done.report.receipts
        assert not [one for one in names(out) if not one.startswith(".")]


def test_other_executors(tmp_path: Path, merged: Path) -> None:
    """What a worker is handed pickles, and names the stored file in its place."""
    with ThreadPoolExecutor(2) as pool:
        done = carry_out(merging(tmp_path / "o", SAFE, merged), tmp_path / "o", executor=Futures(pool, 2))
    assert done.ok
    assert len(done.report.proofs) == 5
    planned = next(one for one in done.plan.proofs if isinstance(one, OutputFile))
    made = made_of(planned, lambda name: open_local(tmp_path / "o" / name))
    assert not waits_for(made)
    assert pickle.loads(pickle.dumps(made)).fingerprint() == made.fingerprint()


def test_seeking_the_rounding_of_what_is_not_stored(tmp_path: Path) -> None:
    how = Arithmetic("once", "mul-add")
    carry_out(merging(tmp_path / "p", Form(torch_compat="1.9", max_shard_bytes=10**7), how=how), tmp_path / "p")
    sums = listed(tmp_path / "p", "*.bin")
    assert not carry_out(merging(tmp_path / "w", SAFE, sums), tmp_path / "w").ok
    plan = merging(tmp_path / "o", SAFE, sums, seek=True)
    assert any("has the published digest" in note and "rounding once" in note and "torch 1.9" in note for note in plan.notes)
    assert all(waits_for(one) for one in plan.proofs), "it is made of what is stored, not of the inputs"
    assert carry_out(plan, tmp_path / "o").ok


def test_the_digests_of_the_originals_are_checked_besides(tmp_path: Path) -> None:
    carry_out(recovery(tmp_path / "p", Form(), None, base=META), tmp_path / "p")
    sums = listed(tmp_path / "p", "pytorch_model*")
    done = carry_out(recovery(tmp_path / "o", SAFE, sums, base=META), tmp_path / "o", verify_raw=META)
    assert done.ok
    bad = shutil.copytree(META, tmp_path / "bad")
    (bad / "checklist.chk").write_text((bad / "checklist.chk").read_text().translate({ord("1"): "2", ord("2"): "1"}))
    failed = carry_out(recovery(tmp_path / "w", SAFE, sums, base=bad), tmp_path / "w", verify_raw=bad)
    assert not failed.ok
    assert not [one for one in names(tmp_path / "w") if not one.startswith(".")]


def test_a_release_of_ones_own(tmp_path: Path) -> None:
    """Its list must prove everything, and does: of the files that it has, or of what is stored in their place."""
    publish_release(BASE, PEER / "tuned-fp16-bin", tmp_path / "r", method="additive")
    release = f"{tmp_path / 'r'}/"
    plan = recover.prepare(BASE, None, tmp_path / "o", release=release, form=SAFE)
    done = carry_out(plan, tmp_path / "o")
    assert done.ok
    assert weights(plan)


def test_lists_of_something_else(tmp_path: Path) -> None:
    def refused(text: str) -> str:
        (tmp_path / "list").write_text(text)
        with pytest.raises(WeightkitError) as told:
            recovery(tmp_path / "o", SAFE, tmp_path / "list")
        return str(told.value)

    assert "lists none of the files that will be written (model.safetensors ...)" in refused(f"{RECOVERED}  other.bin\n")
    assert "nothing says where these tensors were cut into so many" in refused(
        f"{RECOVERED}  pytorch_model-00001-of-00090.bin\n"
    )
    assert "does not divide into 7 parts" in refused(f"{RECOVERED}  consolidated.06.pth\n")
    with pytest.raises(PlanError, match="lists none of the files"):
        recover.prepare(BASE, PEER / "diffs/oasst", tmp_path / "o", checksums=tmp_path / "list")


def test_a_list_of_some_of_the_files_proves_some_of_the_tensors(tmp_path: Path, merged: Path) -> None:
    some = tmp_path / "some"
    some.write_text("".join(line for line in merged.read_text().splitlines(keepends=True) if "-00002-of-" in line))
    done = carry_out(merging(tmp_path / "o", SAFE, some), tmp_path / "o")
    assert done.ok
    assert any("so nothing proves them" in note and "model.embed_tokens.weight" in note for note in done.plan.notes)


def test_the_index_says_where_shards_were_cut(tmp_path: Path) -> None:
    """Two limits that are as usual give as many shards, and the index of the published ones says which it was."""
    for limit in (110_000, 125_000, 140_000):
        root = tmp_path / str(limit)
        carry_out(merging(root / "p", Form(max_shard_bytes=limit)), root / "p")
        done = carry_out(merging(root / "o", Form(format="safetensors"), listed(root / "p", "pytorch_model*")), root / "o")
        assert done.ok, done.report.mismatches
    carry_out(recovery(tmp_path / "p", Form(max_shard_bytes=200_000), None), tmp_path / "p")
    guessed = recovery(tmp_path / "o", SAFE, listed(tmp_path / "p", "pytorch_model-*"))
    assert any("taken to be cut at 200.0 kB, which gives 4; no index" in note for note in guessed.notes)
    assert carry_out(guessed, tmp_path / "o").ok


def test_lists_of_two_kinds_and_tied_tensors(tmp_path: Path) -> None:
    """safetensors stores a tied head once, and torch's file has both; each list's digests must hold."""
    tied = DATA / "peft-tied/qwen3"

    def merged(out: Path, form: Form, *sums: Path) -> Plan:
        return merge.prepare(tied, tied / "lora-kept-tied", out, form=form, how=Arithmetic("peft-0.16"), checksums=sums)

    carry_out(merged(tmp_path / "p", Form(format="bin")), tmp_path / "p")
    sums = listed(tmp_path / "p", "*.bin")
    md5 = tmp_path / "md5"
    md5.write_text(f"{hashlib.md5((tmp_path / 'p/pytorch_model.bin').read_bytes()).hexdigest()}  pytorch_model.bin\n")
    done = carry_out(merged(tmp_path / "o", SAFE, sums, md5), tmp_path / "o")
    assert done.ok
    assert sorted(one.algorithm for one in done.plan.proofs[0].expect) == ["md5", "sha256"]
    assert not any("nothing proves" in note for note in done.plan.notes)
    failed = carry_out(merged(tmp_path / "w", SAFE, sums, wrong(md5)), tmp_path / "w")
    assert [one.algorithm for one in failed.report.mismatches] == ["md5"]


def test_round_numbers() -> None:
    assert roundest(9_130_000_000, 10_400_000_000) == 10**10
    assert roundest(4_600_000_000, 5_300_000_000) == 5 * 10**9
    assert roundest(123, 123) == 123


def test_a_stored_file_that_is_not_as_it_was_written(tmp_path: Path, merged: Path) -> None:
    """What is hashed is read back from the disk: what went wrong there is seen."""
    out = tmp_path / "o"

    def spoil(event: Event) -> None:
        partial = out / ".model-00001-of-00004.safetensors.partial"
        if isinstance(event, BytesWritten) and event.path == "pytorch_model-00001-of-00004.bin" and not spoilt:
            spoilt.append(flip_bit(partial, -5))

    spoilt: list[None] = []
    with pytest.raises(FormatError, match="has changed since it was opened"):
        carry_out(merging(out, SAFE, merged), out, notify=spoil)


def test_what_it_takes(tmp_path: Path, merged: Path) -> None:
    """No more memory than without, and no more room."""
    with_list, without = merging(tmp_path / "o", SAFE, merged), merging(tmp_path / "o", SAFE)
    found, plain = (preview(one, tmp_path / "o") for one in (with_list, without))
    assert found.needed_nbytes == plain.needed_nbytes
    assert found.budget.peak_nbytes <= plain.budget.peak_nbytes * 1.05
    done: Done = carry_out(with_list, tmp_path / "o")
    assert done.ok
