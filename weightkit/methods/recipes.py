"""From an entry of the catalog to what ``recover`` and ``merge`` are told: it fills in what the user did not say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from weightkit import catalog
from weightkit.blobs import folder_at
from weightkit.catalog import UNKNOWN, Recipe, Release
from weightkit.catalog.places import by_name, introduced
from weightkit.checkpoints.form import Form, Order
from weightkit.core.blob import Folder
from weightkit.core.dtypes import BY_NAME
from weightkit.core.errors import PlanError
from weightkit.families.converters import converter_named
from weightkit.methods.lora import Arithmetic
from weightkit.methods.pairing import NewRows, Rules
from weightkit.ops.lora import rounding_named
from weightkit.ops.product import SUMS, Sums

__all__ = ["Filled", "filled", "payloads_by_name", "recipe_for", "recipe_how", "recipe_rules"]


def recipe_for(name: str, methods: tuple[str, ...], command: str) -> tuple[Release, Recipe]:
    """An entry and its recipe, if it is one for this command.

    Raises:
        PlanError: It has none, or one for another command.
    """
    release = catalog.rebuilt(name, methods)
    if release.kind == "whole":
        raise PlanError(
            f"--release: {release.name} was released whole, so there is nothing to rebuild: {release.title}",
            hint=f"weightkit releases {release.name} says where it can be had",
        )
    if release.recipe is None:
        made = catalog.made_of(release)
        raise PlanError(
            f"--release: {release.name} is no release to be rebuilt but {catalog.KINDS[release.kind]}: {release.title}",
            hint=f"of it {', '.join(one.name for one in made)} can be made" if made else None,
        )
    if release.recipe.method not in methods:
        other = {"lora": "merge", "convert": "convert"}.get(release.recipe.method, "recover")
        raise PlanError(f"--release: {release.name} is made with weightkit {other}, not with {command}")
    return release, release.recipe


class Filled:
    """What a recipe says, where the user did not.

    Attributes:
        rules: About tensors.
        form: About files.
        how: About LoRAs.
        converter: Whose conversion of the base; None for the default.
        to: The layout.
        order: Of Meta's parts.
        notes: What was filled in, and what is not known.
    """

    def __init__(
        self,
        release: Release,
        recipe: Recipe,
        *,
        rules: Rules | None = None,
        form: Form | None = None,
        how: Arithmetic | None = None,
        converter: str | None = None,
    ) -> None:
        self.rules, self.form, self.how = rules or Rules(), form or Form(), how or Arithmetic()
        self.converter = converter
        self.notes = [f"--release {release.name}: {release.title}"]
        self.rules = recipe_rules(recipe, self.rules)
        if recipe.method == "lora" and recipe.profile and self.form.torch_compat is None:
            self.form = replace(self.form, torch_compat=recipe.profile)
        if how is None and recipe.rounding:
            self.how = Arithmetic(rounding_name(recipe.rounding), sums_name(recipe.sums))
        if converter is None and recipe.converter not in (None, UNKNOWN):
            self.converter = recipe.converter
            converter_named(recipe.converter or "")
        self.to = recipe.to or "hf"
        self.order = cast(Order, recipe.order or "chinese-llama")
        if recipe.unfinished:
            self.notes.append(f"--release {release.name}: {recipe.unfinished}")
        if not release.lists:
            self.notes.append(f"--release {release.name}: no digests were found of it, so nothing proves the result")


def recipe_rules(recipe: Recipe, rules: Rules) -> Rules:
    """What a recipe says about tensors, where the user did not."""
    if recipe.dtype and rules.dtype is None:
        rules = replace(rules, dtype=BY_NAME[recipe.dtype])
    if recipe.new_rows and rules.new_rows is None:
        rules = replace(rules, new_rows=cast(NewRows, recipe.new_rows))
    return replace(rules, whole=recipe.whole) if recipe.whole and not rules.whole else rules


def recipe_how(name: str, recipe: Recipe, how: Arithmetic | None) -> Arithmetic | None:
    """What a recipe from outside says about adapters, where the user did not.

    Raises:
        PlanError: It names a rounding that is not known.
    """
    if how is not None or not recipe.rounding:
        return how
    try:
        return Arithmetic(rounding_name(recipe.rounding), sums_name(recipe.sums))
    except ValueError as error:
        raise PlanError(f"--release {name}: {error}", hint="a newer weightkit may know it") from error


def rounding_name(name: str) -> str:
    """A rounding that is known."""
    rounding_named(name)
    return name


def sums_name(name: str | None) -> Sums:
    """An order of sums that is known."""
    found = next((one for one in SUMS if one == name), None)
    return found or "fma"


def filled(
    name: str,
    methods: tuple[str, ...],
    command: str,
    *,
    rules: Rules | None = None,
    form: Form | None = None,
    how: Arithmetic | None = None,
    converter: str | None = None,
) -> tuple[Release, Filled]:
    """An entry, and what it fills in. Raises like ``recipe_for``."""
    release, recipe = recipe_for(name, methods, command)
    return release, Filled(release, recipe, rules=rules, form=form, how=how, converter=converter)


def payloads_by_name(
    name: str,
    methods: tuple[str, ...],
    command: str,
    *,
    adapters: bool = True,
    say: Callable[[str], None] | None = None,
) -> tuple[Folder | None, tuple[Folder, ...], list[str]]:
    """A release's diff, if it takes one, and its adapters in order, where the catalog says that they are on the Hub.

    Args:
        name: The release.
        methods: Those of the command.
        command: Its name.
        adapters: Whether they are wanted.
        say: Told at once what the notes say: commit and licence of each.

    Returns:
        Diff, adapters, notes.

    Raises:
        PlanError: As ``recipe_for``; or nobody says where one of them is, or it may not be had.
        FormatError: The Hub is not reached.
    """
    entry, _ = recipe_for(name, methods, command)
    diff, loras = by_name(entry, adapters=adapters)
    opened = None if diff is None else folder_at(diff, "--diff")
    merged = tuple(folder_at(one, "--lora") for one in loras)
    notes = [introduced(one) for one in (opened, *merged) if one is not None]
    if say is not None:
        for note in notes:
            say(note)
    return opened, merged, notes
