"""The command line: a module for each command, imported when it is called.

Options in, one front door called, lines out. Results go to stdout, progress and complaints to stderr.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from weightkit.cli.talk import Interrupted, end, set_color, wants_json
from weightkit.cli.usage import COMMAND_WORDS, Jobs
from weightkit.core.errors import WeightkitError

__all__ = ["COMMANDS", "main"]

GROUPS = {
    "Rebuild": {
        "fetch": "Download a release's files, checked as they arrive.",
        "recover": "Rebuild a release from a base and a diff.",
        "merge": "Merge LoRA adapters into a base.",
        "xor": "Decode and encode byte XOR releases.",
        "convert": "Write a checkpoint in another layout.",
    },
    "Check": {
        "verify": "Check files against published digests.",
        "explain": "Say why something does not match.",
        "identify": "Say which published file something is.",
        "inspect": "Say what is in a folder of weights.",
        "releases": "The catalog of known releases.",
        "try": "Let a model answer a question, through transformers.",
    },
    "Publish": {
        "publish": "Make a release that others rebuild; put it on the Hub.",
        "make-diff": "Make a diff from a base and a tuned model.",
        "manifest": "Write digests of files or tensors.",
        "tokenizer": "Merge sentencepiece vocabularies.",
    },
    "More": {
        "demo": "Show a small recovery, and damage being caught.",
        "completion": "Print what completes commands in a shell.",
    },
}
"""Heading of ``--help`` -> command -> what is said of it; the module is called like the command, ``try`` ``try_``."""

COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


class Commands(Jobs):
    """Commands that are imported only when they are needed, so that ``--help`` is quick."""

    words = COMMAND_WORDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"weightkit.cli.{name.replace('-', '_')}{'_' * iskeyword(name)}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As click has it, but errors that a user can meet, an interrupt among them, are one line and an exit status."""

        def once(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is under way is being undone; let it
            raise KeyboardInterrupt

        WeightkitError.in_options = True
        if not kwargs.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **kwargs)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, once)
        try:
            status = super().main(args, prog_name, standalone_mode=False, **kwargs) or 0
        except (Exception, KeyboardInterrupt) as error:
            status = end(error, wants_json(list(sys.argv[1:] if args is None else args)))
        sys.exit(status)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))
        with formatter.section("Examples"):
            for line in ("weightkit demo", "weightkit releases zhixi-13b"):
                formatter.write_text(line)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="weightkit", message="weightkit %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Rebuild released model weights from patches, byte for byte, and prove it."""
    set_color(ctx)
