"""``weightkit merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    arithmetic_from,
    arithmetic_options,
    as_option,
    base_missing,
    base_option,
    checksums_option,
    dtype_option,
    lora_option,
    order_option,
    out_option,
    output_options,
    parts_option,
    reclaim_option,
    release_option,
    run_from,
    trust_inputs_option,
    type_option,
    verify_raw_option,
)
from weightkit.cli.progress import progress
from weightkit.cli.recover import form_from
from weightkit.cli.report import Clock, carry, finish
from weightkit.cli.talk import Talk, talk_options
from weightkit.cli.usage import Job

EXAMPLES = (
    "weightkit merge --base LLaMA/7B --out chinese-alpaca-plus-7b \\\n    --release chinese-alpaca-plus-7b-merged",
    "weightkit merge --base LLaMA/7B --out chinese-llama-7b \\\n    --lora chinese-llama-lora-7b",
    "weightkit merge --base LLaMA/7B --out merged --to meta \\\n    --lora one --lora two --checksums SHA256.md --seek",
)


@click.command("merge", cls=Job, examples=EXAMPLES)
@base_option("The base: the original weights, Meta's or converted.  [required]", "base", required=False)
@lora_option("  [default: with --release, fetched by their names]")
@out_option()
@checksums_option
@click.option("--seek", is_flag=True, help="Find the rounding, sums and torch whose bytes have the published digest; use them.")
@release_option
@arithmetic_options
@as_option
@reclaim_option
@trust_inputs_option
@verify_raw_option
@dtype_option("Cast the base to it first, merge and store in it")
@click.option(
    "--to",
    type=click.Choice(["hf", "meta", "gguf"]),
    help="The layout wanted: meta for .pth parts, gguf for llama.cpp.  [default: hf]",
)
@type_option
@parts_option
@order_option("chinese-llama")
@click.option("--allow-tuned-base", is_flag=True, help="Go on where the base looks merged already.")
@output_options
@talk_options
def command(
    base: Path | None,
    lora: tuple[Path, ...],
    out: Path,
    checksums: tuple[Path, ...],
    seek: bool,
    converter: str | None,
    release: str | None,
    reclaim_downloads: bool,
    verify_raw: bool,
    trust_inputs: bool,
    to: Any,
    parts: int | None,
    order: Any,
    allow_tuned_base: bool,
    talk: Talk,
    **options: Any,
) -> None:
    """Merge LoRA adapters into BASE, in the order given, byte for byte.

    Each adapter is a folder with adapter_config.json and adapter_model.bin or .safetensors. The last one's tokenizer goes
    along; config.json follows in vocab_size and pad_token_id.
    """
    clock = Clock()
    if not lora and release is None:
        raise click.UsageError("Missing option '--lora'; with --release they are fetched by their names")
    if base is None:
        raise base_missing("--base", release)
    if seek and not (checksums or release):
        raise click.UsageError("--seek looks for a published digest: name a list with --checksums, or a release")
    from weightkit import merge
    from weightkit.methods.summing import how_summed

    with progress("seeking", talk if seek else Talk(quiet=True)) as notify:
        planned = merge.prepare(
            base,
            lora or None,
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
            say=talk.first,
        )
    done = carry(
        planned,
        out,
        label="merging",
        talk=talk,
        **run_from(options),
        reclaim_downloads=reclaim_downloads,
        verify_raw=base if verify_raw else None,
    )
    finish(
        "merge",
        done,
        out,
        clock,
        talk=talk,
        steps=True,
        extra={"sums": how_summed(planned)},
    )
