"""Context variables that hold for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["bound"]

T = TypeVar("T")


@contextmanager
def bound(variable: ContextVar[T], value: T) -> Iterator[None]:
    """A variable has a value in this thread until the end of the block, then its earlier one again."""
    before = variable.get()
    variable.set(value)
    try:
        yield
    finally:
        variable.set(before)
