"""The command line in a forked child: torch is loaded once, so a run takes no longer than its work."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import weightkit.cli

for _name in ("recover", "merge", "convert", "xor", "make_diff"):
    importlib.import_module(f"weightkit.cli.{_name}")
for _name in ("recover", "merge", "convert", "xor", "diff", "core.compute", "methods.exact", "methods.lora", "ops.product"):
    importlib.import_module(f"weightkit.{_name}")
for _name in ("isal.igzip", "zstandard", "encodings.idna", "unicodedata"):
    importlib.import_module(_name)
torch.set_num_threads(1)

LIMIT = 60.0
"""Seconds after which a run counts as hanging."""
TRACEBACK = 97

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        status: The exit status; minus the signal that ended it; None where it did not end in time.
        text: All that it printed.
        facts: What ``after`` had to say.
    """

    status: int | None
    text: str
    facts: Facts = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """What it printed, without empty lines."""
        return [line for line in self.text.splitlines() if line.strip()]


class Child:
    """A run under way.

    Args:
        words: Of the command line.
        before: Done in the child before the command.
        after: Done in the child when the command is through; what it returns are the ending's facts.
    """

    def __init__(
        self, words: Sequence[str], *, before: Callable[[], None] | None = None, after: Callable[[], Facts] | None = None
    ) -> None:
        self.output = os.memfd_create("output")
        self.facts, told = os.pipe()
        self.status: int | None = None
        self.ended = False
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.facts)
            os.dup2(self.output, 1)
            os.dup2(self.output, 2)
            os._exit(command(words, before, after, told))
        os.close(told)

    def poll(self) -> bool:
        """Whether it has ended."""
        if not self.ended:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.ended, self.status = True, os.waitstatus_to_exitcode(status)
        return self.ended

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self.ended:
            os.kill(self.pid, number)

    def until(self, condition: Callable[[], bool], seconds: float = LIMIT) -> bool:
        """Wait for something; False where it ended, or time was up, before that."""
        end = time.monotonic() + seconds
        while not self.poll() and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def kill(self) -> Ending:
        """SIGKILL, and what came of it: it may have ended before."""
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self, seconds: float = LIMIT) -> Ending:
        """Its ending; a child that hangs is killed."""
        select.select([self.facts], [], [], seconds)  # readable when it tells, or is gone
        hangs = not self.until_ended(seconds)
        if hangs:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.ended = True
        with os.fdopen(self.facts, "rb") as file:
            told = file.read()
        size = os.lseek(self.output, 0, os.SEEK_END)
        text = os.pread(self.output, size, 0).decode(errors="replace")
        os.close(self.output)
        return Ending(None if hangs else self.status, text, json.loads(told) if told else {})

    def until_ended(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > end:
                return False
            time.sleep(0.0005)
        return True


def command(words: Sequence[str], before: Callable[[], None] | None, after: Callable[[], Facts] | None, told: int) -> int:
    """Run the command line, and say how it ended."""
    status = TRACEBACK
    try:
        if before is not None:
            before()
        try:
            weightkit.cli.main(args=list(words), prog_name="weightkit")
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except BaseException:
        if after is not None:
            os.write(told, json.dumps(after()).encode())
            after = None
        traceback.print_exc()
    if after is not None:
        os.write(told, json.dumps(after()).encode())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return status


def finished(words: Sequence[str], *, before: Callable[[], None] | None = None, seconds: float = LIMIT) -> Ending:
    """Run a command to its end."""
    return Child(words, before=before).wait(seconds)
