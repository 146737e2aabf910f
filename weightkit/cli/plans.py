"""What ``--dry-run`` prints: a plan, as prose or as JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from weightkit.cli.talk import Talk, print_json, shown
from weightkit.core.sizes import format_size
from weightkit.run.execute import NO_SEALS, SUMS_ONLY, Lists, Seals, preview
from weightkit.run.plan import Plan
from weightkit.run.proving import again_nbytes

__all__ = ["print_notes", "print_plan_and_exit"]


def print_plan_and_exit(
    plan: Plan,
    out: Path,
    jobs: int,
    max_memory: int,
    *,
    overwrite: bool,
    talk: Talk,
    verify_raw: Path | None = None,
    last: tuple[Lists, Seals] = (SUMS_ONLY, NO_SEALS),
) -> NoReturn:
    """What ``--dry-run`` does; ends with 1 where there is no room."""
    facts = plan_json(plan, out, jobs, max_memory, overwrite, verify_raw, last)
    if talk.as_json:
        fits = facts["disk_needed_bytes"] <= facts["disk_free_bytes"]
        print_json({"ok": fits, **facts})
    else:
        fits = print_plan(plan, out, max_memory, facts)
    sys.exit(0 if fits else 1)


def plan_json(
    plan: Plan,
    out: Path,
    jobs: int,
    max_memory: int,
    overwrite: bool,
    verify_raw: Path | None = None,
    last: tuple[Lists, Seals] = (SUMS_ONLY, NO_SEALS),
) -> dict[str, Any]:
    """A plan, for programs; refuses what the run would refuse."""
    lists, seals = last
    found = preview(
        plan, out, jobs=jobs, max_memory=max_memory, overwrite=overwrite, lists=lists, seals=seals, verify_raw=verify_raw
    )
    checked = sum(one.blob.nbytes for one in plan.inputs)
    return {
        "command": plan.job,
        "dry_run": True,
        "out": str(out),
        "steps": list(plan.steps),
        "notes": list(plan.notes),
        "files": [{"path": file.path, "bytes": file.nbytes} for file in plan.everything],
        **proofs_json(plan),
        "bytes": plan.nbytes,
        "read_bytes": sum(file.needs.read_nbytes for file in (*plan.files, *plan.proofs)) + checked,
        "checked_bytes": checked,
        "peak_memory_bytes": found.budget.peak_nbytes,
        "jobs": found.budget.jobs,
        "disk_needed_bytes": found.needed_nbytes,
        "disk_free_bytes": found.free_nbytes,
    }


def print_plan(plan: Plan, out: Path, max_memory: int, facts: dict[str, Any]) -> bool:
    """A plan, for people: what is read, done and written, and what it takes; whether there is room for it."""
    for step in plan.steps:
        click.echo(f"{plan.job}: {step}")
    print_notes(plan)
    click.echo(f"would write to {out}:")
    width = max(len(str(file["bytes"])) for file in facts["files"])
    for file in facts["files"]:
        click.echo(f"  {file['bytes']:>{width}} bytes  {file['path']}")
    click.echo(f"in all  {facts['bytes']} bytes ({format_size(facts['bytes'])}); reads {format_size(facts['read_bytes'])}")
    if facts["checked_bytes"]:
        click.echo(
            f"of these, {format_size(facts['checked_bytes'])} are inputs read once more, beside the run, for their digests"
        )
    if plan.proofs:
        print_proofs(facts, width)
    click.echo(f"memory  {format_size(facts['peak_memory_bytes'])} at most, {format_size(max_memory)} allowed")
    needed, free = facts["disk_needed_bytes"], facts["disk_free_bytes"]
    verdict = "enough" if needed <= free else click.style("NOT ENOUGH", fg="red")
    click.echo(f"disk    {format_size(needed)} needed, {format_size(free)} free: {verdict}")
    if needed <= free:
        click.echo("nothing was written; say the same without --dry-run to do it")
    return bool(needed <= free)


def proofs_json(plan: Plan) -> dict[str, Any]:
    """Published files that are made of what is written, and not written; what is hashed for them, and read once more."""
    if not plan.proofs:
        return {}
    return {
        "proofs": [{"path": file.path, "bytes": file.nbytes} for file in plan.proofs],
        "proof_bytes": sum(file.nbytes for file in plan.proofs),
        "proof_again_bytes": sum(map(again_nbytes, plan.proofs)),
    }


def print_proofs(facts: dict[str, Any], width: int) -> None:
    """Published files that are made and not written, and what that takes."""
    click.echo("would make, hash and not write, of what is written, as it was published:")
    for file in facts["proofs"]:
        click.echo(f"  {file['bytes']:>{width}} bytes  {file['path']}")
    again = facts["proof_again_bytes"]
    more = f"; {format_size(again)} of the inputs are read once more for it" if again else "; the inputs are not read again"
    click.echo(f"proof   one more hash, of {format_size(facts['proof_bytes'])}, read from what was just written{more}")


def print_notes(plan: Plan) -> None:
    """What was decided on the way."""
    for note in plan.notes:
        click.echo(f"{click.style('note:', fg='yellow')} {shown(note)}")
