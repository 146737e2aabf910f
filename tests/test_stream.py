"""``recover --stream``: a diff that is read as it is needed, and never stored, from the Hub of ``hub.py``."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import middling
from tests.conftest import PEER, Run
from tests.hub import Hub
from tests.peak import peak

pytest.importorskip("huggingface_hub")

COMPARED = ("*.bin", "*.safetensors", "*.json", "SHA256SUMS")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and diffs of it."""
    root = tmp_path_factory.mktemp("made")
    middling.base(root / "base")
    middling.diff(root / "bin")
    middling.diff(root / "st", kind="safetensors")
    middling.diff(root / "one", files=1)
    middling.diff(root / "backwards", reverse=True)
    return root


@pytest.fixture
def weightkit(warm_weightkit: Run) -> Run:
    return warm_weightkit


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    served = Hub(tmp_path / "hub").start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def stream(hub: Hub, made: Path, tmp_path: Path, weightkit: Run) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Serves a diff as ``org/diff`` and recovers from it."""

    def run(diff: Path | str, *words: object, raw: Path | None = None, out: str = "out", **more: Any) -> Any:
        put(hub, made / diff)
        diff_words = ("--diff", "hf://org/diff", "--stream") if "--diff" not in words else ()
        return weightkit(
            "recover",
            "--raw",
            raw or made / "base",
            *diff_words,
            "--out",
            tmp_path / out,
            *words,
            env=env(hub, tmp_path),
            **more,
        )

    return run


def put(hub: Hub, folder: Path, name: str = "org/diff") -> None:
    if not (hub.root / name).exists():
        shutil.copytree(folder, hub.root / name)


def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}


def stored(tmp_path: Path) -> int:
    """Bytes that the client's cache holds."""
    return sum(one.stat().st_size for one in (tmp_path / "home").rglob("*") if one.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for pattern in COMPARED for one in folder.glob(pattern)}


@pytest.mark.parametrize(
    ("diff", "words"),
    [
        ("bin", ()),
        ("st", ()),
        ("one", ()),
        ("backwards", ()),
        ("bin", ("--jobs", "2")),
        ("one", ("--jobs", "3", "--max-shard-size", "6MB")),
    ],
)
def test_equals_the_local_run(
    stream: Any, weightkit: Run, made: Path, hub: Hub, tmp_path: Path, diff: str, words: tuple[str, ...]
) -> None:
    local = weightkit("recover", "--raw", made / "base", "--diff", made / diff, "--out", tmp_path / "local", *words)
    assert local.returncode == 0, local.stderr
    done = stream(diff, *words)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert stored(tmp_path) < 10_000


def test_a_meta_base(stream: Any, weightkit: Run, made: Path, tmp_path: Path) -> None:
    meta = weightkit("convert", made / "base", tmp_path / "meta", "--to", "meta", "--parts", "2")
    assert meta.returncode == 0, meta.stderr
    local = weightkit("recover", "--raw", tmp_path / "meta", "--diff", made / "bin", "--out", tmp_path / "local")
    assert local.returncode == 0, local.stderr
    done = stream("bin", raw=tmp_path / "meta")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@pytest.mark.parametrize("payload", ["enc", "oasst", "oasst-gzip", "wkx"])
def test_payloads_of_bytes(stream: Any, weightkit: Run, hub: Hub, made: Path, tmp_path: Path, payload: str) -> None:
    source, raw, key = PEER / "diffs" / payload, PEER / "hf-bin", ()
    if payload == "enc":
        raw, key = PEER / "meta" / "7B", ("--key", PEER / "meta" / "7B" / "consolidated.00.pth")
    if payload == "wkx":
        middling.write(tmp_path / "tuned", middling.tensors(5, middling.torch.float16, 1.0, 0.02))
        raw, source = made / "base", tmp_path / "wkx"
        found = weightkit("publish", "--base", raw, "--tuned", tmp_path / "tuned", "--method", "exact", "--out", source)
        assert found.returncode == 0, found.stderr
    local = weightkit("recover", "--raw", raw, "--diff", source, "--out", tmp_path / "local", *key)
    assert local.returncode == 0, local.stderr
    done = stream(source, *key, raw=raw)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert stored(tmp_path) < 10_000


