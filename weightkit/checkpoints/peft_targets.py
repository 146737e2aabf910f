"""Which modules an adapter's config speaks of: a file of factors that are of others goes with another config.

PEFT makes LoRAs where the config says, and then loads those that it made: factors of other modules are passed over, so the
file would be another model there; modules without factors keep B = 0, so nothing is added. A module of ``modules_to_save``
that the file lacks ends in a KeyError.

Source: PEFT 0.21.2, ``check_target_module_exists``, ``_set_trainable``, and such files loaded with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from weightkit.core.errors import FormatError

__all__ = ["Targets", "read_targets"]

EVERY = "all-linear"


@dataclass(frozen=True, slots=True)
class Targets:
    """What a config says was trained.

    Attributes:
        names: Ends of names, or one pattern (``pattern``); None where nothing is said, or every linear layer.
        excluded: Likewise, what was not.
        layers: Numbers of layers; empty for all.
        counted: Patterns of what the numbers stand behind; empty for anything.
    """

    names: tuple[str, ...] | re.Pattern[str] | None = None
    excluded: tuple[str, ...] | re.Pattern[str] = ()
    layers: Collection[int] = ()
    counted: tuple[str, ...] = ()

    def include(self, module: str) -> bool:
        """Whether a module was trained; also where nothing is said."""
        if found(self.excluded, module):
            return False
        if self.names is None:
            return True
        return found(self.names, module) and (not self.layers or isinstance(self.names, re.Pattern) or self.in_layer(module))

    def in_layer(self, module: str) -> bool:
        """Whether the first number in a module's name is one of the layers'."""
        patterns = [rf"(?:^|.*?\.){one}\.(?P<at>\d+)\." for one in self.counted] or [r".*?\.[^.]*\.(?P<at>\d+)\."]
        match = next((match for one in patterns if (match := re.match(one, module))), None)
        match = match or re.match(r"(?:.*?\.)?[^.]*\.(?P<at>\d+)\.", module)  # without what older PEFT has in front
        return match is not None and int(match["at"]) in self.layers


def found(names: tuple[str, ...] | re.Pattern[str], module: str) -> bool:
    """Whether a module is named: by whole words at the end of its name, or by a pattern."""
    if isinstance(names, re.Pattern):
        return names.fullmatch(module) is not None
    return any(module == one or module.endswith(f".{one}") for one in names)


def read_targets(fields: Mapping[str, Any], origin: str) -> Targets:
    """What ``adapter_config.json`` says of the modules that were trained.

    Raises:
        FormatError: A field has a value of the wrong kind.
    """
    names = named(fields, "target_modules", origin)
    layers = fields.get("layers_to_transform")
    numbers = [layers] if type(layers) is int else layers or []
    if not isinstance(numbers, list) or any(type(one) is not int for one in numbers):
        raise FormatError(origin, f"layers_to_transform is {layers!r}: wanted a list of numbers")
    counted = fields.get("layers_pattern") or []
    counted = [counted] if isinstance(counted, str) else counted
    if not isinstance(counted, list):
        raise FormatError(origin, f"layers_pattern is {counted!r}: wanted a list of names")
    every = fields.get("target_modules") is None or str(fields["target_modules"]).lower() == EVERY
    return Targets(
        None if every else names,
        named(fields, "exclude_modules", origin),
        frozenset(numbers),
        tuple(pattern(one, "layers_pattern", origin).pattern for one in counted),
    )


def named(fields: Mapping[str, Any], field: str, origin: str) -> tuple[str, ...] | re.Pattern[str]:
    """A field that is a list of names, or one pattern.

    Raises:
        FormatError: It is neither.
    """
    value = fields.get(field)
    if isinstance(value, str):
        return pattern(value, field, origin)
    several = [] if value is None else value
    if not isinstance(several, list) or any(not isinstance(one, str) for one in several):
        raise FormatError(origin, f"{field} is {value!r}: wanted a list of names")
    return tuple(several)


def pattern(text: object, field: str, origin: str) -> re.Pattern[str]:
    """A pattern of a config.

    Raises:
        FormatError: It is none.
    """
    try:
        return re.compile(text if isinstance(text, str) else "[")
    except re.error as error:
        raise FormatError(origin, f"{field}: {text!r} is no pattern: {error}") from error
