"""The catalog: every published row is in it, nothing contradicts itself, every recipe is one that is accepted."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from blake3 import blake3

from tests.conftest import DATA, PEER, Run, sha256
from weightkit import catalog, merge, recover
from weightkit.catalog import METHODS, UNKNOWN, Place, Release
from weightkit.catalog.places import on_the_hub
from weightkit.cli import main
from weightkit.cli.way import gaps, way
from weightkit.core.digest import ALGORITHMS, Digest, Hasher
from weightkit.core.errors import FormatError, PlanError
from weightkit.families.converters import converter_named
from weightkit.merge import prepare as prepare_merge
from weightkit.methods.recipes import filled
from weightkit.recover import prepare
from weightkit.verify import verify

ROOT = Path(__file__).resolve().parents[1]
ZIP = "LoRA .zip archive (as then distributed)"
"""What the published list calls the four archives, which it gives no file name; the catalog's are after their folders."""
HUBS = [(hub, name) for name, one in catalog.releases().items() for hub in one.hubs()]


def rows() -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for name in ("published-checksums.tsv", "published-checksums-whole.tsv"):
        with (DATA / name).open(newline="") as file:
            found += csv.DictReader(file, delimiter="\t")
    return found


def test_every_published_row_has_landed_with_its_source() -> None:
    known = catalog.releases()
    by_publication = {release.published_as or release.name: release for release in known.values()}
    assert len(rows()) == 472
    texts = {name: "".join(path.read_text() for path in release.lists) for name, release in known.items()}
    for row in rows():
        release = by_publication[row["release"]]
        entries = {(entry.path, entry.digest.algorithm): entry.digest.hex for entry in release.entries()}
        file = next(iter(entries))[0] if row["file"] == ZIP else row["file"]
        assert entries[file, row["algorithm"]] == row["digest"], row
        assert f"# {row['source']}" in texts[release.name].splitlines(), row
        if row["size_bytes"]:
            assert release.sizes[row["file"]] == int(row["size_bytes"])
    assert sum(len(release.entries()) for release in known.values()) == len(rows())


@pytest.mark.parametrize("name", catalog.releases())
def test_an_entry_is_sound(name: str) -> None:
    release = catalog.releases()[name]
    known = catalog.releases()
    assert release.kind in catalog.KINDS
    assert release.title
    assert release.base is None or release.base in known
    outside = any("no digests are in the catalog" in note for note in release.gotchas)
    assert (release.base is None) == (release.kind in ("raw", "tokenizer", "whole") or outside)
    seen: dict[tuple[str, str], str] = {}
    for entry in release.entries():
        assert len(entry.digest.hex) == ALGORITHMS[entry.digest.algorithm]
        assert seen.setdefault((entry.path, entry.digest.algorithm), entry.digest.hex) == entry.digest.hex
    assert bool(release.sources) == bool(release.lists)
    recipe = release.recipe
    assert (recipe is not None) == (release.kind in ("result", "converted"))
    if recipe is None:
        return
    assert recipe.method in METHODS
    for one in (recipe.diff, *recipe.lora):
        assert one in (None, UNKNOWN) or one in known
    if UNKNOWN in (recipe.converter,):
        assert recipe.unfinished


@pytest.mark.parametrize("name", [one.name for one in catalog.releases().values() if one.recipe])
def test_every_recipe_is_accepted(name: str) -> None:
    """By the command it is for; it fills in what it says, and says what is unknown."""
    recipe = catalog.load(name).recipe
    assert recipe
    if recipe.method == "convert":
        assert recipe.converter == UNKNOWN or converter_named(recipe.converter or "")
        return
    methods = ("lora",) if recipe.method == "lora" else ("additive", "xor-enc", "xor-block")
    release, fill = filled(name, methods, "recover")
    assert fill.rules.new_rows == recipe.new_rows
    assert (fill.rules.dtype.name if fill.rules.dtype else None) == recipe.dtype
    if recipe.unfinished:
        assert any(recipe.unfinished in note for note in fill.notes)
    if not release.lists:
        assert any("no digests were found" in note for note in fill.notes)
    with pytest.raises(PlanError, match="is made with weightkit|is no release to be rebuilt"):
        filled(name, ("none",), "nothing")


