"""Who laid out a part of Meta's, told from its names, their order, its storages and its root: nothing is hashed."""

from __future__ import annotations

import re

from weightkit.checkpoints.meta_layout import FREQS, LAYER_FREQS, MANY, ONE, SHARED, SHARING, PartForm
from weightkit.containers import Container
from weightkit.containers.bin import DEFAULT_PROFILE
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.families import llama

__all__ = ["is_metas", "is_part", "laid_out_by"]

ROOTS = {False: re.compile("consolidated"), True: re.compile(r"consolidated\.\d\d")}
TOKENS = 32000
NUMBERS = {
    4096: (11008, 32, 1, TOKENS),
    5120: (13824, 40, 2, TOKENS),
    6656: (17920, 60, 4, TOKENS),
    8192: (22016, 80, 8, TOKENS),
}
"""Width -> width of the MLP, layers, parts, tokens. Source: LLaMA's own params.json; releases, section 1."""

TOP = [row.meta for row in llama.TOP_TABLE]


def is_part(container: Container) -> bool:
    """Whether a file holds tensors under Meta's names."""
    return "tok_embeddings.weight" in container.tensors and "layers.0.attention.wq.weight" in container.tensors


def is_metas(part: Container) -> bool:
    """Whether a part is laid out as Meta's own files are, to the byte: its values alone may be others."""
    form = form_of(part)
    return form is not None and written_as(form, part)


def laid_out_by(part: Container) -> str:
    """Whose layout a part is in, for people."""
    form = form_of(part)
    if form is not None and written_as(form, part):
        return f"Meta's own layout, as of LLaMA-{form.like} ({form.told}): {by_whom(form, part)}"
    if form is not None:
        return f"Meta's tensors in Meta's order, saved again by {part.written_by}: not Meta's bytes"
    names, layers = list(part.tensors), layers_of(part)
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


def form_of(part: Container) -> PartForm | None:
    """Whose names, order and storages it has; None where they are not Meta's."""
    names, layers, count = list(part.tensors), layers_of(part), parts_of(part)
    width = part.tensors["layers.0.attention.wq.weight"].spec.width
    fitting = (
        form
        for form in (ONE, SHARED, MANY)
        if (count == 1) == (form is ONE)
        and not (form is MANY and (width, count) in SHARING)
        and names == names_of(form, layers)
        and shares(part) == form.shared
    )
    return next(fitting, None)


def written_as(form: PartForm, part: Container) -> bool:
    """Whether the file around the tensors is as Meta's: torch's version, the root, the device."""
    own = part.encoding
    plain = isinstance(own, TorchZip) and (own.profile, own.kind) == (DEFAULT_PROFILE, "dict") and root_fits(form, own.root)
    return plain and getattr(part, "location", "cpu").startswith("cuda:" if form.shared else "cpu")


def by_whom(form: PartForm, part: Container) -> str:
    """Who may have written a part that is laid out as Meta's are: Meta published LLaMA 1's numbers in float16 alone."""
    convert = "weightkit convert --order meta"
    weights = {one.spec.dtype.name for name, one in part.tensors.items() if not name.endswith(FREQS)}
    if weights != {"float16"}:
        return f"as {convert} writes it, in {' and '.join(sorted(weights))}; Meta's are in float16"
    rows, width = part.tensors["tok_embeddings.weight"].spec.rows, part.tensors["norm.weight"].spec.numel
    count = parts_of(part)
    inner = part.tensors["layers.0.feed_forward.w1.weight"].spec.rows * count
    if NUMBERS.get(width) != (inner, layers_of(part), count, rows):
        return f"as {convert} writes it; no LLaMA 1 of Meta's has these numbers"
    return f"as Meta wrote it, or {convert}"


def layers_of(part: Container) -> int:
    """How many layers it has: those that are numbered one after another, since a name alone may speak of millions."""
    found = {llama.block_of(name) for name in part.tensors}
    return next(number for number in range(len(found) + 1) if number not in found)


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
