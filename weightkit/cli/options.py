"""Options that several commands have, and the decorator that turns errors into one line and an exit status."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from weightkit.core.dtypes import BY_NAME, DType
from weightkit.core.errors import DigestMismatch, WeightkitError
from weightkit.core.sizes import parse_size
from weightkit.ops.lora import DEFAULT_ROUNDING, ROUNDINGS
from weightkit.ops.product import SUMS

__all__ = [
    "METHOD_NAME",
    "MISMATCH",
    "arithmetic_from",
    "arithmetic_options",
    "as_dtype",
    "as_option",
    "default_jobs",
    "exits",
    "lora_option",
    "output_options",
    "path_option",
    "release_option",
    "run_from",
    "run_options",
    "say_error",
    "shown",
    "talk_options",
    "tensor_options",
    "together",
    "verify_raw_option",
]

F = TypeVar("F", bound=Callable[..., Any])

REFUSED, MISMATCH, INTERRUPTED = 1, 3, 130
"""Exit statuses beside 0 (done) and 2 (usage, click's own)."""


def as_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A size in bytes: 10GB, 1GiB, 4096."""
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def default_jobs() -> int:
    """Files at a time where the user does not say: one a processor, four at most."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def exits(function: F) -> F:
    """Errors that a user can meet become one line on stderr and an exit status; never a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except DigestMismatch as error:
            say_error(str(error))
            sys.exit(MISMATCH)
        except WeightkitError as error:
            say_error(str(error))
            sys.exit(REFUSED)
        except KeyboardInterrupt:
            say_error("interrupted; nothing unfinished was left, the same command goes on from here")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(REFUSED)
        except OSError as error:
            say_error(f"{error.filename or 'input/output'}: {error.strerror or error}")
            sys.exit(REFUSED)

    return wrapped  # type: ignore[return-value]


def shown(text: str) -> str:
    """Text of others, fit for a terminal: what does not print is escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def say_error(text: str) -> None:
    """One complaint, on stderr."""
    lines = [shown(line) for line in text.split("\n")]
    click.echo(f"{click.style('weightkit:', fg='red', bold=True)} " + "\n".join(lines), err=True)


def together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which ``--help`` is to show them."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def path_option(name: str, text: str, **more: Any) -> Callable[[F], F]:
    """An option that takes a path; whether it exists is checked by whoever reads it."""
    return click.option(name, type=click.Path(path_type=Path), metavar=more.pop("metavar", "DIR"), help=text, **more)


def as_dtype(ctx: click.Context, param: click.Parameter, value: str | None) -> DType | None:
    return BY_NAME[value] if value else None


as_option = click.option(
    "--as",
    "converter",
    metavar="CONVERTER",
    help="Whose conversion weights in Meta's layout stand for.  [default: transformers-4.28.1]",
)

release_option = click.option(
    "--release", metavar="NAME", help="A release of the catalog: fills in what is not said; its digests must hold."
)

verify_raw_option = click.option(
    "--verify-raw", is_flag=True, help="Check Meta's checklist.chk beside the run; nothing appears before it holds."
)

tensor_options = together(
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        callback=as_dtype,
        help="Cast both sides to it, compute and store in it.  [default: as stored]",
    ),
    click.option(
        "--new-rows",
        type=click.Choice(["mean", "zero", "whole"]),
        help="Vocabulary rows that the base lacks: the mean of its rows (Stanford), zeros (Vicuna v0, LLaVA), or the whole "
        "tensor as it is.",
    ),
    click.option(
        "--whole",
        multiple=True,
        metavar="PATTERN",
        help="Names of tensors that are no differences but whole, as 'lm_head.*'. May be repeated.",
    ),
    click.option(
        "--inv-freq",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        show_default=True,
        help="Rotary frequencies that the base lacks: exact, or rounded through float16.",
    ),
)


def lora_option(*, required: bool) -> Callable[[F], F]:
    """``--lora``, once for each adapter."""
    return path_option(
        "--lora", "A LoRA adapter, as PEFT writes it. Repeated: merged in this order.", multiple=True, required=required
    )


arithmetic_options = together(
    click.option(
        "--rounding",
        type=click.Choice(list(ROUNDINGS)),
        help=f"Where a LoRA merge rounds: as Chinese-LLaMA-Alpaca's scripts, or others.  [default: {DEFAULT_ROUNDING}]",
    ),
    click.option(
        "--sums",
        type=click.Choice(list(SUMS)),
        help="Order of a LoRA product's sums: fused, multiplied then added, or what this machine's BLAS does.  [default: fma]",
    ),
)


def arithmetic_from(options: dict[str, Any]) -> Any:
    """What the user said about LoRA arithmetic; None for nothing."""
    from weightkit.methods.lora import Arithmetic

    if options["rounding"] is None and options["sums"] is None:
        return None
    return Arithmetic(options["rounding"] or DEFAULT_ROUNDING, options["sums"] or "fma")


run_options = together(
    click.option("--max-memory", callback=as_size, metavar="SIZE", default="1GiB", show_default=True, help="Memory allowed."),
    click.option(
        "--jobs", type=click.IntRange(1), default=default_jobs, help="Files at a time.  [default: processors, up to 4]"
    ),
    click.option("--dry-run", is_flag=True, help="Print the plan, with exact sizes, and stop."),
    click.option("--overwrite", is_flag=True, help="Replace files of the same names, each once its successor is whole."),
    click.option(
        "--keep-mismatched",
        is_flag=True,
        help="Keep a file with another digest than wanted, as NAME.mismatch, to be explained.",
    ),
)


def run_from(options: dict[str, Any]) -> dict[str, Any]:
    """Of a command's options those that say how to run, as ``carry`` takes them."""
    return {name: options[name] for name in ("jobs", "max_memory", "dry_run", "overwrite", "keep_mismatched")}


class Registered(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """A name of a registry: weightkit's own, or another package's. The registry is asked only when a name is given."""

    def __init__(self, kind: str, shown: str, named: Callable[[str], str]) -> None:
        self.name, self.shown, self.named = kind, shown, named

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.shown

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self.named(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def format_name(value: str) -> str:
    """A container format; ``ValueError`` where none is called so."""
    from weightkit.containers import format_named

    return format_named(value).name


def method_name(value: str) -> str:
    """A way to publish; ``ValueError`` where none is called so."""
    from weightkit.methods import method_named

    return method_named(value).name


METHOD_NAME = Registered("method", "[additive|exact]", method_name)

output_options = together(
    click.option("--format", type=Registered("format", "[bin|safetensors]", format_name), help="Container to write."),
    click.option("--torch-compat", metavar="VERSION", help="Write .bin files as this torch does, e.g. 1.13."),
    click.option("--max-shard-size", callback=as_size, metavar="SIZE", help="Cut anew into shards of at most this, as 10GB."),
    run_options,
)


def set_level(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")


talk_options = together(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of prose."),
    click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary."),
    click.option("-v", "--verbose", is_flag=True, callback=set_level, expose_value=False, help="Log each file to stderr."),
)