def places(path: Path) -> list[int]:
    """Bytes of all kinds of a file: the first, in a header, in weights, in what no tensor uses, the last."""
    size = path.stat().st_size
    rng = random.Random(14)
    return [20, 4000, size // 2, size - 100, *(rng.randrange(size) for _ in range(40))]


@pytest.mark.parametrize("count", [4, pytest.param(44, marks=pytest.mark.rig)])
@pytest.mark.parametrize("kind", ["bin", "st"])
def test_one_wrong_byte_anywhere(stream: Any, hub: Hub, made: Path, tmp_path: Path, kind: str, count: int) -> None:
    """Once on the wire, wherever it is and whoever asks for it: nothing wrong is published."""
    name = "pytorch_model-00002-of-00002.bin" if kind == "bin" else "model-00002-of-00002.safetensors"
    assert stream(kind, out="right").returncode == 0
    right = contents(tmp_path / "right")
    for place in places(made / kind / name)[:count]:
        hub.wrong_at[f"org/diff/{name}"], hub.corrupt[f"org/diff/{name}"] = place, 1
        done = stream(kind, out=f"out-{place}")
        published = contents(tmp_path / f"out-{place}")
        assert all(content == right[path] for path, content in published.items()), place
        if done.returncode == 0:
            assert published.keys() == right.keys()
        else:
            assert done.returncode in (1, 3), done.stderr
            assert "SHA256SUMS" not in published
            assert name in done.stderr, done.stderr
            assert stream(kind, out=f"out-{place}").returncode == 0
            assert contents(tmp_path / f"out-{place}") == right


def test_a_wrong_small_file(stream: Any, hub: Hub, tmp_path: Path) -> None:
    hub.corrupt["org/diff/config.json"] = 1
    done = stream("bin")
    assert done.returncode == 0, done.stderr
    assert b'"hidden_size": 256' in (tmp_path / "out" / "config.json").read_bytes()
    hub.corrupt["org/diff/config.json"] = 100
    done = stream("bin", out="again")
    assert done.returncode == 3
    assert "config.json" in done.stderr


def test_bytes_that_no_tensor_uses(stream: Any, hub: Hub, made: Path, tmp_path: Path) -> None:
    """A gap between header and data of a safetensors file is under no CRC: the digest alone tells."""
    put(hub, made / "st")
    file = hub.root / "org/diff/model-00001-of-00002.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" " * 300_000
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    hub.wrong_at["org/diff/model-00001-of-00002.safetensors"] = 200_000
    hub.corrupt["org/diff/model-00001-of-00002.safetensors"] = 100
    done = stream("st")
    assert done.returncode in (1, 3), done.stderr
    assert "model-00001-of-00002.safetensors" in done.stderr
    assert not list((tmp_path / "out").glob("*.safetensors")) or not (tmp_path / "out" / "SHA256SUMS").exists()


def test_cut_within_a_window(stream: Any, hub: Hub, weightkit: Run, made: Path, tmp_path: Path) -> None:
    name = "org/diff/pytorch_model.bin"
    size = (made / "one" / "pytorch_model.bin").stat().st_size
    for reset in (False, True):
        hub.reset = reset
        hub.ranges.clear()
        hub.sent.clear()
        hub.cuts[name] = sorted(random.Random(3).sample(range(100_000, size - 100_000), 8))
        done = stream("one", out=f"out-{reset}")
        assert done.returncode == 0, done.stderr
        assert not hub.cuts[name]
        assert hub.sent[name] < size + 10_000_000
    assert weightkit("recover", "--raw", made / "base", "--diff", made / "one", "--out", tmp_path / "local").returncode == 0
    assert contents(tmp_path / "out-True") == contents(tmp_path / "out-False") == contents(tmp_path / "local")


def test_busy_and_slow(stream: Any, hub: Hub, tmp_path: Path) -> None:
    hub.fail_every, hub.slow = 4, 0.02
    done = stream("bin")
    assert done.returncode == 0, done.stderr


def test_a_server_that_dies(stream: Any, hub: Hub, made: Path, tmp_path: Path) -> None:
    hub.slow_bytes = 2e-7
    put(hub, made / "bin")
    killer = threading.Thread(target=lambda: (wait_for(lambda: sum(hub.sent.values()) > 5_000_000), hub.break_off()))
    killer.start()
    start = time.monotonic()
    done = stream("bin", "--progress", "none")
    killer.join()
    assert done.returncode == 1, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("weightkit: ")]) == 1, done.stderr
    assert "pytorch_model" in done.stderr
    assert time.monotonic() - start < 60
    hub.broken, hub.slow_bytes = False, 0
    again = stream("bin")
    assert again.returncode == 0, again.stderr


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_what_is_transferred(stream: Any, hub: Hub, made: Path) -> None:
    """A file that is read in its order goes over the network once, but for its header."""
    assert stream("bin").returncode == 0
    for name in ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"):
        size = (made / "bin" / name).stat().st_size
        assert size <= hub.sent[f"org/diff/{name}"] < size + 1_500_000


