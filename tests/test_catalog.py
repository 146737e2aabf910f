"""The catalog: every published row is in it, nothing contradicts itself, every recipe is one that is accepted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from blake3 import blake3

from tests.conftest import DATA, PEER, Run, sha256
from weightkit import catalog
from weightkit.catalog import METHODS, UNKNOWN
from weightkit.core.digest import ALGORITHMS, Digest, Hasher
from weightkit.core.errors import PlanError
from weightkit.families.converters import converter_named
from weightkit.merge import prepare as prepare_merge
from weightkit.methods.recipes import filled
from weightkit.recover import prepare

ROOT = Path(__file__).resolve().parents[1]


def rows() -> list[dict[str, str]]:
    with (DATA / "published-checksums.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_published_row_has_landed_with_its_source() -> None:
    known = catalog.releases()
    by_publication = {release.published_as or release.name: release for release in known.values()}
    assert len(rows()) == 446
    texts = {name: "".join(path.read_text() for path in release.lists) for name, release in known.items()}
    for row in rows():
        release = by_publication[row["release"]]
        entries = {(entry.path, entry.digest.algorithm): entry.digest.hex for entry in release.entries()}
        assert entries[row["file"], row["algorithm"]] == row["digest"], row
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
    assert (release.base is None) == (release.kind in ("raw", "tokenizer") or outside)
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


def test_a_release_fills_in_what_is_not_said(tmp_path: Path) -> None:
    """The small model stands in for the real one: its digests differ, so they are found wanting, but all else is filled in."""
    with pytest.raises(PlanError, match="lists none of the files that will be written"):
        prepare(PEER / "hf-bin", PEER / "diffs" / "knowlm", tmp_path / "o", release="zhixi-13b")
    plan = prepare(PEER / "hf-bin", PEER / "diffs" / "stanford", tmp_path / "o", release="alpaca-7b", trust_inputs=True)
    assert any("mean of the base's rows" in note for note in plan.notes)
    assert any("no digests were found of it" in note for note in plan.notes)
    lora = [PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"]
    plan = prepare_merge(PEER / "hf-bin", lora, tmp_path / "o", release="chinese-alpaca-plus-7b-merged")
    assert [file.path for file in plan.files] == ["consolidated.00.pth"]
    assert plan.files[0].expect == (Digest("sha256", catalog.load("chinese-alpaca-plus-7b-merged").entries()[0].digest.hex),)
    assert "rounding per-adapter, sums fma" in plan.steps


def test_a_mismatch_with_a_release_is_exit_3(weightkit: Run, tmp_path: Path) -> None:
    words = ["merge", "--base", PEER / "hf-bin", "--lora", PEER / "lora-zh1-bin", "--lora", PEER / "lora-zh2-bin", "--out", "o"]
    words.append("--trust-inputs")
    done = weightkit(*words, "--release", "chinese-alpaca-plus-7b-merged")
    assert done.returncode == 3
    assert not (tmp_path / "o" / "consolidated.00.pth").exists()
    done = weightkit(*words, "--release", "chinese-alpaca-plus-7b-merged", "--seek")
    assert done.returncode == 3
    assert "--seek: none of the" in done.stdout


def test_the_command_shows_it(weightkit: Run) -> None:
    listed = weightkit("releases")
    assert listed.returncode == 0
    for name in catalog.releases():
        assert name in listed.stdout
    one = weightkit("releases", "zhixi-13b")
    assert "b19e56ec888b44bfe5c1db49eb4a3195" in one.stdout
    assert "weightkit recover --raw llama-13b --diff zhixi-13b-diff --release zhixi-13b --out OUT" in one.stdout
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
