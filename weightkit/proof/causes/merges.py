"""Other ways in which adapters may have been merged: their order, rounding and order of sums."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import Adapter
from weightkit.containers import Container
from weightkit.containers.layout import one_each
from weightkit.core.digest import Digest
from weightkit.core.errors import WeightkitError
from weightkit.core.events import Notify
from weightkit.core.lazy import LazyTensor
from weightkit.methods.lora import Arithmetic, merged
from weightkit.ops.lora import ROUNDINGS
from weightkit.ops.product import Sums
from weightkit.proof.causes import Explanation
from weightkit.proof.causes.writings import compat_words, forms
from weightkit.proof.differences import same_bytes
from weightkit.proof.seek import digests
from weightkit.run.plan import OutputFile

__all__ = ["Merging", "merged_file", "merged_tensors", "merges"]

PORTABLE: tuple[Sums, ...] = ("fma", "mul-add")
"""Orders of sums that give the same bits on every machine."""


@dataclass(frozen=True, slots=True)
class Merging:
    """One way in which adapters may have been merged into a base.

    Attributes:
        base: Where the base lies.
        adapters: Where the adapters lie, in their order.
        how: Roundings and order of sums.
        asked: Whether the order is the one that the user named.
    """

    base: str
    adapters: tuple[str, ...]
    how: Arithmetic
    asked: bool

    def __str__(self) -> str:
        if self.asked:
            return str(self.how)
        return f"LoRA order: {', then '.join(PurePath(one).name for one in self.adapters)} ({self.how})"

    def command(self, words: str = "") -> str:
        """The merge that it stands for; ``words`` say in which form."""
        adapters = " ".join(f"--lora {one}" for one in self.adapters)
        how = f"--rounding {self.how.rounding} --sums {self.how.sums}"
        return f"weightkit merge --base {self.base} {adapters} {how}{words} --out OUT"


def merges(base: Model, adapters: Sequence[Adapter]) -> Iterator[tuple[Merging, Mapping[str, LazyTensor]]]:
    """What base and adapters give in every order, rounding and order of sums."""
    for order in itertools.permutations(adapters):
        for rounding, sums in itertools.product(ROUNDINGS, PORTABLE):
            how = Arithmetic(rounding, sums)
            try:
                tensors = merged_in(base, order, how)
            except WeightkitError:
                continue
            names = tuple(one.name for one in order)
            yield Merging(base.source.name, names, how, list(order) == list(adapters)), tensors


def merged_in(base: Model, order: Sequence[Adapter], how: Arithmetic) -> Mapping[str, LazyTensor]:
    """The tensors of a base with some adapters merged, one after another.

    Raises:
        PlanError: An adapter does not fit, or comes in the wrong place.
    """
    model = base
    for number, adapter in enumerate(order, 1):
        model = merged(model, adapter, how, order[number:])
    return model.tensors or {}


def merged_tensors(
    wanted: Mapping[str, LazyTensor], base: Model, adapters: Sequence[Adapter], names: Sequence[str]
) -> Explanation | None:
    """Which merge gives the tensors wanted; None where none does. Tried on one tensor, then on all.

    Args:
        wanted: The right model's.
        base: With tensors.
        adapters: In the order that the user named.
        names: Of the tensors that differ; both models have them.
    """
    for way, tensors in merges(base, adapters):
        if all(name in tensors and same_bytes(tensors[name], wanted[name]) for name in names):
            sentence = f"the right one was merged with {way}" if way.asked else str(way)
            return Explanation(False, (), sentence, way.command())
    return None


def merged_file(
    path: str, container: Container, wanted: Digest, base: Model, adapters: Sequence[Adapter], notify: Notify
) -> Explanation:
    """Which merge, written in which way, gives the digest of a file that the adapters were merged into."""
    encodings = forms(path, container)
    if len(encodings) < 2:
        return Explanation(False, (), "the tensors differ; merge --seek tries roundings and sums on a whole release")
    tried = 0
    for way, tensors in merges(base, adapters):
        if any(name not in tensors for name in container.tensors):
            continue
        layout = one_each((name, tensors[name].spec) for name in container.tensors)
        runs = tuple((tensors[name],) for name in container.tensors)
        files = [OutputFile(path, one, layout, runs) for one in encodings]
        tried += len(files)
        for one, digest in zip(encodings, digests(files, wanted.algorithm, notify), strict=True):
            if digest == wanted:
                return Explanation(False, (), f"the published file was merged otherwise: {way}", way.command(compat_words(one)))
    return Explanation(False, (), f"none of {tried} ways to merge these adapters has the digest: base or adapters are others")
