"""What the user said, handed to each method in the words that it knows; what means nothing to one is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from weightkit.checkpoints.form import Form
from weightkit.checkpoints.model import Model
from weightkit.core.blob import Folder
from weightkit.core.dtypes import DType
from weightkit.core.errors import PlanError
from weightkit.methods import Evidence, Method, changed, options_for, recognised
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import Rules

__all__ = ["Said", "refusal"]

WRITING = ("format", "torch_compat", "max_shard_bytes", "parts", "order", "type")
"""Words on the files to be written: a layout's affair, unless a method's files are settled."""


@dataclass(frozen=True, slots=True)
class Said:
    """What was said about tensors, files and the arithmetic of adapters.

    Attributes:
        rules: About tensors.
        form: About files.
        how: About adapters; None for nothing.
        allow_tuned_base: Whether a base that looks tuned already may be used.
        dtype: What a base is cast to before adapters are merged into it.
    """

    rules: Rules = field(default_factory=Rules)
    form: Form = field(default_factory=Form)
    how: Arithmetic | None = None
    allow_tuned_base: bool = False
    dtype: DType | None = None

    def __post_init__(self) -> None:
        for name, value, wanted in (("rules", self.rules, Rules), ("form", self.form, Form), ("how", self.how, Arithmetic)):
            if value is not None and not isinstance(value, wanted):
                raise TypeError(f"{name}: {wanted.__name__}(...) is wanted, not {type(value).__name__}")

    def to(
        self,
        method: Method,
        payload: Folder,
        seen: Evidence,
        *,
        key: Folder | None = None,
        adapters: tuple[Folder, ...] = (),
        published_key: str | None = None,
    ) -> Any:
        """A method's options.

        Raises:
            PlanError: Something was said that means nothing to it.
        """
        known = {one.name for one in fields(method.options)}
        if key is not None and "key" not in known:
            raise PlanError(f"{method.role} {payload.name} is no XOR payload, and --key is for those alone; leave it out")
        if method.role == "--lora":  # rules are about pairs of base and diff
            said = changed(*([self.how] if self.how else []))
        else:
            said = changed(self.rules, self.form)
            said = {name: one for name, one in said.items() if method.settles or name not in WRITING}
        extra: dict[str, Any] = {"key": key, "published_key": published_key, "allow_tuned_base": self.allow_tuned_base}
        if method.role == "--lora":
            extra |= {"adapters": adapters, "dtype": self.dtype}
        return options_for(
            method,
            said | {name: one for name, one in extra.items() if name in known},
            refusal(method, payload, seen),
        )

    def merged(self, model: Model, adapters: tuple[Folder, ...]) -> Model:
        """A model with adapters merged into it, in this order.

        Raises:
            PlanError: One is no adapter, or does not fit.
            FormatError: One is damaged.
        """
        for one in adapters:
            method, seen = recognised(one, "--lora")
            model = method.rebuild(model, one, self.to(method, one, seen, adapters=adapters))
        return model


def refusal(method: Method, payload: Folder, seen: Evidence) -> str:
    """Why words on tensors and files mean nothing where bytes come out as they were published."""
    return (
        f"{method.role} {payload.name} is {seen.what}: its files come out as they were published, so nothing is cast, cut or "
        "merged on the way; leave that out, and merge or convert the result"
    )