def test_interrupted(hub: Hub, made: Path, tmp_path: Path) -> None:
    """Ctrl-C while bytes are waited for ends the command at once, streamed or downloaded."""
    import signal

    put(hub, made / "one")
    for words in (["--stream"], []):
        hub.slow_bytes = 1e-6
        hub.sent.clear()
        command = [sys.executable, "-m", "weightkit", "recover", "--raw", made / "base", "--diff", "hf://org/diff"]
        command += ["--out", tmp_path / f"out{len(words)}", *words]
        process = subprocess.Popen(command, env={**os.environ, **env(hub, tmp_path)}, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: sum(hub.sent.values()) > 3_000_000)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert time.monotonic() - start < 6
        assert "Traceback" not in said


def test_memory(hub: Hub, tmp_path: Path) -> None:
    """Resident memory stays within what is allowed, however large the diff."""
    middling.HIDDEN, before = 1024, middling.HIDDEN
    try:
        middling.base(tmp_path / "base")
        middling.diff(tmp_path / "diff")
    finally:
        middling.HIDDEN = before
    put(hub, tmp_path / "diff")
    words = ["recover", "--raw", "base", "--diff", "hf://org/diff", "--stream", "--out", "out", "--jobs", "2"]
    assert peak(tmp_path, *words, "--max-memory", "600MB", "--quiet", env=env(hub, tmp_path)) <= 600_000_000


