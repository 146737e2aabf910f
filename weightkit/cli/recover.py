"""``weightkit recover``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weightkit.cli.options import (
    PLACE,
    arithmetic_from,
    arithmetic_options,
    as_option,
    base_missing,
    base_option,
    checksums_option,
    lora_option,
    out_option,
    output_options,
    path_option,
    reclaim_option,
    release_option,
    run_from,
    tensor_options,
    trust_inputs_option,
    type_option,
    verify_raw_option,
)
from weightkit.cli.report import Clock, carry, finish
from weightkit.cli.talk import Talk, talk_options
from weightkit.cli.usage import Job
from weightkit.core.dtypes import DType

EXAMPLES = (
    "weightkit recover --raw LLaMA/13B --release zhixi-13b --out zhixi-13b",
    "weightkit recover --raw LLaMA/13B --diff zhixi-13b-diff \\\n    --release zhixi-13b --out zhixi-13b",
    "weightkit recover --raw base --diff diff --out release \\\n    --checksums RELEASE.sha256 --dry-run",
)


@click.command("recover", cls=Job, examples=EXAMPLES)
@base_option("The base: the original weights, Meta's or converted.  [required]", "raw", required=False)
@path_option(
    "--diff",
    "The published diff: a transformers folder, or an XOR payload.  [default: with --release, fetched by its name]",
    metavar="DIFF",
    type=PLACE,
)
@click.option("--stream", is_flag=True, help="Read a diff on the Hub as it is needed, and never store it.")
@reclaim_option
@path_option("--key", "For .enc files: the key file.  [default: BASE/consolidated.00.pth]", metavar="FILE", type=PLACE)
@lora_option()
@out_option()
@checksums_option
@release_option
@as_option
@trust_inputs_option
@verify_raw_option
@tensor_options
@arithmetic_options
@click.option(
    "--config-from",
    type=click.Choice(["base", "diff"]),
    default="diff",
    show_default=True,
    help="Whose config.json and generation_config.json go along.",
)
@click.option(
    "--tokenizer-from", type=click.Choice(["base", "diff"]), help="Whose tokenizer.  [default: the diff's, if it has one]"
)
@click.option("--allow-tuned-base", is_flag=True, help="Go on where the base looks tuned already.")
@click.option("--to", type=click.Choice(["hf", "gguf"]), help="The layout wanted: gguf for llama.cpp.  [default: hf]")
@type_option
@output_options
@talk_options
def command(
    raw: Path | None,
    diff: Path | None,
    stream: bool,
    reclaim_downloads: bool,
    key: Path | None,
    lora: tuple[Path, ...],
    out: Path,
    checksums: tuple[Path, ...],
    converter: str | None,
    release: str | None,
    verify_raw: bool,
    trust_inputs: bool,
    to: Any,
    talk: Talk,
    allow_tuned_base: bool,
    **options: Any,
) -> None:
    """Rebuild a released checkpoint from BASE and DIFF, byte for byte.

    DIFF is an additive diff, as of Stanford Alpaca, KnowLM/ZhiXi and Vicuna: OUT gets the same files, with base + diff in
    them; LoRAs are merged into the sum in the same pass, in the order given. Or it is a byte XOR: .enc files (point-alpaca,
    BELLE), or files XORed with those of BASE (Open-Assistant, Pygmalion). Which it is, is told from its bytes. SHA256SUMS of
    all that was written goes along.
    """
    clock = Clock()
    if diff is None and release is None:
        raise click.UsageError("Missing option '--diff'; with --release it is fetched by its name")
    if raw is None:
        raise base_missing("--raw", release)
    from weightkit import recover
    from weightkit.methods.summing import how_summed

    rules, form = rules_from(options), form_from(options)
    planned = recover.prepare(
        raw,
        diff,
        out,
        key=key,
        lora=lora,
        release=release,
        converter=converter,
        how=arithmetic_from(options),
        rules=rules,
        form=form,
        to=to,
        checksums=checksums,
        allow_tuned_base=allow_tuned_base,
        trust_inputs=trust_inputs,
        stream=stream,
        say=talk.first,
    )
    done = carry(
        planned,
        out,
        label="recovering",
        talk=talk,
        **run_from(options),
        reclaim_downloads=reclaim_downloads,
        verify_raw=raw if verify_raw else None,
    )
    finish(
        "recover",
        done,
        out,
        clock,
        talk=talk,
        steps=True,
        extra={"sums": how_summed(planned)} if lora else None,
    )


def rules_from(options: dict[str, Any]) -> Any:
    """What the user said about tensors."""
    from weightkit.methods.pairing import Rules

    dtype: DType | None = options["dtype"]
    return Rules(dtype, options["new_rows"], tuple(options["whole"]), options["inv_freq"])


def form_from(options: dict[str, Any]) -> Any:
    """What the user said about files."""
    from weightkit.checkpoints.form import Form

    return Form(
        options["format"],
        options["torch_compat"],
        options["max_shard_size"],
        options.get("config_from", "diff"),
        options.get("tokenizer_from"),
        type=options.get("type"),
    )
