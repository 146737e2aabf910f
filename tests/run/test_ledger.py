"""A folder's ledger: locks, then looks; harms nothing that is not its own; takes up what was interrupted."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.run.parts import Once, Plain, content, output, plan, python, simple, stored, tensor, wait_for
from weightkit.core.digest import Digest
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.core.events import BytesWritten, Event, FileFinished, FileKept
from weightkit.core.lazy import derive
from weightkit.core.probes import CONTENT
from weightkit.run.execute import carry_out, preview
from weightkit.run.ledgers.directory import Directory
from weightkit.run.ledgers.journal import JOURNAL, read_journal, sealed, unsealed
from weightkit.run.ledgers.stage import FolderStage
from weightkit.run.plan import Plan, Twin, Watched
from weightkit.run.receipts import Receipt
from weightkit.run.write import Work


class Interrupted(Exception):
    """A run stopped by a test."""


def interrupted(planned: Plan, out: Path, after: str, **more: Any) -> None:
    """Carry a plan out until a file has been published, then stop it."""

    def notify(event: Event) -> None:
        if isinstance(event, FileFinished) and event.path == after:
            raise Interrupted

    with pytest.raises(Interrupted):
        carry_out(planned, out, notify=notify, **more)


RUN = """
source = Stored(open_local(Path(sys.argv[2])), "w", TensorSpec(UINT8, (64, 4096)), 0)
planned = plan(output("a.plain", {"a": waiting(source, Path(sys.argv[3]), 40)}), small=[SmallFile("config.json", b"{}")])
print(carry_out(planned, Path(sys.argv[1])).ok)
"""


def test_a_second_start_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    out, flag = tmp_path / "out", tmp_path / "flag"
    stored(tmp_path / "in", 64)
    first = python(RUN, out, tmp_path / "in", flag)
    wait_for(flag.exists)
    before = {path: path.stat().st_ino for path in out.iterdir()}
    assert {path.name for path in before} == {JOURNAL, ".a.plain.partial"}
    second = python(RUN, out, tmp_path / "in", tmp_path / "other")
    _, errors = second.communicate()
    assert second.returncode == 1
    assert "another weightkit writes there; wait, or name another --out" in errors
    with pytest.raises(PlanError, match="another weightkit writes there"):
        carry_out(simple(), out, overwrite=True)
    assert {path: path.stat().st_ino for path in out.iterdir()} == before
    flag.unlink()
    said, errors = first.communicate()
    assert (first.returncode, said) == (0, "True\n"), errors
    assert set(content(out)) == {"a.plain", "config.json", "SHA256SUMS"}


def test_a_second_start_inside_the_firsts_folder(tmp_path: Path) -> None:
    """Refused where both write to one folder, whichever is the outer one; elsewhere they don't meet."""
    out, flag = tmp_path / "out", tmp_path / "flag"
    stored(tmp_path / "in", 64)
    first = python(RUN.replace("a.plain", "sub/part-0.plain"), out, tmp_path / "in", flag)
    wait_for(flag.exists)
    before = {path: path.stat().st_ino for path in out.rglob("*")}
    assert out / "sub" / ".part-0.plain.partial" in before
    for inner in (out / "sub", tmp_path / "out" / ".." / "out" / "sub"):
        for overwrite in (False, True):
            with pytest.raises(PlanError, match="sub: another weightkit writes there"):
                carry_out(simple(), inner, overwrite=overwrite)
    with pytest.raises(PlanError, match="another weightkit writes there"):
        carry_out(plan(output("out/sub/part-0.plain", {"a": tensor("a", 1)})), tmp_path)
    assert {path: path.stat().st_ino for path in out.rglob("*")} == before
    assert carry_out(simple(), out / "other").ok
    flag.unlink()
    said, errors = first.communicate()
    assert (first.returncode, said) == (0, "True\n"), errors


def test_a_folder_that_was_made_for_nothing_goes(tmp_path: Path) -> None:
    def broken(event: Event) -> None:
        if isinstance(event, BytesWritten):
            raise Interrupted

    planned = plan(output("a.plain", {"a": tensor("a", 1)}), output("sub/dir/b.plain", {"a": tensor("a", 1)}))
    with pytest.raises(Interrupted):
        carry_out(planned, tmp_path / "out", notify=broken)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {JOURNAL}