def test_a_blob_pickles_small(hub: Hub, made: Path, tmp_path: Path) -> None:
    """It opens itself in another process, through a pool of which a run goes."""
    put(hub, made / "bin")
    script = tmp_path / "pooled.py"
    script.write_text(
        "import pickle, sys\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from pathlib import Path\n"
        "from weightkit.blobs import folder_at\n"
        "from weightkit.recover import prepare\n"
        "from weightkit.run.execute import carry_out\n"
        "from weightkit.run.executors.futures import Futures\n"
        "if __name__ == '__main__':\n"
        "    blob = folder_at('hf://org/diff', '--diff').blob('pytorch_model-00001-of-00002.bin')\n"
        "    assert len(pickle.dumps(blob)) < 1000 and pickle.loads(pickle.dumps(blob)) == blob\n"
        "    for method in ('spawn', 'fork'):\n"
        "        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:\n"
        "            for stream in (True, False):\n"
        "                out = f'out-{method}-{stream}'\n"
        "                planned = prepare(sys.argv[1], 'hf://org/diff', out, stream=stream)\n"
        "                assert carry_out(planned, Path(out), executor=Futures(pool, 2), max_memory=4 << 30).ok\n"
    )
    command = [sys.executable, script, made / "base"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **env(hub, tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [contents(one) for one in sorted(tmp_path.glob("out-*"))]
    assert len(found) == 4
    assert all(one == found[0] for one in found)


POOLED = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from weightkit.core.errors import DigestMismatch
from weightkit.recover import prepare
from weightkit.run.execute import carry_out
from weightkit.run.executors.futures import Futures
if __name__ == '__main__':
    raw, method, stream, out = sys.argv[1:]
    planned = prepare(raw, 'hf://org/diff', out, stream=bool(int(stream)))
    with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
        try:
            print(carry_out(planned, Path(out), executor=Futures(pool, 2), max_memory=4 << 30).report.mismatches)
        except DigestMismatch as error:
            print(error)
"""


@pytest.mark.parametrize(("method", "stream"), [("spawn", 1), ("fork", 0)])
def test_headers_read_at_planning_are_vouched_for_in_a_pool(
    hub: Hub, made: Path, tmp_path: Path, method: str, stream: int
) -> None:
    """What the planning process read came with a wrong byte, and once only: the workers read the right ones."""
    put(hub, made / "st")
    name = "model-00001-of-00002.safetensors"
    hub.wrong_at[f"org/diff/{name}"] = (made / "st" / name).read_bytes().index(b'"pt"') + 1
    hub.corrupt[f"org/diff/{name}"] = 1
    (tmp_path / "pooled.py").write_text(POOLED)
    command = [sys.executable, tmp_path / "pooled.py", made / "base", method, str(stream), tmp_path / "out"]
    done = subprocess.run(
        command, env={**os.environ, **env(hub, tmp_path)}, capture_output=True, text=True, timeout=120, check=False
    )
    assert not hub.corrupt[f"org/diff/{name}"]
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert "twice" in done.stdout
    assert not (tmp_path / "out" / "SHA256SUMS").exists()


@pytest.mark.parametrize("stream", [True, False])
def test_views_that_are_no_rows_are_vouched_for(hub: Hub, weightkit: Run, tmp_path: Path, stream: bool) -> None:
    """A file of transposed tensors alone, in torch's old format, whose bytes are under no CRC."""
    found = middling.tensors(2, middling.torch.float32, 0.0, 0.0005)
    middling.base(tmp_path / "base")
    middling.write(hub.root / "org" / "diff", found)
    file = hub.root / "org" / "diff" / "pytorch_model-00002-of-00002.bin"
    held = middling.torch.load(file)
    turned = {name: one.t().contiguous().t() for name, one in held.items() if one.dim() == 2}
    plain = {name: one for name, one in held.items() if one.dim() != 2}
    middling.torch.save(turned, file, _use_new_zipfile_serialization=False)
    first = file.with_name("pytorch_model-00001-of-00002.bin")
    middling.torch.save(middling.torch.load(first) | plain, first)
    index = file.with_name("pytorch_model.bin.index.json")
    text = index.read_text()
    for name in plain:
        text = text.replace(f'"{name}": "{file.name}"', f'"{name}": "{first.name}"')
    index.write_text(text)
    hub.wrong_at[f"org/diff/{file.name}"] = file.stat().st_size // 2
    hub.corrupt[f"org/diff/{file.name}"] = 1
    words = ("--stream",) if stream else ()
    done = weightkit(
        "recover",
        "--raw",
        tmp_path / "base",
        "--diff",
        "hf://org/diff",
        "--out",
        tmp_path / "o",
        *words,
        env=env(hub, tmp_path),
    )
    assert not hub.corrupt[f"org/diff/{file.name}"]
    local = weightkit("recover", "--raw", tmp_path / "base", "--diff", hub.root / "org/diff", "--out", tmp_path / "l")
    assert local.returncode == 0, local.stderr
    right = contents(tmp_path / "l")
    assert all(content == right[path] for path, content in contents(tmp_path / "o").items())
    assert done.returncode == 3, done.stderr


def test_a_token_is_in_no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightkit.blobs.hub import HubBlob
    from weightkit.core.digest import Digest

    monkeypatch.setenv("HF_TOKEN", "hf_Secret0Secret")
    blob = HubBlob("org/name", "c" * 40, "weights.bin", 1, Digest("sha256", "ab" * 32))
    assert b"Secret" not in pickle.dumps(blob)