def test_names_that_are_near_are_named() -> None:
    with pytest.raises(PlanError, match=r"did you mean .*zhixi-13b"):
        catalog.load("zhixi13b")
    assert catalog.load("zhixi-13b-base").name == "zhixi-13b"
    with pytest.raises(PlanError, match="is no release to be rebuilt but original weights"):
        filled("llama-7b", ("additive",), "recover")


@pytest.fixture
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model stands in for the real ones: what its size and its adapters' would refuse is let pass."""
    for door, names in ((recover, ["base_fits", "result_fits"]), (merge, ["base_fits", "in_order", "result_fits"])):
        for name in names:
            monkeypatch.setattr(door, name, lambda *words: [])


def test_a_release_fills_in_what_is_not_said(of_any_size: None, tmp_path: Path) -> None:
    """The small model stands in for the real one: its digests differ, so they are found wanting, but all else is filled in."""
    with pytest.raises(PlanError, match="lists none of the files that will be written|is not zhixi-13b-diff"):
        prepare(PEER / "hf-bin", PEER / "diffs" / "knowlm", tmp_path / "o", release="zhixi-13b")
    plan = prepare(PEER / "hf-bin", PEER / "diffs" / "stanford", tmp_path / "o", release="alpaca-7b", trust_inputs=True)
    assert any("mean of the base's rows" in note for note in plan.notes)
    assert any("no digests were found of it" in note for note in plan.notes)
    lora = [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"]
    plan = prepare_merge(PEER / "hf-bin", lora, tmp_path / "o", release="chinese-alpaca-plus-7b-merged")
    assert [file.path for file in plan.files] == ["consolidated.00.pth"]
    assert plan.files[0].expect == (Digest("sha256", catalog.load("chinese-alpaca-plus-7b-merged").entries()[0].digest.hex),)
    assert "rounding per-adapter, sums fma" in plan.steps


def test_a_mismatch_with_a_release_publishes_nothing(of_any_size: None, tmp_path: Path) -> None:
    lora = [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"]
    for seek in (False, True):
        done = merge.merge_lora(
            PEER / "hf-bin", lora, tmp_path / "o", release="chinese-alpaca-plus-7b-merged", seek=seek, trust_inputs=True
        )
        assert not done.ok
        assert not (tmp_path / "o" / "consolidated.00.pth").exists()
        assert seek == any("--seek: none of the" in note for note in done.plan.notes)


def test_the_command_shows_it(weightkit: Run) -> None:
    listed = weightkit("releases")
    assert listed.returncode == 0
    for name in catalog.releases():
        assert name in listed.stdout
    one = weightkit("releases", "zhixi-13b")
    assert "b19e56ec888b44bfe5c1db49eb4a3195" in one.stdout
    command = "weightkit recover --base llama-13b --diff zhixi-13b-diff --release zhixi-13b --out OUT"
    assert command in re.sub(r" \\\n +", " ", one.stdout)
    facts = json.loads(weightkit("releases", "chinese-alpaca-plus-7b-merged", "--json").stdout)
    assert facts["recipe"]["lora"] == ["chinese-llama-plus-7b-lora", "chinese-alpaca-plus-7b-lora"]
    assert len(json.loads(weightkit("releases", "--json").stdout)["releases"]) == len(catalog.releases())
    assert weightkit("releases", "nothing-like-it").returncode == 1


def test_blake3_is_its_own_librarys(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 1000)
    hasher = Hasher(["blake3"])
    hasher.update((tmp_path / "f").read_bytes())
    assert hasher.digests()["blake3"].hex == blake3(b"abc" * 1000).hexdigest()
    assert Digest("blake3", blake3(b"").hexdigest()).of_nothing


def test_small_files_of_the_catalog_are_recognised() -> None:
    """params.json as Meta wrote it, made from its known fields."""
    content = b'{"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "norm_eps": 1e-06, "vocab_size": -1}'
    hasher = Hasher(["sha256", "md5", "blake3"])
    hasher.update(content)
    for digest in hasher.digests().values():
        assert ("llama-13b", "params.json") in catalog.by_digest()[digest]
    assert sha256(ROOT / "checksums" / "__init__.py")


@pytest.mark.parametrize("name", catalog.releases())
def test_an_entry_says_whose_it_is_and_where_it_can_be_had(name: str) -> None:
    """An input names a place with its source, or why there is none; a result names inputs that do."""
    release = catalog.releases()[name]
    assert release.project
    if release.recipe is None:
        assert bool(release.where) != bool(release.nowhere)
    for one in release.recipe.payloads() if release.recipe else ():
        assert catalog.load(one).recipe is None
    assert UNKNOWN not in ((release.recipe.diff, *release.recipe.lora) if release.recipe else ())
    assert all(place.source for place in release.where)


PLACES = [(one, place) for one in catalog.releases().values() for place in one.where]


@pytest.mark.parametrize(("release", "place"), PLACES, ids=lambda one: getattr(one, "name", getattr(one, "hub", None)))
def test_what_is_said_of_a_place_has_its_source(release: Release, place: Place) -> None:
    """That files were there, its own pages among the sources show; that they are gone, the note says whose word it is."""
    if place.status == "reachable":
        assert any(f"huggingface.co/{place.hub}" in one for one in release.sources)
    if place.status == "gone":
        assert re.search(r"gone|deleted|removed", place.note)
        assert re.search(r"issue \d+|README", place.note)
    if place.revision:
        assert any(place.revision in one for one in release.sources)


def test_every_part_that_the_authors_put_on_the_hub_is_fetched_by_name() -> None:
    """Diffs and adapters of every recipe; what lies elsewhere says where."""
    elsewhere = set()
    for release in catalog.releases().values():
        for part in release.recipe.payloads() if release.recipe else ():
            try:
                assert on_the_hub(part).repository in catalog.load(part).hubs()
            except PlanError as error:
                elsewhere.add(part)
                assert "ask for it at https://" in str(error)
    assert elsewhere == {"point-alpaca-7b.enc"}


@pytest.mark.parametrize("name", ["llama-7b", "llama-65b"])
def test_a_base_must_be_asked_for(name: str) -> None:
    with pytest.raises(PlanError, match=rf"{name}: ask for it at https://forms\.gle/.*weightkit releases {name}"):
        on_the_hub(name)


def test_a_place_that_is_gone_is_not_where_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one" / "release.toml"
    path.parent.mkdir()
    said = 'title = "one"\nkind = "diff"\n[[where]]\nhub = "a/old"\nsource = "x"\nstatus = "gone"\nnote = "removed (issue 1)"\n'
    path.write_text(said)
    monkeypatch.setattr(catalog, "releases", lambda: {"one": catalog.read(path)})
    with pytest.raises(PlanError, match=r"it was at a/old, and is gone \(x\)"):
        on_the_hub("one")
    path.write_text(f'{said}[[where]]\nhub = "a/new"\nsource = "x"\nrevision = "{"ab" * 20}"\n')
    assert str(on_the_hub("one")) == f"hf://a/new@{'ab' * 20}"


@pytest.mark.parametrize(("hub", "name"), HUBS)
def test_a_name_on_the_hub_leads_to_its_entry(hub: str, name: str) -> None:
    ways = (
        hub,
        hub.upper(),
        f"https://huggingface.co/{hub}",
        f"https://huggingface.co/{hub}/tree/main",
        f"hf://{hub}",
        f" {hub}/",
    )
    for one in ways:
        assert catalog.load(one).name == name
        assert [found.name for found in catalog.find(one)] == [name]


def test_other_names_are_unambiguous() -> None:
    names = [name.lower() for one in catalog.releases().values() for name in (one.name, *one.aliases, *one.hubs())]
    assert sorted(names) == sorted(set(names))
    assert catalog.load("LLaMA-33B").name == "llama-30b"
    assert catalog.load("Chinese-Alpaca-Plus-7B").name == "chinese-alpaca-plus-7b-merged"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("zhixi13b", "zhixi-13b"),
        ("vicuna_7b_v1.1", "vicuna-7b-v1.1"),
        ("tatsu-lab/alpaca-7b-wdif", "tatsu-lab/alpaca-7b-wdiff"),
        ("lmsys/vicuna-7b-delta-v1.0", "lmsys/vicuna-7b-delta-v1.1"),
        ("hfl/chinese-alpaca-lora7b", "hfl/chinese-alpaca-lora-7b"),
        ("someone/techgpt-7b", "techgpt-7b"),
        ("camelbel", "camelbell-a-lora"),
    ],
)
def test_what_was_meant_is_named(word: str, meant: str) -> None:
    with pytest.raises(PlanError, match=re.escape(meant)) as found:
        catalog.load(word)
    assert "did you mean" in str(found.value)


