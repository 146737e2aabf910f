"""How releases are published, a module for each way. A method makes a model of a model, so methods compose.

``recover`` is a fold: the base, rebuilt by ``--diff``, then by each ``--lora``. What a payload is, the methods say themselves,
from its bytes. A method is named in one place: the tuple below, or the entry point ``weightkit.methods`` of another package.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model
from weightkit.core.blob import Folder
from weightkit.core.errors import PlanError
from weightkit.run.plan import Plan

__all__ = ["Evidence", "Method", "changed", "method_named", "methods", "options_for", "recognised", "with_role"]

BUILT_IN = ("xor_enc", "xor_block", "exact", "lora", "additive")
"""Modules of this room, each with its ``METHOD``."""

GROUP = "weightkit.methods"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a payload is, and what was seen that shows it.

    Attributes:
        what: ``an XOR payload``.
        saw: ``its files of weights begin with zeros``.
        sure: False where nothing speaks against it, rather than something for it; a surer method goes first.
        tell: Tells more of it, line by line, for ``identify``; None: what and saw are all.
    """

    what: str
    saw: str
    sure: bool = True
    tell: Callable[[], Iterable[str]] | None = field(default=None, compare=False, repr=False)


class Method(Protocol):
    """One way in which releases are published: a frozen value."""

    @property
    def name(self) -> str:
        """The catalog's word, and that of ``--method``."""

    @property
    def role(self) -> str:
        """The option that names its payloads: ``--diff``, or ``--lora`` for what is merged into a whole model."""

    @property
    def settles(self) -> bool:
        """Whether files come out as they were published, byte for byte, so that nothing is cast, cut or merged on the way."""

    @property
    def options(self) -> type[Any]:
        """A frozen dataclass, all of whose fields have a default: what may be said to it, and no more."""

    def recognise(self, payload: Folder) -> Evidence | None:
        """What the payload is, if it is one of this method's; told from its bytes."""

    def rebuild(self, base: Model, payload: Folder, options: Any) -> Model:
        """The release.

        Raises:
            PlanError: Base and payload do not fit; every misfit is in it.
            FormatError: One of them is damaged.
        """

    def make(self, base: Model, tuned: Model, options: Any, form: Form) -> Plan:
        """The payload that rebuilds ``tuned`` from ``base``.

        Raises:
            PlanError: They do not fit, or this method makes none.
        """


@functools.cache
def methods() -> tuple[Method, ...]:
    """All methods, those of weightkit first; found when they are first asked for."""
    own = [cast(Method, import_module(f"weightkit.methods.{name}").METHOD) for name in BUILT_IN]
    others = sorted(entry_points(group=GROUP), key=lambda one: one.name)
    return *own, *(cast(Method, one.load()) for one in others)


def method_named(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: None has it.
    """
    for one in methods():
        if one.name == name:
            return one
    raise ValueError(f"{name!r} is no method; known: {', '.join(one.name for one in methods())}")


def with_role(role: str) -> tuple[Method, ...]:
    """The methods whose payloads an option names."""
    return tuple(one for one in methods() if one.role == role)


def recognised(payload: Folder, role: str) -> tuple[Method, Evidence]:
    """Which method a payload was published by, and what shows it.

    Where none knows it, the first of the option's methods is named: its own error says what it wants.

    Raises:
        PlanError: Two are sure of it.
    """
    known = with_role(role)
    found = [(one, seen) for one in known if (seen := one.recognise(payload)) is not None]
    sure = [one for one in found if one[1].sure]
    if len(sure) > 1:
        said = "; ".join(f"{seen.what} ({seen.saw})" for _, seen in sure)
        raise PlanError(f"{role}: {payload.name} can be taken for several things: {said}; keep one kind of file in the folder")
    return (sure or found or [(known[0], Evidence("unknown", "nothing in it was recognised", sure=False))])[0]


def options_for(method: Method, said: Mapping[str, Any], refusal: str) -> Any:
    """A method's options, of what was said.

    Args:
        method: The method.
        said: What the user or a recipe said, by name; without what was left open.
        refusal: The error's text where something of it means nothing to this method.

    Raises:
        PlanError: Something does.
    """
    known = {one.name for one in fields(method.options)}
    if set(said) - known:
        raise PlanError(refusal)
    return method.options(**said)


def changed(*values: Any) -> dict[str, Any]:
    """The fields of some dataclasses that have another value than their default: what was said."""
    return {
        one.name: given
        for value in values
        for one in fields(value)
        if (given := getattr(value, one.name)) != (one.default if one.default is not MISSING else None)
    }
