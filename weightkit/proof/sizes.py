"""Number, order, size and vocabulary of a release's inputs: told from headers, before anything is read or trusted."""

from __future__ import annotations

from collections.abc import Sequence

from weightkit import catalog
from weightkit.catalog import UNKNOWN, Recipe, Release
from weightkit.checkpoints.evidence import llama_two_marks
from weightkit.checkpoints.model import Model
from weightkit.checkpoints.peft import open_adapter
from weightkit.core.blob import Folder
from weightkit.core.errors import PlanError
from weightkit.families import llama
from weightkit.methods.placing import adapter_rows, adapter_width

__all__ = ["base_fits", "counted", "in_order", "made_by", "original", "result_fits"]

EMBEDDING = "model.embed_tokens.weight"


def original(release: Release) -> Release | None:
    """The original weights that a release comes from."""
    while release.base is not None and release.kind != "raw":
        release = catalog.load(release.base)
    return release if release.kind == "raw" else None


def counted(name: str, recipe: Recipe, given: int) -> None:
    """Refuse another number of adapters than a release was made with.

    Raises:
        PlanError: It is another.
    """
    if given == len(recipe.lora):
        return
    times = "once" if given == 1 else f"{given} times"
    advice = "name each of them, in this order" if given < len(recipe.lora) else "leave the others out"
    raise PlanError(f"--release {name}: takes {wanted(recipe)}; --lora was given {times}: {advice}")


def wanted(recipe: Recipe) -> str:
    """The adapters of a recipe, as they are to be named."""
    words = [f"--lora {one}" if one != UNKNOWN else "one --lora" for one in recipe.lora]
    return ", then ".join(words) or "no --lora"


def made_by(release: Release, method: str, payload: Folder, what: str) -> None:
    """Refuse a payload of another kind than the release was published as.

    Raises:
        PlanError: It is of another.
    """
    recipe = release.recipe
    if recipe is not None and method != recipe.method:
        named = recipe.diff if recipe.diff not in (None, UNKNOWN) else f"its own payload ({recipe.method})"
        raise PlanError(
            f"--release {release.name}: --diff {payload.name} is {what}, and the release takes {named}; name that one"
        )


def base_fits(release: Release, base: Model) -> list[str]:
    """See that a base has the width and the rows of the release's; a note, where its config says another model.

    Raises:
        PlanError: It is another size of LLaMA or none, has another vocabulary, or is LLaMA-2.
    """
    raw, shape = original(release), embedding(base)
    if raw is None or shape is None:
        return []
    widths = {name.lower(): width for width, name in llama.SIZES.items()}
    where = f"--release {release.name}: is made of {raw.name}"
    if raw.name in widths and shape[-1] != widths[raw.name]:
        size = f", {llama.SIZES[shape[-1]]}'s" if shape[-1] in llama.SIZES else ""
        raise PlanError(
            f"{where}, {widths[raw.name]} wide, and {base.role} {base.source.name} is {shape[-1]} wide{size}: "
            "name the original of that size"
        )
    if isinstance(raw.vocabulary, int) and shape[0] != raw.vocabulary:
        raise PlanError(
            f"{where}, with {raw.vocabulary} rows of vocabulary, and {base.role} {base.source.name} has {shape[0]}"
            f"{llama.named_rows(shape[0])}: it is tuned or merged already; name the original"
        )
    marks = llama_two_marks(base.follows.json("config.json")) if base.follows and raw.name in widths else []
    told = f"{base.role} {base.source.name} looks like LLaMA-2 ({', '.join(marks)} in its config)"
    if len(marks) > 1:
        raise PlanError(f"{where}, and {told}; name LLaMA 1")
    return [f"{where}, and {told}"] if marks else []


def in_order(release: Release, base: Model, adapters: Sequence[Folder]) -> None:
    """See that adapters have the width of the base, and the rows that the release's have, one after another.

    Raises:
        PlanError: One is of another size, or has another vocabulary: it is another adapter, or they are in another order.
    """
    recipe, shape = release.recipe, embedding(base)
    if recipe is None:
        return
    named = wanted(recipe)
    for entry, folder in zip(recipe.lora, adapters, strict=True):
        adapter = open_adapter(folder, "--lora")
        rows, width = adapter_rows(adapter), adapter_width(adapter)
        where = f"--release {release.name}: --lora {folder.name}"
        if width and shape and width != shape[-1]:
            size = f" ({llama.SIZES[width]})" if width in llama.SIZES else ""
            raise PlanError(
                f"{where} was trained on a model {width} wide{size}, and the base is {shape[-1]} wide: take {entry}"
            )
        known = catalog.load(entry).vocabulary if entry != UNKNOWN else None
        if isinstance(known, int) and rows != known and (rows or (shape and shape[0] != known)):
            has = f"has {rows} rows of vocabulary{llama.named_rows(rows)}" if rows else "has no vocabulary of its own"
            raise PlanError(f"{where} {has}, and {entry} has {known}; the release takes {named}, in this order")


def result_fits(release: Release, result: Model) -> None:
    """See that what comes out has the rows of vocabulary that the release has.

    Raises:
        PlanError: It has others.
    """
    shape = embedding(result)
    if shape is not None and isinstance(release.vocabulary, int) and shape[0] != release.vocabulary:
        raise PlanError(
            f"--release {release.name}: has {release.vocabulary} rows of vocabulary{llama.named_rows(release.vocabulary)}, and "
            f"with these inputs {shape[0]} come out{llama.named_rows(shape[0])}: one of them is another release's; name its own"
        )


def embedding(model: Model) -> tuple[int, ...] | None:
    """Rows and width of the embedding; None where the model has none, or nobody has looked into it."""
    tensor = (model.tensors or {}).get(EMBEDDING)
    return None if tensor is None or len(tensor.spec.shape) != 2 else tensor.spec.shape
