"""``weightkit xor``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    PLACE,
    as_option,
    checksums_option,
    out_option,
    path_argument,
    path_option,
    run_options,
    together,
)
from weightkit.cli.report import Clock, carry, command_line, finish
from weightkit.cli.talk import Talk, talk_options
from weightkit.cli.usage import Job, Jobs
from weightkit.families.converters import DEFAULT_CONVERTER

FORMATS = ("enc", "block", "block-gzip")

ends: Callable[[Any], Any] = together(
    path_argument("src", type=PLACE),
    path_option("--key", "The key file, or for block formats the base's folder.", required=True, metavar="KEY", type=PLACE),
    out_option(),
)


DECODE = (
    "weightkit xor decode BELLE-7B-2M-enc \\\n    --key LLaMA/7B/consolidated.00.pth --out BELLE-7B-2M",
    "weightkit xor decode oasst-xor --key llama-30b-hf \\\n    --out oasst --checksums MD5SUMS",
)
ENCODE = (
    "weightkit xor encode tuned --format enc \\\n    --key consolidated.00.pth --out tuned-enc",
    "weightkit xor encode tuned --format block-gzip \\\n    --key llama-7b-hf --out tuned-xor",
)


@click.group("xor", cls=Jobs)
def command() -> None:
    """Releases published as the XOR of the tuned files with the original ones."""


@command.command("decode", cls=Job, examples=DECODE)
@ends
@click.option(
    "--format",
    "wanted",
    type=click.Choice(FORMATS),
    metavar="FORMAT",
    help="enc, block, block-gzip.  [default: told from the bytes]",
)
@checksums_option
@as_option
@run_options
@talk_options
def decode(
    src: Path,
    key: Path,
    out: Path,
    wanted: Any,
    checksums: tuple[Path, ...],
    converter: str | None,
    talk: Talk,
    **run: Any,
) -> None:
    """Decode SRC, a folder or one file, with KEY into the folder OUT."""
    clock = Clock()
    from weightkit import xor

    planned = xor.prepare_decode(src, key, out, wanted=wanted, converter=converter or DEFAULT_CONVERTER, checksums=checksums)
    done = carry(planned, out, label="decoding", talk=talk, verify_raw=None, **run)
    finish("xor decode", done, out, clock, talk=talk)


@command.command("encode", cls=Job, examples=ENCODE)
@ends
@click.option("--format", "wanted", type=click.Choice(FORMATS), metavar="FORMAT", required=True, help="enc, block, block-gzip.")
@run_options
@talk_options
def encode(src: Path, key: Path, out: Path, wanted: Any, talk: Talk, **run: Any) -> None:
    """Encode SRC, a folder or one file, with KEY into the folder OUT, for the authors' own scripts to decode.

    enc: point-alpaca's and BELLE's, one key file for all. block: Open-Assistant's, each file with that of the same name in
    KEY; block-gzip: the same with --compress.
    """
    clock = Clock()
    from weightkit import xor

    planned = xor.prepare_encode(src, key, out, wanted)
    done = carry(planned, out, label="encoding", talk=talk, verify_raw=None, **run)
    back = command_line("weightkit", "xor", "decode", out, "--key", key, "--out", "DIR")
    finish("xor encode", done, out, clock, talk=talk, next_step=back)
