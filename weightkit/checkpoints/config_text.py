"""config.json as a text in which single values change: those that are named, in the object that is named, and no other byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["set_values"]

BLANK = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()
MARK = "\ufeff"

Path = tuple[str, ...]
Plain = str | int | bool
Key = TypeVar("Key", bound=str | Path)


def set_values(content: bytes, values: Mapping[Key, Plain], *, add: bool = False) -> bytes:
    """A JSON object with other values under some keys; whatever else is in it stays as it is.

    A value of another kind is left alone: text takes the place of text, a number that of a number, true and false that of each
    other (``pad_token_id`` and truth values may be null before). Of a key that stands twice, both change.

    Args:
        content: The file.
        values: Key -> its new value; a tuple is a path through nested objects, a text a key of the outermost.
        add: Whether a key that its object lacks is put in front there; an object that is not there is never made.

    Raises:
        ValueError: It is no JSON object in UTF-8.
    """
    text = content.decode("utf-8")
    wanted: dict[Path, Plain] = {(key,) if isinstance(key, str) else key: value for key, value in values.items()}
    pieces, at = [], 0
    try:
        for start, stop, new in sorted(edits(text, len(MARK) if text.startswith(MARK) else 0, wanted, add)):
            pieces += [text[at:start], new]
            at = stop
    except RecursionError as error:
        raise ValueError("config.json is nested too deep") from error
    return "".join([*pieces, text[at:]]).encode("utf-8")


def edits(text: str, begin: int, values: Mapping[Path, Plain], add: bool) -> Iterator[tuple[int, int, str]]:
    """What changes in the object that begins at a place: where, and what is put there."""
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    lacking = dict(own)
    empty = True
    for key, old, start, stop in members(text, begin):
        empty = False
        lacking.pop(key, None)
        if key in own and alike(key, old, own[key]):
            yield start, stop, json.dumps(own[key])
        inner = {path[1:]: value for path, value in values.items() if len(path) > 1 and path[0] == key}
        if inner and isinstance(old, dict):
            yield from edits(text, start, inner, add)
    if add and lacking:
        yield from added(text, after(text, blank(text, begin), "{"), lacking, empty=empty)


def added(text: str, at: int, values: Mapping[str, Plain], *, empty: bool) -> Iterator[tuple[int, int, str]]:
    """New members in front of an object's first, in lines of their own where that is in one."""
    gap = text[at : blank(text, at)]
    named: Sequence[str] = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    if empty:
        yield at, at, ", ".join(named)
    else:
        yield at, at, "".join(f"{gap}{one}," for one in named)


def alike(key: str, old: Any, new: Plain) -> bool:
    """Whether a value is of the kind that is put in its place."""
    if isinstance(new, str):
        return isinstance(old, str)
    if isinstance(new, bool):
        return old is None or isinstance(old, bool)
    return type(old) is int or (old is None and key == "pad_token_id")


def members(text: str, begin: int = 0) -> Iterator[tuple[str, Any, int, int]]:
    """The members of an object: key, value, and where the value's text stands."""
    at = blank(text, begin)
    at = blank(text, after(text, at, "{"))
    if text[at : at + 1] == "}":
        return
    while True:
        if text[at : at + 1] != '"':
            raise ValueError(f"config.json is no JSON object: a key is wanted at character {at}")
        key, at = DECODER.raw_decode(text, at)
        start = blank(text, after(text, blank(text, at), ":"))
        value, stop = DECODER.raw_decode(text, start)
        yield key, value, start, stop
        at = blank(text, stop)
        if text[at : at + 1] == "}":
            return
        at = blank(text, after(text, at, ","))


def blank(text: str, at: int) -> int:
    """The next place that is not blank."""
    found = BLANK.match(text, at)
    return found.end() if found else at


def after(text: str, at: int, sign: str) -> int:
    """The place behind a sign that must stand here."""
    if text[at : at + 1] != sign:
        raise ValueError(f"config.json is no JSON object: {sign!r} is wanted at character {at}")
    return at + 1
