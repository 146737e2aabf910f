"""Where on the Hub what a release takes can be had, by its entry."""

from __future__ import annotations

from typing import Literal

from weightkit import catalog
from weightkit.blobs.addresses import HubAddress
from weightkit.catalog.entry import UNKNOWN, Release
from weightkit.core.blob import Folder
from weightkit.core.errors import PlanError

__all__ = ["Only", "by_name", "introduced", "on_the_hub", "parts_of"]

Only = Literal["diff", "base", "lora"]


def parts_of(release: Release, only: Only | None) -> list[str]:
    """The entries whose files a release takes: diff and adapters, or one kind of them. Of what is no result, itself."""
    recipe = release.recipe
    if recipe is None:
        return [release.name] if only is None else []
    parts: dict[str, list[str | None]] = {"diff": [recipe.diff], "lora": [*recipe.lora], "base": [release.base]}
    chosen = parts["diff"] + parts["lora"] if only is None else parts[only]
    return [one for one in chosen if one is not None and one != UNKNOWN]


def on_the_hub(name: str) -> HubAddress:
    """The repository of an entry, at the commit that its digests are of where that is known.

    Raises:
        PlanError: Nobody says where it is, or all that is said is that it is gone.
    """
    entry = catalog.load(name)
    places = [one for one in entry.where if one.status != "gone"]
    for one in places:
        if one.hub is not None:
            return HubAddress(one.hub, one.revision or "")
    asked = next((f"ask for it at {one.url}" for one in places), "")
    gone = next((f"it was at {one.hub or one.url}, and is gone ({one.source})" for one in entry.where if one not in places), "")
    where = asked or gone or entry.nowhere or "none was found"
    raise PlanError(f"no place on the Hub is known of {name}: {where}", hint=f"weightkit releases {name}")


def by_name(release: Release, *, adapters: bool = True) -> tuple[str | None, tuple[str, ...]]:
    """The addresses of a release's diff, if it takes one, and of its adapters, if they are wanted, in order.

    Raises:
        PlanError: Nobody says where one of them is.
    """
    diffs, loras = parts_of(release, "diff"), parts_of(release, "lora") if adapters else []
    return str(on_the_hub(diffs[0])) if diffs else None, tuple(str(on_the_hub(one)) for one in loras)


def introduced(folder: Folder) -> str:
    """What is said of a repository before anything large of it is fetched: its commit and its licence."""
    from weightkit.blobs.hub import HubFolder, licence_of

    if not isinstance(folder, HubFolder):
        return f"{folder.name}: out of the cache of the Hub's client; nothing is fetched (HF_HUB_OFFLINE)"
    licence = licence_of(folder)
    told = f"licence: {licence}, as the repository says" if licence else "the repository names no licence"
    return f"{folder.name} at commit {folder.commit[:12]}; {told}"
