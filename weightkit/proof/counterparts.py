"""How a model would be written as it was published, where that is otherwise than it is stored: what a list names tells.

    pytorch_model.bin, model-00001-of-00003.safetensors, ...   transformers' folder, in that format and in so many shards
    consolidated.00.pth ... consolidated.03.pth                Meta's layout, in so many parts

Where shards were cut, the digest of their index settles, if the list has it. Else it is as in the model that is followed, where
that has as many, or as the user says of what is stored; and if a list has all of them, the roundest limit that gives so many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from weightkit.checkpoints import layout_named
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.layout import known_tensors
from weightkit.checkpoints.model import Model, Written
from weightkit.checkpoints.output import groups
from weightkit.checkpoints.shards import SHARD_NBYTES, index_name, numbered, shard_names
from weightkit.containers import Format, formats
from weightkit.core.digest import Digest, Hasher
from weightkit.core.errors import PlanError
from weightkit.core.lazy import Derived, LazyTensor, leaves, walk
from weightkit.core.sizes import format_size
from weightkit.families import llama
from weightkit.families.gguf import SUFFIX
from weightkit.ops.add import Cast
from weightkit.ops.move import PairRows
from weightkit.ops.quantize import Quantize
from weightkit.run.plan import OutputFile, Plan
from weightkit.run.proving import ToCome, stands_for, stored_tensors

__all__ = ["Counterpart", "of_what_is_stored", "unproved"]

PART = re.compile(r"consolidated\.(\d\d)\.pth")
USUAL = tuple(number * unit for number in (10, 5, 2, 1, 20, 15, 8, 4, 3, 9, 7, 6, 12, 30, 50) for unit in (10**9, 1 << 30))
"""Limits of shards that were published or are said, likeliest first. Source: transformers 4.28.1 (10GB), 4.41 (5GB)."""


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A model, to be written as a list has it.

    Attributes:
        model: What is written.
        form: What the user said; of the published files, their format, limit and number of parts follow from the list.
        direct: Whether its tensors are those of the model, computed of the inputs, and not taken from what is stored.
    """

    model: Model
    form: Form
    direct: bool = False

    def written(self, plan: Plan, listed: Mapping[str, Sequence[Digest]]) -> Written | None:
        """The files of the set that a list names, made of what a plan stores; None where no name is of one.

        Args:
            plan: What is stored.
            listed: Name -> its published digests.

        Raises:
            PlanError: The model cannot be laid out so, or not cut into so many shards.
        """
        if self.model.tensors is None or self.model.follows is None:
            return None
        taken = {} if self.direct else stored_tensors(plan.files)
        tensors = {name: taken.get(tensor, tensor) for name, tensor in self.model.tensors.items()}
        model = replace(self.model, tensors=tensors)
        for chosen in formats():
            names = numbered(chosen, listed) or {name: 1 for name in shard_names(chosen, 1) if name in listed}
            if names:
                return self.shards(model, chosen, max(names.values()), listed)
        parts = [int(match[1]) for name in listed if (match := PART.fullmatch(name))]
        if not parts:
            return None
        order = self.form.order or "meta"
        return laid_out(model, "meta", replace(self.form, format=None, parts=self.form.parts or max(parts) + 1, order=order))

    def shards(self, model: Model, chosen: Format, count: int, listed: Mapping[str, Sequence[Digest]]) -> Written:
        """A transformers folder in so many shards, cut as the list's index says, if it has one."""
        form = replace(self.form, format=chosen.name, max_shard_bytes=None)
        wanted = listed.get(index_name(chosen), ())
        named = shard_names(chosen, count)
        sure = {self.form.max_shard_bytes, None, SHARD_NBYTES}
        first = None
        for limit in limits(model, chosen, form, count, self.form.max_shard_bytes):
            if limit not in sure and not wanted and not all(name in listed for name in named):
                continue
            made = laid_out(model, "hf", replace(form, max_shard_bytes=limit))
            if wanted and holds(made, index_name(chosen), wanted):
                return made
            if limit is not None and limit not in sure and count > 1:
                told = f"taken to be cut at {format_size(limit)}, which gives {count}; no index in the list says so"
                made = replace(made, notes=(f"{named[0]} ...: {told}",))
            first = first or made
            if not wanted:
                break
        if first is None:
            raise PlanError(
                f"{model.source.name}: the list is of {count} shards ({named[0]} ...), and nothing says where these tensors "
                "were cut into so many: it is of another release, dtype or number of shards; if it is of this one, name a list "
                "that has their index, too, or say --max-shard-size"
            )
        return first


