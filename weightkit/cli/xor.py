"""``weightkit xor``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import as_option, exits, path_option, run_options, talk_options, together
from weightkit.cli.report import Clock, carry, command_line, finish
from weightkit.families.converters import DEFAULT_CONVERTER

FORMATS = ("enc", "block", "block-gzip")

ends: Callable[[Any], Any] = together(
    click.argument("src", type=click.Path(path_type=Path)),
    path_option("--key", "The key file, or for block formats the base's folder.", required=True, metavar="KEY"),
    path_option("--out", "The folder to write.", required=True),
)


@click.group("xor")
def command() -> None:
    """Releases published as the XOR of the tuned files with the original ones."""


@command.command("decode")
@ends
@click.option("--format", "wanted", type=click.Choice(FORMATS), help="The format.  [default: told from the bytes]")
@path_option("--checksums", "A published list of digests that must hold. May be repeated.", multiple=True, metavar="FILE")
@as_option
@run_options
@talk_options
@exits
def decode(
    src: Path,
    key: Path,
    out: Path,
    wanted: Any,
    checksums: tuple[Path, ...],
    converter: str | None,
    as_json: bool,
    quiet: bool,
    **run: Any,
) -> None:
    """Decode SRC, a folder or one file, with KEY into the folder OUT."""
    clock = Clock()
    from weightkit import xor

    planned = xor.prepare_decode(src, key, out, wanted=wanted, converter=converter or DEFAULT_CONVERTER, checksums=checksums)
    done = carry(planned, out, label="decoding", as_json=as_json, quiet=quiet, verify_raw=None, **run)
    finish("xor decode", done, out, clock, as_json=as_json, quiet=quiet)


@command.command("encode")
@ends
@click.option("--format", "wanted", type=click.Choice(FORMATS), required=True, help="The format.")
@run_options
@talk_options
@exits
def encode(src: Path, key: Path, out: Path, wanted: Any, as_json: bool, quiet: bool, **run: Any) -> None:
    """Encode SRC, a folder or one file, with KEY into the folder OUT, for the authors' own scripts to decode.

    enc: point-alpaca's and BELLE's, one key file for all. block: Open-Assistant's, each file with that of the same name in
    KEY; block-gzip: the same with --compress.
    """
    clock = Clock()
    from weightkit import xor

    planned = xor.prepare_encode(src, key, out, wanted)
    done = carry(planned, out, label="encoding", as_json=as_json, quiet=quiet, verify_raw=None, **run)
    back = command_line("weightkit", "xor", "decode", out, "--key", key, "--out", "DIR")
    finish("xor encode", done, out, clock, as_json=as_json, quiet=quiet, next_step=back)
