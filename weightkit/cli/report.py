"""What commands print when they are done: what was written, and whether it is proved."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path, PurePosixPath
from typing import Any

import click

from weightkit.cli.plans import print_notes, print_plan_and_exit
from weightkit.cli.progress import progress
from weightkit.cli.talk import MISMATCH, Talk, print_json, shown
from weightkit.core.errors import DigestMismatch
from weightkit.core.sizes import format_size
from weightkit.families.gguf import SUFFIX
from weightkit.proof.completeness import lacking
from weightkit.run.execute import Done, carry_out
from weightkit.run.ledgers.stage import mismatch_name
from weightkit.run.plan import Plan
from weightkit.run.receipts import Receipt, Report

__all__ = ["Clock", "carry", "command_line", "finish", "loading", "print_mismatches", "print_receipts", "receipts_json"]

DONE = {
    "recover": "recovered",
    "merge": "merged",
    "convert": "converted",
    "make-diff": "made",
    "xor decode": "decoded",
    "xor encode": "encoded",
}
"""Command -> what the first line of its summary says."""


OK = click.style("ok", fg="green", bold=True)


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Elapsed time."""
        return time.monotonic() - self.start


def carry(
    plan: Plan,
    out: Path,
    *,
    label: str,
    dry_run: bool,
    talk: Talk,
    jobs: int,
    max_memory: int,
    overwrite: bool,
    keep_mismatched: bool,
    verify_raw: Path | None,
    reclaim_downloads: bool = False,
) -> Done:
    """Carry a plan out under a progress bar; with ``--dry-run`` print it and end."""
    if dry_run:
        print_plan_and_exit(plan, out, jobs, max_memory, overwrite=overwrite, talk=talk, verify_raw=verify_raw)
    with progress(label, talk) as notify:
        return carry_out(
            plan,
            out,
            jobs=jobs,
            max_memory=max_memory,
            overwrite=overwrite,
            keep_mismatched=keep_mismatched,
            verify_raw=verify_raw,
            reclaim_downloads=reclaim_downloads,
            notify=notify,
        )


def finish(
    command: str,
    done: Done,
    out: Path,
    clock: Clock,
    *,
    talk: Talk,
    steps: bool = False,
    extra: dict[str, Any] | None = None,
    next_step: str | None = None,
) -> None:
    """Say what was written, and whether it is proved; ends with 3 where a digest does not hold.

    Args:
        command: Its name.
        done: What was done.
        out: Where.
        clock: Started with the command.
        talk: How to speak.
        steps: Whether the summary says what was done to the tensors.
        extra: Further facts: keys of the JSON object; their values are lines of the summary.
        next_step: A command to go on with, where nothing was to be proved.
    """
    if talk.as_json:
        facts = {**receipts_json(done.plan, done.report), **(extra or {})}
        if steps:
            facts["steps"] = list(done.plan.steps)
        print_json({"command": command, "out": str(out), "ok": done.ok, **facts, "seconds": round(clock.seconds, 3)})
    elif not talk.quiet:
        print_notes(done.plan)
        for line in (*(done.plan.steps if steps else ()), *(extra or {}).values()):
            click.echo(shown(str(line)))
        print_receipts(done, DONE[command], out, clock.seconds)
        if next_step is not None and done.ok:
            if checked := sum(len(file.expect) for file in done.plan.hashed):
                click.echo(f"{OK}: {held(done, checked)}")
            click.echo(f"next: {next_step}")
        elif next_step is None or done.plan.proofs:
            print_verdict(done, out)
    if not talk.as_json:
        print_mismatches(done.report.mismatches)
        print_examination(done, out)
    if not done.ok:
        sys.exit(MISMATCH)


def print_receipts(done: Done, verb: str, out: Path, seconds: float, *, names: bool = True) -> None:
    """What was written, or stood there; with ``names``, each file of weights."""
    receipts = done.report.receipts
    total = sum(one.nbytes for one in receipts)
    if done.stood:
        click.echo(f"everything stands already, and its digests hold: {len(receipts)} files, {format_size(total)}: {out}")
        click.echo(f"made again from the inputs in {seconds:.1f} s, and no byte differs; nothing was written")
    elif receipts:
        click.echo(f"{verb} {len(receipts)} files, {format_size(total)}, in {seconds:.1f} s: {out}")
    kept = sum(one.kept for one in receipts)
    if kept and not done.stood:
        click.echo(f"{kept} of them stood there whole from an interrupted run, and their digests hold")
    weights = {file.path for file in done.plan.files} if names else set()
    for one in receipts:
        if one.path in weights:
            click.echo(f"  {one.sha256}  {one.path}")
    for one in done.report.proofs:
        of = "the same" if loading(done.plan, out).startswith("llama-cli") else "these"
        click.echo(f"  {one.sha256}  {one.path} (made of {of} and hashed; not stored)")


