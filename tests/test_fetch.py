"""``weightkit fetch``, and names on the Hub where folders were wanted: the real client against ``hub.py``."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PEER, Run, flip_bit, sha256
from tests.hub import Hub

pytest.importorskip("huggingface_hub")

BASE, DIFF = PEER / "hf-bin", PEER / "diffs" / "knowlm"
SHARD = "pytorch_model-00002-of-00004.bin"
TOKEN = "hf_Right0Token"

READING = {
    "fetch": ["fetch", "hf://org/diff", "--out", "out"],
    "stream": ["recover", "--raw", str(BASE), "--diff", "hf://org/diff", "--out", "out", "--stream"],
}
"""Commands that read what the Hub holds, in a folder of their own."""

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def weightkit(warm_weightkit: Run) -> Run:
    return warm_weightkit


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    served = Hub(tmp_path / "hub").start()
    shutil.copytree(BASE, served.root / "org" / "base")
    shutil.copytree(DIFF, served.root / "org" / "diff")
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def call(hub: Hub, tmp_path: Path, weightkit: Run) -> Call:
    """The command line with the Hub as its endpoint."""

    def run(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
        return weightkit(*words, env={**env(hub, tmp_path), **more.pop("env", {})}, **more)

    return run


def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}


def same(out: Path, source: Path) -> bool:
    """Whether all files of a folder are in another, bit by bit, and nothing else."""
    wanted = {one.relative_to(source): sha256(one) for one in source.rglob("*") if one.is_file()}
    return wanted == {one.relative_to(out): sha256(one) for one in out.rglob("*") if one.is_file()}


def large(hub: Hub, nbytes: int, name: str = "org/large") -> str:
    """A repository of one large file."""
    (hub.root / name).mkdir(parents=True)
    (hub.root / name / "weights.bin").write_bytes(random.Random(14).randbytes(nbytes))
    return f"{name}/weights.bin"


def test_into_a_folder_and_the_cache(call: Call, hub: Hub, tmp_path: Path) -> None:
    done = call("fetch", "hf://org/base", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "out", BASE)
    told = {Path(one["path"]).name: one for one in json.loads(done.stdout)["files"]}
    assert told[SHARD]["sha256"] == sha256(BASE / SHARD)
    assert "gitsha1" in told["generation_config.json"]
    done = call("fetch", "hf://org/base")
    assert done.returncode == 0, done.stderr
    snapshots = tmp_path / "home" / "hub" / "models--org--base" / "snapshots"
    assert same(snapshots / hub.commit_of("org/base"), BASE)


def test_a_part(call: Call, tmp_path: Path, hub: Hub) -> None:
    folder = hub.root / "org" / "base" / "more" / "deep"
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("x")
    assert call("fetch", "hf://org/base/more", "--out", tmp_path / "out").returncode == 0
    assert same(tmp_path / "out", hub.root / "org" / "base" / "more")
    assert call("fetch", f"hf://org/base@main/{SHARD}", "--out", tmp_path / "one").returncode == 0
    assert [one.name for one in (tmp_path / "one").iterdir()] == [SHARD]


@pytest.mark.parametrize("name", [SHARD, "generation_config.json"])
@pytest.mark.parametrize("out", [True, False])
def test_a_wrong_byte(call: Call, hub: Hub, tmp_path: Path, name: str, out: bool) -> None:
    words = ("--out", tmp_path / "out") if out else ()
    hub.corrupt[f"org/base/{name}"] = 1
    done = call("fetch", "hf://org/base", *words)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout + done.stderr
    assert "again" in done.stdout + done.stderr
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    hub.corrupt[f"org/base/{name}"] = 1 << 30
    hub.asked.clear()
    done = call("fetch", "hf://org/base", *words)
    assert done.returncode == 3
    assert name in done.stderr
    assert not list(tmp_path.glob(f"out/**/{name}"))
    assert not list(tmp_path.glob(f"home/**/snapshots/**/{name}"))
    assert hub.asked[f"GET /org/base/resolve/{hub.commit_of('org/base')}/{name}"] == 2


def test_a_lie(call: Call, hub: Hub, tmp_path: Path) -> None:
    hub.lie.add(f"org/base/{SHARD}")
    done = call("fetch", "hf://org/base", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert SHARD in done.stderr
    assert not (tmp_path / "out" / SHARD).exists()
    assert sha256(tmp_path / "out" / "pytorch_model-00001-of-00004.bin") == sha256(BASE / "pytorch_model-00001-of-00004.bin")
    hub.lie.clear()
    hub.sent.clear()
    assert call("fetch", "hf://org/base", "--out", tmp_path / "out").returncode == 0
    assert same(tmp_path / "out", BASE)
    assert hub.sent.keys() <= {f"org/base/{SHARD}"}


def test_what_is_there(call: Call, hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(BASE, out)
    (out / "mine.txt").write_text("kept")
    done = call("fetch", "hf://org/base", "--out", out)
    assert done.returncode == 0, done.stderr
    assert not hub.sent
    assert (out / "mine.txt").read_text() == "kept"
    flip_bit(out / SHARD, 5000)
    before = sha256(out / SHARD)
    done = call("fetch", "hf://org/base", "--out", out)
    assert done.returncode == 1
    assert SHARD in done.stderr
    assert sha256(out / SHARD) == before


def test_a_second_fetch_waits_outside(call: Call, hub: Hub, tmp_path: Path) -> None:
    large(hub, 4_000_000)
    hub.slow_bytes = 1e-6
    first = start(hub, tmp_path, "fetch", "hf://org/large", "--out", tmp_path / "out")
    wait_for(lambda: sum(hub.sent.values()) > 0)
    second = call("fetch", "hf://org/large", "--out", tmp_path / "out")
    assert first.wait(60) == 0
    assert second.returncode == 1
    assert "out" in second.stderr
    assert same(tmp_path / "out", hub.root / "org" / "large")


def start(hub: Hub, tmp_path: Path, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "weightkit", *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, **env(hub, tmp_path)}, stderr=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(2000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("count", [5, pytest.param(100, marks=[pytest.mark.rig, pytest.mark.timeout(900)])])
def test_cut_at_random_points(call: Call, hub: Hub, tmp_path: Path, count: int) -> None:
    """One cut a file, in as many files: an end of the connection, or a reset."""
    rng = random.Random(count)
    size = 12_000_000
    names = [f"weights-{number}.bin" for number in range(count)]
    (hub.root / "org" / "cut").mkdir()
    content = rng.randbytes(size)
    for number, name in enumerate(names):
        (hub.root / "org" / "cut" / name).write_bytes(number.to_bytes(4, "big") + content)
        hub.cuts[f"org/cut/{name}"] = [rng.randrange(1, size)]
    hub.reset = bool(count % 2)
    done = call("fetch", "hf://org/cut", "--out", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    assert not any(hub.cuts.values())
    assert same(tmp_path / "out", hub.root / "org" / "cut")
    for name in names:
        assert hub.sent[f"org/cut/{name}"] < size + 4 + (10 << 20)
    assert "Traceback" not in done.stderr
    assert "http://" not in done.stderr


def test_killed(call: Call, hub: Hub, tmp_path: Path) -> None:
    """What was whole is not fetched again."""
    large(hub, 6_000_000, "org/base/zz")
    hub.slow_bytes = 5e-7
    process = start(hub, tmp_path, "fetch", "hf://org/base", "--out", tmp_path / "out")
    wait_for(lambda: hub.sent["org/base/zz/weights.bin"] > 1_000_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "zz" / "weights.bin").exists()
    hub.sent.clear()
    hub.slow_bytes = 0
    done = call("fetch", "hf://org/base", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert hub.sent.keys() == {"org/base/zz/weights.bin"}
    assert same(tmp_path / "out", hub.root / "org" / "base")


@pytest.mark.parametrize("every", [2, 3, 7])
def test_a_busy_server(call: Call, hub: Hub, tmp_path: Path, every: int) -> None:
    hub.fail_every = every
    done = call("fetch", "hf://org/base", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "out", BASE)


def test_a_slow_server(call: Call, hub: Hub, tmp_path: Path) -> None:
    hub.slow = 0.3
    done = call("fetch", "hf://org/diff", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr


def test_no_server(call: Call, hub: Hub, tmp_path: Path) -> None:
    hub.shutdown()
    hub.server_close()
    done = call("fetch", "hf://org/base", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "hf://org/base" in done.stderr


@pytest.mark.parametrize("token", [TOKEN, "hf_Wrong0Secret", ""])
def test_a_token_is_never_shown(call: Call, hub: Hub, tmp_path: Path, token: str) -> None:
    hub.token = TOKEN
    jobs = (
        ("fetch", "hf://org/base", "--out", tmp_path / "out", "-v"),
        ("recover", "--raw", BASE, "--diff", "hf://org/diff", "--out", tmp_path / "o", "-v", "--stream"),
        ("inspect", "hf://org/base", "-v"),
        ("identify", "hf://org/base", "--json"),
    )
    for words in jobs:
        done = call(*words, env={"HF_TOKEN": token})
        assert done.returncode == (0 if token == TOKEN else 1), done.stderr
        for secret in filter(None, (TOKEN, token)):
            assert secret not in done.stdout + done.stderr
        if token != TOKEN:
            assert "token" in done.stderr + done.stdout
    text = b"".join(one.read_bytes() for folder in ("out", "o") for one in (tmp_path / folder).rglob("*") if one.is_file())
    assert TOKEN.encode() not in text


REDIRECTED = """
import sys
from weightkit.blobs import guard, near
guard.is_here = near.is_near = lambda host: False  # so that a second server of this machine stands for one elsewhere
from weightkit.cli import main
main()
"""


@pytest.mark.parametrize("words", ["fetch", "stream"])
def test_a_token_stays_with_its_host(hub: Hub, tmp_path: Path, words: str) -> None:
    other = Hub(tmp_path / "other").start()
    shutil.copytree(hub.root / "org", other.root / "org")
    hub.token = TOKEN
    hub.redirect = f"http://localhost:{other.server_port}/resolved"
    (tmp_path / "main.py").write_text(REDIRECTED)
    command = [sys.executable, tmp_path / "main.py", *READING[words]]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **env(hub, tmp_path), "HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
    )
    other.shutdown()
    other.server_close()
    assert done.returncode == 0, done.stderr
    assert other.tokens
    assert not any(authorization for _, authorization in other.tokens)
    assert any(authorization for _, authorization in hub.tokens)
    assert TOKEN not in done.stdout + done.stderr


def test_a_redirect_into_this_machine(call: Call, hub: Hub, tmp_path: Path) -> None:
    """The endpoint that the user set may be here; nothing else is asked, whoever says so."""
    other = Hub(tmp_path / "other").start()
    shutil.copytree(hub.root / "org", other.root / "org")
    for target in (f"http://localhost:{other.server_port}/resolved", f"http://127.0.0.1:{other.server_port}/resolved"):
        hub.redirect = target
        for words in (
            ("fetch", "hf://org/diff", "--out", tmp_path / "out"),
            ("recover", "--raw", BASE, "--diff", "hf://org/diff", "--out", tmp_path / "o", "--stream"),
            ("inspect", "hf://org/base"),
        ):
            done = call(*words)
            assert done.returncode == 1, done.stderr
            assert "127.0.0.1" in done.stderr or "localhost" in done.stderr
    hub.redirect = "http://example.org/resolved"
    hub_is_https = call("fetch", "hf://org/diff", env={"HF_ENDPOINT": "https://127.0.0.1:1"})
    assert hub_is_https.returncode == 1
    other.shutdown()
    other.server_close()
    assert not other.asked
    assert not list(tmp_path.glob("out/*"))


NAMED = """
import socket
import sys
far_first = int(sys.argv.pop(1))
real, connect, seen = socket.getaddrinfo, socket.create_connection, []
def look_up(host, *words, **more):
    if host != "cdn.example.org":
        return real(host, *words, **more)
    seen.append(host)
    return real("127.0.0.1" if len(seen) > far_first else "93.184.215.14", *words, **more)
