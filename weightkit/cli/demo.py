"""``weightkit demo``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from weightkit.cli.options import PATH
from weightkit.cli.talk import REFUSED
from weightkit.cli.usage import Job


@click.command("demo", cls=Job, examples=("weightkit demo", "weightkit demo --keep play"))
@click.option("--keep", type=PATH, metavar="DIR", help="Build it there and leave it to look at.")
def command(keep: Path | None) -> None:
    """Build a small release, recover it, verify it, then corrupt a file and see it caught."""
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        show(keep)
        return
    with tempfile.TemporaryDirectory(prefix="weightkit-demo-") as folder:
        show(Path(folder))


def show(folder: Path) -> None:
    """The story, in real commands."""
    from weightkit.cli.demo_model import build, flip_bit

    click.echo("A base that everybody has, and a tuned model that may not be published:")
    base, tuned = build(folder)
    click.echo(f"  {base.name}/  {tuned.name}/   (2 layers of random numbers, float16)\n")
    lists = folder / "diff" / "RELEASE.sha256"
    click.echo("The publisher makes a diff:")
    call(folder, 0, "make-diff", "--raw", "base", "--tuned", "tuned", "--out", "diff")
    click.echo("Whoever has the base recovers the release, and every digest is checked:")
    recover = ("recover", "--raw", "base", "--diff", "diff", "--checksums", str(lists.relative_to(folder)))
    call(folder, 0, *recover, "--out", "release")
    click.echo("It can be verified any time:")
    call(folder, 0, "verify", "release")
    at = flip_bit(folder / "release" / "pytorch_model.bin")
    click.echo(f"Now one bit of the recovered file flips, in byte {at}:")
    call(folder, 3, "verify", "release")
    at = flip_bit(base / "pytorch_model.bin")
    click.echo(f"And one bit of the base flips, in byte {at}; no file appears:")
    call(folder, 1, *recover, "--out", "release-2")
    click.echo("caught, both times")


def call(folder: Path, wanted: int, *words: str) -> None:
    """Show a command, run it, and insist on its exit status."""
    click.echo(click.style(f"$ weightkit {' '.join(words)}", bold=True))
    status = run(folder, words)
    click.echo(f"(exit status {status})\n")
    if status != wanted:
        click.echo(f"the demo failed: wanted exit status {wanted}", err=True)
        sys.exit(REFUSED)


def run(folder: Path, words: Sequence[str]) -> int:
    """Run a command in a process of its own, as a user would; its lines come out in order on stdout."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "weightkit", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    click.echo("".join(f"  {line}\n" for line in done.stdout.splitlines()), nl=False)
    return done.returncode
