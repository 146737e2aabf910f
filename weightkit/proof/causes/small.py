"""What differences of small files tell: line ends, which converter wrote the one wanted, which fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from weightkit.families.converters import CONVERTERS, MODIFIERS, ModelShape, converter_named

__all__ = ["differing_fields", "is_json", "known_small_files"]


def known_small_files() -> Iterator[tuple[str, str, str, bytes]]:
    """What the known converters write: converter, size of LLaMA, name of the file, bytes."""
    shapes = {
        "7B": ModelShape(4096, 11008, 32, 32, 32, 32000, 1e-6),
        "13B": ModelShape(5120, 13824, 40, 40, 40, 32000, 1e-6),
        "30B": ModelShape(6656, 17920, 52, 52, 60, 32000, 1e-6),
        "65B": ModelShape(8192, 22016, 64, 64, 80, 32000, 1e-5),
    }
    for base in CONVERTERS:
        for name in (base, *(f"{base}+{modifier}" for modifier in MODIFIERS)):
            converter = converter_named(name)
            for size, shape in shapes.items():
                for file, content in converter.small_files(shape).items():
                    yield name, size, file, content


def is_json(content: bytes) -> bool:
    """Whether bytes are JSON."""
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def differing_fields(one: bytes, other: bytes) -> str:
    """Which fields of two JSON objects differ, here and there."""
    if not is_json(one) or not is_json(other):
        return "one of them is no JSON: damage"
    here, there = json.loads(one), json.loads(other)
    if not isinstance(here, dict) or not isinstance(there, dict):
        return "they are no objects"
    gone = object()
    changed = [
        f"{key}: {shown_field(here, key)} here, {shown_field(there, key)} wanted"
        for key in sorted({*here, *there})
        if here.get(key, gone) != there.get(key, gone)
    ]
    if not changed:
        return "same fields, written otherwise (blanks, order or line ends)"
    return "fields that differ: " + "; ".join(changed)


def shown_field(fields: Mapping[str, object], key: str) -> str:
    """A field's value, for people."""
    return json.dumps(fields[key]) if key in fields else "(missing)"