def reach(address, *words, **more):
    if address[0] == "93.184.215.14":
        raise ConnectionRefusedError("far")
    return connect(address, *words, **more)
socket.getaddrinfo, socket.create_connection = look_up, reach
from weightkit.cli import main
main()
"""
"""A name that leads to this machine, at once or from the second time on that it is looked up."""


@pytest.mark.parametrize("far_first", [0, 1])
@pytest.mark.parametrize("words", ["fetch", "stream"])
def test_a_redirect_to_a_name_of_this_machine(hub: Hub, tmp_path: Path, words: str, far_first: int) -> None:
    other = Hub(tmp_path / "other").start()
    shutil.copytree(hub.root / "org", other.root / "org")
    hub.redirect = f"http://cdn.example.org:{other.server_port}/resolved"
    (tmp_path / "main.py").write_text(NAMED)
    command = [sys.executable, tmp_path / "main.py", str(far_first), *READING[words]]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **env(hub, tmp_path)}, capture_output=True, text=True, check=False
    )
    other.shutdown()
    other.server_close()
    assert not other.asked
    assert done.returncode == 1, done.stderr
    assert "cdn.example.org" in done.stderr
    assert not list(tmp_path.glob("out/*"))


def test_a_mirror_of_a_xet_store(call: Call, hub: Hub, tmp_path: Path) -> None:
    """A mirror's files come from the mirror: what fetches from a store is not seen."""
    hub.store = hub.url
    done = call("fetch", "hf://org/diff", "--out", tmp_path / "out", env={"HF_HUB_DISABLE_XET": "0"})
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "out", DIFF)
    assert not [one for one in hub.asked if "xet" in one]


