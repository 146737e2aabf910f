"""``weightkit identify``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from weightkit.cli.options import exits, say_error, shown, talk_options
from weightkit.cli.report import print_json
from weightkit.core.errors import WeightkitError


@click.command("identify")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--full", is_flag=True, help="Hash large files, too.")
@talk_options
@exits
def command(paths: tuple[Path, ...], full: bool, as_json: bool, quiet: bool) -> None:
    """Say which published file or release PATH is, and what else can be told of it."""
    from weightkit import identify

    facts = []
    failed = False
    for path in paths:
        try:
            found = identify.identify(path, full=full)
        except WeightkitError as error:
            say_error(str(error))
            failed = True
            continue
        if as_json:
            facts.append({"path": str(path), "releases": list(found.releases), "facts": list(found.lines)})
        elif not quiet:
            click.echo(f"{click.style(str(path), bold=True)}:")
            for line in found.lines:
                click.echo(f"  {shown(line)}")
    if as_json:
        print_json({"command": "identify", "files": facts})
    if failed:
        sys.exit(1)
