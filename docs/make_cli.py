"""Makes docs/cli.md from the commands themselves: ``python docs/make_cli.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from weightkit.cli import COMMANDS, main

INTRO = """# Every command and option

Made by `python docs/make_cli.py` from the commands; a test sees that it is up to date.

Exit status: 0 done and every given digest holds; 1 refused or failed, with one clear line; 2 usage; 3 a digest does not match;
130 interrupted. `--raw` and `--base` are the same. `NO_COLOR` turns colours off. What `--json` answers: [json.md](json.md).
"""


def helps(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Name and ``--help`` of a command and those under it."""
    with ctx:
        yield ctx.command_path, command.get_help(ctx)
    if isinstance(command, click.Group) and command is not main:
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from helps(below, below.make_context(name, [], parent=ctx, resilient_parsing=True, terminal_width=100))


def page() -> str:
    """The text of docs/cli.md."""
    top = click.Context(main, info_name="weightkit", terminal_width=100, max_content_width=100, color=False)
    found = [INTRO]
    for name in COMMANDS:
        command = main.get_command(top, name)
        assert command is not None
        ctx = command.make_context(name, [], parent=top, resilient_parsing=True, terminal_width=100)
        found += [f"## {path}\n\n```text\n{click.unstyle(text).rstrip()}\n```\n" for path, text in helps(command, ctx)]
    return "\n".join(found)


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(page())
