"""How commands are asked for: options in groups, examples under each ``--help``, and what a mistyped word may have meant."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import click

__all__ = ["COMMAND_WORDS", "GROUPS", "Job", "Jobs", "meant"]

GROUPS = {
    "Inputs": [
        "raw",
        "base",
        "diff",
        "lora",
        "tuned",
        "key",
        "converter",
        "release",
        "only",
        "stream",
        "reclaim_downloads",
        "trust_inputs",
        "verify_raw",
        "allow_tuned_base",
        "new_rows",
        "whole",
        "inv_freq",
        "config_from",
        "tokenizer_from",
        "method",
        "add_piece",
        "expect",
        "against",
    ],
    "Asking": ["prompt", "template", "max_new_tokens", "device"],
    "Arithmetic": ["dtype", "rounding", "sums", "seek", "naive_sum"],
    "Output": [
        "out",
        "dst",
        "to",
        "type",
        "parts",
        "order",
        "format",
        "wanted",
        "torch_compat",
        "max_shard_size",
        "write_index",
        "overwrite",
        "keep_mismatched",
        "junit",
        "algorithms",
        "tensors",
        "keep",
        "title",
        "licence",
        "base_model",
        "repo",
        "private",
        "sign",
    ],
    "Checks": ["checksums", "public_key", "signature", "fail_on_missing", "fail_on_extra", "full"],
    "Running": ["max_memory", "jobs", "dry_run"],
    "Talking": ["as_json", "quiet", "progress", "verbose", "help"],
}
"""Heading of ``--help`` -> the parameters under it. One table, since a parameter has one name in all commands."""

COMMAND_WORDS = {
    "apply": "recover",
    "apply-delta": "recover",
    "ask": "try",
    "chat": "try",
    "check": "verify",
    "checksum": "verify",
    "compare": "explain",
    "decode": "xor decode",
    "decrypt": "xor decode",
    "delta": "make-diff",
    "diagnose": "explain",
    "diff": "make-diff",
    "encode": "xor encode",
    "encrypt": "xor encode",
    "generate": "try",
    "hash": "manifest",
    "help": "--help",
    "info": "inspect",
    "list": "releases",
    "lora": "merge",
    "ls": "releases",
    "make-delta": "make-diff",
    "merge-lora": "merge",
    "patch": "recover",
    "rebuild": "recover",
    "restore": "recover",
    "search": "releases",
    "sha256sum": "manifest",
    "show": "inspect",
    "version": "--version",
    "which": "identify",
    "why": "explain",
}
"""What other tools call a job -> what weightkit does."""

OPTION_WORDS = {
    "--adapter": "--lora",
    "--base-model-path": "--base",
    "--checksum": "--checksums",
    "--delta": "--diff",
    "--delta-path": "--diff",
    "--dst": "--out",
    "--force": "--overwrite",
    "--lora-model": "--lora",
    "--memory": "--max-memory",
    "--model": "--base",
    "--output": "--out",
    "--output-dir": "--out",
    "--output-path": "--out",
    "--path-diff": "--diff",
    "--path-raw": "--raw",
    "--path-tuned": "--out",
    "--peft-model": "--lora",
    "--shard-size": "--max-shard-size",
    "--sha256": "--expect",
    "--target": "--out",
    "--target-model-path": "--out",
    "--threads": "--jobs",
    "--torch-dtype": "--dtype",
    "--torch-version": "--torch-compat",
    "--workers": "--jobs",
}
"""What other tools call an option -> weightkit's, where the command has it."""


def meant(word: str, known: Iterable[str], synonyms: dict[str, str]) -> str:
    """``; did you mean recover?`` for a word that is not known; nothing where none is like it."""
    names, plain = list(known), word.lower().replace("_", "-")
    also = synonyms.get(plain, "")
    close = [also] if (also.startswith("--") and word[:2] != "--") or also.split(" ")[0] in names else []
    close += [one for one in difflib.get_close_matches(plain, names, 3, 0.6) if one not in close]
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""


class Job(click.Command):
    """A command with examples, and options in groups.

    Args:
        examples: Command lines of at most 58 characters a line; ``--help`` ends with them.
        **more: As click has it.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click has it, but an option said twice is an error, unless it may be repeated."""
        try:
            values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        except click.NoSuchOption as error:
            known = [word for param in self.get_params(ctx) for word in param.opts if word.startswith("--")]
            raise click.UsageError(
                f"no option {error.option_name}{meant(error.option_name, known, OPTION_WORDS)}", ctx
            ) from error
        said = Counter(param for param in order if isinstance(param, click.Option) and not (param.multiple or param.is_flag))
        for param, count in said.items():
            if count > 1:
                raise click.UsageError(f"{param.opts[0]} is given {count} times, and takes one value", ctx)
        for param in said:
            swallowed(param, values.get(str(param.name)), ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records: dict[str, list[tuple[str, str]]] = {heading: [] for heading in GROUPS}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
                heading = next((heading for heading, names in GROUPS.items() if param.name in names), "Options")
                records.setdefault(heading, []).append(record)
        for heading, rows in records.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows, col_max=24)
        if self.examples:
            with formatter.section("Examples"):
                width = formatter.width + 2 if formatter.width > 50 else 50  # click leaves two columns free, down to 50
                room = width - formatter.current_indent
                for line in "\n".join(self.examples).split("\n"):
                    for piece in narrowed(line, room):
                        formatter.write(f"{'':>{formatter.current_indent}}{piece}\n")


def swallowed(param: click.Option, value: object, ctx: click.Context) -> None:
    """Refuse an option that took the next one for its value, as where an unset variable is not in quotes.

    Raises:
        click.UsageError: It did.
    """
    words = {word for one in ctx.command.get_params(ctx) for word in one.opts if word.startswith("--")}
    if isinstance(value, str) and (taken := value.split("=")[0]) in words:
        what = f"{param.opts[0]} has no value: {taken} follows it; name one; perhaps a variable of the shell is not set"
        raise click.UsageError(what, ctx)


def narrowed(line: str, room: int) -> Iterator[str]:
    """A line of an example, broken before options where it is too wide; each piece but the last ends in a backslash."""
    while len(line) > room and (at := line.rfind(" -", 5, room - 1)) > 0:
        yield f"{line[:at].rstrip()} \\"
        line = f"    {line[at + 1 :]}"
    yield line


class Jobs(click.Group):
    """A group of commands; of a word that is none of them, it says which was meant."""

    words: ClassVar[dict[str, str]] = {}
    """Other words for its commands."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            hint = meant(args[0], self.list_commands(ctx), self.words)
            raise click.UsageError(f"no command {args[0]}{hint or f'; {ctx.command_path} --help lists them'}", ctx)
        return super().resolve_command(ctx, args)
