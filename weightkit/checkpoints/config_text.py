"""config.json as a text in which single values change: those of the outermost object, and no other byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["set_values"]

BLANK = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()
MARK = "\ufeff"


def set_values(content: bytes, values: Mapping[str, str | int]) -> bytes:
    """A JSON object with other values under some of its own keys; what is nested in it stays as it is.

    A key that is not there is not added, and a value of another kind is left alone: text takes the place of text, a number
    that of a number (``pad_token_id`` may be null before).

    Args:
        content: The file.
        values: Key -> its new value.

    Raises:
        ValueError: It is no JSON object in UTF-8.
    """
    text = content.decode("utf-8")
    pieces, at = [], 0
    try:
        for key, old, start, stop in members(text):
            if key in values and alike(key, old, values[key]):
                pieces += [text[at:start], json.dumps(values[key])]
                at = stop
    except RecursionError as error:
        raise ValueError("config.json is nested too deep") from error
    return "".join([*pieces, text[at:]]).encode("utf-8")


def alike(key: str, old: Any, new: str | int) -> bool:
    """Whether a value is of the kind that is put in its place."""
    if isinstance(new, str):
        return isinstance(old, str)
    return type(old) is int or (old is None and key == "pad_token_id")


def members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """The members of the outermost object: key, value, and where the value's text stands."""
    at = blank(text, len(MARK) if text.startswith(MARK) else 0)
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
