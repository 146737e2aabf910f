"""``weightkit convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    PLACE,
    as_option,
    checksums_option,
    dtype_option,
    order_option,
    out_option,
    output_options,
    parts_option,
    path_argument,
    run_from,
    type_option,
    verify_raw_option,
)
from weightkit.cli.recover import form_from
from weightkit.cli.report import Clock, carry, command_line, finish, loading
from weightkit.cli.talk import Talk, talk_options
from weightkit.cli.usage import Job
from weightkit.families.converters import DEFAULT_CONVERTER

EXAMPLES = (
    "weightkit convert LLaMA/7B llama-7b-hf --to hf",
    "weightkit convert llama-7b-hf LLaMA-7B --to meta \\\n    --checksums checklist.chk",
)


@click.command("convert", cls=Job, examples=EXAMPLES)
@path_argument("src", type=PLACE)
@path_argument("dst", required=False)
@out_option("The folder to write, in place of DST.", required=False)
@click.option(
    "--to",
    type=click.Choice(["hf", "meta", "tencentpretrain", "gguf"]),
    required=True,
    metavar="LAYOUT",
    help="The layout wanted: hf, meta, tencentpretrain, or gguf for llama.cpp.",
)
@type_option
@as_option
@verify_raw_option
@dtype_option("Cast to it")
@parts_option
@order_option("meta")
@checksums_option
@click.option("--write-index", is_flag=True, help="With --dry-run --to hf: write the index.json alone; params.json is enough.")
@output_options
@talk_options
def command(
    src: Path,
    dst: Path | None,
    out: Path | None,
    to: Any,
    converter: str | None,
    verify_raw: bool,
    parts: int | None,
    order: Any,
    checksums: tuple[Path, ...],
    write_index: bool,
    talk: Talk,
    **options: Any,
) -> None:
    """Write SRC in another layout into the folder DST.

    SRC is a folder of transformers' layout, of Meta's (consolidated.NN.pth), or TencentPretrain's file; which one is told
    from what is in it.
    """
    clock = Clock()
    from weightkit import convert

    if (dst is None) == (out is None):
        raise click.UsageError("name the folder to write, once: SRC DST, or SRC --out DIR")
    dst, form = dst or out, form_from(options)
    assert dst is not None
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
        order=order or "meta",
        checksums=checksums,
    )
    done = carry(
        planned,
        dst,
        label="converting",
        talk=talk,
        **run_from(options),
        verify_raw=src if verify_raw else None,
    )
    next_step = loading(planned, dst) if to == "gguf" else command_line("weightkit", "inspect", dst)
    finish("convert", convert.with_metas(done), dst, clock, talk=talk, next_step=next_step)


def index_alone(src: Path, dst: Path, to: str, converter: str, options: dict[str, Any]) -> None:
    """Write the index of a conversion, without its weights."""
    from weightkit.checkpoints import converter_for
    from weightkit.checkpoints.shards import SHARD_NBYTES
    from weightkit.convert import index_from_params
    from weightkit.core.dtypes import FLOAT16
    from weightkit.run.execute import carry_out, check_out
    from weightkit.run.plan import Plan, SmallFile

    if not options["dry_run"] or to != "hf":
        raise click.UsageError("--write-index goes with --dry-run --to hf")
    dtype, limit = options["dtype"] or FLOAT16, options["max_shard_size"] or SHARD_NBYTES
    name, content = index_from_params(src, converter_for(converter), dtype=dtype, max_shard_bytes=limit)
    plan = Plan("convert", (), (), (SmallFile(name, content),), sources=check_out(dst, [("SRC", src)]))
    carry_out(plan, dst, overwrite=options["overwrite"], lists={})
    click.echo(f"wrote {dst / name}, {len(content)} bytes; nothing else was written")
