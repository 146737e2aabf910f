"""A release by its name alone: the diff and the adapters come from the Hub, and the bytes are those of a local run.

The catalog is the test's own, read in a child process, since the Hub's client reads its settings when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PEER, flip_bit, sha256
from tests.hub import Hub
from tests.test_docs import keys_on_the_page
from tests.test_recover import KNOWLM
from tests.warm import Warm

RAW, HF = PEER / "meta" / "7B", PEER / "hf-bin"
FIRST, SECOND = PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"
DIFF, SHARDED = PEER / "diffs" / "knowlm", PEER / "diffs" / "fastchat-sharded"

CHILD = """
import os, sys
from pathlib import Path
from weightkit import catalog
from weightkit.families import llama
catalog.folder = lambda: Path(os.environ["CATALOG"])
llama.SIZES = {64: "LLaMA-7B"}
"""
MAIN = f"{CHILD}\nfrom weightkit.cli import main\nmain()"

Child = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Miniatures of what the catalog names, as repositories."""
    repositories = {
        "someone/diff": DIFF,
        "someone/sharded": SHARDED,
        "someone/one": FIRST,
        "someone/two": SECOND,
    }
    for name, folder in repositories.items():
        shutil.copytree(folder, tmp_path / "hub" / name)
    (tmp_path / "hub" / "someone" / "diff" / "README.md").write_text("---\nlicense: gpl-3.0\n---\n# A diff\n")
    found = Hub(tmp_path / "hub").start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., None]:
    """Puts an entry into the catalog: its name, its release.toml, files whose digests are published."""

    def entry(name: str, text: str, *files: Path) -> None:
        folder = tmp_path / "catalog" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "release.toml").write_text(f'title = "{name}"\n{text}')
        (folder / "SHA256SUMS").unlink(missing_ok=True)
        if files:
            (folder / "SHA256SUMS").write_text("".join(f"{sha256(one)}  {one.name}\n" for one in files))

    entry("llama-7b", 'kind = "raw"\nvocabulary = 320\n[[where]]\nurl = "https://example.org/form"\nsource = "Meta"\n')
    entry("the-diff", at("someone/diff", "diff"), DIFF / "pytorch_model.bin")
    entry("one", at("someone/one", "lora"), FIRST / "adapter_model.bin")
    entry("two", at("someone/two", "lora"), SECOND / "adapter_model.bin")
    entry("tuned", made("additive", 'diff = "the-diff"'))
    entry("both", made("lora", 'lora = ["one", "two"]', 'to = "meta"'))
    entry("sharded-diff", at("someone/sharded", "diff"))
    entry("sharded", made("additive", 'diff = "sharded-diff"'))
    return entry


def at(hub: str, kind: str, more: str = "") -> str:
    """An entry that lies on the Hub."""
    return f'kind = "{kind}"\nbase = "llama-7b"\n[[where]]\nhub = "{hub}"\nsource = "its README"\n{more}'


def made(method: str, *words: str) -> str:
    """An entry that is rebuilt."""
    return "\n".join(['kind = "result"\nbase = "llama-7b"\n[recipe]', f'method = "{method}"', *words, ""])


@pytest.fixture
def child(hub: Hub, put: Callable[..., None], tmp_path: Path, warm: Warm) -> Child:
    """The command line, or other code, with that catalog and that Hub."""

    def run(*words: object, code: str = MAIN, **env: str) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "CATALOG": str(tmp_path / "catalog")}
        environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **env}
        done = warm.run(*words, env=environment, cwd=tmp_path, code=code)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def contents(folder: Path) -> dict[str, str]:
    """Every file's digest."""
    return {one.relative_to(folder).as_posix(): sha256(one) for one in sorted(folder.rglob("*")) if one.is_file()}


def cached(home: Path) -> list[str]:
    """Names of what the client's cache holds of weights."""
    links = (one for one in home.rglob("snapshots/*/*") if one.suffix in (".bin", ".safetensors"))
    return sorted(one.name for one in links if one.exists())


