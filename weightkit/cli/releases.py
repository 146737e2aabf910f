"""``weightkit releases``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from weightkit.cli.options import exits, talk_options
from weightkit.cli.report import command_line, print_json

if TYPE_CHECKING:
    from weightkit.catalog import Release


@click.command("releases")
@click.argument("name", required=False)
@talk_options
@exits
def command(name: str | None, as_json: bool, quiet: bool) -> None:
    """The releases that weightkit knows; with NAME, one of them and all it takes."""
    from weightkit import catalog

    if name is None:
        known = list(catalog.releases().values())
        if as_json:
            facts = [{"name": one.name, "title": one.title, "kind": one.kind, "base": one.base} for one in known]
            print_json({"command": "releases", "releases": facts})
        elif not quiet:
            print_list(known)
        return
    release = catalog.load(name)
    if as_json:
        print_json({"command": "releases", **facts_of(release)})
    elif not quiet:
        print_one(release)


def print_list(known: list[Release]) -> None:
    """A line each, results first."""
    from weightkit.catalog import KINDS

    width = max(len(one.name) for one in known)
    for kind in ("result", "diff", "xor", "lora", "converted", "raw", "tokenizer"):
        click.echo(click.style(f"{KINDS[kind]}:", bold=True))
        for one in known:
            if one.kind == kind:
                count = len(one.entries())
                digests = f"{count} digests" if count else "no digests found"
                click.echo(f"  {one.name:<{width}}  {one.title}; {digests}")
    click.echo("next: weightkit releases NAME")


def facts_of(release: Release) -> dict[str, Any]:
    """An entry, for programs."""
    return {
        "name": release.name,
        "title": release.title,
        "kind": release.kind,
        "base": release.base,
        "vocabulary": release.vocabulary,
        "recipe": asdict(release.recipe) if release.recipe else None,
        "gotchas": list(release.gotchas),
        "sources": list(release.sources),
        "digests": [
            {"path": entry.path, "algorithm": entry.digest.algorithm, "digest": entry.digest.hex} for entry in release.entries()
        ],
    }


def print_one(release: Release) -> None:
    """An entry, with the commands that rebuild it."""
    from weightkit import catalog

    click.echo(f"{click.style(release.name, bold=True)}: {release.title} ({catalog.KINDS[release.kind]})")
    for label, value in (("base", release.base), ("key", release.key), ("vocabulary", release.vocabulary)):
        if value is not None:
            click.echo(f"  {label:<10} {value}")
    if release.recipe:
        for label, value in asdict(release.recipe).items():
            if value and label != "unfinished":
                click.echo(f"  {label:<10} {', '.join(value) if isinstance(value, tuple) else value}")
        if release.recipe.unfinished:
            click.echo(f"  unfinished {release.recipe.unfinished}")
    for gotcha in release.gotchas:
        click.echo(f"  note       {gotcha}")
    for source in release.sources:
        click.echo(f"  source     {source}")
    entries = release.entries()
    click.echo("digests:" if entries else "digests:   none were published, or none was found")
    for entry in entries:
        size = release.sizes.get(entry.path)
        click.echo(f"  {entry.digest.algorithm:<6} {entry.digest.hex}  {entry.path}" + (f"  ({size} bytes)" if size else ""))
    for line in commands(release):
        click.echo(f"next: {line}")


def commands(release: Release) -> list[str]:
    """What to type."""
    recipe, base = release.recipe, or_word(release.base, "BASE")
    lines = []
    if recipe and recipe.method == "lora":
        loras = [word for one in recipe.lora for word in ("--lora", or_word(one, "LORA"))]
        lines.append(command_line("weightkit", "merge", "--base", base, *loras, "--release", release.name, "--out", "OUT"))
    elif recipe and recipe.method == "convert":
        converter = or_word(recipe.converter, "")
        lines.append(
            command_line("weightkit", "convert", base, "OUT", "--to", "hf", *(["--as", converter] if converter else []))
        )
    elif recipe:
        words = ["--raw", base.partition("-hf")[0], "--diff", or_word(recipe.diff, "DIFF"), "--release", release.name]
        lines.append(command_line("weightkit", "recover", *words, "--out", "OUT"))
    if release.lists:
        lines.append(command_line("weightkit", "verify", "FOLDER", "--release", release.name))
    return lines


def or_word(entry: str | None, word: str) -> str:
    """What the catalog says, or a word for the user to fill in."""
    from weightkit.catalog import UNKNOWN

    return word if entry in (None, UNKNOWN) else str(entry)
