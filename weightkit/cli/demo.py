"""``weightkit demo``."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from weightkit.cli.options import PATH
from weightkit.cli.talk import REFUSED
from weightkit.cli.usage import Job
from weightkit.core.errors import PlanError
from weightkit.core.torch_here import load

MADE = ("base", "tuned", "diff", "release", "damaged")


@click.command("demo", cls=Job, examples=("weightkit demo", "weightkit demo --keep play"))
@click.option("--keep", type=PATH, metavar="DIR", help="Leave base, tuned and diff there to play with, and damaged copies.")
def command(keep: Path | None) -> None:
    """Build a small release, recover it, verify it, then corrupt copies and see it caught."""
    load()
    if keep:
        taken = [name for name in MADE if os.path.lexists(keep / name)]
        if taken:
            raise PlanError(f"{keep / taken[0]} is there already", path=keep / taken[0], hint="name another folder: --keep DIR")
        keep.mkdir(parents=True, exist_ok=True)
        show(keep)
    else:
        with tempfile.TemporaryDirectory(prefix="weightkit-demo-") as folder:
            show(Path(folder))
    click.echo("".join(f"{line}\n" for line in ("caught, both times", *what_next(keep))), nl=False)


def show(folder: Path) -> None:
    """The story, in real commands. Damage happens to copies; base, tuned and diff stay as they were made."""
    from weightkit.cli.demo_model import build, flip_bit

    click.echo("A base that everybody has, and a tuned model that may not be published:")
    base, tuned = build(folder)
    click.echo(f"  {base.name}/  {tuned.name}/   (2 layers of random numbers, float16)\n")
    lists = folder / "diff" / "RELEASE.sha256"
    click.echo("The publisher makes a diff:")
    call(folder, 0, "make-diff", "--raw", "base", "--tuned", "tuned", "--out", "diff")
    click.echo("Whoever has the base recovers the release, and every digest is checked:")
    rest = ("--diff", "diff", "--checksums", str(lists.relative_to(folder)), "--out")
    call(folder, 0, "recover", "--raw", "base", *rest, "release")
    click.echo("It can be verified any time:")
    call(folder, 0, "verify", "release")
    damaged = folder / "damaged"
    damaged.mkdir()
    shutil.copytree(base, damaged / "base")
    (folder / "release").rename(damaged / "release")
    at = flip_bit(damaged / "release" / "pytorch_model.bin")
    click.echo(f"The release moves to damaged/, and one bit of its file flips, in byte {at}:")
    call(folder, 3, "verify", "damaged/release")
    at = flip_bit(damaged / "base" / "pytorch_model.bin")
    click.echo(f"And one bit of a copy of the base flips, in byte {at}; no file appears:")
    call(folder, 1, "recover", "--raw", "damaged/base", *rest, "damaged/again")
    shutil.rmtree(damaged / "again", ignore_errors=True)


def what_next(keep: Path | None) -> list[str]:
    """What to type now, from where the user stands."""
    found, here = shutil.which("weightkit"), Path(sys.prefix)
    activate = here / "bin" / "activate"
    enter = []
    if found is None and activate.is_file():
        name = activate.relative_to(Path.cwd()) if activate.is_relative_to(Path.cwd()) else activate
        enter = [f"  . {shlex.quote(str(name))}"]
    if keep is None:
        first = "next: make the same folders to play with, then try the commands of README.md"
        return [first, *enter, "  weightkit demo --keep play"]
    return [
        f"next: base, tuned and diff in {keep} are whole, and so the commands of README.md work there",
        *enter,
        *([] if keep == Path() else [f"  cd {shlex.quote(str(keep))}"]),
        "  weightkit recover --raw base --diff diff --out release --dry-run",
    ]


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
