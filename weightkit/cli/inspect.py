"""``weightkit inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from weightkit.cli.options import PLACE, path_argument
from weightkit.cli.talk import Talk, print_json, shown, talk_options
from weightkit.cli.usage import Job
from weightkit.core.sizes import format_size

if TYPE_CHECKING:
    from weightkit.inspect import Inspection


EXAMPLES = ("weightkit inspect LLaMA/7B", "weightkit inspect adapter_model.bin --json")


@click.command("inspect", cls=Job, examples=EXAMPLES)
@path_argument("path", type=PLACE)
@talk_options
def command(path: Path, talk: Talk) -> None:
    """Print the tensors, dtypes, shapes, sizes and container of PATH, from its headers alone."""
    from weightkit.inspect import inspect

    found = inspect(path)
    if talk.as_json:
        print_json(as_dict(found))
        return
    if not talk.quiet:
        for tensor in found.tensors:
            shares = f"  (shares the bytes of {tensor.shares_with})" if tensor.shares_with else ""
            shape = "x".join(str(size) for size in tensor.spec.shape) or "scalar"
            name = shown(tensor.name) or "(a tensor by itself)"
            click.echo(f"{tensor.spec.dtype.name:<9} {shape:>13} {tensor.spec.nbytes:>13}  {name}{shares}")
    for file in found.files:
        click.echo(f"{file.name}: {file.nbytes} bytes, {file.profile}: written by {file.written_by}")
    dtypes = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    total = sum(file.nbytes for file in found.files)
    looks = f"; by its norms {found.looks_like}" if found.looks_like else ""
    click.echo(
        f"{len(found.tensors)} tensors ({dtypes}), {found.parameters} parameters in {len(found.files)} files, "
        f"{format_size(total)}{looks}"
    )
    if found.fits_bfloat16:
        click.echo(
            f"all of {found.fits_bfloat16} values looked at fit bfloat16: these weights passed through it; if the original was "
            "float16, as LLaMA 1, they are no longer the original's"
        )
    for note in found.notes:
        click.echo(f"note: {shown(note)}")


def as_dict(found: Inspection) -> dict[str, object]:
    """The same for programs."""
    return {
        "command": "inspect",
        "path": str(found.path),
        "files": [
            {"path": one.name, "bytes": one.nbytes, "profile": one.profile, "written_by": one.written_by} for one in found.files
        ],
        "tensors": [
            {
                "name": one.name,
                "dtype": one.spec.dtype.name,
                "shape": list(one.spec.shape),
                "bytes": one.spec.nbytes,
                "file": one.file,
                "shares_with": one.shares_with,
            }
            for one in found.tensors
        ],
        "small_files": list(found.small),
        "parameters": found.parameters,
        "looks_like": found.looks_like or None,
        "fits_bfloat16": found.fits_bfloat16,
        "notes": list(found.notes),
    }
