"""``weightkit manifest``."""

from __future__ import annotations

from pathlib import Path

import click

from weightkit.cli.options import default_jobs, exits, talk_options
from weightkit.cli.report import print_json, progress
from weightkit.core.digest import ALGORITHMS


@click.command("manifest")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice([name for name in ALGORITHMS if name != "gitsha1"]),
    help="A digest to take; of several, lines name theirs.  [default: sha256]",
)
@click.option("--tensors", is_flag=True, help="Content digests of the tensors instead, whatever their containers.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file.  [default: print]")
@click.option("--jobs", type=click.IntRange(1), default=default_jobs, help="Files at a time.  [default: processors, up to 4]")
@talk_options
@exits
def command(
    path: Path, algorithms: tuple[str, ...], tensors: bool, out: Path | None, jobs: int, as_json: bool, quiet: bool
) -> None:
    """Write digests of the files of PATH, in the form that sha256sum -c reads, or of its tensors."""
    from weightkit import manifest

    with progress(None, "reading", quiet=quiet or as_json) as notify:
        if tensors:
            found, text = manifest.of_tensors(path, notify=notify)
        else:
            found, text = manifest.of_files(path, algorithms or ("sha256",), jobs=jobs, notify=notify)
    if out is not None:
        manifest.write(out, text)
    if as_json:
        entries = [{"path": name, "algorithm": digest.algorithm, "digest": digest.hex} for name, digest in found]
        print_json({"command": "manifest", "path": str(path), "tensors": tensors, "digests": entries})
    elif out is None:
        click.echo(text.decode(), nl=False)
    elif not quiet:
        click.echo(f"wrote {len(found)} digests: {out}")
