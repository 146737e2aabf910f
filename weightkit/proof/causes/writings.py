"""Other ways in which the same tensors may have been written: by another torch, another kind of dict, other frequencies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weightkit.blobs import known
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.containers import Container
from weightkit.containers.layout import Encoding, one_each
from weightkit.core.dtypes import FLOAT16, FLOAT32
from weightkit.core.lazy import LazyTensor, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.ops.add import Cast
from weightkit.run.plan import OutputFile

__all__ = ["Writing", "compat_words", "forms", "head_dim", "other_ways", "version_of"]


@dataclass(frozen=True, slots=True)
class Writing:
    """One way in which a file may have been written.

    Attributes:
        tensors: What is done to the tensors; empty where they are as they are.
        file: What would be written.
    """

    tensors: str
    file: OutputFile


def version_of(profile: str) -> str:
    """The torch release that a profile is called after, as ``--torch-compat`` takes it; of others the name itself."""
    return profile.removeprefix("zip-")


def compat_words(encoding: Encoding) -> str:
    """What a command is told so that it writes in this way."""
    return f" --torch-compat {version_of(encoding.profile)}"


def forms(path: str, container: Container) -> Sequence[Encoding]:
    """Ways in which a file may have been written, the one nearest to it first; none where nothing writes its format."""
    try:
        like = container.format.encoding(path, container, None, same=True)
        return container.format.variants(path, like, all_kinds=True)
    except ValueError:
        return ()


def other_ways(path: str, checkpoint: Checkpoint) -> Iterator[Writing]:
    """The tensors of a file as other torches, and with other frequencies, would have written them.

    None for a format in which they are written in one way alone.
    """
    (container,) = checkpoint.files.values()
    encodings = forms(path, container)
    if len(encodings) < 2:
        return
    own = as_they_lie(container)
    yield from (Writing("", OutputFile(path, one, container.layout, own)) for one in encodings)
    for what, tensors in other_frequencies(checkpoint):
        layout = one_each((name, tensor.spec) for name, tensor in tensors.items())
        runs = tuple((tensor,) for tensor in tensors.values())
        yield from (Writing(what, OutputFile(path, one, layout, runs)) for one in encodings)


def as_they_lie(container: Container) -> tuple[tuple[LazyTensor, ...], ...]:
    """A file's own tensors, run by run."""
    runs: list[dict[int, LazyTensor]] = [{} for _ in container.layout.runs]
    for item in container.layout.items:
        runs[item.run][item.offset] = container.tensors[item.name]
    return tuple(tuple(parts[offset] for offset in sorted(parts)) for parts in runs)


def other_frequencies(checkpoint: Checkpoint) -> Iterator[tuple[str, Mapping[str, LazyTensor]]]:
    """The tensors with inv_freq left out, added or in other bits, and what that is called."""
    tensors = dict(checkpoint.tensors)
    have = {name for name in tensors if llama.is_inv_freq(name)}
    layers = [name for name in tensors if name.endswith("self_attn.q_proj.weight")]
    if not layers:
        return
    if have:
        yield "inv_freq should not be there", {name: one for name, one in tensors.items() if name not in have}
    count = next((tensors[name].spec.shape[0] for name in have), 0) or head_dim(checkpoint, tensors[layers[0]]) // 2
    if not count:
        return
    exact = frequencies(count)
    half = derive(Cast(FLOAT16), exact)
    for what, value in (
        ("exact, in float32", exact),
        ("rounded through float16, in float32", derive(Cast(FLOAT32), half)),
        ("in float16", half),
    ):
        names = have or {name.replace("self_attn.q_proj.weight", llama.INV_FREQ) for name in layers}
        changed = {**tensors, **dict.fromkeys(names, value)}
        verb = "inv_freq should be" if have else "inv_freq is missing; it should be there,"
        yield f"{verb} {what}", {name: changed[name] for name in llama.in_state_dict_order(changed)}


def frequencies(count: int) -> Stored:
    """The exact rotary frequencies, as transformers computes them."""
    return known("inv_freq", TensorSpec(FLOAT32, (count,)), llama.inv_freq(count).tobytes())


def head_dim(checkpoint: Checkpoint, weight: LazyTensor) -> int:
    """Rows of an attention head, from the config or LLaMA's own widths; 0 where nothing tells."""
    width = weight.spec.shape[0]
    heads = checkpoint.json("config.json").get("num_attention_heads") or llama.HEADS.get(width)
    return width // heads if type(heads) is int and heads and width % heads == 0 else 0