def test_an_argument_is_not_called_an_option(weightkit: Run) -> None:
    done = weightkit("releases", "zhixi13b")
    assert done.returncode == 1
    assert "NAME" in done.stderr
    assert "--release" not in done.stderr
    assert "did you mean zhixi-13b" in done.stderr
    answer = json.loads(weightkit("releases", "zhixi13b", "--json").stdout)
    assert answer["ok"] is False


def test_a_word_lists_those_that_have_it(weightkit: Run) -> None:
    done = weightkit("releases", "alpaca")
    assert done.returncode == 0
    for name in ("alpaca-7b", "chinese-alpaca-33b-merged", "point-alpaca-7b"):
        assert name in done.stdout
    assert "vicuna" not in done.stdout
    answer = json.loads(weightkit("releases", "Panda", "--json").stdout)
    assert answer["ok"] is True
    assert "panda-13b" in [one["name"] for one in answer["releases"]]


def commands_of(name: str) -> list[tuple[str, ...]]:
    return [command for step in way(catalog.load(name)) for command in step.commands]


@pytest.mark.parametrize("name", catalog.releases())
def test_every_command_is_one_that_the_program_takes(name: str) -> None:
    """As click parses it: no unknown option, nothing missing; and each release that it names is the one."""
    commands = commands_of(name)
    assert commands or catalog.load(name).nowhere or catalog.load(name).kind in ("raw", "tokenizer", "lora", "xor")
    for program, *words in commands:
        assert program == "weightkit"
        if words[0] == "fetch":
            assert words[2:] == ["--out", words[1]]
            assert on_the_hub(words[1]).repository in catalog.load(words[1]).hubs()
        with click.Context(main) as ctx:
            _, command, rest = main.resolve_command(ctx, list(words))
            assert isinstance(command, click.Command)
            made = command.make_context(str(words[0]), list(rest), parent=ctx)
        release = made.params.get("release")
        assert release in (None, name) or words[0] == "verify"


