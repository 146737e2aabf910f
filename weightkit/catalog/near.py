"""What a misspelt name was meant to be: names of the same family only, best first.

A name is made of letters, which say the family, and of numbers, which say size and version::

    belle-llama-7b-2m   belle llama | 7b 2m         chatglm2-6b   chatglm | 2 (the second) | 6b

A slip is forgiven in either, and in words that say what is in the files (lora, delta). A model of another family is no slip:
``belle-7b-2m`` stands on BLOOMZ, ``belle-llama-7b-2m`` on LLaMA, and ``llama-2-7b`` is no ``llama-7b``.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["family_of", "near"]

LIKE_ENOUGH = 0.7
SHORTEST = 3
"""Letters that a word has at least which is taken for the beginning of a name."""

FILES = frozenset(("lora", "merged", "delta", "diff", "wdiff", "xor", "enc", "zip", "hf", "fp", "alt", "gptq", "docs", "bit"))
"""Words that say what is in the files, not what model it is."""

PIECE = re.compile(r"[a-z]+|[0-9][0-9.]*[a-z]?(?![a-z])|[0-9][0-9.]*")
GENERATION = re.compile(r"[2-9]")
SLIPS_A_LETTER = 5
"""One slip is forgiven, and one more for each so many letters beyond the first five."""


@dataclass(frozen=True, slots=True)
class Family:
    """What of a name says which model it is.

    Attributes:
        whole: All its letters.
        core: Its letters without words that say what is in the files.
        generation: A number that follows the letters at once: ``2`` of ``llama-2-7b``.
    """

    whole: str
    core: str
    generation: str


@functools.lru_cache(maxsize=1024)
def family_of(name: str) -> Family:
    """The family of a name of the catalog or on the Hub, or of a misspelling of one."""
    pieces = PIECE.findall(name.lower().rpartition("/")[2])
    words = [one for one in pieces if one[0].isalpha() and len(one) > 1]
    core = "".join(one for one in words if not any(slips(one, file) <= (len(file) > 3) for file in FILES))
    after = (one for before, one in pairwise(pieces) if len(before) > 1 and before.isalpha())
    generation = next((one for one in after if GENERATION.fullmatch(one)), "")
    return Family("".join(words), core or "".join(words), generation)


def near(word: str, names: Mapping[str, str], most: int = 3) -> list[str]:
    """What ``names`` says of those that a word resembles, best first.

    Args:
        word: What was typed.
        names: Name -> what is suggested for it.
        most: How many at most.
    """
    alike = of_the_family(word, names)
    squeezed_names = {squeezed(one): one for one in reversed(alike)}
    found = difflib.get_close_matches(squeezed(word), squeezed_names, most * 2, LIKE_ENOUGH)
    suggested = [names[squeezed_names[one]] for one in found] or [names[one] for one in alike if begins(word, one)]
    return list(dict.fromkeys(suggested))[:most]


def of_the_family(word: str, names: Iterable[str]) -> list[str]:
    """The names of the family that a word's letters are nearest to, if they are near to any."""
    typed = family_of(word)
    families = {one: family_of(one) for one in names}
    kin = {name: one for name, one in families.items() if one.generation == typed.generation}
    for letters in ("whole", "core"):
        wanted = getattr(typed, letters)
        away = {name: slips(wanted, getattr(one, letters)) for name, one in kin.items()}
        least = min(away.values(), default=len(wanted))
        if wanted and least <= forgiven(wanted):
            return [name for name, one in away.items() if one == least]
    return [one for one in families if begins(word, one)]


def begins(word: str, name: str) -> bool:
    """Whether a word is the beginning of a name."""
    wanted = squeezed(word)
    return len(wanted) >= SHORTEST and squeezed(name).startswith(wanted)


def forgiven(letters: str) -> int:
    """How many slips letters may hold: none where there are few."""
    return 0 if len(letters) < SHORTEST else max(1, len(letters) // SLIPS_A_LETTER)


def slips(one: str, other: str) -> int:
    """Letters to put in, leave out, exchange, or turn with their neighbour, until two words are the same.

    Source: Damerau 1964, in the form of Boytsov 2011 (optimal string alignment).
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one):
        row = [i + 1]
        for j, there in enumerate(other):
            cost = min(last[j] + (letter != there), last[j + 1] + 1, row[j] + 1)
            if i and j and letter == other[j - 1] and one[i - 1] == there:
                cost = min(cost, before[j - 1] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def squeezed(word: str) -> str:
    """Letters, digits and dots alone: a misplaced hyphen is no difference."""
    return re.sub(r"[^a-z0-9.]", "", word.lower())