@pytest.mark.parametrize("how", [(), ("--stream",), ("--reclaim-downloads",), ("--jobs", "2", "--stream")])
def test_a_release_and_a_base_are_enough(child: Child, tmp_path: Path, how: tuple[str, ...]) -> None:
    local = child("recover", "--raw", RAW, "--diff", DIFF, "--release", "tuned", "--out", "local")
    assert local.returncode == 0, local.stderr
    named = child("recover", "--raw", RAW, "--release", "tuned", "--out", "named", *how)
    assert named.returncode == 0, named.stderr
    assert contents(tmp_path / "named") == contents(tmp_path / "local")
    assert sha256(tmp_path / "named" / "pytorch_model.bin") == KNOWLM
    assert cached(tmp_path / "home") == ([] if how else ["pytorch_model.bin"])


def test_the_licence_is_said_before_weights_are_fetched(child: Child, tmp_path: Path) -> None:
    plan = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    first = plan.stderr.splitlines()[0]
    assert first.startswith("note: hf://someone/diff at commit ")
    assert first.endswith("licence: gpl-3.0, as the repository says")
    assert cached(tmp_path / "home") == []
    facts = json.loads(child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", "--json").stdout)
    assert any("licence: gpl-3.0" in note for note in facts["notes"])
    bare = child("merge", "--base", RAW, "--release", "both", "--out", "m", "--dry-run")
    assert bare.stderr.count("the repository names no licence") == 2


def test_a_release_is_named_by_the_name_of_its_diff(child: Child, tmp_path: Path) -> None:
    for number, name in enumerate(("someone/diff", "hf://someone/diff", "https://huggingface.co/someone/diff")):
        done = child("recover", "--raw", RAW, "--release", name, "--out", f"o{number}")
        assert done.returncode == 0, done.stderr
        assert sha256(tmp_path / f"o{number}" / "pytorch_model.bin") == KNOWLM


@pytest.mark.parametrize("how", [(), ("--reclaim-downloads",)])
def test_adapters_come_in_their_order(child: Child, put: Callable[..., None], tmp_path: Path, how: tuple[str, ...]) -> None:
    local = child("merge", "--base", RAW, "--lora", FIRST, "--lora", SECOND, "--release", "both", "--out", "local")
    assert local.returncode == 0, local.stderr
    named = child("merge", "--base", RAW, "--release", "both", "--out", "named", *how)
    assert named.returncode == 0, named.stderr
    assert contents(tmp_path / "named") == contents(tmp_path / "local")
    assert cached(tmp_path / "home") == ([] if how else ["adapter_model.bin"] * 2)
    put("other-order", made("lora", 'lora = ["two", "one"]', 'to = "meta"'))
    other = child("merge", "--base", RAW, "--release", "other-order", "--out", "other")
    assert [line.split()[1] for line in other.stderr.splitlines()[:2]] == ["hf://someone/two", "hf://someone/one"]
    assert "the order is another" in other.stderr


def test_a_diff_and_adapters_together(child: Child, put: Callable[..., None], tmp_path: Path) -> None:
    put("tuned-more", made("additive", 'diff = "the-diff"', 'lora = ["one", "two"]'))
    words = ("--diff", DIFF, "--lora", FIRST, "--lora", SECOND)
    local = child("recover", "--raw", RAW, *words, "--release", "tuned-more", "--out", "local")
    assert local.returncode == 0, local.stderr
    for number, more in enumerate(((), ("--stream",), ("--lora", FIRST, "--lora", SECOND))):
        named = child("recover", "--raw", RAW, "--release", "tuned-more", "--out", f"named{number}", *more)
        assert named.returncode == 0, named.stderr
        assert contents(tmp_path / f"named{number}") == contents(tmp_path / "local")


@pytest.mark.parametrize("how", [(), ("--stream",)])
def test_another_diff_than_was_published_is_refused(child: Child, hub: Hub, tmp_path: Path, how: tuple[str, ...]) -> None:
    """The Hub states its digest truly; it is not the one that was published."""
    flip_bit(tmp_path / "hub" / "someone" / "diff" / "pytorch_model.bin", 300_000)
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", *how)
    assert done.returncode == 3, done.stderr
    assert "hf://someone/diff/pytorch_model.bin" in done.stderr
    assert sha256(DIFF / "pytorch_model.bin") in done.stderr
    assert not (tmp_path / "o" / "pytorch_model.bin").exists()


@pytest.mark.parametrize("how", [(), ("--stream",)])
def test_wrong_bytes_of_a_diff_are_refused(child: Child, hub: Hub, tmp_path: Path, how: tuple[str, ...]) -> None:
    hub.corrupt["someone/diff/pytorch_model.bin"] = 1000
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", *how)
    assert done.returncode in (1, 3), done.stderr
    assert "hf://someone/diff/pytorch_model.bin" in done.stderr
    assert not (tmp_path / "o" / "pytorch_model.bin").exists()


def test_where_no_place_is_known_it_says_where_to_ask(child: Child, hub: Hub, put: Callable[..., None]) -> None:
    put("the-diff", 'kind = "diff"\nbase = "llama-7b"\n[[where]]\nurl = "https://example.org/diff"\nsource = "its README"\n')
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o")
    assert done.returncode == 1
    assert "the-diff: ask for it at https://example.org/diff; weightkit releases the-diff" in done.stderr
    put("the-diff", at("someone/diff", "diff", 'status = "gone"\n'))
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o")
    assert "it was at someone/diff, and is gone (its README)" in done.stderr
    done = child("recover", "--release", "tuned", "--out", "o")
    assert done.returncode == 2
    assert "tuned is made of llama-7b, which is asked for at https://example.org/form: weightkit releases tuned" in done.stderr
    done = child("recover", "--raw", "nowhere", "--release", "sharded", "--out", "o")
    assert done.returncode == 1
    assert "--raw: nowhere" in done.stderr
    assert not hub.asked


def test_a_revision_is_kept_to(child: Child, hub: Hub, put: Callable[..., None]) -> None:
    revision = hub.commit_of("someone/diff")
    put("the-diff", at("someone/diff", "diff", f'revision = "{revision}"\n'), DIFF / "pytorch_model.bin")
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o")
    assert done.returncode == 0, done.stderr
    assert f"hf://someone/diff@{revision}" in done.stderr
    assert not any("main" in one for one in hub.asked)


def test_offline_it_comes_from_the_cache_or_is_said_to_be_missing(child: Child, tmp_path: Path) -> None:
    missing = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", HF_HUB_OFFLINE="1")
    assert missing.returncode == 1
    assert "hf://someone/diff: is not in the cache" in missing.stderr
    fetched = child("fetch", "tuned")
    assert fetched.returncode == 0, fetched.stderr
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == KNOWLM


def test_a_release_is_fetched(child: Child, hub: Hub, put: Callable[..., None], tmp_path: Path) -> None:
    put("tuned-more", made("additive", 'diff = "the-diff"', 'lora = ["one", "two"]'))
    done = child("fetch", "tuned-more", "--out", "f")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].endswith("licence: gpl-3.0, as the repository says")
    for name, folder in (("the-diff", DIFF), ("one", FIRST), ("two", SECOND)):
        there = contents(tmp_path / "f" / name)
        assert contents(folder).items() <= there.items()
    done = child(
        "recover",
        "--raw",
        RAW,
        "--diff",
        "f/the-diff",
        "--lora",
        "f/one",
        "--lora",
        "f/two",
        "--release",
        "tuned-more",
        "--out",
        "o",
    )
    assert done.returncode == 0, done.stderr
    only = child("fetch", "tuned-more", "--only", "diff", "--out", "d")
    assert only.returncode == 0, only.stderr
    assert contents(DIFF).items() <= contents(tmp_path / "d").items()
    flip_bit(tmp_path / "hub" / "someone" / "two" / "adapter_model.bin", 2000)
    wrong = child("fetch", "tuned-more", "--only", "lora", "--out", "w")
    assert wrong.returncode == 3
    assert "hf://someone/two/adapter_model.bin" in wrong.stderr
    assert not (tmp_path / "w" / "two" / "adapter_model.bin").exists()
    told = json.loads(child("fetch", "tuned", "--out", "t", "--json").stdout)
    page = keys_on_the_page()
    assert set(told) - {"schema", "ok"} == page["fetch"]
    for one in told["files"]:
        assert {"sha256" if key == "gitsha1" else key for key in one} == page["fetch files"]
    base = child("fetch", "tuned", "--only", "base")
    assert base.returncode == 1
    assert "ask for it at https://example.org/form" in base.stderr


