"""From what a user calls a release to entries: names, aliases, names on the Hub, addresses, and what is like them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from weightkit.catalog.entry import Release

__all__ = ["called", "containing", "hub_name", "like"]

ADDRESS = re.compile(r"(?:https?://[^/]+/|hf://(?:models/)?|(?:www\.)?(?:huggingface\.co|hf\.co)/)", re.IGNORECASE)
LIKE_ENOUGH = 0.7


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
    """Names that may have been meant, best first: of entries, and on the Hub where the word is one."""
    hub = hub_name(word)
    names: dict[str, str] = {}
    for one in known.values():
        for name in one.hubs() if hub else (one.name, *one.aliases):
            names.setdefault(squeezed(name), name if hub else one.name)
    near = difflib.get_close_matches(squeezed(hub or word), names, most * 2, LIKE_ENOUGH)
    if hub and not near:
        return like(hub.partition("/")[2], known, most)
    return list(dict.fromkeys(names[one] for one in near))[:most] or begun(word, known)[:most]


def begun(word: str, known: Mapping[str, Release]) -> list[str]:
    """Names that begin like it, or hold it."""
    wanted = squeezed(word)
    names: Sequence[str] = list(known)
    return [one for one in names if wanted and squeezed(one).startswith(wanted)]


def aliases(release: Release) -> list[str]:
    """Its other names, in lower case."""
    return [one.lower() for one in release.aliases]


def squeezed(word: str) -> str:
    """Letters, digits and dots alone: a misplaced hyphen is no difference."""
    return re.sub(r"[^a-z0-9.]", "", word.lower())
