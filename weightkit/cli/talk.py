"""How a command speaks: prose or JSON, how much of it, in which colours; and how its errors end it."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from weightkit.core.errors import DigestMismatch, WeightkitError
from weightkit.core.wording import apart

__all__ = [
    "MISMATCH",
    "REFUSED",
    "Interrupted",
    "Talk",
    "end",
    "error_json",
    "print_json",
    "say_error",
    "set_color",
    "shown",
    "talk_options",
    "wants_json",
]

F = TypeVar("F", bound=Callable[..., Any])

REFUSED, MISMATCH, INTERRUPTED = 1, 3, 130
"""Exit statuses beside 0 (done) and 2 (usage, click's own)."""

OUT_OF_MEMORY = "the system gives no more memory; free some, or lift its limit (ulimit -v)"


@dataclass(frozen=True, slots=True)
class Talk:
    """What the user said about output.

    Attributes:
        as_json: One JSON object on stdout instead of prose.
        quiet: No summary and no progress.
        progress: ``auto``, ``bar``, ``plain``, ``json`` or ``none``.
    """

    as_json: bool = False
    quiet: bool = False
    progress: str = "auto"

    def first(self, note: str) -> None:
        """Say on stderr what is to be known before a download begins."""
        if not self.as_json and not self.quiet:
            click.echo(f"note: {shown(note)}", err=True)


class Interrupted(Exception):
    """Ctrl-C while a command works. click writes an empty line where it sees a KeyboardInterrupt itself."""


STOPPED = (Interrupted, KeyboardInterrupt, click.Abort)
INTERRUPTION = "interrupted; nothing unfinished was left", "the same command goes on from here"
"""What is said of it: what was found, what to do."""


def set_level(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")


OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of prose, for errors, too."),
    click.option("--quiet", "-q", is_flag=True, help="No progress and no summary."),
    click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "plain", "json", "none"]),
        default="auto",
        metavar="HOW",
        help="On stderr: bar, plain (a line every ten seconds), json (an event a line), none.  "
        "[default: bar in a terminal, else plain]",
    ),
    click.option("-v", "--verbose", is_flag=True, callback=set_level, expose_value=False, help="Log each file to stderr."),
)


def talk_options(function: F) -> F:
    """The options of ``Talk``, handed to the command as ``talk``."""

    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, quiet: bool, progress: str, **kwargs: Any) -> Any:
        return function(*args, talk=Talk(as_json, quiet, progress), **kwargs)

    decorated: Any = wrapped
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def shown(text: str) -> str:
    """Text of others, fit for a terminal: what does not print is escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def say_error(text: str) -> None:
    """One complaint, on stderr."""
    lines = [shown(line) for line in text.split("\n")]
    click.echo(f"{click.style('weightkit:', fg='red', bold=True)} " + "\n".join(lines), err=True)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout; keys stay as they are from one version to the next."""
    click.echo(json.dumps({"schema": 1, "ok": True, **value}, indent=2))


def wants_json(args: list[str]) -> bool:
    """Whether a command line asks for JSON; asked where it may be one that does not parse."""
    return "--json" in (args[: args.index("--")] if "--" in args else args)


def set_color(ctx: click.Context) -> None:
    """Colours as the environment wants them: NO_COLOR and TERM=dumb never, FORCE_COLOR always, else in a terminal."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False
    elif os.environ.get("FORCE_COLOR"):
        ctx.color = True


def end(error: BaseException, as_json: bool) -> int:
    """Say what ended a command, as one line or as JSON; the exit status. What is no user's error is raised again."""
    status, _ = status_of(error)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    if as_json:
        print_json(error_json(error))
    elif isinstance(error, click.ClickException):
        error.show()
    elif isinstance(error, STOPPED):
        say_error(f"{INTERRUPTION[0]}, {INTERRUPTION[1]}")
    elif isinstance(error, OSError):
        say_error(f"{error.filename or 'input/output'}: {error.strerror or error}")
    elif isinstance(error, MemoryError):
        say_error(OUT_OF_MEMORY)
    else:
        say_error(str(error))
    return status


def error_json(error: BaseException) -> dict[str, Any]:
    """An error, for programs."""
    return {"ok": False, "error": {"kind": status_of(error)[1], **facts_of(error)}}


KINDS = ((OSError, "system"), (MemoryError, "memory"))
"""Class of an error that is not ours -> the word for it in JSON."""


def status_of(error: BaseException) -> tuple[int, str]:
    """Exit status, and the word for it in JSON."""
    if isinstance(error, click.ClickException):
        return error.exit_code, "usage"
    if isinstance(error, STOPPED):
        return INTERRUPTED, "interrupted"
    if isinstance(error, WeightkitError):
        return MISMATCH if isinstance(error, DigestMismatch) else REFUSED, error.kind
    for known, kind in KINDS:
        if isinstance(error, known):
            return REFUSED, kind
    raise error


def facts_of(error: BaseException) -> dict[str, Any]:
    """Path, message and hint of an error, for programs; null where there is none."""
    path, message, hint = getattr(error, "path", None), str(error), getattr(error, "hint", None)
    if isinstance(error, click.ClickException):
        message = error.format_message()
        ctx = getattr(error, "ctx", None)
        hint = f"{ctx.command_path} --help" if ctx is not None else None
    elif isinstance(error, OSError):
        path, message = error.filename, error.strerror or str(error)
    elif isinstance(error, STOPPED):
        message, hint = INTERRUPTION
    elif isinstance(error, MemoryError):
        message = OUT_OF_MEMORY
    elif isinstance(error, WeightkitError):
        message = "\n".join([error.summary, *getattr(error, "problems", ())])
    if hint is None and "\n" not in message:
        message, hint = apart(message)
    return {"path": None if path is None else shown(str(path)), "message": message, "hint": hint or None}
