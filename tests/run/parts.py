"""What the tests of running share: a tiny container format, operations that wait for a test, plans and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from weightkit.blobs import known, open_local
from weightkit.containers.layout import Layout, one_each
from weightkit.core.buffers import Buffer
from weightkit.core.dtypes import BY_NAME
from weightkit.core.lazy import LazyTensor, Rows, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Read
from weightkit.run.plan import OutputFile, Plan, SmallFile

ROOT = Path(__file__).parents[2]
UINT8 = BY_NAME["uint8"]


@dataclass(frozen=True, slots=True)
class Plain:
    """A magic number, then the tensors."""

    magic: bytes = b"PLAIN"
    written_by: ClassVar[str] = "plain 1.0"

    def order(self, layout: Layout) -> Sequence[int]:
        return range(len(layout.runs))

    def nbytes(self, layout: Layout) -> int:
        return len(self.magic) + sum(run.spec.nbytes for run in layout.runs)

    def encode(self, layout: Layout, payloads: Iterable[Iterable[Buffer]]) -> Iterator[Buffer]:
        yield self.magic
        for payload in payloads:
            yield from payload


@dataclass(frozen=True, slots=True)
class Same:
    """An operation that changes nothing."""

    torch: ClassVar[bool] = False

    def infer(self, one: TensorSpec) -> TensorSpec:
        return one

    def begin(self, one: Rows) -> Read:
        return one.read

    def held_nbytes(self, *specs: TensorSpec) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Pause(Same):
    """Changes nothing, but when it reaches a row it makes the file ``path``, and waits until that is gone."""

    path: str
    row: int

    def begin(self, one: Rows) -> Read:
        def read(start: int, stop: int) -> Buffer:
            if start <= self.row < stop:
                Path(self.path).touch()
                wait_for(lambda: not Path(self.path).exists())
            return one.read(start, stop)

        return read


@dataclass(frozen=True, slots=True)
class Once(Same):
    """Changes nothing, and adds a line to a file for every pass."""

    path: str

    def begin(self, one: Rows) -> Read:
        with Path(self.path).open("a") as file:
            file.write("pass\n")
        return one.read


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for never came"
        time.sleep(0.002)


def tensor(name: str, value: int, rows: int = 64, width: int = 64) -> Stored:
    """Bytes that are all one value."""
    return known(name, TensorSpec(UINT8, (rows, width)), bytes([value]) * rows * width)


def stored(path: Path, rows: int, width: int = 4096, value: int = 1) -> Stored:
    """A file of one tensor, written."""
    path.write_bytes(bytes([value]) * rows * width)
    return Stored(open_local(path), "w", TensorSpec(UINT8, (rows, width)), 0)


def output(path: str, tensors: dict[str, LazyTensor], **more: Any) -> OutputFile:
    layout = one_each((name, one.spec) for name, one in tensors.items())
    return OutputFile(path, Plain(), layout, tuple((one,) for one in tensors.values()), **more)


def plan(*files: OutputFile, small: Sequence[SmallFile] = (), tensors: bool = False) -> Plan:
    return Plan("test", ("nothing is done",), files, tuple(small), tensors=tensors)


def simple(count: int = 3, **more: Any) -> Plan:
    """So many files of two tensors, and a small one."""
    files = (output(f"part-{n}.plain", {"a": tensor("a", n + 1), "b": tensor("b", n + 101)}) for n in range(count))
    return plan(*files, small=[SmallFile("config.json", b"{}\n")], **more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def python(code: str, *words: object) -> subprocess.Popen[str]:
    """A process that runs some code, with what stands here imported."""
    head = "import sys; from pathlib import Path; from tests.run.parts import *; from weightkit.run.execute import carry_out\n"
    command = [sys.executable, "-c", head + code, *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def waiting(source: Stored, flag: Path, row: int = 0) -> LazyTensor:
    """A tensor whose computing stops at a row, until a file is removed."""
    return derive(Pause(str(flag), row), source)
