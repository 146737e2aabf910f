"""What a run is given is never what it writes to, whatever links and names lead there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from weightkit.blobs import LocalBlob, LocalFolder, Place, is_address, local_path
from weightkit.core.errors import PlanError
from weightkit.run.plan import Plan

__all__ = ["check_out", "keep_inputs"]

ABOVE = ("tokenizer.model", "tokenizer_checklist.chk")
"""Files of Meta's that are read from the folder above the one that was named."""


def check_out(out: Path, inputs: Sequence[tuple[str, Place]]) -> tuple[Path, ...]:
    """Refuse an output folder that is an input, or lies in one. Inputs that are not of this machine cannot be.

    Returns:
        The inputs' paths, for ``Plan.sources``.

    Raises:
        PlanError: It is or does.
    """
    target = out.resolve()
    found = []
    for role, place in inputs:
        if isinstance(place, LocalFolder):
            path = place.path
        elif isinstance(place, str | os.PathLike) and not is_address(place):
            path = local_path(place, role, there=False)
        else:
            continue
        found.append(path)
        source = path.resolve() if path.is_dir() else path.resolve().parent
        if target == source or (path.is_dir() and source in target.parents):
            where = "is" if target == source and path.is_dir() else "holds" if target == source else "lies inside"
            raise PlanError(f"--out {out} {where} {role} {path}, and inputs are never written to", hint="name another folder")
    return tuple(found)


def keep_inputs(plan: Plan, out: Path, lists: Iterable[str]) -> None:
    """Refuse to write where an input lies: a file that is read, any file of a folder that was named, a list.

    Raises:
        PlanError: A name that will be written leads to one of them.
    """
    there: dict[tuple[int, int], str] = {}
    for name in (*(file.path for file in plan.everything), *lists):
        if (one := identity(out / name)) is not None:
            there[one] = name
    if not there:
        return
    for path in read_by(plan):
        one = identity(path)
        if one is not None and one in there:
            raise PlanError(
                f"{out / there[one]} would be written, and is an input: {path}, and inputs are never written to",
                hint="name another --out",
            )


def read_by(plan: Plan) -> Iterator[Path]:
    """All files of this machine that were given to a plan, or are read by it."""
    for source in plan.sources:
        if not source.is_dir():
            yield source
        else:
            yield from (source / name for name in LocalFolder(source).names())
        home = source.resolve() if source.is_dir() else source.resolve().parent
        yield from (home.parent / name for name in ABOVE)
    blobs = [blob for file in plan.files for blob in file.needs.blobs] + [one.blob for one in plan.inputs]
    yield from (blob.path for blob in dict.fromkeys(blobs) if isinstance(blob, LocalBlob))


def identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of a file; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino
