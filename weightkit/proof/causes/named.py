"""Tensors that only one side has: renamed, prefixed, tied, of another shard, or missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.core.content import tensor_digest
from weightkit.core.lazy import LazyTensor
from weightkit.families import llama
from weightkit.proof.causes.moved import same_values
from weightkit.proof.differences import Comparison
from weightkit.proof.unchecked import unchecked

__all__ = ["unpaired"]


def unpaired(found: Comparison, here: Checkpoint, there: Checkpoint) -> str:
    """What it tells that names stand on one side alone."""
    mine, theirs = ([name for name in names if not llama.is_inv_freq(name)] for names in (found.here, found.there))
    differ = sum(not llama.is_inv_freq(one.name) for one in found.different)
    rest = f"{differ} tensor{'s differ' if differ > 1 else ' differs'} as well" if differ else "all else is right"
    if pairs := renamed(mine, theirs, here.tensors, there.tensors):
        return f"{told(pairs)}; the values are the same; {rest}"
    if not found.tensors:
        return (
            "another shard, or another model: the two have no tensor in common "
            f"({found.here[0] if found.here else 'none'} here, {found.there[0] if found.there else 'none'} there)"
        )
    if why := tied_head(mine, theirs, here.tensors, there.tensors):
        return f"{why}; {rest}"
    sides = [f"{counted(names)} {where}" for names, where in ((theirs, "here"), (mine, "there")) if names]
    return f"another model, or incomplete: tensors are missing on one side: {', '.join(sides)}; {rest}"


def counted(names: Sequence[str]) -> str:
    """How many names, and the first."""
    return f"{len(names)} ({names[0]}{' first' if len(names) > 1 else ''})"


def renamed(
    mine: Sequence[str], theirs: Sequence[str], here: Mapping[str, LazyTensor], there: Mapping[str, LazyTensor]
) -> dict[str, str]:
    """The name there of each tensor that only this side has, by its bytes; empty where not all of them are found."""
    if len(mine) != len(theirs) or not mine:
        return {}
    homes: dict[object, list[str]] = {}
    for name in theirs:
        homes.setdefault(tensor_digest(unchecked(there[name])), []).append(name)
    pairs = {}
    for name in mine:
        places = homes.get(tensor_digest(unchecked(here[name])), [])
        if not places:
            return {}
        pairs[name] = places.pop(most_alike(name, places))
    return pairs


def most_alike(name: str, places: Sequence[str]) -> int:
    """Which of some names ends as this one does: equal tensors are many (norms of ones)."""
    alike = [len(name) if name.endswith(one) or one.endswith(name) else 0 for one in places]
    return max(range(len(places)), key=lambda number: alike[number])


def told(pairs: Mapping[str, str]) -> str:
    """The names that differ, by their common prefix where they have one."""
    for one, where, other in ((pairs, "here", "there"), ({b: a for a, b in pairs.items()}, "there", "here")):
        fronts = {name.removesuffix(home) if name.endswith(home) else "" for name, home in one.items()}
        if len(fronts) == 1 and (front := fronts.pop()):
            return f"other names: {len(one)} names begin with {front!r} {where} and not {other}"
    name, home = next(iter(pairs.items()))
    more = f"; and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return f"other names: {name} here is called {home} there{more}"


def tied_head(
    mine: Sequence[str], theirs: Sequence[str], here: Mapping[str, LazyTensor], there: Mapping[str, LazyTensor]
) -> str:
    """That the head alone is missing on one side; empty where it is not. Equal to the embedding, it is tied."""
    head, embedding = llama.LAST[1], llama.FIRST[0]
    for names, tensors, where, other in ((mine, here, "here", "there"), (theirs, there, "there", "here")):
        if [*mine, *theirs] == [head] and names and embedding in tensors:
            if same_values(unchecked(tensors[head]), unchecked(tensors[embedding])):
                return f"a tied head: {head} is not stored {other}, and {where} it is {embedding} once more"
            return f"incomplete, or a tied head {other}: {head} is not stored {other}, and {where} it has values of its own"
    return ""