@pytest.mark.parametrize(
    "name",
    [
        "hf://org/../etc",
        "hf://org/base/../../x",
        "hf://org/base/./x",
        "hf://org/base//x",
        "hf://user@org/base",
        "hf://org/base@../x",
        "hf://org/base/a\\b",
        "hf://org/ba\x07se",
        "hf://org/base/\n",
        "hf://org",
        "hf://",
        "file:///etc/passwd",
        "http://127.0.0.1/x.bin",
        "https://user:secret@example.org/x.bin",
        "https://127.0.0.1/x.bin",
        "https://localhost/x.bin",
        "https://[::1]/x.bin",
        "https://2130706433/x.bin",
        "ftp://example.org/x",
    ],
)
def test_names_that_lead_elsewhere(call: Call, hub: Hub, tmp_path: Path, name: str) -> None:
    for words in (("inspect", name), ("fetch", name, "--out", tmp_path / "out")):
        done = call(*words)
        assert done.returncode in (1, 2), done.stderr
        assert "does not exist" not in done.stderr
        assert "secret" not in done.stderr
        assert "\x07" not in done.stderr
    assert not hub.asked
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "path", ["../x.bin", "/etc/x.bin", "a/../../x.bin", "a\\..\\x.bin", "a\nb.bin", "a\x1bb.bin", "./x", "a//b", ""]
)
def test_odd_names_in_a_listing(call: Call, hub: Hub, tmp_path: Path, path: str) -> None:
    hub.list_also = [{"type": "file", "path": path, "size": 4, "oid": "1" * 39 + "2"}]
    done = call("fetch", "hf://org/base", "--out", tmp_path / "deep" / "out")
    assert done.returncode == 1, done.stdout
    assert "\x1b" not in done.stderr
    assert not list(tmp_path.rglob("x.bin"))


