"""Locks by a file with host and process, where others do not see flock. Failing flocks are fakes, the rest is real."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.run.parts import content, output, plan, python, simple, stored, tensor, wait_for
from weightkit.core.errors import PlanError
from weightkit.run.execute import carry_out
from weightkit.run.ledgers.directory import Directory
from weightkit.run.ledgers.lock import FolderLock

LOCK = ".weightkit-lock"

FAKE = """
import fcntl, os
def refuse(descriptor, operation):
    raise OSError({number}, os.strerror({number}))
fcntl.flock = refuse
"""

RUN = """
source = Stored(open_local(Path(sys.argv[2])), "w", TensorSpec(UINT8, (64, 4096)), 0)
planned = plan(output("a.plain", {"a": waiting(source, Path(sys.argv[3]), 40)}), small=[SmallFile("config.json", b"{}")])
print(carry_out(planned, Path(sys.argv[1])).ok)
"""


def fake(number: int) -> str:
    return FAKE.format(number=int(number))


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def under_way(tmp_path: Path) -> Iterator[Any]:
    """A run without flock that waits in the middle of its file."""
    flag = tmp_path / "flag"
    stored(tmp_path / "in", 64)
    run = python(fake(errno.ENOLCK) + RUN, tmp_path / "out", tmp_path / "in", flag)
    wait_for(lambda: flag.exists() or run.poll() is not None)
    assert run.poll() is None, run.communicate()[1]
    yield run
    run.kill()
    run.communicate()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_without_flock_a_file_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    out = tmp_path / "out"
    seen: list[dict[str, Any]] = []

    def notify(event: object) -> None:
        seen.append(json.loads((out / LOCK).read_text()))

    assert carry_out(simple(), out, notify=notify).ok
    assert {(one["host"], one["pid"]) for one in seen} == {(socket.gethostname(), os.getpid())}
    assert set(content(out)) == {"part-0.plain", "part-1.plain", "part-2.plain", "config.json", "SHA256SUMS"}


def test_a_second_run_is_refused_before_it_touches_anything(tmp_path: Path, under_way: Any) -> None:
    out = tmp_path / "out"
    before = {path: path.stat().st_ino for path in out.iterdir()}
    changed = out.stat().st_mtime_ns
    assert LOCK in {path.name for path in before}
    second = python(fake(errno.EOPNOTSUPP) + RUN, out, tmp_path / "in", tmp_path / "other")
    errors = second.communicate()[1].splitlines()[-1]
    assert second.returncode == 1
    for word in (f"process {under_way.pid} on {socket.gethostname()}", str(out / LOCK), "another weightkit writes there"):
        assert word in errors
    assert {path: path.stat().st_ino for path in out.iterdir()} == before
    assert out.stat().st_mtime_ns == changed
    (tmp_path / "flag").unlink()
    said, errors = under_way.communicate()
    assert (under_way.returncode, said) == (0, "True\n"), errors
    assert set(content(out)) == {"a.plain", "config.json", "SHA256SUMS"}


def test_one_whose_flock_works_heeds_the_file(tmp_path: Path, under_way: Any) -> None:
    before = {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    for overwrite in (False, True):
        with pytest.raises(PlanError, match=f"another weightkit writes there: process {under_way.pid} on "):
            carry_out(simple(), tmp_path / "out", overwrite=overwrite)
    assert {path: path.stat().st_ino for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("flock", [False, True])
def test_what_a_killed_run_held_is_taken_over(tmp_path: Path, under_way: Any, flock: bool) -> None:
    """Not yet waited for, the process is a zombie: it writes nothing more."""
    out = tmp_path / "out"
    os.kill(under_way.pid, signal.SIGKILL)
    os.waitid(os.P_PID, under_way.pid, os.WEXITED | os.WNOWAIT)
    assert (out / LOCK).exists()
    (tmp_path / "flag").unlink()
    code = RUN.replace("waiting(source, Path(sys.argv[3]), 40)", "source")
    again = python(("" if flock else fake(errno.ENOSYS)) + code, out, tmp_path / "in", tmp_path / "flag")
    said, errors = again.communicate()
    assert (again.returncode, said) == (0, "True\n"), errors
    assert set(content(out)) == {"a.plain", "config.json", "SHA256SUMS"}


def locked_by(out: Path, **other: Any) -> dict[str, Any]:
    """A lock file as this process would leave it, but for what is said."""
    out.mkdir(exist_ok=True)
    (out / LOCK).unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "fake")))
        lock = FolderLock(out)
        text = (out / LOCK).read_text()
        lock.release(unmake=False)
    found: dict[str, Any] = {**json.loads(text), **other}
    (out / LOCK).write_text(json.dumps(found))
    return found


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_number_that_another_process_has_got_is_stale(tmp_path: Path) -> None:
    """Told by when the process began."""
    out = tmp_path / "out"
    locked_by(out)
    with pytest.raises(PlanError, match=f"process {os.getpid()} on"):
        carry_out(simple(), out)
    locked_by(out, started="1")
    assert carry_out(simple(), out).ok
    assert not (out / LOCK).exists()


@pytest.mark.parametrize("what", ["host", "system"])
def test_another_hosts_is_never_taken_over(tmp_path: Path, what: str, without_flock: None) -> None:
    """Nor one of another container or boot: whose process it was, nobody here can tell."""
    out = tmp_path / "out"
    found = locked_by(out, pid=dead_pid(), **{what: "elsewhere"})
    before = (out / LOCK).read_bytes()
    with pytest.raises(PlanError) as caught:
        carry_out(simple(), out)
    for word in (found["host"], str(found["pid"]), str(out / LOCK), "remove"):
        assert word in str(caught.value)
    assert content(out) == {LOCK: before}
    (out / LOCK).unlink()
    assert carry_out(simple(), out).ok


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[" * 3000,
        b"{}",
        b"x" * 100_000,
        b'{"weightkit-lock": 1, "host": 3, "pid": "x"}',
        b'{"weightkit-lock": 1, "host": "h", "pid": ' + b"9" * 3000 + b', "started": "", "system": "", "nonce": ""}',
        b'{"weightkit-lock": 1, "host": "h", "pid": -1, "started": "", "system": "", "nonce": ""}',
    ],
)
def test_foreign_text_under_its_name(tmp_path: Path, text: bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / LOCK).write_bytes(text)
    with pytest.raises(PlanError, match=r"tells no host and process .* remove it"):
        carry_out(simple(), out)
    assert content(out) == {LOCK: text}


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_does_not_block(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    {
        "pipe": os.mkfifo,
        "link": lambda path: path.symlink_to("/dev/zero"),
        "folder": Path.mkdir,
    }[kind](out / LOCK)
    with pytest.raises(PlanError, match=r"tells no host and process .* remove it"):
        carry_out(simple(), out)


def test_a_hosts_name_is_shown_safely(tmp_path: Path) -> None:
    out = tmp_path / "out"
    locked_by(out, host="evil\x1b[31m\n::add-mask::" + "x" * 1000)
    with pytest.raises(PlanError) as caught:
        carry_out(simple(), out)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_it_is_removed_when_a_run_fails(tmp_path: Path, without_flock: None) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(PlanError, match="two files of that name"):
        carry_out(plan(output("a", {"a": tensor("a", 1)}), output("a", {"a": tensor("a", 1)})), out)
    assert not (tmp_path / "new").exists()

    def broken(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(simple(), out, notify=broken)
    assert LOCK not in content(out)


def test_another_runs_is_not_removed(tmp_path: Path, without_flock: None) -> None:
    ledger = Directory(tmp_path / "out")
    ledger.open(simple(), [])
    path = tmp_path / "out" / LOCK
    path.unlink()
    path.write_text("another's")
    ledger.close()
    assert path.read_text() == "another's"


def test_a_folder_that_may_not_be_written_to_is_right_all_the_same(tmp_path: Path, without_flock: None) -> None:
    out = tmp_path / "out"
    carry_out(simple(), out)
    out.chmod(0o555)
    try:
        assert carry_out(simple(), out).stood
    finally:
        out.chmod(0o755)


def test_it_is_no_part_of_a_release(tmp_path: Path, weightkit: Any) -> None:
    out = tmp_path / "out"
    carry_out(simple(), out)
    listed = weightkit("manifest", out).stdout
    locked_by(out, host="elsewhere")
    assert weightkit("manifest", out).stdout == listed
    said = weightkit("verify", out, "--checksums", out / "SHA256SUMS")
    assert said.returncode == 0, said.stderr
    assert LOCK not in said.stdout


@pytest.mark.parametrize("name", [LOCK, "sub/.weightkit-lock", f"{LOCK}.0123456789abcdef"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError, match="rename the one in the input"):
        carry_out(plan(output(name, {"a": tensor("a", 1)})), tmp_path / "out")


TAKE = """
from weightkit.core.errors import PlanError
from weightkit.run.ledgers.lock import FolderLock
import time
while not Path(sys.argv[2]).exists():
    time.sleep(0.0005)
