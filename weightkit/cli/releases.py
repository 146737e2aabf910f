"""``weightkit releases``."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from weightkit.cli.options import RELEASE
from weightkit.cli.talk import Talk, print_json, shown, talk_options
from weightkit.cli.usage import Job

if TYPE_CHECKING:
    from weightkit.catalog import Place, Release
    from weightkit.cli.way import Step

EXAMPLES = ("weightkit releases vicuna-7b-v1.1", "weightkit releases hfl/chinese-alpaca-lora-7b")
NARROWEST, WIDEST = 40, 100
SHORT = {
    "raw": "original",
    "converted": "converted",
    "result": "release",
    "whole": "whole",
    "diff": "diff",
    "xor": "xor",
    "lora": "adapter",
    "tokenizer": "tokenizer",
}
"""Kind of an entry -> what it is in the list, in the list's order."""


@click.command("releases", cls=Job, examples=EXAMPLES)
@click.argument("name", required=False, type=RELEASE)
@talk_options
def command(name: str | None, talk: Talk) -> None:
    """List the releases that weightkit knows, or show one and the whole way to it.

    NAME is a name of the list, a name on the Hugging Face Hub, or a word that stands in several, as alpaca.
    """
    from weightkit import catalog

    found = list(catalog.releases().values()) if name is None else catalog.find(name)
    if name is not None and len(found) == 1:
        if talk.as_json:
            print_json({"command": "releases", **facts_of(found[0])})
        elif not talk.quiet:
            print_one(found[0])
    elif talk.as_json:
        print_json({"command": "releases", "query": name, "releases": [brief(one) for one in found]})
    elif not talk.quiet:
        print_list(found)


def width() -> int:
    """Columns to write in."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((80, 24)).columns))


def say(text: str, first: str = "", then: str | None = None) -> None:
    """A paragraph, wrapped to the terminal; addresses, digests and names stay whole."""
    rest = " " * len(first) if then is None else then
    wrapped = textwrap.wrap(
        shown(text), width(), initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    click.echo("\n".join(wrapped or [first.rstrip()]))


def print_list(found: Sequence[Release]) -> None:
    """By project, what is rebuilt first: the name, what it is, how many digests of it are known."""
    projects = sorted({one.project for one in found}, key=lambda one: (one != "LLaMA", one.lower()))
    column = max(len(one.name) for one in found)
    for project in projects:
        click.echo(click.style(project or "others", bold=True))
        group = [one for one in found if one.project == project]
        for one in sorted(group, key=lambda one: (list(SHORT).index(one.kind), one.name)):
            click.echo(f"  {one.name:<{column}}  {SHORT[one.kind]:<9}  {len(one.entries()) or '-':>2}")
    say("The numbers are of published digests; - where none was found.")
    click.echo("next: weightkit releases NAME")


def brief(release: Release) -> dict[str, Any]:
    """A line of the list, for programs."""
    return {
        "name": release.name,
        "title": release.title,
        "kind": release.kind,
        "project": release.project,
        "base": release.base,
        "hub": list(release.hubs()),
        "digests": len(release.entries()),
    }


def facts_of(release: Release) -> dict[str, Any]:
    """An entry, for programs."""
    from weightkit import catalog
    from weightkit.cli.way import gaps, way

    return {
        "name": release.name,
        "title": release.title,
        "kind": release.kind,
        "project": release.project,
        "aliases": list(release.aliases),
        "base": release.base,
        "key": release.key,
        "vocabulary": release.vocabulary,
        "recipe": asdict(release.recipe) if release.recipe else None,
        "made": [one.name for one in catalog.made_of(release)],
        "where": [asdict(one) for one in release.where],
        "nowhere": release.nowhere or None,
        "steps": [one.facts() for one in way(release)],
        "unproved": gaps(release),
        "gotchas": list(release.gotchas),
        "sources": list(release.sources),
        "digests": [
            {
                "path": entry.path,
                "algorithm": entry.digest.algorithm,
                "digest": entry.digest.hex,
                "bytes": release.sizes.get(entry.path),
            }
            for entry in release.entries()
        ],
    }


def print_one(release: Release) -> None:
    """An entry: what it is, its digests and where they are from, and last the way to it."""
    from weightkit import catalog
    from weightkit.cli.way import gaps, way

    click.echo(click.style(release.name, bold=True))
    say(f"{release.title} ({catalog.KINDS[release.kind]})", "  ")
    for label, value in labels(release):
        say(value, f"  {label:<10} ")
    print_digests(release)
    for number, step in enumerate(way(release), 1):
        print_step(number, step)
    if unproved := gaps(release):
        click.echo(click.style("cannot be checked", bold=True))
        for line in unproved:
            say(line, "  ")


def labels(release: Release) -> Iterable[tuple[str, str]]:
    """What is known of an entry, a line each."""
    recipe = asdict(release.recipe) if release.recipe else {}
    recipe.pop("unfinished", None)
    facts = {"project": release.project, "also": release.aliases, "base": release.base, "key": release.key}
    for label, value in {**facts, "vocabulary": release.vocabulary, "dtype": release.dtype, **recipe}.items():
        if value:
            yield label, ", ".join(value) if isinstance(value, tuple) else str(value)
    yield from (("note", one) for one in release.gotchas)
    for place in release.where if release.recipe else ():
        yield "also at", f"{place.hub or place.url}{facts_about(place)} (according to {place.source})"


def print_digests(release: Release) -> None:
    """The digests, under their files, and who published them; each digest is whole on its line."""
    entries = release.entries()
    click.echo(click.style("digests" if entries else "digests: none were published, or none was found", bold=True))
    last = None
    for entry in entries:
        if entry.path != last:
            size = release.sizes.get(entry.path)
            say(entry.path + (f"  ({size} bytes)" if size else ""), "  ", "    ")
            last = entry.path
        click.echo(f"    {entry.digest.algorithm:<6} {entry.digest.hex}")
    for source in release.sources:
        say(source, "  source     ")


def print_step(number: int, step: Step) -> None:
    """One step: what, where, and what to type."""
    say(click.unstyle(step.title), f"{number}. ")
    for place in step.places:
        print_place(place)
    for words in step.commands:
        print_command(words)
    for note in step.notes:
        say(note, "   ")


def print_place(place: Place) -> None:
    """Where files are, and who says so."""
    say(f"{place.hub or place.url}{facts_about(place)}", f"   {'on the Hub' if place.hub else 'at'} ", "     ")
    say(f"according to {place.source}", "     ")


def facts_about(place: Place) -> str:
    """What else is known of a place: the commit, whether files are there, the note."""
    status = {"reachable": "its pages were read for the digests", "gone": "gone", "unknown": ""}[place.status]
    facts = (f"commit {place.revision}" if place.revision else "", status, place.note)
    return "".join(f"; {one}" for one in facts if one)


def print_command(words: Sequence[str]) -> None:
    """A command to copy; a long one goes on after a backslash, an option with its value."""
    pieces: list[str] = []
    for word in words:
        if pieces and pieces[-1].startswith("--") and " " not in pieces[-1]:
            pieces[-1] += f" {shlex.quote(word)}"
        else:
            pieces.append(shlex.quote(word))
    line = "   "
    for piece in pieces:
        if len(line) + 1 + len(piece) + 2 > width() and line.strip():
            click.echo(f"{line} \\")
            line = "       "
        line += f" {piece}"
    click.echo(line)