def test_within_one_process_too(tmp_path: Path) -> None:
    first = Directory(tmp_path / "out")
    first.open(simple(), [])
    with first.stage().create("part-0.plain", None) as file:
        file.write(b"under way")
        with pytest.raises(PlanError, match="another weightkit writes there"):
            carry_out(simple(), tmp_path / "out")
    first.close()
    assert carry_out(simple(), tmp_path / "out").ok


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_the_user_puts_there_meanwhile_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    out, flag = tmp_path / "out", tmp_path / "flag"
    stored(tmp_path / "in", 64)
    code = RUN.replace("argv[1])", f"argv[1]), overwrite={overwrite}")
    run = python(code, out, tmp_path / "in", flag)
    wait_for(flag.exists)
    (out / "config.json").write_text("mine")
    flag.unlink()
    _, errors = run.communicate()
    assert run.returncode == 1
    assert "config.json was put there or changed while weightkit worked, and is not replaced" in errors
    assert content(out)["config.json"] == b"mine"
    assert "SHA256SUMS" not in content(out)
    (out / "config.json").unlink()
    run = python(code, out, tmp_path / "in", flag)
    assert run.communicate()[0] == "True\n", "a.plain is kept: computing it would wait for the flag to go"
    assert set(content(out)) == {"a.plain", "config.json", "SHA256SUMS"}


def test_a_file_that_was_there_is_replaced_only_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "part-0.plain").write_text("old")
    with pytest.raises(PlanError, match=r"part-0.plain is there already and would be replaced; .* --overwrite"):
        carry_out(simple(1), out)

    def notify(event: Event) -> None:
        (out / "part-0.plain").write_text("new, and mine")

    with pytest.raises(PlanError, match="put there or changed"):
        carry_out(simple(1), out, overwrite=True, notify=notify)
    assert (out / "part-0.plain").read_text() == "new, and mine"
    assert carry_out(simple(1), out, overwrite=True).ok
    assert (out / "part-0.plain").read_bytes().startswith(b"PLAIN")