try:
    lock = FolderLock(Path(sys.argv[1]))
    print("mine", flush=True)
    sys.stdin.read()
    lock.release(unmake=False)
except PlanError as error:
    print("refused", flush=True)
"""


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("stale", [True, False])
def test_of_many_at_once_one_gets_it(tmp_path: Path, stale: bool, links: bool) -> None:
    """Real processes that all see the same file, of a run that is no more, at the same moment."""
    out = tmp_path / "out"
    out.mkdir()
    head = fake(errno.ENOLCK)
    if not links:
        head += "def no_link(*_):\n    raise OSError(95, 'fake')\nos.link = no_link\n"
    for turn in range(3):
        if stale:
            locked_by(out, pid=dead_pid(), nonce=str(turn))
        go = tmp_path / f"go-{turn}"
        command = [sys.executable, "-c", "import sys; from pathlib import Path\n" + head + TAKE, str(out), str(go)]
        runs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
        go.touch()
        said = [run.stdout.readline().strip() for run in runs]  # type: ignore[union-attr]
        assert sorted(said) == ["mine", *["refused"] * 5]
        assert {path.name for path in out.iterdir()} == {LOCK}
        for run in runs:
            run.communicate("")
        assert not list(out.iterdir())


def test_a_run_killed_while_it_took_over_is_taken_over_itself(tmp_path: Path, without_flock: None) -> None:
    """Its claim is a lock file like the other."""
    out = tmp_path / "out"
    locked_by(out, pid=dead_pid())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("weightkit.run.ledgers.lockfile.drop", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            FolderLock(out)
    (claim,) = [path for path in out.iterdir() if path.name.startswith(f"{LOCK}.") and not path.name.endswith(".partial")]
    with pytest.raises(PlanError, match=f"process {os.getpid()} on"):
        FolderLock(out)
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "pid": dead_pid()}))
    FolderLock(out).release(unmake=False)
    assert not [path for path in out.iterdir() if not path.name.endswith(".partial")]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_file_system_of_several_machines_is_told_from_the_table_of_mounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """flock of a folder holds on one machine only there. The table is a fake."""
    device = (tmp_path).stat().st_dev
    (tmp_path / "mounts").write_text(
        f"22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        f"27 1 {os.major(device)}:{os.minor(device)} / / rw,relatime shared:1 master:2 - {kind} server:/x rw\n"
    )
    monkeypatch.setattr("weightkit.run.ledgers.lock.MOUNTS", tmp_path / "mounts")
    lock = FolderLock(tmp_path / "out")
    assert (tmp_path / "out" / LOCK).exists()
    lock.release(unmake=True)
    assert not (tmp_path / "out").exists()
    (tmp_path / "mounts").write_text((tmp_path / "mounts").read_text().replace(f"- {kind} ", "- ext4 "))
    lock = FolderLock(tmp_path / "out")
    assert not (tmp_path / "out" / LOCK).exists()
    lock.release(unmake=True)
