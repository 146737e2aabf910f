"""``weightkit identify``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from weightkit.cli.options import PLACE
from weightkit.cli.talk import Talk, error_json, print_json, say_error, shown, talk_options
from weightkit.cli.usage import Job
from weightkit.core.errors import WeightkitError

EXAMPLES = (
    "weightkit identify consolidated.00.pth",
    "weightkit identify zhixi-13b-diff adapter_model.bin --full",
)


@click.command("identify", cls=Job, examples=EXAMPLES)
@click.argument("paths", nargs=-1, required=True, type=PLACE, metavar="PATH...")
@click.option("--full", is_flag=True, help="Hash large files, too.")
@talk_options
def command(paths: tuple[Path, ...], full: bool, talk: Talk) -> None:
    """Say which published file or release PATH is, and what else can be told of it."""
    from weightkit import identify

    facts = []
    failed = False
    for path in paths:
        try:
            found = identify.identify(path, full=full)
        except WeightkitError as error:
            failed = True
            if talk.as_json:
                facts.append({"path": str(path), **error_json(error)})
            else:
                say_error(str(error))
            continue
        if talk.as_json:
            facts.append({"path": str(path), "releases": list(found.releases), "facts": list(found.lines)})
        elif not talk.quiet:
            click.echo(f"{click.style(str(path), bold=True)}:")
            for line in found.lines:
                click.echo(f"  {shown(line)}")
    if talk.as_json:
        print_json({"command": "identify", "ok": not failed, "files": facts})
    if failed:
        sys.exit(1)