@pytest.mark.parametrize(
    "entry",
    [
        {"size": -1},
        {"size": 1 << 60},
        {"oid": "nothing"},
        {"oid": "0" * 40},
        {"lfs": {"oid": "00", "size": 4, "pointerSize": 1}},
        {"lfs": {"oid": "ab" * 32, "size": -4, "pointerSize": 1}},
    ],
)
def test_odd_facts_in_a_listing(call: Call, hub: Hub, tmp_path: Path, entry: dict[str, Any]) -> None:
    hub.list_also = [{"type": "file", "path": "x.bin", "size": 4, "oid": "1" * 39 + "2", **entry}]
    done = call("fetch", "hf://org/base", "--out", tmp_path / "out")
    assert done.returncode == 1, done.stdout
    assert not list(tmp_path.glob("out/*"))


def test_offline(call: Call, hub: Hub, tmp_path: Path) -> None:
    assert call("fetch", "hf://org/diff").returncode == 0
    hub.asked.clear()
    away = {"HF_HUB_OFFLINE": "1"}
    done = call("recover", "--raw", BASE, "--diff", "hf://org/diff", "--out", tmp_path / "out", env=away)
    assert done.returncode == 0, done.stderr
    assert call("inspect", "hf://org/diff", env=away).returncode == 0
    assert call("identify", "hf://org/diff", env=away).returncode == 0
    for words in (("inspect", "hf://org/base"), ("fetch", "hf://org/base"), ("inspect", "hf://org/diff/absent")):
        done = call(*words, env=away)
        assert done.returncode == 1
        assert words[1] in done.stderr
        assert "HF_HUB_OFFLINE" in done.stderr
    assert not hub.asked


