"""Other ways in which the same tensors may have been written: torch's profiles, kinds of dict, rotary frequencies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weightkit.checkpoints import Checkpoint
from weightkit.checkpoints.output import together
from weightkit.containers.memory import InMemory
from weightkit.containers.torch_file import TorchFile
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, root_for
from weightkit.core.dtypes import FLOAT16, FLOAT32
from weightkit.core.lazy import LazyTensor, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.ops.add import Cast
from weightkit.run.plan import OutputFile

__all__ = ["head_dim", "other_ways"]


def other_ways(name: str, checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, str], OutputFile]]:
    """The tensors of a file as other torches, and with other frequencies, would have written them."""
    (container,) = checkpoint.files.values()
    if not isinstance(container, TorchFile):
        return
    for what, tensors in other_frequencies(checkpoint):
        layout, runs = together([(one, tensor, one) for one, tensor in tensors.items()])
        if what == "container":
            layout = container.layout()
            placed: dict[int, dict[int, LazyTensor]] = {}
            for item in layout.items:
                placed.setdefault(item.run, {})[item.offset] = checkpoint.tensors[item.name]
            runs = tuple(tuple(parts[offset] for offset in sorted(parts)) for _, parts in sorted(placed.items()))
        for profile in PROFILES:
            kinds = {(container.kind if container.kind != "other" else "dict", container.metadata), ("dict", None)}
            for kind, metadata in sorted(kinds, key=str):
                encoding = TorchZip(profile, root_for(name, profile), kind, metadata)
                yield what, {"profile": profile.removeprefix("zip-")}, OutputFile(name, encoding, layout, runs)


def other_frequencies(checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, LazyTensor]]]:
    """The tensors as they are, and with inv_freq left out, added or in other bits."""
    tensors = dict(checkpoint.tensors)
    yield "container", tensors
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
    values = llama.inv_freq(count)
    return Stored(InMemory(Path("(computed)"), {"f": TensorSpec(FLOAT32, (count,))}, {"f": values.tobytes()}), "f")


def head_dim(checkpoint: Checkpoint, weight: LazyTensor) -> int:
    """Rows of an attention head, from the config or LLaMA's own widths; 0 where nothing tells."""
    width = weight.spec.shape[0]
    heads = checkpoint.json("config.json").get("num_attention_heads") or llama.HEADS.get(width)
    return width // heads if type(heads) is int and heads and width % heads == 0 else 0
