"""Gates: asked before work and between files; what is whole waits for them, and outlives a kill."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

import pytest

from tests.run.parts import content, output, plan, python, simple, stored, tensor, wait_for
from weightkit.blobs import open_local
from weightkit.core.dtypes import BY_NAME
from weightkit.core.errors import DigestMismatch, FormatError, PlanError
from weightkit.core.events import BytesChecked, BytesWritten, Event, FileFinished, FileKept, Started
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Stored
from weightkit.run.coordinator import Coordinator
from weightkit.run.execute import carry_out
from weightkit.run.executors.threads import Threads
from weightkit.run.gates import Checklist
from weightkit.run.ledgers.directory import Directory
from weightkit.run.ledgers.journal import JOURNAL
from weightkit.run.receipts import Receipt


def raw(folder: Path, **files: bytes) -> Path:
    """Files of Meta's, with their checklist."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_bytes(text)
    (folder / "checklist.chk").write_text("".join(f"{hashlib.md5(text).hexdigest()}  {name}\n" for name, text in files.items()))
    return folder


def test_what_holds_lets_all_pass(tmp_path: Path) -> None:
    assert carry_out(simple(), tmp_path / "out", verify_raw=raw(tmp_path / "raw", params=b"{}", weights=b"w")).ok


def test_a_small_file_that_is_wrong_stops_the_run_before_any_work(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", params=b"{}", weights=b"w" * (20 << 20))
    (folder / "params").write_bytes(b"[]")
    events: list[Event] = []
    done = carry_out(simple(), tmp_path / "new" / "out", verify_raw=folder, notify=events.append)
    assert not done.ok
    assert [(one.path, one.actual) for one in done.report.mismatches] == [
        (str(folder / "params"), hashlib.md5(b"[]").hexdigest())
    ]
    assert "not the file that Meta published" in done.report.mismatches[0].reason
    assert {type(one) for one in events} <= {BytesChecked, Started}
    assert not (tmp_path / "new").exists(), "nothing was touched"


class Late:
    """A gate that is known only after some files, or when it is waited for."""

    def __init__(self, after: int, fails: bool) -> None:
        self.after, self.fails, self.receipts = after, fails, 0
        self.asked = 0

    def passed(self, receipt: Receipt) -> None:
        self.receipts += 1

    def ask(self, wait: bool) -> bool:
        self.asked += 1
        if not wait and self.receipts < self.after:
            return False
        if self.fails:
            raise DigestMismatch("original", "md5", "ab" * 16, "cd" * 16, "not the original")
        return True


def run(out: Path, gate: Late, events: list[Event], count: int = 6) -> Coordinator:
    ledger = Directory(out)
    try:
        coordinator = Coordinator(ledger, ledger.open(simple(count), []), [gate], Threads(1), 1 << 20, events.append)
        coordinator.run(simple(count))
    finally:
        ledger.close()
    return coordinator


def test_a_gate_that_fails_stops_the_run_before_further_files(tmp_path: Path) -> None:
    events: list[Event] = []
    coordinator = run(tmp_path / "out", Late(2, fails=True), events)
    assert {one.path for one in events if isinstance(one, BytesWritten)} <= {"part-0.plain", "part-1.plain", "part-2.plain"}
    assert not [one for one in events if isinstance(one, FileFinished)]
    assert set(coordinator.mismatches) == {"original"}
    assert set(content(tmp_path / "out")) == {JOURNAL}


def test_nothing_is_published_before_the_gate_holds(tmp_path: Path) -> None:
    events: list[Event] = []
    gate = Late(3, fails=False)
    run(tmp_path / "out", gate, events)
    order = [(type(one).__name__, one.path) for one in events if isinstance(one, FileFinished) or one.path == "part-2.plain"]
    assert order[0] == ("BytesWritten", "part-2.plain")
    assert [one.path for one in events if isinstance(one, FileFinished)][:3] == [f"part-{n}.plain" for n in range(3)]
    assert gate.asked > 6


def test_the_end_waits_for_the_gate(tmp_path: Path) -> None:
    assert run(tmp_path / "out", Late(100, fails=False), []).published.keys() == {
        "config.json",
        *(f"part-{n}.plain" for n in range(6)),
    }
    assert run(tmp_path / "bad", Late(100, fails=True), []).published == {}
    assert set(content(tmp_path / "bad")) == {JOURNAL}


def test_an_input_that_changes_while_its_file_waits_is_told(tmp_path: Path) -> None:
    """The pass over it has ended, and its bytes were those of the plan; but nothing of it is published any more."""
    path = tmp_path / "input"
    path.write_bytes(bytes(64))

    class Spoiling(Late):
        def ask(self, wait: bool) -> bool:
            if wait:
                path.write_bytes(bytes(63) + b"1")
            return wait

    planned = plan(output("a.plain", {"a": Stored(open_local(path), "w", TensorSpec(BY_NAME["uint8"], (8, 8)), 0)}))
    ledger = Directory(tmp_path / "out")
    try:
        standing = ledger.open(planned, [])
        with pytest.raises(FormatError, match="has changed"):
            Coordinator(ledger, standing, [Spoiling(9, fails=False)], Threads(1), 1 << 20, lambda event: None).run(planned)
    finally:
        ledger.close()
    assert not (tmp_path / "out" / "a.plain").exists()


RUN = """
import tests.run.test_gates as t
class Never(t.Late):
    def ask(self, wait):
        if wait:
            Path(sys.argv[3]).touch()
            wait_for(lambda: False)
        return False
source = Stored(open_local(Path(sys.argv[2])), "w", TensorSpec(UINT8, (64, 4096)), 0)
planned = plan(*(output(f"{n}.plain", {"a": derive(Once(sys.argv[4]), source), "b": tensor("b", n)}) for n in range(3)))
ledger = t.Directory(Path(sys.argv[1]))
t.Coordinator(ledger, ledger.open(planned, []), [Never(9, False)], t.Threads(2), 1 << 20, lambda event: None).run(planned)
"""


def test_a_file_that_waits_for_a_gate_survives_a_kill(tmp_path: Path) -> None:
    out, flag, passes = tmp_path / "out", tmp_path / "flag", tmp_path / "passes"
    source = stored(tmp_path / "in", 64)
    process = python(RUN, out, tmp_path / "in", flag, passes)
    wait_for(flag.exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert {path.name for path in out.iterdir()} == {JOURNAL, *(f".{n}.plain.partial" for n in range(3))}
    inodes = {path.stat().st_ino for path in out.glob(".*.partial")}
    assert passes.read_text() == "pass\n" * 3

    from tests.run.parts import Once
    from weightkit.core.lazy import derive

    planned = plan(*(output(f"{n}.plain", {"a": derive(Once(str(passes)), source), "b": tensor("b", n)}) for n in range(3)))
    events: list[Event] = []
    done = carry_out(planned, out, verify_raw=raw(tmp_path / "raw", params=b"{}"), notify=events.append)
    assert done.ok
    assert passes.read_text() == "pass\n" * 3, "nothing was computed again"
    assert sum(isinstance(one, FileKept) for one in events) == 3
    assert {path.stat().st_ino for path in out.glob("*.plain")} == inodes
    assert set(content(out)) == {"0.plain", "1.plain", "2.plain", "SHA256SUMS"}


def test_an_interrupt_does_not_wait_for_the_checklist(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", params=b"{}")
    with (folder / "weights").open("wb") as file:
        file.truncate(20 << 30)
    with (folder / "checklist.chk").open("a") as file:
        file.write(f"{'0123456789abcdef' * 2}  weights\n")

    def notify(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(simple(), tmp_path / "out", verify_raw=folder, notify=notify)


def test_checklists_that_are_none(tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", params=b"{}")
    (folder / "params").unlink()
    with pytest.raises(PlanError, match=f"--verify-raw: {folder / 'params'} is in checklist.chk and not there"):
        Checklist(folder)
    (folder / "checklist.chk").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="no text in UTF-8"):
        Checklist(folder)
    (folder / "checklist.chk").unlink()
    with pytest.raises(PlanError, match=r"has no checklist.chk; leave it out, or fetch the file"):
        carry_out(simple(), tmp_path / "out", verify_raw=folder)
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_may_lie_above(tmp_path: Path) -> None:
    folder = raw(tmp_path / "LLaMA" / "7B", params=b"{}")
    (tmp_path / "LLaMA" / "tokenizer.model").write_bytes(b"t")
    with (folder / "checklist.chk").open("a") as file:
        file.write(f"{hashlib.md5(b't').hexdigest()}  tokenizer.model\n")
    assert carry_out(simple(), tmp_path / "out", verify_raw=folder).ok
