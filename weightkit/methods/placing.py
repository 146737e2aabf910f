"""Where in the order of a merge an adapter belongs: told from its width, its rows and the tokenizer that it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weightkit.checkpoints.peft import Adapter
from weightkit.checkpoints.vocabulary import Vocabulary
from weightkit.core.lazy import LazyTensor
from weightkit.families import llama

__all__ = ["adapter_rows", "adapter_width", "misplaced", "of_another_size"]


def of_another_size(tensors: Mapping[str, LazyTensor], adapter: Adapter) -> list[str]:
    """Why an adapter belongs to a model of another width."""
    width, wanted = width_of(tensors), adapter_width(adapter)
    if width and wanted and width != wanted:
        return [
            f"it was trained on a model {named_width(wanted)}, and the base is {named_width(width)}: adapters of one size do "
            "not fit another; take the adapter made for this base"
        ]
    return []


def misplaced(
    tensors: Mapping[str, LazyTensor], adapter: Adapter, known: Vocabulary | None, later: Sequence[Adapter]
) -> list[str]:
    """Why an adapter, with the tokenizer that it brings, belongs elsewhere in the order."""
    rows = rows_of(tensors)
    own = adapter_rows(adapter)
    tokens = known.size if known else None
    if own and rows and own < rows:
        return [
            f"it has {own} tokens, the model before it {rows}: adapters grow a vocabulary; the order is another, or the base"
        ]
    have = own or rows
    if tokens and have and tokens > have:
        for other in later:
            if (there := adapter_rows(other)) and there == tokens:
                return [f"its tokenizer has {tokens} tokens, as {other.name} has, which comes after it: name that one first"]
        return [
            f"its tokenizer has {tokens} tokens, and there are rows for {have}: "
            + (
                "the tokenizer is another release's; fetch the adapter's own"
                if own
                else "name the adapter that adds them first"
            )
        ]
    if tokens and own and tokens < own and (own % 8 or own - tokens >= 64):
        return [f"its tokenizer has {tokens} tokens, its embedding {own}: the tokenizer is another release's; fetch its own"]
    return []


def width_of(tensors: Mapping[str, LazyTensor]) -> int | None:
    """Width of a model, told from its vocabulary tensors."""
    shapes = (tensor.spec.shape for name, tensor in tensors.items() if llama.is_vocabulary(name))
    return next((shape[1] for shape in shapes if len(shape) == 2), None)


def adapter_width(adapter: Adapter) -> int | None:
    """Width of the model that an adapter was trained on, where its q_proj or embeddings tell it."""
    for name, tensor in adapter.whole.items():
        if llama.is_vocabulary(name) and len(tensor.spec.shape) == 2:
            return tensor.spec.shape[1]
    for module, factors in adapter.factors.items():
        if module.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            return factors.down.spec.shape[1]
    return None


def named_width(width: int) -> str:
    """A model's width, with the LLaMA it belongs to."""
    return f"{width} wide" + (f" ({llama.SIZES[width]})" if width in llama.SIZES else "")


def rows_of(tensors: Mapping[str, LazyTensor]) -> int | None:
    """Tokens that a model has rows for."""
    return max((tensor.spec.shape[0] for name, tensor in tensors.items() if llama.is_vocabulary(name)), default=None)


def adapter_rows(adapter: Adapter) -> int | None:
    """Tokens that an adapter has whole rows for; None where it has none."""
    return rows_of(adapter.whole)