LARGE = f"""{CHILD}
from weightkit.proof import own_lists
from weightkit.run import gates
gates.SMALL_NBYTES = own_lists.SMALL_NBYTES = 1000
from weightkit.cli import main
main()
"""
"""The miniatures are taken for large files."""


@pytest.mark.parametrize("how", [(), ("--stream",)])
def test_a_published_digest_that_the_hub_states_costs_no_second_reading(child: Child, hub: Hub, how: tuple[str, ...]) -> None:
    size = (DIFF / "pytorch_model.bin").stat().st_size
    planned = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", "--dry-run", *how, code=LARGE)
    assert planned.returncode == 0, planned.stderr
    looked = hub.sent["someone/diff/pytorch_model.bin"]
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", *how, code=LARGE)
    assert done.returncode == 0, done.stderr
    assert hub.sent["someone/diff/pytorch_model.bin"] <= 2 * looked + size


def test_a_digest_of_another_kind_is_taken_of_the_one_download(child: Child, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "catalog" / "the-diff" / "SHA256SUMS").unlink()
    md5 = hashlib.md5((DIFF / "pytorch_model.bin").read_bytes()).hexdigest()
    (tmp_path / "catalog" / "the-diff" / "MD5SUMS").write_text(f"{md5}  pytorch_model.bin\n")
    assert child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", "--dry-run", code=LARGE).returncode == 0
    looked = hub.sent["someone/diff/pytorch_model.bin"]
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", code=LARGE)
    assert done.returncode == 0, done.stderr
    assert hub.sent["someone/diff/pytorch_model.bin"] <= 2 * looked + (DIFF / "pytorch_model.bin").stat().st_size
    (tmp_path / "catalog" / "the-diff" / "MD5SUMS").write_text(f"{md5[::-1]}  pytorch_model.bin\n")
    for number, how in enumerate(((), ("--stream",))):
        wrong = child("recover", "--raw", RAW, "--release", "tuned", "--out", f"w{number}", *how, code=LARGE)
        assert wrong.returncode == 3, wrong.stderr
        assert not (tmp_path / f"w{number}" / "pytorch_model.bin").exists()


