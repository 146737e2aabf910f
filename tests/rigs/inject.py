"""Lets the n-th call of a kind fail: through a preloaded shim where a C compiler is, else by patches of Python's own."""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

KINDS = (
    "open", "read", "pread", "write", "fsync", "fdatasync", "rename", "link", "mkdir", "rmdir", "unlink", "flock", "opendir",
    "statvfs", "stat", "fstat", "close", "lseek",
)  # fmt: skip

SHORT = "short"
"""Not an error: the call does half of what was asked."""

ERRORS: dict[str, tuple[str, ...]] = {
    "open": ("EIO", "ENOSPC", "EACCES", "EMFILE"),
    "read": ("EIO", SHORT),
    "pread": ("EIO", SHORT),
    "write": ("ENOSPC", "EIO", "EDQUOT", SHORT),
    "fsync": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO",),
    "rename": ("EIO", "ENOSPC", "EACCES"),
    "link": ("EIO", "ENOSPC", "EPERM"),
    "mkdir": ("EACCES", "ENOSPC"),
    "rmdir": ("EIO",),
    "unlink": ("EIO", "EACCES"),
    "flock": ("ENOLCK", "EIO"),
    "opendir": ("EIO", "EACCES"),
    "statvfs": ("EIO",),
    "stat": ("EIO", "EACCES"),
    "fstat": ("EIO",),
    "close": ("EIO",),
    "lseek": ("EIO",),
}
"""Kind of a call -> with what it may fail."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One call that fails.

    Attributes:
        kind: One of ``KINDS``.
        number: Which of its calls, from 1.
        error: A name of ``errno``, or ``SHORT``.
        from_then_on: Whether all later calls of the kind fail, too, as on a disk that is full or broken.
    """

    kind: str
    number: int
    error: str
    from_then_on: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.number}{' and later' if self.from_then_on else ''}: {self.error}"

    @property
    def code(self) -> int:
        """The error's number."""
        return 0 if self.error == SHORT else int(getattr(errno, self.error))


class Injector(Protocol):
    """Counts calls on what lies below a folder, in this process, from ``start`` to ``stop``; one may fail."""

    name: str

    def start(self, root: Path, fault: Fault | None) -> None:
        """Begin to count."""

    def stop(self) -> dict[str, Any]:
        """``counts`` by kind, ``where`` the first failing call was aimed at."""


SHIM = "WEIGHTKIT_RIGS_SHIM"


class Shim:
    """The preloaded shim."""

    name = "a preloaded shim"

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)

    def number(self, name: str, of: Any = ctypes.c_int) -> Any:
        return of.in_dll(self.library, name)

    def start(self, root: Path, fault: Fault | None) -> None:
        """Begin to count."""
        self.number("fault_root", ctypes.c_char * 4096).value = os.fsencode(root)
        if fault is not None:
            self.number("fault_kind").value = KINDS.index(fault.kind)
            self.number("fault_number", ctypes.c_long).value = fault.number
            self.number("fault_errno").value = fault.code
            self.number("fault_from_then_on").value = fault.from_then_on
            self.number("fault_short").value = fault.error == SHORT
        self.number("fault_on").value = 1

    def write_down(self, descriptor: int) -> None:
        """From now on every call is written down there, before it is done: for ``calls``."""
        self.number("fault_log").value = descriptor

    def stop(self) -> dict[str, Any]:
        """What was counted."""
        self.number("fault_on").value = 0
        counts = dict(zip(KINDS, self.number("fault_counts", ctypes.c_long * len(KINDS)), strict=True))
        where = self.number("fault_where", ctypes.c_char * 4096).value.decode(errors="replace")
        return {"counts": counts, "where": where}


def calls(written: bytes) -> Iterator[tuple[str, str, str]]:
    """Kind, path and more of each call that a shim wrote down: a link's or rename's source, what a write begins with."""
    for record in written.decode(errors="replace").split("\x1e"):
        if record:
            kind, path, more = record.split("\x1f", 2)
            yield KINDS[int(kind)], path, more


