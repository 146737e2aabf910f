"""What ``--progress`` shows while a command works, on stderr: a bar, plain lines, JSON, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import click

from weightkit.cli.talk import Talk
from weightkit.core.bar import bar, resumed_line
from weightkit.core.events import (
    BytesChecked,
    BytesFetched,
    BytesWritten,
    Event,
    FileFinished,
    FileKept,
    FileProved,
    Notify,
    Resumed,
    Started,
    ignore,
)
from weightkit.core.sizes import format_size

__all__ = ["progress"]

PLAIN_SECONDS = 10.0
JSON_SECONDS = 0.5


def progress(label: str, talk: Talk) -> AbstractContextManager[Notify]:
    """Show how far a command is.

    Args:
        label: What it does, as ``recovering``.
        talk: ``progress`` is one of ``auto`` (a bar in a terminal, else plain), ``bar``, ``plain``, ``json``, ``none``.
    """
    how = talk.progress
    if how == "auto":
        how = "none" if talk.quiet or sys.stderr is None else "bar" if sys.stderr.isatty() else "plain"
    shows: dict[str, Callable[[str], AbstractContextManager[Notify]]] = {"bar": bar, "plain": plain, "json": events}
    return shows.get(how, nothing)(label)


@contextmanager
def nothing(label: str) -> Iterator[Notify]:
    yield ignore


class Pace:
    """Bytes made so far, of how many, and when to speak next."""

    def __init__(self, seconds: float) -> None:
        self.every, self.start = seconds, time.monotonic()
        self.due = self.start + seconds
        self.made, self.total = 0, 0
        self.fetched: dict[str, int] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def take(self, event: Event) -> bool:
        """Count an event; whether it is time to speak."""
        if isinstance(event, Started):
            self.total = event.nbytes
        elif isinstance(event, BytesWritten | BytesChecked):
            self.made += event.nbytes
        elif isinstance(event, BytesFetched):
            if not event.nbytes:
                return False
            self.fetched[event.path] = self.fetched.get(event.path, 0) + event.nbytes
        if time.monotonic() < self.due:
            return False
        self.due = time.monotonic() + self.every
        return True


@contextmanager
def plain(label: str) -> Iterator[Notify]:
    """A line every ten seconds, for logs."""
    pace = Pace(PLAIN_SECONDS)

    def notify(event: Event) -> None:
        if isinstance(event, Resumed):
            click.echo(resumed_line(event), err=True)
        if pace.take(event):
            far = how_fetched(event, pace) if isinstance(event, BytesFetched) else how_far(pace)
            click.echo(f"{label}: {far}", err=True)

    yield notify


def how_fetched(event: BytesFetched, pace: Pace) -> str:
    """As ``fetching hf://org/name/weights.bin, 1.2 GB of 4.8 GB``."""
    return f"fetching {event.path}, {format_size(pace.fetched[event.path])} of {format_size(event.total)}"


def how_far(pace: Pace) -> str:
    """As ``1.2 GB of 4.8 GB, 25%, 120 MB/s, 30 s left``."""
    speed = pace.made / max(pace.seconds, 1e-9)
    rate = f"{format_size(int(speed))}/s"
    if not pace.total:
        return f"{format_size(pace.made)}, {rate}"
    share = min(100, 100 * pace.made // pace.total)
    left = f", {max(0, pace.total - pace.made) / speed:.0f} s left" if pace.made else ""
    return f"{format_size(pace.made)} of {format_size(pace.total)}, {share}%, {rate}{left}"


@contextmanager
def events(label: str) -> Iterator[Notify]:
    """A JSON object a line: ``start``, ``progress``, ``fetching``, ``resumed``, ``file``, ``kept``, ``proved``, ``end``."""
    pace = Pace(JSON_SECONDS)

    def say(event: str, **facts: Any) -> None:
        click.echo(json.dumps({"event": event, **facts, "seconds": round(pace.seconds, 3)}), err=True)

    def far() -> dict[str, Any]:
        return {"bytes": pace.made, "total_bytes": pace.total or None}

    def notify(event: Event) -> None:
        due = pace.take(event)
        if isinstance(event, Started):
            say("start", job=label, total_bytes=event.nbytes)
        elif isinstance(event, Resumed):
            say("resumed", files=event.files, total_files=event.total, bytes=event.nbytes, whole=event.whole)
        elif isinstance(event, FileFinished):
            digests = {digest.algorithm: digest.hex for digest in event.digests}
            say("file", path=event.path, file_bytes=event.nbytes, digests=digests, **far())
        elif isinstance(event, FileKept):
            say("kept", path=event.path, file_bytes=event.nbytes, **far())
        elif isinstance(event, FileProved):
            digests = {digest.algorithm: digest.hex for digest in event.digests}
            say("proved", path=event.path, file_bytes=event.nbytes, digests=digests, **far())
        elif isinstance(event, BytesFetched):
            if due:
                say("fetching", path=event.path, fetched_bytes=pace.fetched[event.path], file_bytes=event.total, **far())
        elif due:
            say("progress", path=event.path, **far())

    yield notify
    say("end", **far())
