"""``weightkit tokenizer``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from weightkit.cli.options import exits, talk_options
from weightkit.cli.report import print_json


@click.group("tokenizer")
def command() -> None:
    """Sentencepiece vocabularies."""


@command.command("merge")
@click.argument("base", type=click.Path(path_type=Path), metavar="BASE.model")
@click.argument("extra", type=click.Path(path_type=Path), metavar="EXTRA.model")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="OUT.model", help="The file to write.")
@click.option("--add-piece", multiple=True, metavar="PIECE", help="A further piece, as [PAD]. May be repeated.")
@click.option("--overwrite", is_flag=True, help="Replace a file of the same name.")
@talk_options
@exits
def merge(base: Path, extra: Path, out: Path, add_piece: tuple[str, ...], overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Append to BASE.model the pieces of EXTRA.model that it lacks, as Chinese-LLaMA-Alpaca did.

    New pieces have score 0 and come in the order of EXTRA.model; every other byte is that of BASE.model.
    """
    from weightkit.checkpoints import vocabulary

    content, count = vocabulary.write_merged(base, extra, out, add_piece, overwrite=overwrite)
    digest = hashlib.sha256(content).hexdigest()
    if as_json:
        facts = {"out": str(out), "pieces": count, "bytes": len(content), "sha256": digest}
        print_json({"command": "tokenizer merge", **facts})
    elif not quiet:
        click.echo(f"wrote {count} pieces, {len(content)} bytes: {out}")
        click.echo(f"  {digest}  {out.name}")
