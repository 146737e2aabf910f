"""``weightkit tokenizer``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from weightkit.cli.options import PATH, out_option
from weightkit.cli.talk import Talk, print_json, talk_options
from weightkit.cli.usage import Job, Jobs

EXAMPLES = (
    "weightkit tokenizer merge llama.model chinese_sp.model \\\n    -o merged.model",
    "weightkit tokenizer merge llama.model chinese_sp.model \\\n    --add-piece '[PAD]' -o merged.model",
)


@click.group("tokenizer", cls=Jobs)
def command() -> None:
    """Sentencepiece vocabularies."""


@command.command("merge", cls=Job, examples=EXAMPLES)
@click.argument("base", type=PATH, metavar="BASE.model")
@click.argument("extra", type=PATH, metavar="EXTRA.model")
@out_option("The file to write.", metavar="OUT.model")
@click.option("--add-piece", multiple=True, metavar="PIECE", help="A further piece, as [PAD]. May be repeated.")
@click.option("--overwrite", is_flag=True, help="Replace a file of the same name.")
@talk_options
def merge(base: Path, extra: Path, out: Path, add_piece: tuple[str, ...], overwrite: bool, talk: Talk) -> None:
    """Append to BASE.model the pieces of EXTRA.model that it lacks, as Chinese-LLaMA-Alpaca did.

    New pieces have score 0 and come in the order of EXTRA.model; every other byte is that of BASE.model.
    """
    from weightkit.checkpoints import vocabulary

    content, count = vocabulary.write_merged(base, extra, out, add_piece, overwrite=overwrite)
    digest = hashlib.sha256(content).hexdigest()
    if talk.as_json:
        facts = {"out": str(out), "pieces": count, "bytes": len(content), "sha256": digest}
        print_json({"command": "tokenizer merge", **facts})
    elif not talk.quiet:
        click.echo(f"wrote {count} pieces, {len(content)} bytes: {out}")
        click.echo(f"  {digest}  {out.name}")