@pytest.mark.parametrize("name", [one.name for one in catalog.releases().values() if one.recipe])
def test_the_way_to_a_release_is_whole(name: str) -> None:
    """Every input is got before it is used, is checked where it can be, and what cannot is said."""
    release = catalog.load(name)
    steps = way(release)
    got = [step.entry for step in steps if step.what == "get"]
    (made,) = (step for step in steps if step.what == "make")
    used = [word for word in made.commands[0] if word in catalog.releases() and word != name]
    assert got == used
    checked = {command[2] for step in steps if step.what == "verify" for command in step.commands}
    for one in got:
        listed = bool(catalog.load(one).lists)
        assert (one in checked) == listed
        assert listed or any(line.startswith(f"{one}: ") for line in gaps(release))
    assert steps[-1].what == "prove"
    assert bool(steps[-1].commands) == bool(release.lists)
    assert release.recipe
    assert [word for word, before in zip(made.commands[0][1:], made.commands[0], strict=False) if before == "--lora"] == list(
        release.recipe.lora
    )


def test_shards_without_a_digest_are_named() -> None:
    assert gaps(catalog.load("vicuna-7b-v1.1"))[0] == (
        "vicuna-7b-delta-v1.1: no digest of pytorch_model-00002-of-00002.bin was found"
    )
    assert gaps(catalog.load("zhixi-13b")) == []


