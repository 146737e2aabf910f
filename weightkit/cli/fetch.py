"""``weightkit fetch``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weightkit.cli.options import RELEASE, out_option
from weightkit.cli.progress import progress
from weightkit.cli.report import Clock, command_line, print_mismatches
from weightkit.cli.talk import MISMATCH, Talk, print_json, shown, talk_options
from weightkit.cli.usage import Job
from weightkit.core.sizes import format_size

if TYPE_CHECKING:
    from weightkit.fetch import Fetched

EXAMPLES = (
    "weightkit fetch zhixi-13b --only diff -o zhixi-13b-diff",
    "weightkit fetch hf://chavinlo/alpaca-13b@main -o alpaca-13b",
)


@click.command("fetch", cls=Job, examples=EXAMPLES)
@click.argument("name", type=RELEASE)
@click.option("--only", type=click.Choice(["diff", "base", "lora"]), help="Of a release its diff, base or adapters alone.")
@out_option("The folder to write.  [default: the cache of the Hub's client]", required=False)
@talk_options
def command(name: str, only: Any, out: Path | None, talk: Talk) -> None:
    """Download a release's diff and adapters, or hf://OWNER/NAME[@REVISION][/PATH], and check every file as it arrives.

    A file with another digest than the catalog or the Hub states is fetched once more, then refused (status 3). Tokens,
    mirrors and the cache are those of the Hub's client: HF_TOKEN, HF_ENDPOINT, HF_HOME.
    """
    from weightkit.fetch import fetch

    clock = Clock()
    said: list[str] = []

    def say(note: str) -> None:
        said.append(note)
        talk.first(note)

    with progress("fetching", talk) as notify:
        found = fetch(name, out=out, only=only, say=say, notify=notify)
    if talk.as_json:
        print_json(as_dict(name, found, said, clock.seconds))
    elif not talk.quiet:
        print_fetched(found, clock.seconds)
    if not talk.as_json:
        print_mismatches(found.mismatches)
    if not found.ok:
        sys.exit(MISMATCH)


def print_fetched(found: Fetched, seconds: float) -> None:
    """What is here, and where."""
    for note in found.notes:
        click.echo(f"note: {shown(note)}")
    kept = sum(one.kept for one in found.files)
    total = sum(one.nbytes for one in found.files)
    where = ", ".join(str(one) for one in found.folders)
    click.echo(f"fetched {len(found.files)} files, {format_size(total)}, in {seconds:.1f} s: {where}")
    if kept:
        click.echo(f"{kept} of them were there, and are right")
    published = sum(one.published for one in found.files)
    if found.ok and found.files:
        told = f"{published} by published digests, the others by the Hub's" if published else "by the Hub's own digests"
        click.echo(f"{click.style('ok', fg='green', bold=True)}: every file is what was stated ({told})")
        click.echo(f"next: {command_line('weightkit', 'identify', found.folders[0])}")


def as_dict(name: str, found: Fetched, said: list[str], seconds: float) -> dict[str, Any]:
    """The same for programs."""
    return {
        "command": "fetch",
        "name": name,
        "ok": found.ok,
        "folders": [str(one) for one in found.folders],
        "files": [
            {
                "name": one.name,
                "path": str(one.path),
                "bytes": one.nbytes,
                one.digest.algorithm: one.digest.hex,
                "published": one.published,
                "kept": one.kept,
            }
            for one in found.files
        ],
        "mismatches": [
            {
                "path": str(one.path),
                "algorithm": one.algorithm,
                "expected": one.expected,
                "actual": one.actual,
                "reason": one.reason,
            }
            for one in found.mismatches
        ],
        "notes": [*said, *found.notes],
        "seconds": round(seconds, 3),
    }
