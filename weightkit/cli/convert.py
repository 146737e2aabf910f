"""``weightkit convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    as_dtype,
    as_option,
    exits,
    output_options,
    path_option,
    run_from,
    talk_options,
    verify_raw_option,
)
from weightkit.cli.recover import form_from
from weightkit.cli.report import Clock, carry, command_line, finish
from weightkit.families.converters import DEFAULT_CONVERTER


@click.command("convert")
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["hf", "meta", "tencentpretrain"]), required=True, help="The layout wanted.")
@as_option
@verify_raw_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    callback=as_dtype,
    help="Cast to it.  [default: as stored]",
)
@click.option("--parts", type=click.IntRange(1, 99), help="Parts of Meta's layout.  [default: as Meta published this size]")
@click.option(
    "--order",
    type=click.Choice(["meta", "chinese-llama", "chinese-llama-low-memory"]),
    default="meta",
    show_default=True,
    help="Order of the tensors in Meta's parts: its own, or that of Chinese-LLaMA-Alpaca's scripts.",
)
@path_option("--checksums", "A list of digests that must hold. May be repeated.", multiple=True, metavar="FILE")
@click.option("--write-index", is_flag=True, help="With --dry-run --to hf: write the index.json alone; params.json is enough.")
@output_options
@talk_options
@exits
def command(
    src: Path,
    dst: Path,
    to: Any,
    converter: str | None,
    verify_raw: bool,
    parts: int | None,
    order: Any,
    checksums: tuple[Path, ...],
    write_index: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write SRC in another layout into the folder DST.

    SRC is a folder of transformers' layout, of Meta's (consolidated.NN.pth), or TencentPretrain's file; which one is told
    from what is in it.
    """
    clock = Clock()
    from weightkit import convert

    form = form_from(options)
    if write_index:
        index_alone(src, dst, to, converter or DEFAULT_CONVERTER, options)
        return
    planned = convert.prepare(
        src,
        dst,
        to,
        converter=converter or DEFAULT_CONVERTER,
        form=form,
        dtype=options["dtype"],
        parts=parts,
        order=order,
        checksums=checksums,
    )
    done = carry(
        planned,
        dst,
        label="converting",
        as_json=as_json,
        quiet=quiet,
        **run_from(options),
        verify_raw=src if verify_raw else None,
    )
    finish("convert", done, dst, clock, as_json=as_json, quiet=quiet, next_step=command_line("weightkit", "inspect", dst))


def index_alone(src: Path, dst: Path, to: str, converter: str, options: dict[str, Any]) -> None:
    """Write the index of a conversion, without its weights."""
    from weightkit.checkpoints import converter_for
    from weightkit.checkpoints.shards import SHARD_NBYTES
    from weightkit.convert import index_from_params
    from weightkit.core.dtypes import FLOAT16
    from weightkit.core.errors import PlanError

    if not options["dry_run"] or to != "hf":
        raise click.UsageError("--write-index goes with --dry-run --to hf")
    dtype, limit = options["dtype"] or FLOAT16, options["max_shard_size"] or SHARD_NBYTES
    name, content = index_from_params(src, converter_for(converter), dtype=dtype, max_shard_bytes=limit)
    if (dst / name).exists() and not options["overwrite"]:
        raise PlanError(f"{dst / name} is there already and would be replaced; name another DST, or say --overwrite")
    dst.mkdir(parents=True, exist_ok=True)
    (dst / name).write_bytes(content)
    click.echo(f"wrote {dst / name}, {len(content)} bytes; nothing else was written")