def test_another_diff_than_was_published_is_refused_before_it_is_fetched(child: Child, tmp_path: Path) -> None:
    flip_bit(tmp_path / "hub" / "someone" / "diff" / "pytorch_model.bin", 300_000)
    done = child("recover", "--raw", RAW, "--release", "tuned", "--out", "o", code=LARGE)
    assert done.returncode == 3, done.stderr
    assert sha256(DIFF / "pytorch_model.bin") in done.stderr
    assert cached(tmp_path / "home") == []


LOOK = f"""{CHILD}
import json
from weightkit import recover_release
from weightkit.core.events import FileFinished
seen = []
def weights():
    links = (one for one in Path(os.environ["HF_HOME"]).rglob("snapshots/*/*.bin") if one.exists())
    return sorted(one.name for one in links)
def look(event):
    if isinstance(event, FileFinished):
        seen.append([event.path, weights()])
recover_release(sys.argv[1], None, "o", release="sharded", reclaim_downloads=True, notify=look)
print(json.dumps([*seen, ["end", weights()]]))
"""


def test_each_download_goes_once_all_that_is_made_of_it_stands(child: Child, tmp_path: Path) -> None:
    one, two = sorted(path.name for path in SHARDED.glob("*.bin"))
    done = child(HF, code=LOOK)
    assert done.returncode == 0, done.stderr
    seen = dict(json.loads(done.stdout.splitlines()[-1]))
    assert one in seen[one]
    assert one not in seen[two]
    assert seen["end"] == []
    assert not [blob for blob in (tmp_path / "home").rglob("blobs/*") if blob.stat().st_size > 100_000]


def test_what_the_cache_held_before_is_kept(child: Child, tmp_path: Path) -> None:
    one, two = sorted(path.name for path in SHARDED.glob("*.bin"))
    assert child("fetch", "sharded").returncode == 0
    gone = next((tmp_path / "home").rglob(f"snapshots/*/{two}"))
    gone.resolve().unlink()
    gone.unlink()
    done = child("recover", "--raw", HF, "--release", "sharded", "--out", "o", "--reclaim-downloads")
    assert done.returncode == 0, done.stderr
    assert cached(tmp_path / "home") == [one]


def test_files_of_this_machine_are_never_dropped(child: Child, tmp_path: Path) -> None:
    shutil.copytree(SHARDED, tmp_path / "d")
    before = contents(tmp_path / "d")
    done = child("recover", "--raw", HF, "--diff", "d", "--out", "o", "--reclaim-downloads")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "d") == before
