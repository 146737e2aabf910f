"""Executors: the same bytes, counts and progress, whoever works; files are drawn one by one; the end is the end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.run.parts import Plain, Same, content, output, plan, simple, stored, tensor
from weightkit.core.digest import Digest
from weightkit.core.errors import DigestMismatch, FormatError, WeightkitError
from weightkit.core.events import BytesWritten, Event, FileFinished
from weightkit.core.lazy import Rows, derive
from weightkit.core.probes import CONTENT, Changed
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Read
from weightkit.run.execute import carry_out
from weightkit.run.executors import Executor
from weightkit.run.executors.futures import Futures
from weightkit.run.executors.threads import Threads
from weightkit.run.ledgers.stage import FolderStage
from weightkit.run.plan import OutputFile, Plan, SmallFile, Twin, Watched
from weightkit.run.write import Work


@dataclass(frozen=True, slots=True)
class Die(Same):
    """Ends its process."""

    def begin(self, one: Rows) -> Read:
        os._exit(9)


def processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def model(tmp_path: Path) -> Plan:
    """Four files over a base of two, with a twin, counts, content digests and a small file."""
    bases = [stored(tmp_path / f"base-{n}", 300, value=n) if not (tmp_path / f"base-{n}").exists() else None for n in range(2)]
    sources = [base or reopened(tmp_path / f"base-{n}") for n, base in enumerate(bases)]
    files = []
    for n in range(4):
        one, other = derive(Same(), sources[n % 2]), tensor("w", 1, 300, 4096)
        watched = (Watched(Changed(), (((one, other),), ((other, other),))),)
        twin = Twin(Plain(b"TWIN"), ((other,), (one,)))
        files.append(output(f"sub/{n}.plain", {f"w{n}": one, f"v{n}": other}, twin=twin, watched=watched))
    return plan(*files, small=[SmallFile("config.json", b"{}")], tensors=True)


def reopened(path: Path) -> object:
    from tests.run.parts import UINT8
    from weightkit.blobs import open_local
    from weightkit.core.stored import Stored

    return Stored(open_local(path), "w", TensorSpec(UINT8, (300, 4096)), 0)


def test_a_pool_of_processes_gives_the_same(tmp_path: Path) -> None:
    """Bytes, digests of twins and tensors, counts; and events that tell every byte and every file."""
    found = {}
    events: dict[str, list[Event]] = {"threads": [], "processes": []}
    with processes() as pool:
        for name, executor in (("threads", Threads(2)), ("processes", Futures(pool, 2))):
            done = carry_out(model(tmp_path), tmp_path / name, executor=executor, notify=events[name].append)
            found[name] = [(one.path, one.digests, one.twin, one.found) for one in done.report.receipts]
    assert found["threads"] == found["processes"]
    assert content(tmp_path / "threads") == content(tmp_path / "processes")
    counted = found["processes"][0][3]
    assert counted["changed"] == {
        "w0": {"elements": 300 * 4096, "changed": 300 * 4096},
        "v0": {"elements": 300 * 4096, "changed": 0},
    }
    assert set(counted[CONTENT]) == {"w0", "v0"}
    for told in events.values():
        assert sum(one.nbytes for one in told if isinstance(one, BytesWritten)) == model(tmp_path).nbytes
        assert {one.path for one in told if isinstance(one, FileFinished)} == {one.path for one in model(tmp_path).everything}


def test_work_is_done_in_the_processes(tmp_path: Path) -> None:
    with processes() as pool:
        work = Work(FolderStage(tmp_path), 1 << 20)
        assert len(pickle.dumps(work)) < 1000
        outcomes = list(Futures(pool, 2).run(work, simple(4).files, lambda event: None))
    assert sorted(one.path for one in outcomes) == [f"part-{n}.plain" for n in range(4)]
    assert len(list(tmp_path.glob(".part-*.partial"))) == 4


@pytest.mark.parametrize("kind", ["threads", "pool of threads", "pool of processes"])
def test_a_mismatch_is_an_outcome_and_an_error_ends_the_run(tmp_path: Path, kind: str) -> None:
    pool = processes() if kind == "pool of processes" else ThreadPoolExecutor(2)
    executor: Executor = Threads(2) if kind == "threads" else Futures(pool, 2)
    with pool:
        wrong = output("b.plain", {"b": tensor("b", 2)}, expect=(Digest("sha256", "ab" * 32),))
        good = [output(f"{n}.plain", {"a": tensor("a", n)}) for n in range(4)]
        done = carry_out(plan(wrong, *good), tmp_path / "out", executor=executor)
        assert [one.path for one in done.report.mismatches] == ["b.plain"]
        assert [one.path for one in done.report.receipts] == [one.path for one in good]
        assert "another plain than 1.0 (--torch-compat)" in done.report.mismatches[0].reason
        assert isinstance(pickle.loads(pickle.dumps(done.report.mismatches[0])), DigestMismatch)
        source = stored(tmp_path / "in", 8)
        stored(tmp_path / "in", 8)
        with pytest.raises(FormatError, match="has changed since it was opened"):
            carry_out(plan(output("a.plain", {"a": source})), tmp_path / "o", executor=executor)
    assert not list((tmp_path / "o").glob(".*.partial"))


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with processes() as pool, pytest.raises(WeightkitError, match="a worker process ended without a word"):
        carry_out(plan(output("a.plain", {"a": derive(Die(), tensor("a", 1))})), tmp_path / "out", executor=Futures(pool, 2))
    assert not list((tmp_path / "out").glob("*.plain"))


@pytest.mark.parametrize("kind", ["threads", "pool"])
def test_files_are_drawn_as_places_get_free_and_closing_ends_the_run(tmp_path: Path, kind: str) -> None:
    drawn = []

    def files() -> Iterator[OutputFile]:
        for file in simple(50).files:
            drawn.append(file.path)  # type: ignore[attr-defined]
            yield file  # type: ignore[misc]

    with ThreadPoolExecutor(2) as pool:
        executor: Executor = Threads(2) if kind == "threads" else Futures(pool, 2)
        before = threading.active_count()
        outcomes = executor.run(Work(FolderStage(tmp_path), 1 << 20), files(), lambda event: None)
        assert not drawn
        next(outcomes)
        assert len(drawn) <= 2
        next(outcomes)
        outcomes.close()
        assert len(drawn) <= 4
        if kind == "threads":
            assert threading.active_count() == before


def test_closing_stops_what_is_under_way(tmp_path: Path) -> None:
    """A thread in the middle of a large file stops at its next block."""

    @dataclass(frozen=True, slots=True)
    class Slow(Same):
        def begin(self, one: Rows) -> Read:
            def read(start: int, stop: int) -> bytes:
                time.sleep(0.05)
                return bytes(stop - start)

            return read

    large = output("large", {"a": derive(Slow(), tensor("a", 0, 1 << 20, 1))})
    small = output("small", {"a": tensor("a", 1)})
    outcomes = Threads(2).run(Work(FolderStage(tmp_path), 1 << 10), [large, small], lambda event: None)
    assert next(outcomes).path == "small"
    started = time.monotonic()
    outcomes.close()
    assert time.monotonic() - started < 5
    assert {path.name for path in tmp_path.iterdir()} == {".small.partial"}


def test_memory_may_allow_fewer_jobs() -> None:
    assert Threads(8).at_most(3) == Threads(3)
    with ThreadPoolExecutor(1) as pool:
        assert Futures(pool, 8).at_most(3).jobs == 3
        assert Futures(pool, 8).processes == 0
    with processes() as other:
        assert Futures(other, 8).processes == 8
