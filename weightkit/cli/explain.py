"""``weightkit explain``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from weightkit.cli.options import PLACE, base_option, lora_option, path_argument, path_option
from weightkit.cli.progress import progress
from weightkit.cli.talk import MISMATCH, Talk, print_json, shown, talk_options
from weightkit.cli.usage import Job

EXAMPLES = (
    "weightkit explain pytorch_model.bin \\\n    --expect sha256:7a9d...",
    "weightkit explain release --against published",
)


@click.command("explain", cls=Job, examples=EXAMPLES)
@path_argument("path", type=PLACE)
@click.option("--expect", metavar="DIGEST", help="The digest that PATH, a file, should have.")
@path_option("--against", "The right file or folder, to compare PATH with.", metavar="PATH", type=PLACE)
@base_option("What LoRAs or a difference were added to: orders, roundings and sums are tried.", "base", required=False)
@lora_option()
@click.option("--naive-sum", is_flag=True, help="Add up all values, as authors' own checks do; a diagnosis, no proof.")
@talk_options
def command(
    path: Path,
    expect: str | None,
    against: Path | None,
    base: Path | None,
    lora: tuple[Path, ...],
    naive_sum: bool,
    talk: Talk,
) -> None:
    """Say why PATH does not match: the cause, narrowed down, and the command that mends it.

    Ends with 3 if it does not match, with 0 if it does.
    """
    from weightkit import explain

    if naive_sum:
        found = explain.naive_sum(path)
        if talk.as_json:
            print_json({"command": "explain", "path": str(path), "naive_sum": found.value, "near": list(found.near)})
        else:
            click.echo(f"sum of all values: {found.value:.4f}")
            for line in found.near or ("near none that was published",):
                click.echo(f"  {line}")
            click.echo("a sum proves nothing: check digests with weightkit verify")
        return
    if (expect is None) == (against is None):
        raise click.UsageError("say what was wanted: either --expect DIGEST or --against PATH")
    with progress("comparing", talk) as notify:
        why = explain.explain(path, expect=expect, against=against, base=base, lora=lora, notify=notify)
    if talk.as_json:
        facts = {"matches": why.matches, "cause": why.sentence, "command_line": why.command, "facts": list(why.lines)}
        print_json({"command": "explain", "path": str(path), "ok": why.matches, **facts})
    elif not talk.quiet:
        for line in why.lines:
            click.echo(shown(line))
        click.echo(f"{click.style('ok' if why.matches else 'cause', bold=True)}: {shown(why.sentence)}")
        if why.command:
            click.echo(f"next: {shown(why.command)}")
    if not why.matches:
        sys.exit(MISMATCH)
