"""Values that are right but in another place: tensors or layers exchanged, matrices transposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightkit.core.content import tensor_digest
from weightkit.core.lazy import LazyTensor, derive
from weightkit.core.passes import blocks, reading
from weightkit.families import llama
from weightkit.ops.move import Transpose
from weightkit.proof.unchecked import unchecked

__all__ = ["exchanged", "same_values", "transposed", "turned"]

Tensors = Mapping[str, LazyTensor]


def same_values(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors are the same; stops at the first block that differs."""
    if one.spec != other.spec:
        return False
    with reading([one, other]):
        return all(bytes(left) == bytes(right) for left, right in blocks([one, other]))


def transposed(names: Sequence[str], here: Tensors, there: Tensors) -> bool:
    """Whether each is a matrix whose rows are the other's columns."""
    pairs = [(here[name], there[name]) for name in names]
    return all(
        len(one.spec.shape) == 2
        and one.spec.shape == other.spec.shape[::-1]
        and same_values(derive(Transpose(one.spec.shape[0]), unchecked(one)), unchecked(other))
        for one, other in pairs
    )


def turned(name: str, count: int) -> str:
    """That matrices are transposed, the first of them by name."""
    which = f"{count} matrices ({name} first) have" if count > 1 else f"{name} has"
    return f"transposed: {which} rows and columns exchanged"


def exchanged(names: Sequence[str], here: Tensors, there: Tensors) -> str:
    """Which tensors stand in each other's places, or which layers do; empty where values are in neither."""
    mine, theirs = ({name: tensor_digest(unchecked(side[name])) for name in names} for side in (here, there))
    verb = "exchanged"
    if sorted(map(str, mine.values())) != sorted(map(str, theirs.values())):
        specs = {here[name].spec for name in names}
        rest = {name: one for name, one in there.items() if name not in theirs and one.spec in specs}
        theirs |= {name: tensor_digest(unchecked(one)) for name, one in rest.items()}
        verb = "in other places"
    where: dict[object, list[str]] = {}
    for name, digest in theirs.items():
        where.setdefault(digest, []).append(name)
    if any(digest not in where for digest in mine.values()):
        return ""
    pairs = {name: where[digest] for name, digest in mine.items()}
    layers = {llama.block_of(name) for name in names}
    if None not in layers and (len(layers) > 1 or verb != "exchanged") and (told := exchanged_layers(pairs, verb)):
        return told
    shown = [f"{name} here is {homes[0]} there" for name, homes in pairs.items()]
    return f"tensors are {verb}: {'; '.join(shown[:3])}{f'; and {len(shown) - 3} more' if len(shown) > 3 else ''}"


def exchanged_layers(pairs: Mapping[str, Sequence[str]], verb: str) -> str:
    """Which layer stands in whose place; empty where their tensors do not say the same."""
    found: dict[int, set[int]] = {}
    for name, homes in pairs.items():
        layer, rest = llama.block_of(name), llama.BLOCK.search(name)
        fitting = set()
        for home in homes:
            match = llama.BLOCK.search(home)
            if rest and match and match[2] == rest[2]:
                fitting.add(int(match[1]))
        found[layer or 0] = found.get(layer or 0, fitting) & fitting
    if not all(len(homes) == 1 for homes in found.values()):
        return ""
    shown = [f"layer {layer} here is layer {min(homes)} there" for layer, homes in sorted(found.items())]
    return f"layers are {verb}: {'; '.join(shown[:4])}{f'; and {len(shown) - 4} more' if len(shown) > 4 else ''}"