def test_without_the_client(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "huggingface_hub.py").write_text("raise ModuleNotFoundError('no', name='huggingface_hub')")
    for words in (("inspect", "hf://org/base"), ("fetch", "hf://org/base"), ("verify", "hf://org/base")):
        done = weightkit(*words, env={"PYTHONPATH": str(tmp_path / "no")})
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "huggingface_hub" in done.stderr


def test_the_client_is_not_imported_for_local_work(tmp_path: Path) -> None:
    script = (
        "import sys, weightkit, weightkit.cli, weightkit.fetch, weightkit.recover, weightkit.verify\n"
        f"weightkit.inspect.inspect({str(BASE)!r})\n"
        f"weightkit.identify.identify_path({str(BASE)!r})\n"
        f"weightkit.recover.recover({str(BASE)!r}, {str(DIFF)!r}, {str(tmp_path / 'out')!r})\n"
        "print([one for one in sys.modules if one.partition('.')[0] in ('huggingface_hub', 'httpx', 'httpx2')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_inspect_reads_headers(call: Call, hub: Hub, tmp_path: Path) -> None:
    from tests import middling

    middling.base(hub.root / "org" / "bin", files=1)
    middling.base(hub.root / "org" / "st", files=1, kind="safetensors")
    for name, most in (("bin", 1_000_000), ("st", 300_000)):
        hub.sent.clear()
        done = call("inspect", f"hf://org/{name}")
        assert done.returncode == 0, done.stderr
        assert "model.layers.2.mlp.up_proj.weight" in done.stdout
        assert sum(hub.sent.values()) < most
        assert not [one for one in (tmp_path / "home").rglob("*.bin") if one.is_file()]
    hub.sent.clear()
    done = call("identify", "hf://org/bin")
    assert done.returncode == 0, done.stderr
    assert sum(hub.sent.values()) < 1_000_000


def test_verify(call: Call, hub: Hub, tmp_path: Path) -> None:
    with_list = hub.root / "org" / "listed"
    shutil.copytree(BASE, with_list)
    (with_list / "SHA256SUMS").write_text(f"{sha256(BASE / SHARD)}  {SHARD}\n")
    done = call("verify", "hf://org/listed")
    assert done.returncode == 0, done.stderr
    assert SHARD in done.stdout
    flip_bit(with_list / SHARD, 5000)
    hub.commits["org/listed"] = 1
    done = call("verify", "hf://org/listed")
    assert done.returncode == 3
    assert SHARD in done.stdout


def test_verify_the_cache(call: Call, hub: Hub, tmp_path: Path) -> None:
    assert call("fetch", "hf://org/base").returncode == 0
    cache = tmp_path / "home" / "hub" / "models--org--base"
    snapshot = cache / "snapshots" / hub.commit_of("org/base")
    for folder in (cache, snapshot):
        done = call("verify", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ok" in done.stdout
    flip_bit((snapshot / SHARD).resolve(), 5000)
    for folder in (cache, snapshot):
        done = call("verify", folder)
        assert done.returncode == 3, done.stdout
        failed = [line for line in done.stdout.splitlines() if "FAILED" in line]
        assert failed
        assert SHARD in failed[0] or sha256(BASE / SHARD) in failed[0]


def test_explain_against(call: Call, hub: Hub, tmp_path: Path) -> None:
    """What is said is what is said against the same files here: of a folder and a file, alike and with one bit flipped."""
    mine, right = tmp_path / "mine", hub.root / "org" / "base"
    shutil.copytree(BASE, mine)
    done = call("explain", mine, "--against", "hf://org/base")
    assert done.returncode == 0, done.stderr
    assert "hold the same files, byte for byte" in done.stdout
    flip_bit(mine / SHARD, 50_000)
    local = call("explain", mine, "--against", right)
    for words in ((mine, "hf://org/base"), (mine / SHARD, f"hf://org/base/{SHARD}")):
        done = call("explain", words[0], "--against", words[1])
        assert done.returncode == local.returncode == 3, done.stderr
        assert done.stdout.splitlines()[1:] == local.stdout.splitlines()[1:]
        assert "model.layers.0.mlp.down_proj.weight: 1 of 16384 elements" in done.stdout
    hub.corrupt[f"org/base/{SHARD}"] = 1 << 30
    shutil.rmtree(tmp_path / "home")
    done = call("explain", mine, "--against", "hf://org/base")
    assert done.returncode == 3
    assert "it is refused" in done.stderr
    assert not done.stdout


def test_progress_moves_within_a_file(call: Call, hub: Hub, tmp_path: Path) -> None:
    large(hub, 45_000_000)
    hub.slow_bytes = 6e-8
    done = call("fetch", "hf://org/large", "--out", tmp_path / "out", "--progress", "json")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    moved = {one["bytes"] for one in told if one["event"] == "progress"}
    assert any(0 < nbytes < 45_000_000 for nbytes in moved), told
    assert told[-1]["bytes"] == told[0]["total_bytes"] == 45_000_000


def test_progress_of_an_input(call: Call, hub: Hub, tmp_path: Path) -> None:
    from tests import middling

    middling.base(tmp_path / "base")
    middling.TOKENS, before = 12_000, middling.TOKENS
    try:
        middling.base(tmp_path / "base2", files=1)
        middling.diff(hub.root / "org" / "wide", files=1)
    finally:
        middling.TOKENS = before
    hub.slow_bytes = 6e-8
    words = ("--raw", tmp_path / "base2", "--diff", "hf://org/wide", "--out", tmp_path / "out", "--progress", "json")
    done = call("recover", *words)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    coming = [one for one in told if one["event"] == "fetching"]
    assert coming
    assert coming[0]["path"] == "hf://org/wide/pytorch_model.bin"
    assert 0 < coming[0]["fetched_bytes"] <= coming[0]["file_bytes"]


@pytest.fixture
def secure(hub: Hub, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The same server behind TLS: the address, and what makes it known."""
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there to make a certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    served = Hub(tmp_path / "hub")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    served.start()
    url = f"https://localhost:{served.server_port}"
    hub.secure = served  # type: ignore[attr-defined]
    yield {"HF_ENDPOINT": url, "SSL_CERT_FILE": str(cert)}
    served.shutdown()
    served.server_close()


def test_files_at_https(call: Call, hub: Hub, secure: dict[str, str], tmp_path: Path) -> None:
    from tests import middling

    middling.base(tmp_path / "base", files=1)
    middling.diff(hub.root / "org" / "one", files=1)
    served: Hub = hub.secure  # type: ignore[attr-defined]
    address = f"{secure['HF_ENDPOINT']}/org/one/resolve/main/pytorch_model.bin"
    done = call("inspect", address, env=secure)
    assert done.returncode == 0, done.stderr
    assert "model.layers.2.mlp.up_proj.weight" in done.stdout
    assert served.sent["org/one/pytorch_model.bin"] < 1_000_000
    local = call(
        "recover", "--raw", tmp_path / "base", "--diff", hub.root / "org/one/pytorch_model.bin", "--out", tmp_path / "l"
    )
    assert local.returncode == 0, local.stderr
    done = call("recover", "--raw", tmp_path / "base", "--diff", address, "--out", tmp_path / "o", env=secure)
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "o" / "pytorch_model.bin") == sha256(tmp_path / "l" / "pytorch_model.bin")
    served.no_ranges = True
    done = call("inspect", address, env=secure)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "ranges" in done.stderr


def test_a_file_at_https_that_changes(call: Call, hub: Hub, secure: dict[str, str], tmp_path: Path) -> None:
    from tests import middling

    middling.base(tmp_path / "base", files=1)
    middling.diff(hub.root / "org" / "one", files=1)
    served: Hub = hub.secure  # type: ignore[attr-defined]
    served.slow_bytes = 3e-7
    file = served.root / "org" / "one" / "pytorch_model.bin"
    address = f"{secure['HF_ENDPOINT']}/org/one/resolve/main/pytorch_model.bin"

    def change() -> None:
        wait_for(lambda: served.sent["org/one/pytorch_model.bin"] > 4_000_000)
        content = bytearray(file.read_bytes())
        content[-2_000_000] ^= 1
        file.with_name("new").write_bytes(content)
        file.with_name("new").rename(file)

    changer = threading.Thread(target=change)
    changer.start()
    done = call("recover", "--raw", tmp_path / "base", "--diff", address, "--out", tmp_path / "o", env=secure)
    changer.join()
    assert done.returncode == 1, done.stderr
    assert "changed" in done.stderr
    assert not (tmp_path / "o" / "pytorch_model.bin").exists()
