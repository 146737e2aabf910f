"""``weightkit publish``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    PLACE,
    arithmetic_from,
    arithmetic_options,
    base_option,
    out_option,
    path_option,
    run_from,
    run_options,
    tensor_options,
)
from weightkit.cli.plans import print_notes, print_plan_and_exit
from weightkit.cli.progress import progress
from weightkit.cli.recover import rules_from
from weightkit.cli.report import Clock, command_line, print_mismatches, print_receipts, receipts_json
from weightkit.cli.talk import MISMATCH, Talk, print_json, shown, talk_options
from weightkit.cli.usage import Job

EXAMPLES = (
    "weightkit publish --base llama-7b --tuned my-7b -o my-release",
    "weightkit publish --base llama-7b --tuned my-7b -o my-release \\\n    --repo me/my-7b-diff --license cc-by-4.0",
)


@click.command("publish", cls=Job, examples=EXAMPLES)
@base_option("The base that everybody has.", "raw", required=True)
@path_option("--tuned", "The tuned model; with --method lora the adapter.", required=True, metavar="TUNED", type=PLACE)
@out_option()
@click.option(
    "--method",
    type=click.Choice(["exact", "additive", "enc", "lora"]),
    default="exact",
    show_default=True,
    help="exact: every byte comes back; additive: base + diff, as in 2023; enc: XOR with a key file; lora: an adapter that "
    "is merged.",
)
@click.option("--title", default="", help="For people.  [default: the name of OUT]")
@click.option("--license", "licence", default="", metavar="ID", help="For the card, as apache-2.0.")
@click.option("--base-model", default="", metavar="NAME", help="What the base is called on the Hub, for the card.")
@click.option("--repo", default="", metavar="OWNER/NAME", help="Upload there, in one commit; made if it is not there.")
@click.option("--private", is_flag=True, help="Make it private; one that everybody can read is refused.")
@path_option(
    "--sign",
    "Sign all files of OUT with this private key (PEM; EC on P-256, P-384 or P-521): model.sig, by OpenSSF Model Signing.",
    metavar="KEY",
)
@tensor_options
@arithmetic_options
@run_options
@talk_options
def command(
    raw: Any,
    tuned: Any,
    out: Path,
    method: str,
    title: str,
    licence: str,
    base_model: str,
    repo: str,
    private: bool,
    sign: Path | None,
    talk: Talk,
    **options: Any,
) -> None:
    """Make a release of TUNED that others rebuild from BASE with one command, and put it on the Hub.

    OUT gets the diff, the proof of what comes out, the digests of the base, a recipe (release.toml) and a card. With --repo
    all files are uploaded first, which goes on where it was interrupted, and appear in one commit. Other files of the same
    names in the repository are replaced with --overwrite alone. --sign needs the package cryptography (weightkit[sign]); an
    encrypted key is opened by what WEIGHTKIT_SIGN_PASSPHRASE in the environment says.
    """
    clock = Clock()
    from weightkit import publish

    with progress("publishing", talk) as notify:
        planned = publish.prepare(
            raw,
            tuned,
            out,
            method=method,
            rules=rules_from(options),
            how=arithmetic_from(options),
            title=title,
            licence=licence,
            base_model=base_model,
            repo=repo,
            sign=sign,
            notify=notify,
        )
    run = run_from(options)
    if run.pop("dry_run"):
        last = publish.last(planned, out, sign)
        print_plan_and_exit(planned, out, run["jobs"], run["max_memory"], overwrite=run["overwrite"], talk=talk, last=last)
    run.pop("keep_mismatched", None)
    with progress("publishing", talk) as notify:
        made = publish.carry(planned, out, repo=repo, private=private, sign=sign, notify=notify, **run)
    done = made.done
    if talk.as_json:
        facts = {**receipts_json(done.plan, done.report), "commit": made.commit, "repo": repo or None}
        facts["notes"] = [*facts["notes"], *made.notes]
        print_json({"command": "publish", "out": str(out), "ok": made.ok, **facts, "seconds": round(clock.seconds, 3)})
    elif not talk.quiet:
        print_notes(done.plan)
        for line in done.plan.steps:
            click.echo(line)
        print_receipts(done, "made", out, clock.seconds)
        for note in made.notes:
            click.echo(f"{click.style('note:', fg='yellow')} {shown(note)}")
        if made.commit:
            click.echo(f"on the Hub: hf://{repo}, commit {made.commit[:12]}, all files at once")
        place = f"hf://{repo}" if made.commit else str(out)
        if made.ok:
            click.echo(f"next: {command_line('weightkit', 'recover', '--release', place, '--raw', raw, '--out', 'RELEASE')}")
        if made.ok and sign is not None:
            click.echo("signed: give others the public key where they know you; with it they say")
            click.echo(f"next: {command_line('weightkit', 'verify', place, '--public-key', 'KEY')}")
    if not talk.as_json:
        print_mismatches(done.report.mismatches)
    if not made.ok:
        sys.exit(MISMATCH)
