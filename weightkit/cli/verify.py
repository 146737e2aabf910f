"""``weightkit verify``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from weightkit import verify
from weightkit.cli.options import MISMATCH, default_jobs, exits, path_option, talk_options
from weightkit.cli.report import Clock, print_json, progress

COLORS = {"ok": "green", "FAILED": "red", "missing": "red", "extra": "yellow"}


@click.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@path_option("--checksums", "A list as sha256sum or md5sum write it. May be repeated.", multiple=True, metavar="FILE")
@click.option("--jobs", type=click.IntRange(1), default=default_jobs, help="Files at a time.  [default: processors, up to 4]")
@talk_options
@exits
def command(path: Path, checksums: tuple[Path, ...], jobs: int, as_json: bool, quiet: bool) -> None:
    """Check the files of PATH and name each: ok, FAILED, missing, extra.

    Without --checksums the lists in the folder itself are used (SHA256SUMS, MD5SUMS, checklist.chk). Ends with 3 if a
    file has another digest or is missing; extra files are only named.
    """
    clock = Clock()
    with progress(None, "reading", quiet=quiet or as_json) as notify:
        found = verify.verify(path, checksums, jobs=jobs, notify=notify)
    if as_json:
        print_json(
            {
                "command": "verify",
                "path": str(path),
                "ok": found.ok,
                "files": [
                    {
                        "path": one.path,
                        "status": one.status,
                        "algorithm": one.expected.algorithm if one.expected else None,
                        "expected": one.expected.hex if one.expected else None,
                        "actual": one.actual.hex if one.actual else None,
                        "hint": one.hint,
                    }
                    for one in found.checked
                ],
                "seconds": round(clock.seconds, 3),
            }
        )
    elif not quiet:
        print_prose(found)
    if not found.ok:
        sys.exit(MISMATCH)


def print_prose(found: verify.Verification) -> None:
    """A line for each file, the verdict last."""
    for one in found.checked:
        click.echo(f"{click.style(f'{one.status:<8}', fg=COLORS[one.status])} {one.path}")
        if one.status == "FAILED" and one.expected and one.actual:
            click.echo(f"         {one.expected.algorithm} wanted {one.expected.hex}")
            click.echo(f"         {one.expected.algorithm} found  {one.actual.hex}")
            if one.hint:
                click.echo(f"         {one.hint}")
    counts = {status: found.count(status) for status in ("ok", "FAILED", "missing", "extra")}
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items() if count or status in ("ok", "FAILED")))
