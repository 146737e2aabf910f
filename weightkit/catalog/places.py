"""Where on the Hub what a release takes can be had, by its entry."""

from __future__ import annotations

from typing import Literal

from weightkit import catalog
from weightkit.catalog.entry import UNKNOWN, Release
from weightkit.core.errors import PlanError

__all__ = ["Only", "by_name", "on_the_hub", "parts_of"]

Only = Literal["diff", "base", "lora"]


def parts_of(release: Release, only: Only | None) -> list[str]:
    """The entries whose files a release takes: diff and adapters, or one kind of them. Of what is no result, itself."""
    recipe = release.recipe
    if recipe is None:
        return [release.name] if only is None else []
    parts: dict[str, list[str | None]] = {"diff": [recipe.diff], "lora": [*recipe.lora], "base": [release.base]}
    chosen = parts["diff"] + parts["lora"] if only is None else parts[only]
    return [one for one in chosen if one is not None and one != UNKNOWN]


def on_the_hub(name: str) -> str:
    """The repository of an entry, ``owner/name``.

    Raises:
        PlanError: Nobody says where it is.
    """
    entry = catalog.load(name)
    if hubs := entry.hubs():
        return hubs[0]
    asked = [one.url for one in entry.where if one.url]
    where = f"ask for it at {asked[0]}" if asked else entry.nowhere or "none was found"
    raise PlanError(f"no place on the Hub is known of {name}: {where}", hint=f"weightkit releases {name}")


def by_name(release: str) -> tuple[str, list[str]]:
    """The addresses of a release's diff and of its adapters, in order.

    Raises:
        PlanError: It takes no diff, or nobody says where they are.
    """
    entry = catalog.load(release)
    diffs, loras = parts_of(entry, "diff"), parts_of(entry, "lora")
    if not diffs:
        raise PlanError(f"--release {release}: the catalog knows no diff of it", hint="name it with --diff")
    return f"hf://{on_the_hub(diffs[0])}", [f"hf://{on_the_hub(one)}" for one in loras]