def print_verdict(done: Done, out: Path) -> None:
    """Whether what was written is proved, and what to do next."""
    weights, planned = {file.path for file in done.plan.files}, {file.path for file in done.plan.hashed}
    checked = sum(len(file.expect) for file in done.plan.hashed)
    if checked and done.ok:
        click.echo(f"{OK}: {held(done, checked)}")
        if why := lacking(done.plan, {one.name for one in out.iterdir()}):
            click.echo(f"this is not all: {why}")
            return
        click.echo(f"next: {loading(done.plan, out)}, or check it any time with {command_line('weightkit', 'verify', out)}")
    elif done.ok:
        click.echo("no published digests were given, so nothing proves this is the release")
        click.echo(f"next: {command_line('weightkit', 'verify', out, '--checksums', 'FILE')} with the publisher's list")
    elif done.stood:
        click.echo("what stands there is what this command makes, and is not what was published")
    elif not all(one.path in planned for one in done.report.mismatches):
        click.echo("nothing is published where an input is not the one that it should be")
    elif any(one.path not in {file.path for file in done.plan.everything} for one in done.report.mismatches):
        click.echo("nothing is published: made of these tensors, the published files would have been other bytes")
    elif any(one.path in weights for one in done.report.mismatches):
        click.echo("index, small files and SHA256SUMS are written when all files of weights match")
    else:
        click.echo("the files of weights are right; SHA256SUMS is written when the small files match, too")


def held(done: Done, checked: int) -> str:
    """What is proved."""
    if not done.plan.proofs:
        return f"all {checked} published digests hold"
    stored, proofs = [file.path for file in done.plan.files], len(done.plan.proofs)
    how = f"{' and '.join(sorted({kind_of(path) for path in stored}))}, {len(stored)} file{'s' * (len(stored) > 1)}"
    of = f"all {checked} published digests hold, {proofs} of them of files that are not stored"
    return f"the published files would have been these bytes; written as {how} ({of})"


def loading(plan: Plan, out: Path) -> str:
    """How what was written is loaded."""
    file = next((file.path for file in plan.files if file.path.endswith(SUFFIX)), None)
    return f"load {out} with transformers" if file is None else command_line("llama-cli", "-m", out / file)


def kind_of(path: str) -> str:
    """What a stored file is called for people: by its format, or by how its name ends."""
    from weightkit.containers import formats

    ending = PurePosixPath(path).suffix
    return next((one.name for one in formats() if ending == one.suffixes[0]), ending.removeprefix("."))


def receipts_json(plan: Plan, report: Report) -> dict[str, Any]:
    """What was written and what did not match, for programs."""
    return {
        "files": [
            {
                "path": one.path,
                "bytes": one.nbytes,
                **{name: digest.hex for name, digest in one.digests.items()},
                "checked": one.checked,
            }
            for one in report.receipts
        ],
        **({"proofs": [proof_json(one) for one in report.proofs]} if plan.proofs else {}),
        "mismatches": [
            {
                "path": one.path,
                "algorithm": one.algorithm,
                "expected": one.expected,
                "actual": one.actual,
                "reason": one.reason,
            }
            for one in report.mismatches
        ],
        "notes": list(plan.notes),
    }


def proof_json(receipt: Receipt) -> dict[str, Any]:
    """A published file that was made of what is stored, and is not stored itself."""
    digests = {name: digest.hex for name, digest in receipt.digests.items()}
    return {"path": receipt.path, "bytes": receipt.nbytes, **digests, "checked": receipt.checked, "stored": False}


def print_mismatches(mismatches: tuple[DigestMismatch, ...]) -> None:
    """Files that were not published, on stderr: expected, actual, the likely reason."""
    for one in mismatches:
        click.echo(f"{click.style('FAILED', fg='red', bold=True)} {one.path}: another digest than wanted", err=True)
        click.echo(f"  {one.algorithm} wanted {one.expected}", err=True)
        click.echo(f"  {one.algorithm} found  {one.actual}", err=True)
        if one.reason:
            click.echo(f"  {one.reason}", err=True)


def print_examination(done: Done, out: Path) -> None:
    """The command that examines a mismatch, on stderr; where the file was not kept, how it is kept."""
    planned = {file.path for file in done.plan.hashed}
    wrong = [one for one in done.report.mismatches if one.path in planned]
    there = {one.path: out / one.path if done.stood else out / mismatch_name(one.path) for one in wrong}
    there |= {one.path: Path(one.path) for one in done.report.mismatches if one.path not in planned}  # an input
    kept = [one for one in done.report.mismatches if there[one.path].is_file()]
    for one in kept:
        examine = command_line("weightkit", "explain", there[one.path], "--expect", f"{one.algorithm}:{one.expected}")
        click.echo(f"next: {examine}", err=True)
    if wrong and not kept:
        click.echo(
            f"next: say the same with --keep-mismatched, which keeps it as {mismatch_name(wrong[0].path)}, then "
            f"{command_line('weightkit', 'explain', there[wrong[0].path], '--expect', wrong[0].expected)}",
            err=True,
        )


def command_line(*words: str | Path) -> str:
    """A command for the user to copy."""
    return shlex.join(str(word) for word in words)