@pytest.mark.parametrize("columns", [60, 80])
def test_it_reads_well(columns: int) -> None:
    """No line is longer than the terminal but for one word: an address, a digest, a name."""

    def shown(*words: str) -> list[str]:
        env = {**os.environ, "COLUMNS": str(columns)}
        command = [sys.executable, "-m", "weightkit", "releases", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    assert max(map(len, shown())) <= columns
    assert max(map(len, shown("panda"))) <= columns
    for name in (
        "vicuna-7b-v1.1",
        "chinese-alpaca-plus-7b-merged",
        "pygmalion-7b",
        "camelbell-c-lora",
        "oasst-sft-7-llama-30b",
    ):
        for line in shown(name):
            assert len(line) <= columns or re.search(r"\b[0-9a-f]{32,}|https://\S{30}|says", line), line
        copied = re.sub(r" \\\n +", " ", "\n".join(shown(name)))
        for command in commands_of(name):
            assert shlex.join(command) in copied


def test_a_release_may_be_named_by_its_payload_on_the_hub() -> None:
    release, fill = filled("https://huggingface.co/tatsu-lab/alpaca-7b-wdiff", ("additive",), "recover")
    assert release.name == "alpaca-7b"
    assert fill.rules.new_rows == "mean"
    assert any("--release alpaca-7b: Stanford Alpaca-7B" in note for note in fill.notes)
    with pytest.raises(PlanError, match=r"of which chinese-alpaca-plus-7b-merged, .*; name one of them"):
        filled("hfl/chinese-llama-plus-lora-7b", ("lora",), "merge")
    assert filled("hfl/chinese-llama-lora-7b", ("lora",), "merge")[0].name == "chinese-llama-7b-merged"
    assert filled("zjunlp/zhixi-13b-lora", ("additive",), "recover")[0].name == "zhixi-13b-merged"
    with pytest.raises(PlanError, match=r"is no release to be rebuilt but additive difference.*alpaca-7b can be made"):
        filled("alpaca-7b-wdiff", ("additive",), "recover")


def test_verify_takes_the_hubs_name_for_what_was_downloaded(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "pytorch_model-00001-of-00002.bin").write_bytes(b"x")
    done = weightkit("verify", "d", "--release", "LMSYS/vicuna-7b-delta-v1.1")
    assert done.returncode == 3
    assert "FAILED   pytorch_model-00001-of-00002.bin" in done.stdout


@pytest.mark.parametrize("name", [one for one in catalog.releases() if one.endswith("-lora-zip")])
def test_an_early_archive_is_found_by_a_file_name(name: str, tmp_path: Path) -> None:
    (entry,) = catalog.load(name).entries()
    with zipfile.ZipFile(tmp_path / entry.path, "w") as file:
        file.writestr("adapter_config.json", "{}")
    assert [(one.path, one.status) for one in verify(tmp_path, releases=[name]).checked] == [(entry.path, "FAILED")]


def test_the_tensors_that_are_whole_are_filled_in() -> None:
    """Source: pandallm apply_delta.py: ``"embed_tokens" in name or "lm_head.weight" in name``."""
    rules = filled("chitanda/llama-panda-zh-7b-delta", ("additive",), "recover")[1].rules
    assert rules.whole == ("*embed_tokens*", "*lm_head.weight*")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('hubs = "a/b"', "no such word: hubs"),
        ('[[where]]\nhub = "a/b"', "source"),
        ('[[where]]\nsource = "x"', "a place is a hub or a url"),
        ('[[where]]\nsource = "x"\nhub = "a/b"\nurl = "https://a"', "a place is a hub or a url"),
        ('[[where]]\nsource = "x"\nhub = "https://huggingface.co/a/b"', "OWNER/NAME"),
        ('[[where]]\nsource = "x"\nurl = "ftp://a"', "begins with https"),
        ('[[where]]\nsource = "x"\nhub = "a/b"\nstatus = "there"', "a status is reachable, gone, unknown"),
        ('[[where]]\nsource = "x"\nhub = "a/b"\nrevision = "main"', "a revision is a commit"),
        ('[[where]]\nsource = "x"\nurl = "https://a"\nrevision = "main"', "a revision is a commit"),
        ('[recipe]\nmethod = "lora"\nloras = []', "loras"),
    ],
)
def test_a_word_that_means_nothing_is_refused(line: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "release.toml").write_text(f'title = "t"\nkind = "diff"\n{line}\n')
    with pytest.raises(FormatError, match=complaint) as found:
        catalog.read(tmp_path / "release.toml")
    assert str(found.value).startswith(str(tmp_path / "release.toml"))


def test_the_number_of_entries_is_the_one_that_is_told() -> None:
    english = r"(\d+) entries"
    for file, said in (("README.md", english), ("docs/releases.md", english), ("README_zh.md", r"(\d+) 个条目")):
        for number in re.findall(said, (ROOT / file).read_text()):
            assert int(number) == len(catalog.releases()), file