def test_nothing_is_left_of_a_run_that_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(PlanError, match="two files of that name"):
        carry_out(plan(output("a", {"a": tensor("a", 1)}), output("a", {"a": tensor("a", 1)})), out)
    with pytest.raises(PlanError, match="--max-memory allows"):
        carry_out(simple(), out, max_memory=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", [JOURNAL, ".a.partial", "sub/.weightkit-journal", "../a", "/a", "", "lone \udcff"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError, match="rename the one in the input"):
        carry_out(plan(output(name, {"a": tensor("a", 1)})), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_preview_touches_nothing_and_refuses_what_the_run_refuses(tmp_path: Path) -> None:
    found = preview(simple(), tmp_path / "out")
    assert found.needed_nbytes > simple().nbytes
    assert found.free_nbytes > 0
    assert not (tmp_path / "out").exists()
    carry_out(simple(), tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(PlanError, match="is there already"):
        preview(simple(2), tmp_path / "out")
    with pytest.raises(PlanError, match="is there already"):
        carry_out(simple(2), tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_one_replaced_input_costs_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def planned() -> Plan:
        sources = [tmp_path / f"in-{n}" for n in range(4)]
        tensors = [stored(path, 8) if not path.exists() else stored_again(path) for path in sources]
        return plan(
            *(output(f"{n}.plain", {"a": derive(Once(str(tmp_path / "passes")), one)}) for n, one in enumerate(tensors))
        )

    interrupted(planned(), out, "2.plain")
    inodes = {path.name: path.stat().st_ino for path in out.glob("*.plain")}
    assert sorted(inodes) == ["0.plain", "1.plain", "2.plain"]
    (tmp_path / "new").write_bytes(b"\7" * 8 * 4096)
    (tmp_path / "new").rename(tmp_path / "in-1")
    (tmp_path / "passes").unlink()
    events: list[Event] = []
    carry_out(planned(), out, notify=events.append)
    assert (tmp_path / "passes").read_text() == "pass\n" * 2, "the replaced one, and the one that was not made yet"
    assert {one.path for one in events if isinstance(one, FileKept)} == {"0.plain", "2.plain"}
    assert content(out)["1.plain"] == b"PLAIN" + b"\7" * 8 * 4096
    assert {name: out.joinpath(name).stat().st_ino == inodes[name] for name in inodes} == {
        "0.plain": True,
        "1.plain": False,
        "2.plain": True,
    }


def stored_again(path: Path) -> Any:
    from tests.run.parts import UINT8
    from weightkit.blobs import open_local
    from weightkit.core.spec import TensorSpec
    from weightkit.core.stored import Stored

    return Stored(open_local(path), "w", TensorSpec(UINT8, (8, 4096)), 0)


def replaced_first(tmp_path: Path) -> tuple[Plan, Path]:
    """A run interrupted after its first of two files; then the first one's input is replaced."""
    out = tmp_path / "out"

    def planned() -> Plan:
        return plan(*(output(f"{n}.plain", {"a": stored_again(tmp_path / f"in-{n}")}) for n in range(3)))

    for n in range(3):
        stored(tmp_path / f"in-{n}", 8)
    interrupted(planned(), out, "1.plain")
    stored(tmp_path / "in-0", 8, value=9)
    return planned(), out


def test_what_would_be_made_anew_is_replaced_only_while_it_is_ours(tmp_path: Path) -> None:
    planned, out = replaced_first(tmp_path)
    (out / "0.plain").write_text("mine now")
    with pytest.raises(PlanError, match="0.plain is there already and would be replaced"):
        carry_out(planned, out)
    assert (out / "0.plain").read_text() == "mine now"
    assert carry_out(planned, out, overwrite=True).ok
    assert content(out)["0.plain"] == b"PLAIN" + b"\x09" * 8 * 4096


def test_ones_own_file_under_a_recorded_name_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-0.plain")
    (out / "part-0.plain").unlink()
    (out / "part-0.plain").write_text("mine")
    with pytest.raises(PlanError, match="part-0.plain is there already"):
        carry_out(simple(), out)
    assert (out / "part-0.plain").read_text() == "mine"


def test_another_plans_files_are_not_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-0.plain")
    other = plan(output("part-0.plain", {"a": tensor("a", 77)}))
    with pytest.raises(PlanError, match="part-0.plain is there already"):
        carry_out(other, out)


def count_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def big(count: int = 2) -> Plan:
    tensors = [{f"t{n}": tensor("t", n + 1, 4096, 1024), f"e{n}": tensor("e", 1, 0, 5)} for n in range(count)]
    files = [output(f"{n}.plain", one) for n, one in enumerate(tensors)]
    return plan(*files, tensors=True)


def test_a_kept_file_is_read_once_and_in_sight(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(big(), out, "0.plain")
    size = (out / "0.plain").stat().st_size
    events: list[Event] = []
    before = count_read()
    done = carry_out(big(), out, notify=events.append)
    read = count_read() - before
    assert size <= read < 1.1 * size
    assert [one.kept for one in done.report.receipts] == [True, False]
    told = [one.nbytes for one in events if isinstance(one, BytesWritten) and one.path == "0.plain"]
    assert sum(told) == size
    assert len(told) >= 4, "so that an interrupt, which is raised when progress is told, need not wait for all of it"
    whole = tmp_path / "whole"
    carry_out(big(), whole)
    assert content(out) == content(whole)
    assert b"e1\n" in content(out)["TENSORS"]


def test_what_was_seen_in_a_file_is_kept_with_it(tmp_path: Path) -> None:
    """A file that was computed with its twin is not made again: digests of the twin and counts are in the journal."""
    from weightkit.core.probes import Changed

    def planned() -> Plan:
        files = []
        for n in range(2):
            one, other = tensor("w", n, 8), tensor("w", 5, 8)
            watched = (Watched(Changed(), (((one, other),),)),)
            files.append(output(f"{n}.plain", {"w": one}, twin=Twin(Plain(b"TWIN"), ((other,),)), watched=watched))
        return plan(*files)

    interrupted(planned(), tmp_path / "out", "0.plain")
    kept = carry_out(planned(), tmp_path / "out").report.receipts
    fresh = carry_out(planned(), tmp_path / "fresh").report.receipts
    assert [one.kept for one in kept] == [True, False]
    for one, other in zip(kept, fresh, strict=True):
        assert (one.digests, one.twin, one.found) == (other.digests, other.twin, other.found)
    assert kept[0].found == {"changed": {"w": {"elements": 512, "changed": 512}}}


def test_more_digests_of_a_kept_file_cost_no_second_computation(tmp_path: Path) -> None:
    import hashlib
    from dataclasses import replace

    out = tmp_path / "out"
    interrupted(simple(), out, "part-0.plain")
    wanted = Digest("md5", hashlib.md5((out / "part-0.plain").read_bytes()).hexdigest())
    planned = simple()
    files = (replace(planned.files[0], expect=(wanted,)), *planned.files[1:])
    done = carry_out(replace(planned, files=files), out)
    assert done.ok
    assert done.report.receipts[0].kept
    assert done.report.receipts[0].digests["md5"] == wanted


@pytest.mark.parametrize(
    "damage",
    [
        lambda head, line: b"\xff\xfe\x00garbage",
        lambda head, line: b"",
        lambda head, line: b"[1]\n",
        lambda head, line: b"[" * 200_000,
        lambda head, line: b'{"plan": null}\n',
        lambda head, line: head + line.replace(b'"sha256"', b'"sha257"') + b"\n",
        lambda head, line: head + sealed(json.dumps({**json.loads(unsealed(line)), "digests": None})),
        lambda head, line: head + sealed(json.dumps({**json.loads(unsealed(line)), "digests": ["x"]})),
        lambda head, line: head + sealed(json.dumps({**json.loads(unsealed(line)), "found": {"content": 3}})),
        lambda head, line: head + b"[1]\n\xff\xfe\n" + b"[" * 100_000 + b"\n",
        lambda head, line: head + line[: len(line) // 2],
        lambda head, line: head[: len(head) // 2],
    ],
)
def test_a_torn_journal_is_set_aside(tmp_path: Path, damage: Any) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-0.plain")
    head, _, line = (out / JOURNAL).read_bytes().partition(b"\n")
    (out / JOURNAL).write_bytes(damage(head + b"\n", line.strip()))
    with pytest.raises(PlanError, match="part-0.plain is there already"):
        carry_out(simple(), out)
    (out / "part-0.plain").unlink()
    assert carry_out(simple(), out).ok
    assert set(content(out)) == {"part-0.plain", "part-1.plain", "part-2.plain", "config.json", "SHA256SUMS"}


def test_no_flipped_bit_of_a_journal_is_believed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-1.plain")
    right = read_journal(out)
    text = (out / JOURNAL).read_bytes()
    assert right is not None
    assert len(right.receipts) == 2
    for at in range(len(text)):
        damaged = bytearray(text)
        damaged[at] ^= 1 << at % 8
        (out / JOURNAL).write_bytes(damaged)
        try:
            found = read_journal(out)
        except ValueError:
            continue
        assert found is not None, at
        assert found.planned == right.planned, at
        assert found.receipts.items() <= right.receipts.items(), at


def test_whose_files_they_are_is_not_known_where_the_journal_is_damaged(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-1.plain")
    (out / JOURNAL).write_bytes((out / JOURNAL).read_bytes().replace(b'"part-0.plain", "finger', b'"part-7.plain", "finger'))
    with pytest.raises(PlanError, match=r"part-0.plain is there already.*journal is damaged \(1 of its lines"):
        carry_out(simple(), out)
    assert {"part-0.plain", "part-1.plain"} <= set(content(out))


def test_a_journal_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / JOURNAL)
    assert carry_out(simple(), out).ok


def test_a_line_that_was_being_written_costs_its_file_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-1.plain")
    text = (out / JOURNAL).read_bytes()
    (out / JOURNAL).write_bytes(text[:-20])
    (out / "part-1.plain").unlink()
    done = carry_out(simple(), out)
    assert [one.kept for one in done.report.receipts] == [True, False, False, False]


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADF])
def test_a_lock_that_fails_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(WeightkitError, match=f"cannot be locked: {os.strerror(number)}") as caught:
        carry_out(simple(), tmp_path / "out")
    assert "another weightkit" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_caller_is_not_told_as_one_of_the_disk(tmp_path: Path) -> None:
    def broken(event: Event) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        carry_out(simple(), tmp_path / "out", notify=broken)


def test_without_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr("weightkit.run.ledgers.stage.FLUSH_NBYTES", 1 << 12)
    assert carry_out(simple(), tmp_path / "out").ok


def test_all_is_flushed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content before the journal, the journal before the name, names before the lists, the lists before the journal goes."""
    log: list[tuple[str, str]] = []
    fsync, link, unlink = os.fsync, os.link, Path.unlink

    def place(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()).replace(str(tmp_path), "")

    monkeypatch.setattr(os, "fsync", lambda one: (log.append(("flush", place(one))), fsync(one))[1])
    monkeypatch.setattr(
        os, "link", lambda one, two: (log.append(("name", str(two).replace(str(tmp_path), ""))), link(one, two))[1]
    )
    monkeypatch.setattr(
        Path,
        "unlink",
        lambda self, **more: (log.append(("remove", str(self).replace(str(tmp_path), ""))), unlink(self, **more))[1],
    )
    carry_out(plan(output("sub/dir/a.plain", {"a": tensor("a", 1)})), tmp_path / "new" / "out")
    kept = [one for one in log if one[0] != "remove" or one[1].endswith(JOURNAL)]
    out = "/new/out"
    assert kept == [
        ("flush", ""),
        ("flush", "/new"),
        ("flush", f"{out}/..weightkit-journal.partial"),
        ("flush", out),
        ("flush", f"{out}/sub/dir/.a.plain.partial"),
        ("flush", f"{out}/{JOURNAL}"),
        ("name", f"{out}/sub/dir/a.plain"),
        ("flush", f"{out}/sub/dir"),
        ("flush", f"{out}/sub"),
        ("flush", out),
        ("flush", f"{out}/.SHA256SUMS.partial"),
        ("flush", f"{out}/{JOURNAL}"),
        ("name", f"{out}/SHA256SUMS"),
        ("flush", out),
        ("remove", f"{out}/{JOURNAL}"),
    ]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert carry_out(simple(), tmp_path / "out").ok
    (tmp_path / "out" / "SHA256SUMS").unlink()

    def notify(event: Event) -> None:
        if isinstance(event, BytesWritten):
            (tmp_path / "o" / "part-2.plain").write_text("mine")

    with pytest.raises(PlanError, match=r"part-2.plain was put there"):
        carry_out(simple(), tmp_path / "o", notify=notify)
    assert (tmp_path / "o" / "part-2.plain").read_text() == "mine"


def test_killed_between_the_two_names_of_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-0.plain")
    os.link(out / "part-0.plain", out / ".part-0.plain.partial")
    done = carry_out(simple(), out)
    assert done.report.receipts[0].kept
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_killed_between_the_journal_and_the_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-0.plain")
    (out / "part-0.plain").rename(out / ".part-0.plain.partial")
    done = carry_out(simple(), out)
    assert done.report.receipts[0].kept
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_killed_before_the_journal_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("weightkit.run.ledgers.journal.Journal.remove", lambda self: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            carry_out(big(), out)
    before = {path.name: path.stat().st_ino for path in out.iterdir() if path.name != JOURNAL}
    assert {"SHA256SUMS", "TENSORS"} < set(before)
    assert all(one.kept for one in carry_out(big(), out).report.receipts)
    assert {path.name: path.stat().st_ino for path in out.iterdir()} == before


def test_a_run_that_fails_leaves_nothing_unfinished(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "in").write_bytes(b"1" * 4096 * 8)
    source = stored_again(tmp_path / "in")
    os.truncate(tmp_path / "in", 4096)
    with pytest.raises(FormatError):
        carry_out(plan(output("a.plain", {"a": source})), out)
    assert {path.name for path in out.iterdir()} == {JOURNAL}


def test_what_others_left_is_named_and_not_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".model.safetensors.partial").write_bytes(b"another plan's")
    (out / ".part-0.plain.partial").symlink_to(tmp_path / "precious")
    done = carry_out(simple(), out)
    assert done.ok
    assert [note for note in done.plan.notes if ".model.safetensors.partial was left by an interrupted run" in note]
    assert (out / ".model.safetensors.partial").exists()
    assert not (tmp_path / "precious").exists()


def test_a_partial_that_was_replaced_is_not_published(tmp_path: Path) -> None:
    ledger = Directory(tmp_path / "out")
    ledger.open(simple(1), [])
    with ledger.stage().create("part-0.plain", 3) as file:
        file.write(b"abc")
        token = file.seal()
    partial = tmp_path / "out" / ".part-0.plain.partial"
    partial.rename(tmp_path / "out" / "aside")
    partial.write_bytes(b"abd")
    receipt = Receipt("part-0.plain", "f", 3, {"sha256": Digest("sha256", "ab" * 32)}, token=token)
    ledger.staged(receipt)
    with pytest.raises(WeightkitError, match="was replaced while weightkit worked"):
        ledger.publish(receipt)
    ledger.close()


def test_inode_numbers_that_do_not_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some file systems in user space: then the content tells."""
    monkeypatch.setattr("weightkit.run.ledgers.stage.OpenFile.seal", seal_with_another_token)
    assert carry_out(simple(), tmp_path / "out").ok


def seal_with_another_token(self: Any) -> str:
    self.sealed = True
    return "no such inode"


def test_a_file_system_that_cannot_flush_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    assert carry_out(simple(), tmp_path / "out").ok


def test_a_file_that_is_no_longer_planned_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(simple(), out, "part-1.plain")
    planned = simple()
    fewer = plan(planned.files[0], planned.files[2], small=planned.small)  # type: ignore[arg-type]
    done = carry_out(fewer, out)
    assert done.plan.notes == (f"{out}/part-1.plain was written by an earlier try, and is no part of what is written now",)
    assert [one.kept for one in done.report.receipts] == [True, False, False]


@pytest.mark.parametrize("when", ["before a file is begun", "before it has its name"])
def test_a_folder_that_is_moved_away_meanwhile_is_another_runs(tmp_path: Path, when: str) -> None:
    out, planned = tmp_path / "out", simple()
    with closing(Directory(out)) as ledger:
        ledger.open(planned, [])
        stage = ledger.stage()

        def move() -> None:
            out.rename(tmp_path / "elsewhere")
            out.mkdir()
            (out / ".part-0.plain.partial").write_text("another run's")

        if when == "before a file is begun":
            move()
            with pytest.raises(WeightkitError, match="out: was moved or removed"), stage.create("part-0.plain", 3):
                pass
        else:
            receipt = ledger.staged(Work(stage, 4096)(planned.files[0]))
            move()
            with pytest.raises(WeightkitError, match="out: was moved or removed"):
                ledger.publish(receipt)
    assert {path.name: path.read_text() for path in out.iterdir()} == {".part-0.plain.partial": "another run's"}


def test_a_folder_that_is_removed_meanwhile_is_an_error(tmp_path: Path) -> None:
    import shutil

    def notify(event: Event) -> None:
        if isinstance(event, FileFinished):
            shutil.rmtree(tmp_path / "out")

    with pytest.raises(WeightkitError, match="cannot be written: No such file or directory"):
        carry_out(simple(), tmp_path / "out", notify=notify)


def test_stage_leaves_alone_what_another_run_put_in_its_place(tmp_path: Path) -> None:
    partial = tmp_path / ".a.partial"
    with FolderStage(tmp_path).create("a", None) as file:
        file.write(b"orphan")
        partial.unlink()
        partial.write_text("another's")
    assert partial.read_text() == "another's"


def test_receipts_survive_the_journal(tmp_path: Path) -> None:
    one = Receipt(
        "sub/ü \udcff\n.bin",
        "f" * 64,
        7,
        {"sha256": Digest("sha256", "ab" * 32), "md5": Digest("md5", "cd" * 16)},
        {"sha256": Digest("sha256", "ba" * 32)},
        {CONTENT: {"w": "ef" * 32}, "changed": {"w": {"elements": 3, "changed": 1}}},
        {"in": Digest("md5", "12" * 16)},
        "abc",
    )
    assert Receipt.decode(one.encode()) == one
    assert read_journal(tmp_path) is None


def test_sigkill_at_any_moment(tmp_path: Path) -> None:
    """Some kills in the middle of a run of many small files; what comes out at last is what an undisturbed run gives."""
    code = "carry_out(simple(40, tensors=True), Path(sys.argv[1]), jobs=3)"
    wanted = tmp_path / "wanted"
    carry_out(simple(40, tensors=True), wanted)
    out = tmp_path / "out"
    for files in (0, 3, 11, 25, 39):
        run = python(code, out)
        wait_for(lambda files=files, run=run: len(list(out.glob("part-*.plain"))) > files or run.poll() is not None)  # type: ignore[misc]
        run.send_signal(signal.SIGKILL)
        run.communicate()
        if (out / "SHA256SUMS").exists():
            break
        assert all(path.read_bytes() == (wanted / path.name).read_bytes() for path in out.glob("part-*.plain"))
    if (out / JOURNAL).exists():
        carry_out(simple(40, tensors=True), out)
    assert content(out) == content(wanted)
