"""``weightkit make-diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    METHOD_NAME,
    PLACE,
    as_option,
    base_option,
    out_option,
    output_options,
    path_option,
    tensor_options,
)
from weightkit.cli.plans import print_notes, print_plan_and_exit
from weightkit.cli.progress import progress
from weightkit.cli.recover import form_from, rules_from
from weightkit.cli.report import Clock, command_line, finish, print_receipts, receipts_json
from weightkit.cli.talk import Talk, print_json, talk_options
from weightkit.cli.usage import Job

EXAMPLES = (
    "weightkit make-diff --raw base --tuned tuned --out diff \\\n    --dtype float32",
    "weightkit make-diff --raw base --tuned tuned --out diff \\\n    --method exact",
)


@click.command("make-diff", cls=Job, examples=EXAMPLES)
@base_option("The base that everybody has.", "raw", required=True)
@path_option("--tuned", "The tuned model that you may not publish.", required=True, metavar="TUNED", type=PLACE)
@out_option()
@click.option(
    "--method",
    type=METHOD_NAME,
    default="additive",
    show_default=True,
    help="A subtraction that any tool can add again, or the exact difference of the bits, compressed.",
)
@as_option
@tensor_options
@output_options
@talk_options
def command(
    raw: Path,
    tuned: Path,
    out: Path,
    method: str,
    converter: str | None,
    jobs: int,
    max_memory: int,
    dry_run: bool,
    overwrite: bool,
    keep_mismatched: bool,
    talk: Talk,
    **options: Any,
) -> None:
    """Make a diff from BASE and TUNED, and prove that it restores TUNED.

    OUT gets the same files as TUNED with TUNED - BASE in them, and RELEASE.sha256: the digests of what recovering gives.
    The recovery runs beside the subtraction and counts elements that come back with other bits. With --method exact all
    come back: OUT gets a compressed .wkx for each file of weights, and recover gives TUNED's files byte for byte.
    """
    clock = Clock()
    from weightkit import diff
    from weightkit.methods import changed, method_named

    rules, form = rules_from(options), form_from(options)
    if method_named(method).settles and changed(rules, form):
        raise click.UsageError(
            f"--method {method} keeps every bit of TUNED: it goes with none of the options on tensors and files"
        )
    planned = diff.prepare(raw, tuned, out, method=method, converter=converter, rules=rules, form=form)
    if dry_run:
        print_plan_and_exit(planned, out, jobs, max_memory, overwrite=overwrite, talk=talk)
    with progress("subtracting", talk) as notify:
        made = diff.carry(
            planned,
            out,
            jobs=jobs,
            max_memory=max_memory,
            overwrite=overwrite,
            keep_mismatched=keep_mismatched,
            notify=notify,
        )
    if not made.tallies:
        back = command_line("weightkit", "recover", "--raw", raw, "--diff", out, "--out", "RELEASE")
        finish("make-diff", made, out, clock, talk=talk, steps=True, next_step=back)
    elif talk.as_json:
        facts = receipts_json(made.plan, made.report)
        counts = {"elements": made.elements, "changed": made.changed, "not_finite": made.not_finite}
        print_json({"command": "make-diff", "out": str(out), **counts, **facts, "seconds": round(clock.seconds, 3)})
    elif not talk.quiet:
        print_summary(made, raw, out, clock.seconds, rules)


def print_summary(made: Any, raw: Path, out: Path, seconds: float, rules: Any) -> None:
    """What was written, how exact it is, and what to do next."""
    from weightkit.diff import RELEASE_SUMS

    print_notes(made.plan)
    print_receipts(made, "made", out, seconds, names=False)
    rounded = made.rounded_to
    if not made.changed and rounded is not None:
        click.echo(
            f"all {made.elements} elements come back as TUNED rounded to {rounded}, not as TUNED is; leave --dtype out for that"
        )
    elif not made.changed and made.not_finite:
        click.echo(f"all {made.elements} elements come back, bit for bit, but some are infinite or NaN, as said above")
    elif not made.changed:
        click.echo(f"{click.style('ok', fg='green', bold=True)}: all {made.elements} elements come back, bit for bit")
    else:
        share = made.changed / made.elements
        narrow = any(file.layout.items and file.layout.items[0].spec.dtype.itemsize < 4 for file in made.plan.files)
        advice = "; --dtype float32 loses fewer" if narrow else ""
        click.echo(
            f"{made.changed} of {made.elements} elements ({share:.2g} of all) come back with other bits, as subtraction "
            f"rounds{advice}"
        )
        worst = sorted(made.tallies.items(), key=lambda one: (-one[1].changed, one[0]))[:3]
        for name, tally in worst:
            click.echo(f"  {tally.changed} of {tally.elements}  {name}")
    click.echo(f"{RELEASE_SUMS} holds the digests of what others will recover; publish it with the diff. They will say:")
    words = ("weightkit", "recover", "--raw", raw, "--diff", out, "--out", "RELEASE", "--checksums", out / RELEASE_SUMS)
    said: list[str] = ["--new-rows", rules.new_rows] if rules.new_rows else []
    for pattern in rules.whole:
        said += ["--whole", pattern]
    if rules.inv_freq != "float32":
        said += ["--inv-freq", rules.inv_freq]
    click.echo(f"next: {command_line(*words, *said)}")
