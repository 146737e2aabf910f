"""Releases of one's own: what is in the folder, what somebody else rebuilds of it, and that it appears on the Hub whole."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PEER, Run, sha256
from tests.hub import Hub
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.form import Form
from weightkit.convert import convert_checkpoint
from weightkit.manifests.tensors import parse
from weightkit.merge import merge_lora
from weightkit.proof.contents import tensor_digests
from weightkit.publish import Rules, prepare, publish_release
from weightkit.recover import recover_release

pytest.importorskip("zstandard")
pytest.importorskip("huggingface_hub")
BASE, TUNED, LORA = PEER / "hf-bin", PEER / "tuned-fp16-bin", PEER / "lora-alpaca-bin"
METHODS = {"exact": TUNED, "additive": TUNED, "enc": TUNED, "lora": LORA}
TOKEN = "hf_averysecretword"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of a folder's files, by name; hidden ones left out."""
    return {one.name: sha256(one) for one in sorted(folder.iterdir()) if one.is_file() and not one.name.startswith(".")}


def listed(path: Path) -> dict[str, str]:
    """A list as sha256sum writes it."""
    return {line[66:]: line[:64] for line in path.read_text().splitlines()}


def without_lists(found: dict[str, str]) -> dict[str, str]:
    return {name: one for name, one in found.items() if name not in ("SHA256SUMS", "TENSORS")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A release by each method."""
    root = tmp_path_factory.mktemp("made")
    for method, tuned in METHODS.items():
        done = publish_release(BASE, tuned, root / method, method=method, licence="apache-2.0", base_model="org/base")
        assert done.ok
        assert done.commit is None
    return {method: root / method for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_what_a_release_holds(made: dict[str, Path], method: str) -> None:
    folder = made[method]
    found = digests(folder)
    own = {"BASE.TENSORS", "README.md", "RELEASE.sha256", "SHA256SUMS", "TENSORS", "release.toml"}
    assert own < found.keys()
    sums = listed(folder / "SHA256SUMS")
    assert {name: found[name] for name in sums} == sums
    assert found.keys() - sums.keys() == {"SHA256SUMS"}
    assert parse(folder / "BASE.TENSORS") == tensor_digests(open_checkpoint(BASE, "--base").tensors)
    told = tomllib.loads((folder / "release.toml").read_text())
    assert (told["base"], told["license"], told["title"]) == ("org/base", "apache-2.0", method)


@pytest.mark.parametrize("method", METHODS)
def test_the_lists_are_of_what_comes_out(made: dict[str, Path], method: str, tmp_path: Path, weightkit: Run) -> None:
    """From a folder with nothing in it but the base and the release, by the words of the card."""
    shutil.copytree(BASE, tmp_path / "BASE")
    shutil.copytree(made[method], tmp_path / method)
    blocks = re.findall(r"^```sh\n(.*?)^```$", (made[method] / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2, "in English and in Chinese"
    for block in blocks:
        for line in block.splitlines():
            words = shlex.split(line)
            assert words.pop(0) == "weightkit"
            done = weightkit(*words)
            assert done.returncode == 0, done.stdout + done.stderr
        came = digests(tmp_path / "OUT")
        assert without_lists(came) == listed(made[method] / "RELEASE.sha256")
        tensors = tensor_digests(open_checkpoint(tmp_path / "OUT", "PATH").tensors)
        assert parse(made[method] / "TENSORS") == tensors
        shutil.rmtree(tmp_path / "OUT")
    for lists in ("RELEASE.sha256", "TENSORS"):
        weightkit("recover", "--release", method, "--raw", "BASE", "-o", "again")
        assert weightkit("verify", "again", "--checksums", made[method] / lists).returncode == 0


def test_what_comes_out_is_the_tuned_model_or_the_merge(made: dict[str, Path], tmp_path: Path) -> None:
    for method in ("exact", "enc"):
        assert listed(made[method] / "RELEASE.sha256") == digests(TUNED)
    assert merge_lora(BASE, LORA, tmp_path / "merged").ok
    assert listed(made["lora"] / "RELEASE.sha256") == without_lists(digests(tmp_path / "merged"))
    assert listed(made["additive"] / "RELEASE.sha256") != digests(TUNED), "724 elements of it are rounded"


@pytest.mark.parametrize("method", METHODS)
def test_a_release_is_whole_to_verify(made: dict[str, Path], method: str, weightkit: Run) -> None:
    done = weightkit("verify", made[method])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("method", METHODS)
def test_the_card_is_one_of_the_hub(made: dict[str, Path], method: str) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(made[method] / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "org/base"
    assert "weightkit" in card.data.tags


@pytest.mark.parametrize("text", ['quo"ted', "back\\slash: [x]", "# 汉字 {0}", "it's 'so'"])
def test_any_title_stands_in_card_and_recipe(text: str, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    planned = prepare(BASE, TUNED, tmp_path / "out", title=text, licence=text, base_model=text)
    small = {one.path: one.content.decode("utf-8", "replace") for one in planned.small}
    told = tomllib.loads(small["release.toml"])
    assert (told["title"], told["license"], told["base"]) == (text, text, text)
    front = yaml.safe_load(small["README.md"].split("---\n")[1])
    assert (front["license"], front["base_model"]) == (text, text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--title", "a\nb"), "cannot be printed"),
        (("--license", "x" * 201), "too long"),
        (("--repo", "noname"), "--repo"),
        (("--repo", "a/b@main"), "OWNER/NAME"),
        (("--repo", "a/b/c"), "OWNER/NAME"),
        (("--repo", "../b"), "--repo"),
        (("--inv-freq", "float16", "--method", "additive"), "--inv-freq"),
        (("--dtype", "float32"), "keeps every bit"),
        (("--sums", "blas", "--method", "lora"), "other bits on other machines"),
        (("--rounding", "once"), "--method lora"),
        (("--dtype", "float32", "--method", "lora"), "options on tensors"),
    ],
)
def test_what_is_refused_before_any_work(words: tuple[str, ...], told: str, weightkit: Run, tmp_path: Path) -> None:
    tuned = LORA if "lora" in words and "--rounding" not in words else TUNED
    done = weightkit("publish", "--base", BASE, "--tuned", tuned, "-o", "out", *words)
    assert done.returncode in (1, 2)
    assert told in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or done.returncode == 2
    assert not (tmp_path / "out").exists()


def test_a_name_of_the_release_s_own_is_refused(tmp_path: Path, weightkit: Run) -> None:
    shutil.copytree(TUNED, tmp_path / "tuned")
    (tmp_path / "tuned" / "release.toml").write_text("")
    done = weightkit("publish", "--base", BASE, "--tuned", "tuned", "-o", "out")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "release.toml" in done.stderr


def test_a_tuned_model_that_was_recovered_here(tmp_path: Path, made: dict[str, Path], weightkit: Run) -> None:
    """Its own lists are no part of it, and a README gives way to the card, which is said."""
    assert weightkit("recover", "--release", made["additive"], "--raw", BASE, "-o", "tuned").returncode == 0
    (tmp_path / "tuned" / "README.md").write_text("mine")
    done = weightkit("publish", "--base", BASE, "--tuned", "tuned", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "README.md does not come back" in done.stdout
    assert weightkit("recover", "--release", tmp_path / "out", "--raw", BASE, "-o", "again").returncode == 0
    assert listed(tmp_path / "out" / "RELEASE.sha256") == listed(made["additive"] / "RELEASE.sha256")
    done = weightkit("publish", "--base", BASE, "--tuned", "tuned", "-o", "enc", "--method", "enc")
    assert "does not come back" not in done.stdout
    assert listed(tmp_path / "enc" / "RELEASE.sha256")["README.md"] == hashlib.sha256(b"mine").hexdigest()


def test_rules_are_in_the_recipe(tmp_path: Path, weightkit: Run) -> None:
    """What both sides are cast to, and what stands whole: whoever recovers need not know."""
    rules = Rules("float32", whole=("lm_head.*", "model.norm.[!'x]*"))
    assert publish_release(BASE, TUNED, tmp_path / "mine", method="additive", rules=rules).ok
    told = tomllib.loads((tmp_path / "mine" / "release.toml").read_text())["recipe"]
    assert told == {"method": "additive", "dtype": "float32", "whole": ["lm_head.*", "model.norm.[!'x]*"]}
    done = weightkit("recover", "--release", tmp_path / "mine", "--raw", BASE, "-o", "out")
    assert done.returncode == 0, done.stderr
    done = weightkit("publish", "--base", BASE, "--tuned", LORA, "--method", "lora", "--rounding", "peft-0.7", "-o", "lora")
    assert done.returncode == 0, done.stderr
    done = weightkit("recover", "--release", tmp_path / "lora", "--raw", BASE, "-o", "merged")
    assert done.returncode == 0, done.stderr
    assert "rounding peft-0.7" in done.stdout


def test_a_base_in_other_shards_gives_the_published_files_too(made: dict[str, Path], tmp_path: Path) -> None:
    """An adapter's release follows the base: of another form of it the published files are made, hashed and not kept."""
    assert convert_checkpoint(BASE, tmp_path / "base", to="hf", form=Form("safetensors", max_shard_bytes=10**9)).ok
    done = recover_release(tmp_path / "base", None, tmp_path / "out", release=str(made["lora"]))
    assert done.ok
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not list((tmp_path / "out").glob("*.bin*"))
    assert tensor_digests(open_checkpoint(tmp_path / "out", "PATH").tensors) == parse(made["lora"] / "TENSORS")


def test_merge_says_who_rebuilds_a_release(made: dict[str, Path], weightkit: Run) -> None:
    done = weightkit("merge", "--release", made["lora"], "--base", BASE, "--lora", LORA, "-o", "out")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "weightkit recover" in done.stderr


def test_a_dry_run_says_what_would_be_uploaded(weightkit: Run, tmp_path: Path) -> None:
    words = ("publish", "--base", BASE, "--tuned", TUNED, "-o", "out", "--repo", "me/mine", "--dry-run")
    done = weightkit(*words, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 0, done.stderr
    assert "to hf://me/mine: all files first, then one commit" in done.stdout
    assert "release.toml" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    found = Hub(tmp_path / "hub").start()
    found.token = TOKEN
    yield found
    found.shutdown()
    found.server_close()


def env_of(hub: Hub, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def words(method: str = "exact") -> tuple[object, ...]:
    return ("publish", "--base", BASE, "--tuned", METHODS[method], "--method", method, "-o", "out", "--repo", "me/mine")


@pytest.mark.parametrize("method", METHODS)
def test_published_and_recovered_as_somebody_else(method: str, hub: Hub, tmp_path: Path, weightkit: Run) -> None:
    done = weightkit(*words(method), env=env_of(hub, tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "on the Hub: hf://me/mine" in done.stdout
    assert hub.commits == {"me/mine": 1}
    assert digests(hub.root / "me/mine") == digests(tmp_path / "out")
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("next: ")]
    other = tmp_path / "other"
    other.mkdir()
    command = [sys.executable, "-m", *shlex.split(line.removeprefix("next: "))]
    env = {**os.environ, **env_of(hub, other / "home"), "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run(command, cwd=other, env=env, check=False, capture_output=True).returncode == 0
    assert without_lists(digests(other / "RELEASE")) == listed(tmp_path / "out" / "RELEASE.sha256")
    shutil.copytree(BASE, hub.root / "org/base")
    (hub.root / "org/base").chmod(0o755)
    command = ["recover", "--release", "hf://me/mine", "--raw", "hf://org/base", "-o", tmp_path / "o", "--dry-run"]
    assert weightkit(*command, env=env_of(hub, tmp_path / "home")).returncode == 0
    if method != "enc":  # of which small files are decoded before the work
        assert not [one for one in hub.asked if one.startswith("HEAD") and "/org/base/" in one], "headers and norms, in ranges"
    puts = [one for one in hub.asked if one.startswith("PUT")]
    done = weightkit(*words(method), "--json", env=env_of(hub, tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert "nothing was uploaded" in json.loads(done.stdout)["notes"][-1]
    assert hub.commits == {"me/mine": 1}
    assert [one for one in hub.asked if one.startswith("PUT")] == puts


def test_what_is_in_the_repository_is_not_lost_without_a_word(hub: Hub, tmp_path: Path, weightkit: Run) -> None:
    there = hub.root / "me/mine"
    there.mkdir(parents=True)
    (there / "README.md").write_text("what I wrote\n")
    (there / "notes.txt").write_text("notes\n")
    env = env_of(hub, tmp_path / "home")
    done = weightkit(*words(), env=env)
    assert done.returncode == 1
    assert "README.md" in done.stderr
    assert "--overwrite" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(digests(there)) == ["README.md", "notes.txt"]
    (there / "README.md").unlink()
    (there / "pytorch_model-00001-of-00002.bin.wkx").write_text("of another release")
    done = weightkit(*words(), env=env)
    assert done.returncode == 1
    assert "pytorch_model-00001-of-00002.bin.wkx" in done.stderr
    done = weightkit(*words(), "--overwrite", env=env)
    assert done.returncode == 0, done.stderr
    assert "removed pytorch_model-00001-of-00002.bin.wkx" in done.stdout
    assert "also holds notes.txt" in done.stdout
    assert digests(there) == {**digests(tmp_path / "out"), "notes.txt": hashlib.sha256(b"notes\n").hexdigest()}


def test_a_repository_that_moved_meanwhile(hub: Hub, tmp_path: Path, weightkit: Run) -> None:
    env = env_of(hub, tmp_path / "home")
    hub.fail_commit = True
    done = weightkit(*words(), env=env)
    assert done.returncode == 1
    assert "somebody else changed it meanwhile" in done.stderr
    assert done.stderr.count("\n") == 1
    assert digests(hub.root / "me/mine") == {}
    hub.fail_commit = False

    def another(count: int, request: str, when: str) -> None:
        if "validate-yaml" in request and when == "before":  # somebody commits between the upload and the commit
            (hub.root / "me/mine" / "notes.txt").write_text("theirs\n")
            hub.commits["me/mine"] = 1

    hub.strike = another
    done = weightkit(*words(), env=env)
    assert done.returncode == 1
    assert "somebody else changed it meanwhile" in done.stderr
    assert sorted(digests(hub.root / "me/mine")) == ["notes.txt"]
    hub.strike = None
    assert weightkit(*words(), env=env).returncode == 0
    assert hub.sent_again == 0


def test_what_is_private_stays_so(hub: Hub, tmp_path: Path, weightkit: Run) -> None:
    env = env_of(hub, tmp_path / "home")
    (hub.root / "me/mine").mkdir(parents=True)
    done = weightkit(*words(), "--private", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "everybody can read it" in done.stderr
    assert hub.commits == {}
    (hub.root / "me/mine").rmdir()
    assert weightkit(*words(), "--private", env=env).returncode == 0
    assert hub.private == {"me/mine"}
    assert weightkit(*words(), "--private", env=env).returncode == 0


@pytest.mark.parametrize("way", ["token", "closed", "busy"])
def test_a_hub_that_refuses(way: str, hub: Hub, tmp_path: Path, weightkit: Run) -> None:
    env = env_of(hub, tmp_path / "home")
    if way == "token":
        env["HF_TOKEN"] = "hf_another"
    elif way == "closed":
        env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    else:
        hub.fail_every = 1
    done = weightkit(*words(), env=env)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "hf_another" not in done.stdout + done.stderr
    assert (tmp_path / "out" / "SHA256SUMS").is_file(), "the release stands; it is uploaded by the same command"


def test_a_file_that_changed_after_it_was_made_is_not_uploaded(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"other")
    script = (
        "from pathlib import Path; from weightkit.blobs.upload import upload; from weightkit.core.digest import Digest\n"
        f"upload(Path({str(tmp_path)!r}), {{'a.bin': Digest('sha256', {'1a' * 32!r})}}, 'me/mine')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **env_of(hub, tmp_path / "home")}, capture_output=True, text=True
    )
    assert "has changed since it was made" in done.stderr
    assert hub.commits == {}


def killed(hub: Hub, tmp_path: Path, number: int, moment: str) -> None:
    """Run the command, and kill it at a request."""
    env = {**os.environ, **env_of(hub, tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "weightkit", *map(str, words())]
    begun = sum(hub.asked.values())
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def strike(count: int, request: str, when: str) -> None:
        if count - begun >= number and when == moment:
            process.send_signal(signal.SIGKILL)
            process.wait()

    hub.strike = strike
    process.wait()
    hub.strike = None


@pytest.mark.parametrize("points", [10, pytest.param(50, marks=pytest.mark.rig)])
def test_an_upload_that_is_killed_leaves_a_whole_release_or_none(points: int, hub: Hub, tmp_path: Path, weightkit: Run) -> None:
    env = env_of(hub, tmp_path / "home")
    assert weightkit(*words(), env=env).returncode == 0
    requests = sum(hub.asked.values())
    wanted = digests(tmp_path / "out")
    chosen = random.Random(14)
    seen: set[str] = set()
    for point in range(points):
        if point % 5 == 0 or hub.commits.get("me/mine"):  # from nothing; else from what the one before left
            shutil.rmtree(hub.root / "me", ignore_errors=True)
            shutil.rmtree(hub.objects)
            hub.objects.mkdir()
            hub.commits.clear()
            hub.known.clear()
        killed(hub, tmp_path, chosen.randint(1, requests), chosen.choice(["before", "after"]))
        there = hub.root / "me/mine"
        state = digests(there) if there.is_dir() else {}
        seen.add("whole" if state == wanted else "none")
        assert state in ({}, wanted)
        if point < 3 or points > 10:
            out = tmp_path / f"recovered-{point}"
            more = {**env_of(hub, tmp_path / f"home-{point}"), "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
            done = weightkit("recover", "--release", "hf://me/mine", "--raw", BASE, "-o", out, env=more)
            assert (done.returncode == 0) == (state == wanted), done.stderr
            assert not state or without_lists(digests(out)) == digests(TUNED)
    assert weightkit(*words(), env=env).returncode == 0
    assert digests(hub.root / "me/mine") == wanted
    assert hub.sent_again == 0, "what was there whole was not sent again"
    assert seen == {"whole", "none"} or points == 10
