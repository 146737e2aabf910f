"""``weightkit recover``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    MISMATCH,
    as_option,
    exits,
    output_options,
    path_option,
    talk_options,
    tensor_options,
    verify_raw_option,
)
from weightkit.cli.report import (
    Clock,
    carry,
    command_line,
    print_json,
    print_mismatches,
    print_notes,
    receipts_json,
)
from weightkit.dtypes import DType
from weightkit.sizes import format_size


@click.command("recover")
@path_option("--raw", "The base: the original weights, Meta's or converted.", required=True, metavar="BASE")
@path_option("--diff", "The published diff, a transformers folder.", required=True, metavar="DIFF")
@path_option("--out", "The folder to write.", required=True)
@path_option("--checksums", "A published list of digests that must hold. May be repeated.", multiple=True, metavar="FILE")
@as_option
@verify_raw_option
@tensor_options
@click.option("--config-from", type=click.Choice(["base", "diff"]), default="diff", show_default=True, help="Whose configs.")
@click.option(
    "--tokenizer-from", type=click.Choice(["base", "diff"]), help="Whose tokenizer.  [default: the diff's, if it has one]"
)
@click.option("--allow-tuned-base", is_flag=True, help="Go on where the base looks tuned already.")
@output_options
@talk_options
@exits
def command(
    raw: Path,
    diff: Path,
    out: Path,
    checksums: tuple[Path, ...],
    converter: str,
    verify_raw: bool,
    jobs: int,
    max_memory: int,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    allow_tuned_base: bool,
    **options: Any,
) -> None:
    """Rebuild a released checkpoint from BASE and DIFF, byte for byte.

    DIFF is an additive diff as Stanford Alpaca, KnowLM/ZhiXi and Vicuna published them. OUT gets the same files as DIFF,
    with base + diff in them, and SHA256SUMS.
    """
    clock = Clock()
    from weightkit import recover

    rules, form = rules_from(options), form_from(options)
    planned = recover.prepare(
        raw,
        diff,
        out,
        converter=converter,
        rules=rules,
        form=form,
        checksums=checksums,
        allow_tuned_base=allow_tuned_base,
    )
    done = carry(
        planned,
        out,
        label="recovering",
        dry_run=dry_run,
        as_json=as_json,
        quiet=quiet,
        jobs=jobs,
        max_memory=max_memory,
        overwrite=overwrite,
        verify_raw=raw if verify_raw else None,
    )
    if as_json:
        facts = receipts_json(planned, done.report)
        print_json({"command": "recover", "out": str(out), "ok": done.ok, **facts, "seconds": round(clock.seconds, 3)})
    elif not quiet:
        print_summary(done, out, clock.seconds, bool(checksums))
    print_mismatches(done.report.mismatches)
    if not done.ok:
        sys.exit(MISMATCH)


def rules_from(options: dict[str, Any]) -> Any:
    """What the user said about tensors."""
    from weightkit.pairing import Rules

    dtype: DType | None = options["dtype"]
    return Rules(dtype, options["new_rows"], tuple(options["whole"]), options["inv_freq"])


def form_from(options: dict[str, Any]) -> Any:
    """What the user said about files."""
    from weightkit.output import Form

    return Form(
        options["format"],
        options["torch_compat"],
        options["max_shard_size"],
        options.get("config_from", "diff"),
        options.get("tokenizer_from"),
    )


def print_summary(done: Any, out: Path, seconds: float, had_lists: bool) -> None:
    """What was written, whether it is proved, and what to do next."""
    receipts = done.report.receipts
    print_notes(done.plan)
    total = sum(one.nbytes for one in receipts)
    if receipts:
        click.echo(f"recovered {len(receipts)} files, {format_size(total)}, in {seconds:.1f} s: {out}")
    kept = sum(one.kept for one in receipts)
    if kept:
        click.echo(f"{kept} of them stood there whole from an interrupted run, and their digests hold")
    weights = {file.path for file in done.plan.files}
    for one in receipts:
        if one.path in weights:
            click.echo(f"  {one.sha256}  {one.path}")
    checked = sum(len(file.expect) for file in done.plan.everything)
    if had_lists and done.ok:
        click.echo(f"{click.style('ok', fg='green', bold=True)}: all {checked} published digests hold")
        click.echo(f"next: load {out} with transformers, or check it any time with {command_line('weightkit', 'verify', out)}")
    elif done.ok:
        click.echo("no published digests were given, so nothing proves this is the release")
        click.echo(f"next: {command_line('weightkit', 'verify', out, '--checksums', 'FILE')} with the publisher's list")
    elif any(one.path in weights for one in done.report.mismatches):
        click.echo("index, small files and SHA256SUMS are written when all files of weights match")
    else:
        click.echo("the files of weights are right; SHA256SUMS is written when the small files match, too")
