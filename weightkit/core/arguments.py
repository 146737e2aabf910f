"""What callers in Python say, as they say it: one path where a list is wanted, a size as text, a bar for the asking."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from weightkit.core.errors import DigestMismatch
from weightkit.core.events import Event, Notify, ignore
from weightkit.core.sizes import parse_size

__all__ = ["OneOrMore", "as_nbytes", "as_paths", "as_tuple", "raise_first", "telling"]

One = TypeVar("One")
OneOrMore = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Paths, or a single one."""


def as_paths(value: OneOrMore) -> tuple[Path, ...]:
    """Some paths, or a single one, as paths."""
    return tuple(Path(one) for one in ((value,) if isinstance(value, str | os.PathLike) else value))


def as_tuple(value: One | Sequence[One]) -> tuple[One, ...]:
    """A list as it is; one path, name or open folder as a list of itself."""
    if isinstance(value, str | os.PathLike) or not isinstance(value, Sequence):
        return (cast(Any, value),)
    return tuple(value)


def as_nbytes(value: int | str) -> int:
    """A size in bytes, said as a number or as ``"1GiB"``. Raises ``ValueError`` where the text is no size."""
    return parse_size(value) if isinstance(value, str) else value


@contextmanager
def telling(label: str, notify: Notify, progress: bool) -> Iterator[Notify]:
    """Whoever is told what happens: ``notify``, and a bar beside it where progress is to be shown."""
    if not progress:
        yield notify
        return
    from weightkit.core.bar import bar

    with bar(label) as drawn:

        def both(event: Event) -> None:
            drawn(event)
            notify(event)

        yield drawn if notify is ignore else both


def raise_first(mismatches: Sequence[DigestMismatch]) -> None:
    """Raise the first of some mismatches, with the others as its notes; nothing where there is none."""
    if mismatches:
        first, *others = mismatches
        for one in others:
            first.add_note(str(one))
        raise first
