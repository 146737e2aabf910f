"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from weightkit.core.dtypes import DType, dtype_named
from weightkit.core.sizes import parse_size
from weightkit.families.gguf import TYPES, dtype_of
from weightkit.ops.lora import DEFAULT_ROUNDING, ROUNDINGS
from weightkit.ops.product import SUMS

__all__ = [
    "METHOD_NAME",
    "PATH",
    "arithmetic_from",
    "arithmetic_options",
    "as_option",
    "base_missing",
    "base_option",
    "checksums_option",
    "dtype_option",
    "jobs_option",
    "lora_option",
    "order_option",
    "out_option",
    "output_options",
    "parts_option",
    "path_argument",
    "path_option",
    "reclaim_option",
    "release_option",
    "run_from",
    "run_options",
    "tensor_options",
    "together",
    "trust_inputs_option",
    "type_option",
    "verify_raw_option",
]

F = TypeVar("F", bound=Callable[..., Any])


def as_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A size in bytes: 10GB, 1GiB, 4096."""
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def default_jobs() -> int:
    """Files at a time where the user does not say: one a processor, four at most."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class PathType(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """A path of this machine; whether it exists is checked by whoever reads it. An empty one or an address is refused."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from weightkit.blobs.places import local_path

        return local_path(value, role_of(param), there=False)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class PlaceType(PathType):
    """A path of this machine, or an address: ``hf://owner/name``, ``https://...``."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from weightkit.blobs.addresses import address_of, is_address

        if not is_address(value):
            return super().convert(value, param, ctx)
        address_of(str(value), role_of(param))
        return str(value)


def role_of(param: click.Parameter | None) -> str:
    """What a parameter is called in messages."""
    return param.opts[0] if isinstance(param, click.Option) else str(param.human_readable_name) if param else "PATH"


PATH, PLACE = PathType(), PlaceType()


class DTypeName(click.ParamType):  # type: ignore[type-arg]
    """A dtype by its name or by what people call it: float16, fp16, half."""

    name = "dtype"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "DTYPE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> DType:
        try:
            found = dtype_named(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if found.name not in STORED:
            self.fail(f"{found.name} is none of {', '.join(STORED)}", param, ctx)
        return found

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(one) for one in STORED if one.startswith(incomplete)]


STORED = ("float32", "float16", "bfloat16")


class ReleaseName(click.ParamType):  # type: ignore[type-arg]
    """A release of the catalog; the shell completes it."""

    name = "release"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        from weightkit import catalog

        return [CompletionItem(name) for name in catalog.releases() if name.startswith(incomplete)]


RELEASE = ReleaseName()


def together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which ``--help`` is to show them."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def path_option(name: str, text: str, *words: str, type: PathType = PATH, **more: Any) -> Callable[[F], F]:
    """An option that takes a path, or with ``PLACE`` an address, too."""
    return click.option(name, *words, type=type, metavar=more.pop("metavar", "DIR"), help=text, **more)


def path_argument(name: str, *, type: PathType = PATH, **more: Any) -> Callable[[F], F]:
    """An argument that is a path, or with ``PLACE`` an address, too."""
    return click.argument(name, type=type, **more)


def base_option(text: str, name: str, *, required: bool) -> Callable[[F], F]:
    """``--raw`` and ``--base``, which are the same; ``name`` is the one that the command's own words use."""
    words = ("--base", "--raw") if name == "base" else ("--raw", "--base")
    return click.option(*words, name, type=PLACE, metavar="BASE", required=required, help=text)


def base_missing(option: str, release: str | None) -> click.UsageError:
    """What is said where the base is not named: of a release which one it is, and where it is asked for."""
    from weightkit import catalog
    from weightkit.cli.way import bases

    found = catalog.called(release, catalog.releases()) if release else []
    whole = [f"; {one.name} was released whole, so there is nothing to rebuild" for one in found if one.kind == "whole"]
    told = whole or [
        f"; {one.name} is made of {base.name}{asked_at(base)}: weightkit releases {one.name}"
        for one in found
        for base in bases(one)
    ]
    return click.UsageError(f"Missing option '{option}'{told[0] if told else ''}")


def asked_at(base: Any) -> str:
    """Where a base is asked for, as far as somebody says."""
    return next((f", which is asked for at {one.url}" for one in base.where if one.url and one.status != "gone"), "")


def out_option(text: str = "The folder to write.", *, required: bool = True, metavar: str = "DIR") -> Callable[[F], F]:
    """``-o``, ``--out``."""
    return click.option("--out", "-o", type=PATH, metavar=metavar, required=required, help=text)


checksums_option = click.option(
    "--checksums",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="A published list of digests that must hold. May be repeated.",
)

jobs_option = click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1),
    default=default_jobs,
    metavar="N",
    help="Files at a time.  [default: processors, up to 4]",
)

as_option = click.option(
    "--as",
    "converter",
    metavar="CONVERTER",
    help="Whose conversion weights in Meta's layout stand for, as transformers-4.28.1 (the default), 4.27.0.dev0, 4.28.0.dev0, "
    "4.28.0, 4.29.0.dev0.",
)

release_option = click.option(
    "--release",
    type=RELEASE,
    metavar="NAME",
    help="A release of the catalog: fills in what is not said; its digests must hold.",
)

trust_inputs_option = click.option(
    "--trust-inputs", is_flag=True, help="Don't check inputs' digests, a release's or of lists beside them; sizes, still."
)

reclaim_option = click.option(
    "--reclaim-downloads",
    is_flag=True,
    help="Remove what this run downloads from the Hub's cache, each file once all that is made of it stands.",
)

verify_raw_option = click.option(
    "--verify-raw", is_flag=True, help="Check Meta's checklist.chk beside the run; nothing appears before it holds."
)

parts_option = click.option(
    "--parts", type=click.IntRange(1, 99), metavar="N", help="Parts of Meta's layout.  [default: as Meta published this size]"
)


def order_option(default: str) -> Callable[[F], F]:
    """``--order``; by default a command's own."""
    return click.option(
        "--order",
        type=click.Choice(["meta", "meta-cuda-0", "chinese-llama", "chinese-llama-low-memory"]),
        metavar="ORDER",
        help="Order of the tensors in Meta's parts: meta (of 13B and 30B also meta-cuda-0), or that of Chinese-LLaMA-Alpaca's "
        f"scripts: chinese-llama, chinese-llama-low-memory.  [default: {default}]",
    )


def dtype_option(text: str) -> Callable[[F], F]:
    """``--dtype``."""
    return click.option("--dtype", type=DTypeName(), help=f"{text}: {', '.join(STORED)}.  [default: as stored]")


class GgufType(click.ParamType):  # type: ignore[type-arg]
    """What a GGUF file's matrices are stored in; of what llama.cpp's own program makes, the command is said."""

    name = "type"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "TYPE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value).lower()
        try:
            dtype_of(name)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(one) for one in TYPES if one.startswith(incomplete)]


type_option = click.option(
    "--type", type=GgufType(), help=f"With --to gguf, what matrices are stored in: {', '.join(TYPES)}.  [default: f16]"
)


tensor_options = together(
    dtype_option("Cast both sides to it, compute and store in it"),
    click.option(
        "--new-rows",
        type=click.Choice(["mean", "zero", "whole"]),
        help="Vocabulary rows that the base lacks: the mean of its rows (Stanford), zeros (Vicuna v0, LLaVA), or the whole "
        "tensor as it is.",
    ),
    click.option(
        "--whole",
        multiple=True,
        metavar="PATTERN",
        help="Names of tensors that are no differences but whole, as 'lm_head.*'. May be repeated.",
    ),
    click.option(
        "--inv-freq",
        type=click.Choice(["float32", "float16"]),
        default="float32",
        show_default=True,
        help="Rotary frequencies that the base lacks: exact, or rounded through float16.",
    ),
)


def lora_option(more: str = "") -> Callable[[F], F]:
    """``--lora``, once for each adapter."""
    return path_option(
        "--lora",
        f"A LoRA adapter, as PEFT writes it. Repeated: merged in this order.{more}",
        multiple=True,
        type=PLACE,
    )


arithmetic_options = together(
    click.option(
        "--rounding",
        type=click.Choice(list(ROUNDINGS)),
        metavar="RULE",
        help=f"Where a LoRA merge rounds, and who did so: {', '.join(ROUNDINGS)}.  [default: {DEFAULT_ROUNDING}]",
    ),
    click.option(
        "--sums",
        type=click.Choice(list(SUMS)),
        help="Order of a LoRA product's sums: fused, multiplied then added, or what this machine's BLAS does.  [default: fma]",
    ),
)


def arithmetic_from(options: dict[str, Any]) -> Any:
    """What the user said about LoRA arithmetic; None for nothing."""
    from weightkit.methods.lora import Arithmetic

    if options["rounding"] is None and options["sums"] is None:
        return None
    return Arithmetic(options["rounding"] or DEFAULT_ROUNDING, options["sums"] or "fma")


run_options = together(
    click.option("--max-memory", callback=as_size, metavar="SIZE", default="1GiB", show_default=True, help="Memory allowed."),
    jobs_option,
    click.option("--dry-run", is_flag=True, help="Print the plan, with exact sizes, and stop."),
    click.option("--overwrite", is_flag=True, help="Replace files of the same names, each once its successor is whole."),
    click.option(
        "--keep-mismatched",
        is_flag=True,
        help="Keep a file with another digest than wanted, as NAME.mismatch, to be explained.",
    ),
)


def run_from(options: dict[str, Any]) -> dict[str, Any]:
    """Of a command's options those that say how to run, as ``carry`` takes them."""
    return {name: options[name] for name in ("jobs", "max_memory", "dry_run", "overwrite", "keep_mismatched")}


class Registered(click.ParamType):  # type: ignore[type-arg]  # generic in click's stubs alone
    """A name of a registry: weightkit's own, or another package's. The registry is asked only when a name is given."""

    def __init__(self, kind: str, shown: str, named: Callable[[str], str]) -> None:
        self.name, self.shown, self.named = kind, shown, named

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.shown

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return self.named(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def format_name(value: str) -> str:
    """A container format; ``ValueError`` where none is called so."""
    from weightkit.containers import format_named

    return format_named(value).name


def method_name(value: str) -> str:
    """A way to publish; ``ValueError`` where none is called so."""
    from weightkit.methods import method_named

    return method_named(value).name


METHOD_NAME = Registered("method", "[additive|exact]", method_name)

output_options = together(
    click.option("--format", type=Registered("format", "[bin|safetensors]", format_name), help="Container to write."),
    click.option("--torch-compat", metavar="VERSION", help="Write .bin files as this torch does, e.g. 1.13."),
    click.option("--max-shard-size", callback=as_size, metavar="SIZE", help="Cut anew into shards of at most this, as 10GB."),
    run_options,
)
