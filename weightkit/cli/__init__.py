"""The command line: a module for each command, imported when it is called.

Options in, one front door called, lines out. Results go to stdout, progress and complaints to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

__all__ = ["main"]

COMMANDS = {
    "recover": "Rebuild a release from a base and a diff.",
    "merge": "Merge LoRA adapters into a base.",
    "xor": "Decode and encode byte XOR releases.",
    "make-diff": "Make a diff from a base and a tuned model.",
    "convert": "Write a checkpoint in another layout.",
    "tokenizer": "Merge sentencepiece vocabularies.",
    "verify": "Check files against published digests.",
    "manifest": "Write digests of files or tensors.",
    "explain": "Say why something does not match.",
    "identify": "Say which published file or release something is.",
    "inspect": "Say what is in a folder of weights.",
    "releases": "The catalog of known releases.",
    "demo": "Show a small recovery, and a corrupted one being caught.",
}
"""Command -> what ``--help`` says of it; the module is called like the command."""


class Commands(click.Group):
    """Commands that are imported only when they are needed, so that ``--help`` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"weightkit.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As click has it, but an interrupt at any moment, even while modules load, is one line and exit status 130."""

        def once(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is under way is being undone; let it
            raise KeyboardInterrupt

        if not kwargs.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **kwargs)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, once)
        try:
            sys.exit(super().main(args, prog_name, standalone_mode=False, **kwargs) or 0)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("weightkit: interrupted; nothing unfinished was left", err=True)
            sys.exit(130)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="weightkit", message="weightkit %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Rebuild released model weights from patches, byte for byte, and prove it."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
