"""From what a user calls a release to entries: names, aliases, names on the Hub, addresses, and what is like them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from weightkit.catalog.entry import Release
from weightkit.catalog.near import family_of, near

__all__ = ["called", "containing", "hub_name", "like"]

ADDRESS = re.compile(r"(?:https?://[^/]+/|hf://(?:models/)?|(?:www\.)?(?:huggingface\.co|hf\.co)/)", re.IGNORECASE)


def hub_name(word: str) -> str | None:
    """``owner/name`` of a name on the Hub or of an address there, in lower case; None where it is neither."""
    bare = ADDRESS.sub("", word.strip(), count=1).partition("?")[0].partition("#")[0].partition("@")[0].strip("/")
    owner, _, rest = bare.partition("/")
    name = rest.partition("/")[0].removesuffix(".git")
    return f"{owner}/{name}".lower() if owner and name else None


def called(word: str, known: Mapping[str, Release]) -> list[Release]:
    """The entries that have this very name; capitals do not matter."""
    plain, hub = word.strip().lower(), hub_name(word)
    exact = [one for one in known.values() if plain in (one.name.lower(), (one.published_as or "").lower())]
    return exact or [one for one in known.values() if plain in aliases(one) or (hub and hub in map(str.lower, one.hubs()))]


def containing(word: str, known: Mapping[str, Release]) -> list[Release]:
    """The entries in whose names, project or title a word stands."""
    plain = (hub_name(word) or word).strip().lower()
    if not plain:
        return []
    return [
        one
        for one in known.values()
        if any(plain in text.lower() for text in (one.name, one.project, one.title, *one.aliases, *one.hubs()))
    ]


def like(word: str, known: Mapping[str, Release], most: int = 3) -> list[str]:
    """Names that may have been meant, best first: on the Hub where the word is one, else of entries.

    None is of another family. Nor is an alias guessed that sounds as if it were of other entries' family: what is also called
    ``belle-13b-2m`` stands on LLaMA, ``belle-7b-2m`` on BLOOMZ.
    """
    hub = hub_name(word)
    if hub:
        found = near(hub, {name: name for one in known.values() for name in one.hubs()}, most)
        return found or like(hub.partition("/")[2], known, most)
    names = {one: one for one in known}
    families = {name: family_of(name).core for name in known}
    taken = Counter(families.values())
    aliases_of = {
        name: one.name
        for one in known.values()
        for name in one.aliases
        if family_of(name).core == families[one.name] or not taken[family_of(name).core]
    }
    return near(word, aliases_of | names, most)


def aliases(release: Release) -> list[str]:
    """Its other names, in lower case."""
    return [one.lower() for one in release.aliases]
