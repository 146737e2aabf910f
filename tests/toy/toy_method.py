"""A way of publishing of somebody else, in one file: the difference the other way round, ``base - tuned``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.huggingface import HUGGINGFACE
from weightkit.checkpoints.model import Model
from weightkit.core.blob import Folder
from weightkit.core.lazy import derive
from weightkit.methods import Evidence
from weightkit.methods.base import opened
from weightkit.ops.add import Subtract
from weightkit.run.plan import Plan, SmallFile

MARK = "BACKWARDS"


@dataclass(frozen=True, slots=True)
class Options:
    """Nothing may be said to it."""


@dataclass(frozen=True, slots=True)
class Backwards:
    name: str = "backwards"
    role: str = "--diff"
    settles: bool = False
    options: type[Options] = Options

    def recognise(self, payload: Folder) -> Evidence | None:
        return Evidence("a difference the other way round", f"it holds {MARK}") if payload.holds(MARK) else None

    def rebuild(self, base: Model, payload: Folder, options: Options) -> Model:
        base, diff = opened(base), open_checkpoint(payload, self.role)
        tensors = {}
        for name, stored in diff.tensors.items():
            tensors[name] = derive(Subtract(stored.spec.dtype), stored, (base.tensors or {})[name])
        return replace(base, tensors=tensors, follows=diff, steps=(*base.steps, f"base - diff, {len(tensors)} tensors"))

    def make(self, base: Model, tuned: Model, options: Options, form: Form) -> Plan:
        base, tuned = opened(base), opened(tuned)
        change = {}
        for name, stored in (tuned.tensors or {}).items():
            change[name] = derive(Subtract(stored.spec.dtype), stored, (base.tensors or {})[name])
        made = HUGGINGFACE.write(replace(tuned, tensors=change), form)
        return Plan("make-diff", ("base - tuned",), made.files, (*made.small, SmallFile(MARK, b"1\n")), made.notes)


METHOD = Backwards()