def laid_out(model: Model, layout: str, form: Form) -> Written:
    """A model's files in a layout.

    Raises:
        PlanError: It cannot be laid out so.
    """
    try:
        return replace(layout_named(layout).write(model, form), notes=())
    except ValueError as error:
        raise PlanError(f"{model.source.name}: {error}; so the published files cannot be made of it") from error


def limits(model: Model, chosen: Format, form: Form, count: int, said: int | None) -> Iterator[int | None]:
    """Limits of a shard that give so many, likeliest first; None: as in the model that is followed. Each cuts otherwise.

    Args:
        model: What is cut.
        chosen: The format.
        form: How it is written, without a limit.
        count: How many shards are wanted.
        said: The limit that the user names for what is stored.
    """
    follows, tensors = known_tensors(model)
    seen: list[dict[str, list[str]]] = []
    total = sum(tensor.spec.nbytes for tensor in tensors.values()) + 1

    def cut_at(limit: int | None) -> dict[str, list[str]]:
        return groups(follows, tensors, chosen, replace(form, max_shard_bytes=limit))

    first = () if said is None else (said,)
    for limit in (*first, None) if follows.layout == "huggingface" else first:
        if list(cut := cut_at(limit)) == shard_names(chosen, count) and cut not in seen:
            seen.append(cut)
            yield limit

    def least(shards: int) -> int:
        """The smallest limit that gives no more than so many."""
        low, high = 1, total
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(cut_at(middle)) <= shards else (middle + 1, high)
        return low

    low, high = least(count), total if count == 1 else least(count - 1) - 1
    if low > high or len(cut_at(low)) != count:
        return
    for limit in dict.fromkeys((SHARD_NBYTES, *USUAL, roundest(low, high), low, high)):
        if low <= limit <= high and (cut := cut_at(limit)) not in seen:
            seen.append(cut)
            yield limit


def roundest(low: int, high: int) -> int:
    """The number with the fewest digits before its zeros of those in a range."""
    unit = 1
    while -(-low // (unit * 10)) * unit * 10 <= high:
        unit *= 10
    return -(-low // unit) * unit


def holds(made: Written, name: str, wanted: Sequence[Digest]) -> bool:
    """Whether a small file of what would be written has a published digest."""
    content = next((file.content for file in made.small if file.path == name), None)
    if content is None:
        return False
    hasher = Hasher({one.algorithm for one in wanted})
    hasher.update(content)
    return all(hasher.digests()[one.algorithm] == one for one in wanted)


def of_what_is_stored(plan: Plan) -> Plan:
    """A plan whose proofs were planned from the inputs, with all that can be taken from what it stores."""
    taken = stored_tensors(plan.files)
    return replace(
        plan, proofs=tuple(stands_for(file, taken) if isinstance(file, OutputFile) else file for file in plan.proofs)
    )


def unproved(plan: Plan) -> list[str]:
    """Names of stored tensors that no published file is made of; rotary buffers follow from the model's numbers."""
    stored = stored_tensors(plan.files)
    proofs = [file for file in plan.proofs if isinstance(file, OutputFile)]
    used = {
        one for one in leaves(one for file in proofs for run in file.tensors for one in run) if isinstance(one.blob, ToCome)
    }
    direct = {one for file in proofs for run in file.tensors for one in run}
    left = [
        one.name
        for tensor, one in stored.items()
        if one not in used and tensor not in direct and not llama.is_inv_freq(one.name)
    ]
    made = set(walk(direct))
    return left + [name for name, tensor in in_gguf(plan) if tensor not in made]


def in_gguf(plan: Plan) -> Iterator[tuple[str, LazyTensor]]:
    """Name -> what a tensor in a GGUF file is made of, before its rows were moved and its type was changed."""
    for file in plan.files:
        if isinstance(file, OutputFile) and file.path.endswith(SUFFIX):
            for item, (tensor,) in zip(file.layout.items, file.tensors, strict=True):
                while isinstance(tensor, Derived) and isinstance(tensor.op, Cast | PairRows | Quantize):
                    (tensor,) = tensor.inputs
                yield item.name, tensor
