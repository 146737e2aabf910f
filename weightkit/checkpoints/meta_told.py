"""Who laid out a part of Meta's, told from its names, their order, its storages and its root: nothing is hashed."""

from __future__ import annotations

import re

from weightkit.checkpoints.meta_layout import FREQS, LAYER_FREQS, MANY, ONE, SHARED, SHARING, PartForm
from weightkit.containers import Container
from weightkit.containers.bin import DEFAULT_PROFILE
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.families import llama

__all__ = ["is_part", "laid_out_by"]

ROOTS = {False: re.compile("consolidated"), True: re.compile(r"consolidated\.\d\d")}
TOP = [row.meta for row in llama.TOP_TABLE]


def is_part(container: Container) -> bool:
    """Whether a file holds tensors under Meta's names."""
    return "tok_embeddings.weight" in container.tensors and "layers.0.attention.wq.weight" in container.tensors


def laid_out_by(part: Container) -> str:
    """Whose layout a part is in, for people."""
    names, layers, width = list(part.tensors), layers_of(part), part.tensors["layers.0.attention.wq.weight"].spec.width
    count = parts_of(part)
    for form in (ONE, SHARED, MANY):
        if (
            (count == 1) != (form is ONE)
            or (form is MANY and (width, count) in SHARING)
            or names != names_of(form, layers)
            or shares(part) != form.shared
        ):
            continue
        own = part.encoding
        plain = isinstance(own, TorchZip) and (own.profile, own.kind) == (DEFAULT_PROFILE, "dict") and root_fits(form, own.root)
        if plain and getattr(part, "location", "cpu").startswith("cuda:" if form.shared else "cpu"):
            return (
                f"Meta's own layout, as of LLaMA-{form.like} ({form.told}): as Meta wrote it, or weightkit convert --order meta"
            )
        return f"Meta's tensors in Meta's order, saved again by {part.written_by}: not Meta's bytes"
    rows = [name for _, _, name, _ in llama.all_rows(layers)]
    if names == [*TOP, FREQS, *rows[len(TOP) :]]:
        return f"in the order of LLaMA-2's parts, saved by {part.written_by}"
    if names == chinese(layers):
        return (
            f"in the order of Chinese-LLaMA-Alpaca's scripts (or weightkit convert --order chinese-llama), by {part.written_by}"
        )
    how = "without" if not any(name.endswith(FREQS) for name in names) else "with"
    known = "in Meta's order" if [name for name in names if not name.endswith(FREQS)] == rows else "in an order of its own"
    return f"converted: Meta's names {known}, {how} {FREQS}, saved by {part.written_by}: not Meta's bytes"


def layers_of(part: Container) -> int:
    """How many layers it has."""
    return 1 + max((number for name in part.tensors if (number := llama.block_of(name)) is not None), default=-1)


def parts_of(part: Container) -> int:
    """Of how many parts it is one: a query's rows are cut, its columns are not."""
    shape = part.tensors["layers.0.attention.wq.weight"].spec.shape
    return shape[1] // max(1, shape[0]) if len(shape) == 2 else 1


def names_of(form: PartForm, layers: int) -> list[str]:
    """The names in Meta's order."""
    freqs = [f"layers.{number}.{LAYER_FREQS}" for number in range(layers)] if form.each else [FREQS]
    return [*(name for _, _, name, _ in llama.all_rows(layers)), *freqs]


def chinese(layers: int) -> list[str]:
    """The names in the order of transformers' state dict, without frequencies."""
    metas = {huggingface: name for _, huggingface, name, _ in llama.all_rows(layers)}
    return [metas[name] for name in llama.in_state_dict_order(metas)]


def shares(part: Container) -> bool:
    """Whether the tensors outside the layers share a storage."""
    records = {part.tensors[name].record for name in TOP if name in part.tensors}
    return len(records) == 1 and None not in records


def root_fits(form: PartForm, root: str) -> bool:
    """Whether a root is Meta's."""
    return ROOTS[form.numbered].fullmatch(root) is not None
