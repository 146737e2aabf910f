"""Releases that are not in the catalog: what is followed, and what is refused, with its reason and in bounded time."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PEER, Run, flip_bit
from weightkit import recover
from weightkit.catalog.outside import read_outside
from weightkit.core.errors import FormatError, Incomplete, PlanError, WeightkitError
from weightkit.publish import publish_release

pytest.importorskip("zstandard")
BASE, TUNED, OTHER, LORA = PEER / "hf-bin", PEER / "tuned-fp16-bin", PEER / "tuned1-fp16-bin", PEER / "lora-alpaca-bin"
METHODS = {"exact": TUNED, "additive": TUNED, "enc": TUNED, "lora": LORA}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A release by each method."""
    root = tmp_path_factory.mktemp("made")
    for method, tuned in METHODS.items():
        publish_release(BASE, tuned, root / method, method=method)
    return {method: root / method for method in METHODS}


@pytest.fixture
def mine(made: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a release, to be spoilt."""

    def copy(method: str = "exact") -> Path:
        return Path(shutil.copytree(made[method], tmp_path / f"of-{method}"))

    return copy


def relist(folder: Path) -> None:
    """Make SHA256SUMS anew, as somebody would who means harm."""
    names = [one for one in sorted(folder.iterdir()) if one.name != "SHA256SUMS"]
    lines = [f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}\n" for one in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def refused(folder: Path, out: Path, base: Path = BASE) -> str:
    """What is said of a release, in one line; nothing is written, in bounded time and memory."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(WeightkitError) as told:
            recover.prepare(base, None, out, release=f"{folder}/")
        assert time.monotonic() - began < 10
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert not out.exists()
    text = str(told.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 1000
    return text


RECIPES = {
    "[recipe]\nmethod = 'none'": "'none'",
    "[recipe]\nmethod = ['exact']": "method is",
    "[recipe]\nmethod = 3": "method is",
    "[recipe]\nmethod = {a = 1}": "method is",
    "[recipe]\nmethod = true": "method is",
    "[recipe]\n": "names no method",
    "recipe = 3": "has no [recipe]",
    "title = 'x'": "has no [recipe]",
    "[recipe]\nmethod = 'exact'\nrun = 'rm -rf /'": "'run' is no word",
    "hook = 'x'\n[recipe]\nmethod = 'exact'": "'hook' is no word",
    "title = 3\n[recipe]\nmethod = 'exact'": "title is no plain text",
    "title = ''' a\n b'''\n[recipe]\nmethod = 'exact'": "title is no plain text",
    "title = \"\\u001b[2J\"\n[recipe]\nmethod = 'exact'": "title is no plain text",
    f"title = '{'x' * 401}'\n[recipe]\nmethod = 'exact'": "title is no plain text",
    "\"a\\u001b\" = 1\n[recipe]\nmethod = 'exact'": "is no word",
    "[recipe]\nmethod = 'exact'\ndtype = 'int4'": "dtype is 'int4'",
    "[recipe]\nmethod = 'exact'\nnew_rows = 1": "new_rows is",
    "[recipe]\nmethod = 'additive'\nwhole = 'lm_head'": "whole is",
    "[recipe]\nmethod = 'additive'\nwhole = ['a', 1]": "whole is",
    "[recipe]\nmethod = 'additive'\nwhole = ['a\u0007b']": "is no TOML",
    "[recipe]\nmethod = 'additive'\nwhole = [" + "'a'," * 65 + "]": "whole is",
    "[recipe]\nmethod = 'exact'\nrounding = 'once'": "rounding means nothing",
    "[recipe]\nmethod = 'lora'\nrounding = 'mine'": "no rounding that is known",
    "[recipe]\nmethod = 'lora'\nrounding = ['once']": "rounding is",
    "[recipe]\nmethod = 'lora'\nrounding = 'once'\nsums = 'blas'": "sums is 'blas'",
    "[recipe]\nmethod = 'additive'": "",
    "[recipe]\nmethod = 'xor-enc'": "says xor-enc",
    "[recipe]\nmethod = 'lora'": "",
    "[recipe\n": "is no TOML",
    "x = " + "[" * 20000: "is no TOML",
    "x = " + "[" * 300 + "]" * 300 + "\n[recipe]\nmethod = 'exact'": "",
    "[recipe]\nmethod = " + "[" * 150 + "]" * 150: "method is",
    "a" + ".a" * 20000 + " = 1": "nests deeper",
    "[" + "a." * 10000 + "a]\n": "nests deeper",
    ("[" + "a." * 900 + "a]\n") * 30: "is no TOML",
    "x = " + "9" * 60000: "is no TOML",
    "x = 'a'\nx = 'b'": "is no TOML",
    "\ud800": "is no TOML",
}


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_that_is_not_followed(text: str, mine: Callable[[str], Path], tmp_path: Path) -> None:
    """Whoever made it made its lists, too."""
    folder = mine("additive" if "whole" in text else "exact")
    (folder / "release.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    relist(folder)
    said = refused(folder, tmp_path / "out")
    assert RECIPES[text] in said, said
    assert "of-" in said, "it says which release"


def test_a_huge_recipe_and_huge_lists(mine: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("release.toml", "RELEASE.sha256", "BASE.TENSORS", "SHA256SUMS"):
        folder = mine("exact")
        with (folder / name).open("ab") as file:
            file.truncate(10 << 30)
        said = refused(folder, tmp_path / "out")
        assert name in said
        assert "at most" in said
        shutil.rmtree(folder)


def test_lists_as_large_as_they_may_be(mine: Callable[[str], Path], tmp_path: Path) -> None:
    folder = mine("exact")
    with (folder / "RELEASE.sha256").open("a") as file:
        for number in range(50_000):
            file.write(f"{hashlib.sha256(str(number).encode()).hexdigest()}  {number}.bin\n")
    relist(folder)
    assert "is not complete: 0.bin" in refused(folder, tmp_path / "out")


NAMES = ["../../etc/passwd", "/etc/passwd", "a/../../b", "C:x", "..\\x", "a\x1b[2Jb", ".hidden", "a/.git/config"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["RELEASE.sha256", "SHA256SUMS"])
def test_names_that_no_release_has(name: str, which: str, mine: Callable[[str], Path], tmp_path: Path) -> None:
    folder = mine("exact")
    with (folder / which).open("a") as file:
        file.write(f"{'ab' * 32}  {name}\n")
    if which != "SHA256SUMS":
        relist(folder)
    assert which in refused(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["a\x1b[2J", "x" * 300, "\u202eb"])
def test_names_that_no_tensor_has(name: str, mine: Callable[[str], Path], tmp_path: Path) -> None:
    from weightkit.manifests import tensors

    folder = mine("exact")
    known = tensors.parse(folder / "BASE.TENSORS")
    (folder / "BASE.TENSORS").write_bytes(tensors.encode({**known, name: known["lm_head.weight"]}))
    relist(folder)
    assert "names a tensor that no model has" in refused(folder, tmp_path / "out")


def test_a_folder_that_is_none_is_not_looked_through(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"holds no release\.toml"):
        read_outside("/")


@pytest.mark.parametrize("method", METHODS)
def test_every_file_must_be_there(method: str, made: dict[str, Path], mine: Callable[[str], Path], tmp_path: Path) -> None:
    for name in sorted(one.name for one in made[method].iterdir()):
        if name == "TENSORS" and method == "additive":
            continue  # made beside SHA256SUMS, and not asked for
        folder = mine(method)
        (folder / name).unlink()
        said = refused(folder, tmp_path / "out")
        assert name in said, said
        shutil.rmtree(folder)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_cut_off_or_edited_gives_nothing(
    method: str, made: dict[str, Path], mine: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in sorted(one.name for one in made[method].iterdir()):
        for way in ("cut", "bit"):
            if name == "TENSORS" and method == "additive":
                continue  # made beside SHA256SUMS, and not asked for
            folder = mine(method)
            size = (folder / name).stat().st_size
            if way == "cut":
                os.truncate(folder / name, size // 2)
            else:
                flip_bit(folder / name, size // 2)
            out = tmp_path / "out"
            try:
                done = recover.recover(BASE, None, out, release=f"{folder}/")
                assert done.report.mismatches, (name, way)
            except WeightkitError as error:
                assert "\n" not in str(error) or "do not fit" in str(error), name
            weights = [one for one in out.rglob("*") if one.suffix == ".bin"] if out.exists() else []
            assert not (out / "SHA256SUMS").exists(), (name, way)
            assert len(weights) < 4, (name, way)
            shutil.rmtree(folder)
            shutil.rmtree(out, ignore_errors=True)


def test_a_list_that_proves_too_little(mine: Callable[[str], Path], tmp_path: Path) -> None:
    for method in ("exact", "additive", "lora"):
        folder = mine(method)
        lines = (folder / "RELEASE.sha256").read_text().splitlines(keepends=True)
        for left_out in (lines[0], lines[3]):
            (folder / "RELEASE.sha256").write_text("".join(one for one in lines if one != left_out))
            relist(folder)
            assert "has no digest of" in refused(folder, tmp_path / "out")


@pytest.mark.parametrize("method", METHODS)
def test_another_base_is_refused_before_any_work(method: str, mine: Callable[[str], Path], tmp_path: Path) -> None:
    for base in (OTHER, PEER / "tuned-fp32-bin", TUNED):
        said = refused(mine(method), tmp_path / "out", base)
        assert "is not the base of" in said
        shutil.rmtree(tmp_path / f"of-{method}")


def test_a_base_with_an_adapter_merged_is_another(mine: Callable[[str], Path], tmp_path: Path) -> None:
    """Its norms are the base's; what an adapter changes is looked at, too."""
    from weightkit.merge import merge_lora

    assert merge_lora(BASE, LORA, tmp_path / "merged").ok
    assert "is not the base of" in refused(mine("additive"), tmp_path / "out", tmp_path / "merged")


def test_the_base_in_metas_layout_is_the_same_base(made: dict[str, Path], tmp_path: Path) -> None:
    """Where what comes out does not follow its files."""
    for method in ("exact", "additive", "enc"):
        if (PEER / "meta" / "7B").is_dir():
            assert recover.recover(PEER / "meta" / "7B", None, tmp_path / method, release=str(made[method])).ok


def test_the_payload_of_another_method(made: dict[str, Path], mine: Callable[[str], Path], tmp_path: Path) -> None:
    folder = mine("exact")
    for one in folder.glob("*.wkx"):
        one.unlink()
    for one in made["additive"].glob("pytorch_model*"):
        shutil.copy(one, folder)
    relist(folder)
    said = refused(folder, tmp_path / "out")
    assert "says exact" in said
    assert "additive" in said


def test_links_that_lead_out(mine: Callable[[str], Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of mine\n")
    for name in ("config.json", "release.toml", "RELEASE.sha256", "pytorch_model-00001-of-00004.bin.wkx", "more.json"):
        folder = mine("exact")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)
        said = refused(folder, tmp_path / "out")
        assert f"{name} is a link that leads out of it" in said
        assert "of mine" not in said
        shutil.rmtree(folder)


def test_links_inside_and_of_the_hubs_cache(mine: Callable[[str], Path], tmp_path: Path) -> None:
    folder = mine("exact")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert read_outside(str(linked)).results
    snapshot, blobs = tmp_path / "models--me--mine" / "snapshots" / ("a" * 40), tmp_path / "models--me--mine" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for one in folder.iterdir():
        digest = hashlib.sha256(one.read_bytes()).hexdigest()
        shutil.copy(one, blobs / digest)
        (snapshot / one.name).symlink_to(Path("../../blobs") / digest)
    assert recover.recover(BASE, None, tmp_path / "out", release=str(snapshot)).ok


def test_a_file_at_an_https_address_is_answered_with_what_to_say(weightkit: Run) -> None:
    done = weightkit("recover", "--release", "https://example.org/x/release.toml", "--raw", BASE, "-o", "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "hf://OWNER/NAME" in done.stderr


def test_more_files_than_are_listed_do_no_harm(mine: Callable[[str], Path], tmp_path: Path) -> None:
    """Nor are they part of what comes out."""
    folder = mine("enc")
    (folder / "notes.md").write_text("notes")
    (folder / ".gitattributes").write_text("x")
    done = recover.recover(BASE, None, tmp_path / "out", release=f"{folder}/")
    assert done.ok
    assert "notes.md" not in {one.path for one in done.report.receipts}


def test_a_published_folder_named_as_a_diff(made: dict[str, Path], tmp_path: Path) -> None:
    """What tells of a release does not come out with the model."""
    for method in ("exact", "enc", "additive"):
        done = recover.recover(BASE, made[method], tmp_path / method)
        assert done.ok
        names = {one.path for one in done.report.receipts}
        assert not names & {"release.toml", "BASE.TENSORS", "README.md", "RELEASE.sha256"}


def test_errors_are_of_the_kinds_that_doors_raise(mine: Callable[[str], Path], tmp_path: Path) -> None:
    folder = mine("exact")
    (folder / "config.json").unlink()
    with pytest.raises(Incomplete):
        read_outside(str(folder))
    flip_bit(mine("additive") / "BASE.TENSORS", 400)
    with pytest.raises(FormatError):
        read_outside(str(tmp_path / "of-additive"))
    with pytest.raises(PlanError, match=r"holds no release\.toml"):
        read_outside(str(TUNED))
