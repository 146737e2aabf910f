"""The field proof: its harness on a catalog of miniatures, its receipts, its public table; the real thing where LLaMA is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conftest import PEER
from tests.field.__main__ import main
from tests.field.harness import Field, Ran, Weightkit
from tests.field.receipt import LEFT_OUT, OUTCOMES, checked, receipt
from tests.test_recover import KNOWLM, STANFORD
from weightkit import catalog
from weightkit.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "field.md"
ENTRY = 'title = "{name}"\nkind = "{kind}"\nproject = "miniatures"\ngotchas = []\nsources = {sources}\n'
PLACE = '\n[[where]]\nhub = "miniatures/{name}"\nsource = "a test"\n'
RECIPE = '\n[recipe]\nmethod = "additive"\ndiff = "{diff}"\n'
OTHER = hashlib.sha256(b"another").hexdigest()


def entry(folder: Path, name: str, kind: str, *, digests: str = "", more: str = "", base: str = "mini-base") -> None:
    """An entry of a catalog."""
    (folder / name).mkdir(parents=True)
    sources = '["a test"]' if digests else "[]"
    text = ENTRY.format(name=name, kind=kind, sources=sources)
    (folder / name / "release.toml").write_text(text + ("" if kind == "raw" else f'base = "{base}"\n') + more)
    if digests:
        (folder / name / "SHA256SUMS").write_text(f"# {name}\n# a test\n{digests}")


def sums(folder: Path, *names: str) -> str:
    return subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Here(Weightkit):
    """The command line in this process, which has torch already; its memory is not measured."""

    def __call__(self, *words: str, cwd: Path) -> Ran:
        done = CliRunner().invoke(cli, [*words, "--json", "--quiet"])
        return Ran(done.exit_code, json.loads(done.stdout or "{}"), 0.1, 1)


def miniatures(top: Path) -> Path:
    """A catalog, what its entries take, and weights for them; digests of results are those of the authors' tools."""
    entries, diffs = top / "checksums", top / "downloads"
    shutil.copytree(PEER / "meta" / "7B", top / "LLaMA" / "mini-base")
    shutil.copyfile(PEER / "meta" / "tokenizer.model", top / "LLaMA" / "tokenizer.model")
    entry(entries, "mini-base", "raw", digests=sums(PEER / "meta" / "7B", "consolidated.00.pth", "params.json"))
    shutil.copytree(PEER / "hf-bin", top / "LLaMA" / "mini-shards")
    entry(entries, "mini-shards", "raw")
    for name, source in (
        ("mini-diff", "knowlm"),
        ("mini-wdiff", "stanford"),
        ("mini-cut-diff", "knowlm"),
        ("mini-xor", "oasst"),
    ):
        shutil.copytree(PEER / "diffs" / source, diffs / name)
        digests = sums(diffs / name, "pytorch_model.bin") if name.endswith("diff") and "cut" not in name else ""
        entry(entries, name, "diff", digests=digests, more=PLACE.format(name=name))
    with (diffs / "mini-cut-diff" / "pytorch_model.bin").open("r+b") as file:
        file.truncate(1000)
    for name, diff, digests in (
        ("mini", "mini-diff", f"{KNOWLM}  pytorch_model.bin\n"),
        ("mini-bare", "mini-wdiff", ""),
        ("mini-other", "mini-diff", f"{OTHER}  pytorch_model.bin\n"),
        ("mini-shard", "mini-xor", sums(PEER / "tuned1-fp16-bin", "pytorch_model-00001-of-00004.bin")),
        ("mini-cut", "mini-cut-diff", f"{KNOWLM}  pytorch_model.bin\n"),
        ("mini-absent", "mini-nowhere", ""),
        ("mini-unknown", "unknown", ""),
    ):
        more = RECIPE.format(diff=diff) + ('new_rows = "mean"\n' if diff == "mini-wdiff" else "")
        more = more.replace("additive", "xor-block") if diff == "mini-xor" else more
        base = "mini-shards" if diff == "mini-xor" else "mini-base"
        entry(entries, name, "result", digests=digests, more=more, base=base)
    entry(entries, "mini-nowhere", "diff", more=PLACE.format(name="mini-nowhere"))
    entry(entries, "mini-hf", "converted", more='\n[recipe]\nmethod = "convert"\nconverter = "transformers-4.28.1"\n')
    (top / "work").mkdir()
    return entries


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A visit to a machine with miniatures."""
    top = tmp_path_factory.mktemp("field")
    entries = miniatures(top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "folder", lambda: entries)
        catalog.releases.cache_clear()
        field = Field(Here(), top / "LLaMA", top / "downloads", top / "work")
        found = checked(receipt(field, field.run([])))
    catalog.releases.cache_clear()
    return {"receipt": found, "by_name": {one["name"]: one for one in found["releases"]}, "top": top}


def test_each_command_is_a_process_of_its_own(tmp_path: Path) -> None:
    ran = Weightkit()("verify", str(PEER / "meta" / "7B"), cwd=tmp_path)
    assert (ran.status, {one["status"] for one in ran.answer["files"]}) == (0, {"ok"})
    assert ran.peak_nbytes > 2**23, "a child begins with the peak of its parent, so there is no upper bound here"
    assert ran.seconds > 0
    assert Weightkit()("verify", str(tmp_path), "--checksums", str(tmp_path), cwd=tmp_path).status == 1


WANTED = {
    "mini": "proved",
    "mini-bare": "rebuilt",
    "mini-other": "mismatch",
    "mini-shard": "partly proved",
    "mini-cut": "refused",
    "mini-absent": "skipped",
    "mini-unknown": "skipped",
    "mini-hf": "rebuilt",
}


@pytest.mark.parametrize("name", WANTED)
def test_a_receipt_says_what_came_of_each_release(visit: dict[str, Any], name: str) -> None:
    assert visit["by_name"][name]["outcome"] == WANTED[name]
    assert set(visit["by_name"]) == set(WANTED)


def test_a_receipt_has_the_proof(visit: dict[str, Any]) -> None:
    mini = visit["by_name"]["mini"]
    assert {one["path"]: one["sha256"] for one in mini["files"]}["pytorch_model.bin"] == KNOWLM
    assert (mini["digests"]["ok"], mini["digests"]["FAILED"], mini["differ"], mini["status"]) == (1, 0, [], 0)
    bare = {one["path"]: one["sha256"] for one in visit["by_name"]["mini-bare"]["files"]}
    assert bare["pytorch_model.bin"] == STANFORD
    assert visit["by_name"]["mini-shard"]["unproved"] == [f"pytorch_model-0000{part}-of-00004.bin" for part in (2, 3, 4)]
    assert visit["by_name"]["mini-absent"]["why"] == "not there: mini-nowhere"
    (original,) = (one for one in visit["receipt"]["inputs"] if one["name"] == "mini-base")
    assert (original["ok"], original["FAILED"], original["missing"]) == (2, 0, 0)


def test_a_receipt_names_neither_machine_nor_folder(visit: dict[str, Any]) -> None:
    text = json.dumps(visit["receipt"])
    assert str(visit["top"]) not in text
    assert visit["by_name"]["mini-cut"]["why"]
    assert list((visit["top"] / "work").glob("[!.]*")) == []  # results are taken away


@pytest.mark.parametrize("words", ["/home/eve/x", "see ~/LLaMA", r"C:\Users\eve", "eve@example.org", "file://x", "on evehost"])
def test_what_may_tell_who_it_was_is_refused(visit: dict[str, Any], words: str) -> None:
    found = json.loads(json.dumps(visit["receipt"]))
    found["releases"][0]["why"] = words
    with pytest.raises(ValueError, match="may name a machine"):
        checked(found, ["evehost"])
    found["releases"][0] = {"name": "x", "outcome": "skipped", "hostname": "x"}
    with pytest.raises(ValueError, match="no receipt has hostname"):
        checked(found, [])


@dataclass(frozen=True)
class Fetching(Here):
    """As ``Here``, and what is fetched comes from beside the tests."""

    def __call__(self, *words: str, cwd: Path) -> Ran:
        if words[0] != "fetch":
            return super().__call__(*words, cwd=cwd)
        known = {"mini-diff": "knowlm"}
        if words[1] in known:
            shutil.copytree(PEER / "diffs" / known[words[1]], words[3])
        return Ran(0 if words[1] in known else 1, {}, 0.1, 1)


def test_what_is_missing_is_fetched_by_name_but_never_llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = miniatures(tmp_path)
    monkeypatch.setattr(catalog, "folder", lambda: entries)
    catalog.releases.cache_clear()
    shutil.rmtree(tmp_path / "downloads")
    shutil.rmtree(tmp_path / "LLaMA" / "mini-shards")
    field = Field(Fetching(), tmp_path / "LLaMA", tmp_path / "downloads", tmp_path / "work", fetch=True)
    mini, absent, shard = field.run(["mini", "mini-absent", "mini-shard"])
    catalog.releases.cache_clear()
    assert mini["outcome"] == "proved"
    assert absent["why"] == "not there: mini-nowhere"
    assert shard["why"] == "not there: mini-shards, mini-xor"


def test_every_entry_of_the_catalog_is_understood(tmp_path: Path) -> None:
    field = Field(Here(), tmp_path, None, tmp_path)
    found = field.run([]) + field.run(["chatglm-6b", "zhixi-13b-diff", "llama-7b"])
    assert {one["outcome"] for one in found} == {"skipped"}
    assert {one["why"].partition(":")[0] for one in found} >= {"not there", "there is nothing to rebuild"}
    checked(receipt(field, found))


def test_a_message_with_a_strange_path_is_left_out(visit: dict[str, Any], tmp_path: Path) -> None:
    field = Field(Weightkit(), tmp_path, None, tmp_path)
    found = receipt(field, [{"name": "x", "outcome": "refused", "kind": "format", "why": "/mnt/eve/tokenizer.model: is empty"}])
    assert checked(found)["releases"][0]["why"] == LEFT_OUT


def test_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("WEIGHTKIT_LLAMA", raising=False)
    for words, said in (([], "WEIGHTKIT_LLAMA"), (["--llama", str(tmp_path), "--fetch"], "--downloads DIR")):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


ROW = re.compile(r"^\| `([\w.-]+)` \| ([^|]+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


def test_the_public_table_says_what_receipts_say() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) >= 12
    assert ROW.findall((ROOT / "docs" / "zh" / "field.md").read_text()) == [
        (name, base, "尚无" if outcome.strip() == "not yet" else outcome, rest) for name, base, outcome, rest in rows
    ]
    linked = set()
    for name, base, outcome, told in rows:
        release = catalog.load(name)
        assert base in (release.base, "llama-7b", "llama-13b", "llama-30b", "llama-65b")
        if outcome == "not yet":
            assert told.strip() == ""
            continue
        (path,) = re.findall(r"\((field/[\w.-]+\.json)\)", told)
        linked.add(path)
        found = checked(json.loads((PAGE.parent / path).read_text()))
        assert told.startswith(found["date"])
        assert {one["name"]: one["outcome"] for one in found["releases"]}[name] == outcome
        assert outcome in OUTCOMES
    assert {f"field/{one.name}" for one in PAGE.parent.glob("field/*.json")} == linked


@pytest.mark.slow
@pytest.mark.skipif("WEIGHTKIT_LLAMA" not in os.environ, reason="no LLaMA here: WEIGHTKIT_LLAMA=DIR names it")
def test_real_weights(tmp_path: Path) -> None:
    """All releases whose inputs are there: WEIGHTKIT_LLAMA, and WEIGHTKIT_DOWNLOADS with folders called like their entries."""
    downloads = os.environ.get("WEIGHTKIT_DOWNLOADS")
    words = ["--out", str(tmp_path / "receipt.json"), *(["--downloads", downloads] if downloads else [])]
    done = subprocess.run([sys.executable, "-m", "tests.field", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
