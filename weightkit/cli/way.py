"""The whole way to a release: what to get and where, what to type, what proves it, and what nothing proves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from weightkit import catalog
from weightkit.catalog import UNKNOWN, Place, Recipe, Release

__all__ = ["Step", "gaps", "way"]

OUT = "OUT"
Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        what: ``get``, ``verify``, ``make`` or ``prove``.
        title: What is done, for people.
        entry: The entry that it is about.
        places: For ``get``, where the files are or are asked for.
        commands: What to type, in order.
        notes: What to know.
    """

    what: str
    title: str
    entry: str
    places: tuple[Place, ...] = ()
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """For programs; a command is a list of words."""
        return {**asdict(self), "commands": [list(one) for one in self.commands]}


def way(release: Release) -> list[Step]:
    """The steps to a release, in order; for what is only downloaded, to get it and to check it."""
    recipe = release.recipe
    inputs = [*bases(release), *(catalog.load(one) for one in recipe.payloads())] if recipe else [release]
    steps = [getting(one) for one in inputs]
    proofs = tuple(("weightkit", "verify", one.name, "--release", one.name) for one in inputs if one.lists)
    bare = tuple(f"{one.name}: no digest of it is known, so it is taken as it is" for one in inputs if not one.lists)
    steps.append(Step("verify", "Check what you have", release.name, commands=proofs, notes=bare))
    if recipe is None:
        return [*steps, *using(release)]
    made = Step("make", "Rebuild it", release.name, commands=(making(release, recipe),), notes=hints(recipe))
    proof = ("weightkit", "verify", OUT, "--release", release.name)
    title = "Check the result"
    if not release.lists:
        proving = Step("prove", title, release.name, notes=("no digest of it is known: nothing proves the result",))
    else:
        checked = (
            () if recipe.method == "convert" else ("--release has checked it while it was written; this does so any time",)
        )
        proving = Step("prove", title, release.name, commands=(proof,), notes=checked)
    return [*steps, made, proving]


def bases(release: Release) -> list[Release]:
    """What is asked for first: the original weights, or, where the base is unknown, nothing."""
    base = release
    while base.base is not None:
        base = catalog.load(base.base)
    return [base] if base is not release else []


def getting(release: Release) -> Step:
    """Where an entry is had: a download from the Hub is a command, all else an address."""
    commands = (("weightkit", "fetch", release.name, "--out", release.name),) if is_fetched(release) else ()
    notes = [release.nowhere] if release.nowhere else []
    if release.kind == "raw":
        notes.append(
            f"The commands below call Meta's folder of this size {release.name}; tokenizer.model lies in it or above it."
        )
    if not release.where and not notes:
        notes = ["where it can be had was not found"]
    return Step("get", f"Get {release.name}: {release.title}", release.name, release.where, commands, tuple(notes))


def is_fetched(release: Release) -> bool:
    """Whether an entry is on the Hub, as far as is known."""
    return any(one.hub is not None and one.status != "gone" for one in release.where)


def making(release: Release, recipe: Recipe) -> Command:
    """The command that rebuilds a release."""
    found = bases(release)
    base = found[0].name if found else "BASE"
    loras = [word for one in recipe.lora for word in ("--lora", "LORA" if one == UNKNOWN else one)]
    end = ["--release", release.name, "--out", OUT]
    if recipe.method == "convert":
        known = recipe.converter not in (None, UNKNOWN)
        return ("weightkit", "convert", base, OUT, "--to", "hf", *(("--as", str(recipe.converter)) if known else ()))
    if recipe.method == "lora":
        return ("weightkit", "merge", "--base", base, *loras, *end)
    diff = "DIFF" if recipe.diff in (None, UNKNOWN) else str(recipe.diff)
    return ("weightkit", "recover", "--base", base, "--diff", diff, *loras, *end)


def hints(recipe: Recipe) -> tuple[str, ...]:
    """What to know before the command is run."""
    notes = [f"not settled: {recipe.unfinished}"] if recipe.unfinished else []
    if recipe.method in ("additive", "lora"):
        notes.append("a base that was converted for transformers will do, too")
    if recipe.key:
        notes.append(f"key: {recipe.key}; another place of it is named with --key")
    if len(recipe.lora) > 1:
        notes.append("the adapters in this order")
    payloads = recipe.payloads()
    if payloads and UNKNOWN not in (recipe.diff, *recipe.lora) and all(is_fetched(catalog.load(one)) for one in payloads):
        words = [word for word, given in (("--diff", recipe.diff), ("--lora", recipe.lora)) if given]
        many = "they are fetched by their names" if len(payloads) > 1 else "it is fetched by its name"
        notes.append(f"without {' and '.join(words)} {many}")
    return tuple(notes)


def using(release: Release) -> Iterator[Step]:
    """What is made of an input."""
    made = catalog.made_of(release)
    if made:
        commands = tuple(("weightkit", "releases", one.name) for one in made)
        yield Step("make", f"Make {catalog.listed([one.name for one in made])} of it", release.name, commands=commands)
    elif any(entry.path.endswith(".zip") for entry in release.entries()):
        archive = next(entry.path for entry in release.entries() if entry.path.endswith(".zip"))
        command = ("weightkit", "merge", "--base", "BASE", "--lora", archive, "--out", OUT)
        note = "it is read as it is, and not unpacked; a folder with its files will do, too"
        yield Step("make", "Merge it into its base", release.name, commands=(command,), notes=(note,))
    elif release.kind == "whole":
        yield Step("make", "Use it as it is", release.name, notes=("it was released whole: there is nothing to rebuild",))
    elif release.merged_by:
        yield Step("make", "Merge it with its authors' tool", release.name, notes=(release.merged_by,))
    elif release.kind == "lora":
        command = ("weightkit", "merge", "--base", "BASE", "--lora", release.name, "--out", OUT)
        yield Step("make", "Merge it into its base", release.name, commands=(command,))


def gaps(release: Release) -> list[str]:
    """What cannot be checked, a line each; nothing where every file is covered as far as the names tell."""
    recipe = release.recipe
    inputs = [*bases(release), *(catalog.load(one) for one in recipe.payloads())] if recipe else []
    found = []
    for one in [*inputs, release]:
        if not one.lists:
            found.append(f"{one.name}: no digest was published, or none was found")
        elif lacking := unlisted(one):
            found.append(f"{one.name}: no digest of {', '.join(lacking)} was found")
    if recipe and not bases(release):
        found.append("the base: its digests are not in the catalog")
    return found


def unlisted(release: Release) -> Sequence[str]:
    """Files that belong to those that are listed, by the numbers in their names, and are not."""
    from weightkit.proof.completeness import siblings

    names = {entry.path for entry in release.entries()}
    return [name for name in siblings(names) if name not in names and not name.endswith(".enc")]
