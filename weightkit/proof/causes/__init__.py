"""Causes of a mismatch, a module for each kind, and how each is told. ``explain`` asks them."""

from __future__ import annotations

from dataclasses import dataclass

from weightkit.core.errors import spoken

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found.

    Attributes:
        matches: Whether it is what was wanted.
        lines: What was looked at, one line each.
        sentence: The cause.
        command: What mends it; empty where no command does.
    """

    matches: bool
    lines: tuple[str, ...]
    sentence: str
    command: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(map(spoken, self.lines)))
        object.__setattr__(self, "sentence", spoken(self.sentence))
