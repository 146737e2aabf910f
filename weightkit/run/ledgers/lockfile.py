"""``.weightkit-lock``: what locks a folder where the file system's own locks are missing, or hold on one machine only.

    {"weightkit-lock": 1, "host": "node7", "pid": 4711, "started": "81234", "system": "<boot> <namespace>", "nonce": "..."}

It appears with its content, whole. One whose process is no more is taken over by whoever first puts a claim beside it, a file
of the same kind whose name follows from the content that is to be replaced: so nobody takes away what somebody else has just
put there. Of a process on another host, in another container or before the last boot nobody here can tell whether it is no
more; its file stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from weightkit.core.errors import PlanError
from weightkit.run.ledgers.durable import flush

__all__ = ["LOCK", "LockFile"]

LOCK = ".weightkit-lock"

MOST_NBYTES = 4096
"""No lock file is longer."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a folder.

    Attributes:
        host: The machine's name.
        pid: Its number.
        started: When it began, as /proc has it; empty where there is none.
        system: What tells boots and containers of one name apart; empty where nothing does.
        nonce: Drawn for each lock.
    """

    host: str
    pid: int
    started: str
    system: str
    nonce: str

    def __str__(self) -> str:
        host = self.host if self.host.isprintable() else ascii(self.host)[1:-1]
        return f"process {self.pid} on {host[:255]}"

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process that this one would see."""
        return (self.host, self.system) == (socket.gethostname(), system())

    @property
    def gone(self) -> bool:
        """Whether it is known to be no more."""
        if not self.here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # somebody else's
            pass
        state, started = seen(self.pid)
        return state in ("Z", "X") or (started != self.started and bool(started) and bool(self.started))

    def encode(self) -> bytes:
        """The content of its lock file."""
        return json.dumps({"weightkit-lock": 1, **asdict(self)}).encode() + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> Holder:
        """What ``encode`` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            found = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deep") from error
        match found:
            case {"host": str(host), "pid": int(pid), "started": str(began), "system": str(system), "nonce": str(nonce)}:
                if 0 < pid < 1 << 31:
                    return cls(host, pid, began, system, nonce)
        raise ValueError("no lock")


def seen(pid: int) -> tuple[str, str]:
    """State and beginning of a process. Source: proc_pid_stat(5), fields 3 and 22. Empty where /proc has them not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""


def system() -> str:
    """This boot of this machine, and the namespace that its process numbers are of."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


class LockFile:
    """A folder held by a file in it.

    Raises:
        PlanError: Another run holds it, or may.
        OSError: The file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self.mine = Holder(socket.gethostname(), os.getpid(), seen(os.getpid())[1], system(), secrets.token_hex(8))
        take(self.path, self.mine)

    def release(self) -> None:
        """Remove the file, if it is still this run's."""
        drop(self.path, self.mine)


def take(path: Path, mine: Holder) -> None:
    """Put a file there, or take over that of a run that is no more."""
    while (text := content(path)) is None:
        try:
            create(path, mine)
        except FileExistsError:  # somebody was faster
            continue
        return
    try:
        held = Holder.decode(text)
    except ValueError as error:
        raise no_lock(path) from error
    if not held.gone:
        raise in_use(path, held)
    claim = path.with_name(f"{path.name}.{hashlib.sha256(text).hexdigest()[:16]}")
    take(claim, mine)
    try:
        if content(path) == text:
            fresh = written(path, mine)
            try:
                fresh.replace(path)
            finally:
                fresh.unlink(missing_ok=True)
            return
    finally:
        drop(claim, mine)
    take(path, mine)


def create(path: Path, mine: Holder) -> None:
    """Put a file where there is none.

    Raises:
        FileExistsError: There is one.
    """
    fresh = written(path, mine)
    try:
        os.link(fresh, path)
    except FileExistsError:
        if fresh.stat().st_nlink == 1:  # else a network file system answered twice: it is this one
            raise
    except OSError:  # a file system without hard links
        write_new(path, mine.encode())
    finally:
        fresh.unlink(missing_ok=True)


def written(path: Path, mine: Holder) -> Path:
    """The content, under a name of its own."""
    fresh = path.with_name(f"{path.name}.{mine.nonce}.partial")
    write_new(fresh, mine.encode())
    return fresh


def write_new(path: Path, text: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, text)
        flush(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def content(path: Path) -> bytes | None:
    """What stands in a lock file; None where there is none.

    Raises:
        PlanError: It cannot be read, or is none that weightkit wrote.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise no_lock(path) from error
    try:
        text = os.read(descriptor, MOST_NBYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)
    if not 0 < len(text) <= MOST_NBYTES:
        raise no_lock(path)
    return text


def drop(path: Path, mine: Holder) -> None:
    """Remove a lock file, if it is this run's. One that cannot be removed is taken over by the next run."""
    try:
        if content(path) == mine.encode():
            path.unlink()
    except (OSError, PlanError):
        pass


def in_use(path: Path, held: Holder) -> PlanError:
    advice = "wait, or name another --out"
    if not held.here:
        advice = f"wait, or if that run is no more, remove {path}"
    return PlanError(f"{path.parent}: another weightkit writes there: {held}, as {path} says; {advice}")


def no_lock(path: Path) -> PlanError:
    return PlanError(
        f"{path} is there, and tells no host and process that lock this folder; if no weightkit writes there, remove it"
    )