class Patched:
    """Patches of ``os``, ``fcntl`` and ``io``: what Python calls, though not what its libraries do."""

    name = "patches of Python's functions"

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KINDS, 0)
        self.where = ""
        self.root, self.fault, self.on = "", None, False  # type: tuple[str, Fault | None, bool]
        self.guard = threading.Lock()

    def hit(self, kind: str, target: Any) -> bool:
        """Count a call; whether it is the one."""
        if not self.on:
            return False
        try:
            path = str(Path(f"/proc/self/fd/{target}").readlink()) if isinstance(target, int) else os.fsdecode(target)
        except (OSError, TypeError):
            return False
        if not path.startswith(self.root) or (self.fault is None and not self.on):
            return False
        with self.guard:
            self.counts[kind] += 1
            fault, number = self.fault, self.counts[kind]
        if (
            fault is None
            or kind != fault.kind
            or not (number == fault.number or (fault.from_then_on and number > fault.number))
        ):
            return False
        self.where = self.where or path
        return True

    def failing(self, kind: str, real: Callable[..., Any], at: int = 0) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if args and self.hit(kind, args[at]):
                if kind == "close":
                    real(*args, **more)
                self.fail(args[at])
            return real(*args, **more)

        return call

    def fail(self, target: Any) -> None:
        """Raise the fault's error; a short call of Python's is left whole."""
        if self.fault is not None and self.fault.code:
            name = None if isinstance(target, int) else target
            raise OSError(self.fault.code, os.strerror(self.fault.code), name)

    def start(self, root: Path, fault: Fault | None) -> None:
        """Patch, for good: the process is a child that ends soon."""
        self.root, self.fault = str(root), fault
        names = {
            "open": ("open",), "pread": ("pread", "preadv"), "write": ("write",), "read": ("read",), "fsync": ("fsync",),
            "fdatasync": ("fdatasync",), "mkdir": ("mkdir",), "rmdir": ("rmdir",), "unlink": ("unlink", "remove"),
            "opendir": ("scandir", "listdir"), "statvfs": ("statvfs",), "stat": ("stat", "lstat"), "fstat": ("fstat",),
            "close": ("close",), "lseek": ("lseek",),
        }  # fmt: skip
        for kind, members in names.items():
            for name in members:
                if hasattr(os, name):
                    setattr(os, name, self.failing(kind, getattr(os, name)))
        for kind, members in {"rename": ("rename", "replace"), "link": ("link",)}.items():
            for name in members:
                setattr(os, name, self.failing(kind, getattr(os, name), 1))
        fcntl.flock = self.failing("flock", fcntl.flock)  # type: ignore[assignment]
        io.open = builtins.open = self.opening(io.open)  # type: ignore[assignment]
        self.on = True

    def opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        injector = self

        class File(io.FileIO):
            def readinto(self, data: Any) -> int | None:
                if injector.hit("read", self.fileno()):
                    injector.fail(self.fileno())
                return super().readinto(data)

            def write(self, data: Any) -> int:
                if injector.hit("write", self.fileno()):
                    injector.fail(self.fileno())
                return super().write(data)

        def call(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
            if not isinstance(file, int) and self.hit("open", file):
                self.fail(file)
            if "b" not in mode or "+" in mode:
                return real(file, mode, buffering, *more, **named)
            raw = File(file, mode.replace("b", ""))
            if buffering == 0:
                return raw
            return io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)

        return call

    def stop(self) -> dict[str, Any]:
        """What was counted."""
        self.on = False
        return {"counts": self.counts, "where": self.where}


def compiler() -> str | None:
    """A C compiler, on Linux, where the shim's calls are named as it names them."""
    return (
        next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
        if sys.platform == "linux"
        else None
    )


def preload(folder: Path, module: str) -> None:
    """Build the shim and start this module once more with it; returns where it runs already, or where there is no compiler."""
    found = compiler()
    if SHIM in os.environ or found is None:
        return
    built = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    done = subprocess.run([found, "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], capture_output=True, check=False)
    if done.returncode == 0:
        env = {**os.environ, "LD_PRELOAD": str(built), SHIM: str(built)}
        again = subprocess.run([sys.executable, "-m", module, *sys.argv[1:]], env=env, check=False)
        sys.exit(again.returncode)


def injector() -> Injector:
    """The better one that there is."""
    return Shim() if SHIM in os.environ else Patched()
