"""``weightkit merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    arithmetic_from,
    arithmetic_options,
    as_dtype,
    as_option,
    exits,
    lora_option,
    output_options,
    path_option,
    release_option,
    run_from,
    talk_options,
    verify_raw_option,
)
from weightkit.cli.recover import form_from
from weightkit.cli.report import Clock, carry, finish, progress


@click.command("merge")
@path_option("--base", "The base: the original weights, Meta's or converted.", required=True, metavar="BASE")
@lora_option(required=True)
@path_option("--out", "The folder to write.", required=True)
@path_option("--checksums", "A published list of digests that must hold. May be repeated.", multiple=True, metavar="FILE")
@click.option("--seek", is_flag=True, help="Find the rounding, sums and torch whose bytes have the published digest; use them.")
@release_option
@arithmetic_options
@as_option
@click.option("--trust-inputs", is_flag=True, help="With --release: don't check the inputs' digests; number and sizes, still.")
@verify_raw_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    callback=as_dtype,
    help="Cast the base to it first, merge and store in it.  [default: as stored]",
)
@click.option("--to", type=click.Choice(["hf", "meta"]), help="The layout wanted: meta for .pth parts.  [default: hf]")
@click.option("--parts", type=click.IntRange(1, 99), help="Parts of Meta's layout.  [default: as Meta published this size]")
@click.option(
    "--order",
    type=click.Choice(["meta", "chinese-llama", "chinese-llama-low-memory"]),
    help="Order of the tensors in Meta's parts.  [default: chinese-llama]",
)
@click.option("--allow-tuned-base", is_flag=True, help="Go on where the base looks merged already.")
@output_options
@talk_options
@exits
def command(
    base: Path,
    lora: tuple[Path, ...],
    out: Path,
    checksums: tuple[Path, ...],
    seek: bool,
    converter: str | None,
    release: str | None,
    verify_raw: bool,
    trust_inputs: bool,
    to: Any,
    parts: int | None,
    order: Any,
    allow_tuned_base: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Merge LoRA adapters into BASE, in the order given, byte for byte.

    Each adapter is a folder with adapter_config.json and adapter_model.bin or .safetensors. The last one's tokenizer goes
    along; config.json follows in vocab_size and pad_token_id.
    """
    clock = Clock()
    if seek and not (checksums or release):
        raise click.UsageError("--seek looks for a published digest: name a list with --checksums, or a release")
    from weightkit import merge
    from weightkit.methods.summing import how_summed

    with progress(None, "seeking", quiet=quiet or not seek) as notify:
        planned = merge.prepare(
            base,
            lora,
            out,
            how=arithmetic_from(options),
            seek=seek,
            release=release,
            converter=converter,
            form=form_from(options),
            dtype=options["dtype"],
            to=to,
            parts=parts,
            order=order,
            checksums=checksums,
            allow_tuned_base=allow_tuned_base,
            trust_inputs=trust_inputs,
            notify=notify,
        )
    done = carry(
        planned,
        out,
        label="merging",
        as_json=as_json,
        quiet=quiet,
        **run_from(options),
        verify_raw=base if verify_raw else None,
    )
    finish(
        "merge",
        done,
        out,
        clock,
        as_json=as_json,
        quiet=quiet,
        steps=True,
        extra={"sums": how_summed(planned)},
    )
