"""``weightkit manifest``."""

from __future__ import annotations

from pathlib import Path

import click

from weightkit.cli.options import PLACE, jobs_option, out_option, path_argument
from weightkit.cli.progress import progress
from weightkit.cli.talk import Talk, print_json, talk_options
from weightkit.cli.usage import Job
from weightkit.core.digest import ALGORITHMS

KNOWN = [name for name in ALGORITHMS if name != "gitsha1"]

EXAMPLES = (
    "weightkit manifest release -o SHA256SUMS",
    "weightkit manifest release --tensors -o TENSORS",
)


@click.command("manifest", cls=Job, examples=EXAMPLES)
@path_argument("path", type=PLACE)
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(KNOWN),
    metavar="NAME",
    help=f"A digest to take ({', '.join(KNOWN)}); of several, lines name theirs.  [default: sha256]",
)
@click.option("--tensors", is_flag=True, help="Content digests of the tensors instead, whatever their containers.")
@out_option("Write to a file.  [default: print]", required=False, metavar="FILE")
@jobs_option
@talk_options
def command(path: Path, algorithms: tuple[str, ...], tensors: bool, out: Path | None, jobs: int, talk: Talk) -> None:
    """Write digests of the files of PATH, in the form that sha256sum -c reads, or of its tensors."""
    from weightkit import manifest

    with progress("reading", talk) as notify:
        if tensors:
            found, text = manifest.of_tensors(path, notify=notify)
        else:
            found, text = manifest.of_files(path, algorithms or ("sha256",), jobs=jobs, notify=notify)
    if out is not None:
        manifest.write(out, text)
    if talk.as_json:
        entries = [{"path": name, "algorithm": digest.algorithm, "digest": digest.hex} for name, digest in found]
        print_json({"command": "manifest", "path": str(path), "tensors": tensors, "digests": entries})
    elif out is None:
        click.echo(text.decode(), nl=False)
    elif not talk.quiet:
        click.echo(f"wrote {len(found)} digests: {out}")
