"""What the layouts of the original weights have in common, Meta's and TencentPretrain's, beside transformers'.

They have the rotary pairs next to each other and no rotary buffers, they are torch files, and the model's numbers stand in a
JSON of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from weightkit.blobs import MemoryBlob
from weightkit.checkpoints.agreement import contradicting
from weightkit.checkpoints.checkpoint import Checkpoint, lone_file, whole
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.rope import frequencies_problem, refuse_settings, rope_of_config
from weightkit.containers.bin import BIN
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core.blob import Folder
from weightkit.core.dtypes import FLOAT16, FLOAT32
from weightkit.core.lazy import Derived, LazyTensor, Stored, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.families.converters import Converter, ModelShape
from weightkit.ops.add import Cast
from weightkit.ops.move import PairRows

__all__ = [
    "dropped_buffers",
    "inv_freq_tensors",
    "shape_of",
    "tokenizer_beside",
    "tokenizer_notes",
    "torch_encoding",
    "unpaired",
]


def inv_freq_tensors(shape: ModelShape, converter: Converter) -> dict[str, LazyTensor]:
    """The rotary buffers that the converter added, one a layer, as it stored them.

    They are equal, but not one tensor: each has a place of its own, so that none is taken for tied to another.
    """
    if converter.inv_freq == "none" or shape.rope_scaled:
        return {}
    spec = TensorSpec(FLOAT32, (shape.head_dim // 2,))
    blob = MemoryBlob(llama.inv_freq(shape.head_dim // 2, shape.rope_theta).tobytes() * shape.layers)
    tensors: dict[str, LazyTensor] = {}
    for layer in range(shape.layers):
        name = f"model.layers.{layer}.{llama.INV_FREQ}"
        tensors[name] = Stored(blob, name, spec, layer * spec.nbytes)
        if converter.inv_freq != "exact":
            tensors[name] = derive(Cast(FLOAT16), tensors[name])
        if converter.inv_freq == "float32":
            tensors[name] = derive(Cast(FLOAT32), tensors[name])
    return tensors


def tokenizer_beside(folder: Folder) -> dict[str, bytes]:
    """tokenizer.model, from the folder or the one above it."""
    above = folder.above()
    if above is not None and lone_file(folder) is not None:
        above = above.above()  # what is above a single file is its own folder
    for place in (folder, above):
        if place is not None and place.holds("tokenizer.model"):
            return {"tokenizer.model": whole(place.blob("tokenizer.model"))}
    return {}


def shape_of(source: Checkpoint, tensors: Mapping[str, LazyTensor]) -> ModelShape:
    """The model's numbers: from config.json, from the tensors, and for LLaMA's own widths known.

    Raises:
        ValueError: Nothing says how many heads it has, tensors of a LLaMA are missing, or it has tensors or settings that the
            layouts of the original weights have no place for.
    """
    lacking = [row.huggingface for row in llama.TOP_TABLE if row.huggingface not in tensors]
    own = (llama.block_of(name) for name in tensors if name.startswith("model.layers."))
    layers = 1 + max((number for number in own if number is not None), default=-1)
    if layers > len(tensors):
        raise ValueError(f"is no LLaMA, or incomplete: a name speaks of layer {layers - 1}, and it has {len(tensors)} tensors")
    for layer in range(max(1, layers)):
        names = (f"model.layers.{layer}.{row.huggingface}" for row in llama.LAYER_TABLE)
        lacking += [name for name in names if name not in tensors]
    config = source.json("config.json")
    if lacking == ["lm_head.weight"] and config.get("tie_word_embeddings"):
        raise ValueError(
            "its head is tied to its embedding (tie_word_embeddings), so it has no lm_head.weight, which this layout stores; "
            "store the head in a file of its own, with the values of model.embed_tokens.weight"
        )
    if lacking:
        raise ValueError(f"is no LLaMA, or incomplete: it lacks {', '.join(lacking[:3])}")
    refuse_homeless(tensors, layers)
    if problems := contradicting(config, tensors):
        raise ValueError(problems[0])
    tokens, dim = tensors["model.embed_tokens.weight"].spec.shape
    heads = config.get("num_attention_heads") or llama.HEADS.get(dim)
    if type(heads) is not int or dim % heads:
        raise ValueError(f"is {dim} wide, and its config.json does not say how many heads it has (num_attention_heads)")
    kv_heads = tensors["model.layers.0.self_attn.k_proj.weight"].spec.shape[0] // (dim // heads)
    inner = tensors["model.layers.0.mlp.gate_proj.weight"].spec.shape[0]
    eps = config.get("rms_norm_eps", 1e-5 if dim == 8192 else 1e-6)
    shape = ModelShape(dim, inner, heads, kv_heads, layers, tokens, float(eps), *rope_of_config(config))
    buffer = next((name for name in tensors if llama.is_inv_freq(name)), None)
    if buffer and (problem := frequencies_problem(buffer, tensors[buffer].spec, shape, "num_attention_heads")):
        raise ValueError(problem)
    refuse_settings(config, shape)
    return shape


def refuse_homeless(tensors: Mapping[str, LazyTensor], layers: int) -> None:
    """Refuse tensors that no layout of the original weights has a place for; rotary buffers alone follow from the numbers.

    Raises:
        ValueError: There are some.
    """
    known = {name for _, name, _, _ in llama.all_rows(layers)}
    left = [name for name in tensors if name not in known and not llama.is_inv_freq(name)]
    if left:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        count = "a tensor" if len(left) == 1 else f"{len(left)} tensors"
        raise ValueError(
            f"has {count} that this layout has no place for, so it would be another model: "
            f"{', '.join(name[:80] for name in left[:4])}{more}"
        )


def tokenizer_notes(tokenizers: Checkpoint) -> tuple[str, ...]:
    """A note where a model's tokenizer is in a form that the layouts of the original weights do not know."""
    names = tokenizers.small_files()
    if "tokenizer.model" in names or "tokenizer.json" not in names:
        return ()
    return (
        f"{tokenizers.name} has tokenizer.json and no tokenizer.model, which is what this layout's tools load: no tokenizer is "
        "written; fetch tokenizer.model from where the model came from",
    )


def dropped_buffers(source: Checkpoint, tensors: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    """A note where a file's rotary buffers are not written."""
    if source.layout != "huggingface" or not any(llama.is_inv_freq(name) for name in tensors):
        return ()
    return ("rotary_emb.inv_freq is not written: the frequencies follow from the model's numbers",)


def unpaired(tensor: LazyTensor, row: llama.Row, shape: ModelShape) -> LazyTensor:
    """A tensor with its rotary pairs as Meta has them; undoes our own reordering rather than reordering twice."""
    if not row.paired:
        return tensor
    if isinstance(tensor, Derived) and tensor.op == PairRows(shape.head_dim, halves=True):
        return tensor.inputs[0]
    return derive(PairRows(shape.head_dim, halves=False), tensor)


def torch_encoding(path: str, source: Checkpoint, form: Form) -> TorchZip:
    """What writes a torch file: as the user says, as the source's were written, or where those cannot be, as in 2023."""
    first = next(iter(source.files.values()))
    encoding = BIN.encoding(path, first, form.torch_compat, same=False)
    if form.torch_compat is None and encoding.profile != first.profile:
        return BIN.encoding(path, None, None, same=False)
    return encoding
