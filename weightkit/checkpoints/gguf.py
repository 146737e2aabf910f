"""One GGUF file, for llama.cpp and what is built on it: written, never read as weights.

    ggml-model-q8_0.gguf   the tensors under llama.cpp's names, the model's numbers, the tokenizer

The tensors' bytes are those that llama.cpp's converter writes; of q4_0, which that does not write, those of
``llama-quantize --pure``. Norms are float32, and matrices whose rows are no whole blocks float16, as there. Source: llama.cpp
``convert_hf_to_gguf.py``, ``conversion/base.py`` and ``conversion/llama.py``, run beside it (tests/test_gguf.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from weightkit.checkpoints.checkpoint import Checkpoint, read_json
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.gguf_vocabulary import gguf_package, vocabulary_facts
from weightkit.checkpoints.layout import known_tensors
from weightkit.checkpoints.model import Model, Written
from weightkit.checkpoints.original import dropped_buffers, shape_of, unpaired
from weightkit.checkpoints.output import patch_config
from weightkit.containers import suffixes
from weightkit.containers.gguf import Fact, Gguf, encode_facts
from weightkit.containers.layout import one_each
from weightkit.core.blob import Folder
from weightkit.core.dtypes import FLOAT16, FLOAT32, DType
from weightkit.core.errors import PlanError
from weightkit.core.lazy import LazyTensor, derive
from weightkit.families import llama
from weightkit.families.converters import Converter, ModelShape
from weightkit.families.gguf import FILE_TYPES, QUANTIZATION_VERSION, SUFFIX, dtype_of, file_name
from weightkit.ops.add import Cast
from weightkit.ops.quantize import Quantize
from weightkit.run.plan import OutputFile

__all__ = ["DEFAULT_TYPE", "GGUF", "GgufLayout"]

DEFAULT_TYPE = "f16"
ARCHITECTURE = "llama"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """The layout, as a ``FolderLayout``."""

    name: ClassVar[str] = "gguf"

    def recognise(self, folder: Folder) -> bool:
        """Whether there is such a file and no other weights."""
        names = folder.names()
        return any(name.endswith(SUFFIX) for name in names) and not any(name.endswith(suffixes()) for name in names)

    def open(self, folder: Folder, role: str, converter: Converter) -> Checkpoint:
        """Refused."""
        raise PlanError(
            f"{role}: {folder.name} is GGUF, which is written here and not read; name the weights that it was made of"
        )

    def write(self, model: Model, form: Form) -> Written:
        """One file. Raises ``WeightkitError`` where llama.cpp's package is not installed."""
        kind = form.type or DEFAULT_TYPE
        dtype, gguf = dtype_of(kind), gguf_package()
        follows, tensors = known_tensors(model)
        configs = model.configs or follows
        config = configs.small("config.json")
        if config is None:
            raise ValueError("has no config.json, which says how many heads the model has; put it beside the weights")
        said = read_json(config, configs.where("config.json"))
        refuse_family(said)
        own = with_head(tensors, said)
        shape = shape_of(configs, own)
        if shape.rope_scaled:
            raise ValueError("has LLaMA 3.1's scaled frequencies, which are not written to GGUF files here")
        notes: list[str] = list(dropped_buffers(follows, tensors))
        named = stored(gguf, tensors, shape, dtype, notes)
        config = patch_config(config, tensors, model.pad_token) if model.patch else config
        total = sum(one.spec.numel for one in named.values())
        facts: dict[str, Fact] = {
            "general.architecture": ("string", ARCHITECTURE),
            "general.type": ("string", "model"),
            "general.size_label": ("string", gguf.size_label(total, 0, 0, 0)),
            **numbers(said, shape),
            "general.file_type": ("uint32", FILE_TYPES[kind]),
            "llama.vocab_size": ("uint32", shape.tokens),
            "llama.rope.dimension_count": ("uint32", shape.head_dim),
            "general.quantization_version": ("uint32", QUANTIZATION_VERSION),
            **vocabulary_facts(model.tokenizers or follows, config, shape.tokens, notes),
        }
        encoding = Gguf(encode_facts(facts), len(facts))
        layout = one_each((name, one.spec) for name, one in named.items())
        return Written(
            (OutputFile(file_name(kind), encoding, layout, tuple((one,) for one in named.values())),), (), tuple(notes)
        )


GGUF = GgufLayout()


def refuse_family(config: Mapping[str, Any]) -> None:
    """Refuse what is no LLaMA; ``ValueError`` says with what it is converted."""
    kind = config.get("model_type", ARCHITECTURE)
    if kind != ARCHITECTURE:
        raise ValueError(
            f"says model_type {str(kind)[:40]!r} in its config.json, and GGUF files are written of LLaMA's family alone: "
            "llama.cpp's convert_hf_to_gguf.py converts the others"
        )


def with_head(tensors: Mapping[str, LazyTensor], config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The tensors with the head that is tied to the embedding, where none is stored; llama.cpp takes the embedding itself."""
    tied = HEAD not in tensors and bool(config.get("tie_word_embeddings")) and EMBEDDING in tensors
    return {**tensors, HEAD: tensors[EMBEDDING]} if tied else dict(tensors)


def stored(
    gguf: Any, tensors: Mapping[str, LazyTensor], shape: ModelShape, dtype: DType, notes: list[str]
) -> dict[str, LazyTensor]:
    """llama.cpp's name -> the tensor, in the order of transformers' state dict, its rotary pairs as Meta has them.

    Raises:
        ValueError: The shapes are not those of the numbers.
    """
    wanted = shape.tensor_shapes()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.layers)
    rows = {name: row for row, name, _, _ in llama.all_rows(shape.layers)}
    misfits = [name for name, row in rows.items() if name in tensors and tensors[name].spec.shape != wanted[row.huggingface]]
    if misfits:
        found, expected = list(tensors[misfits[0]].spec.shape), list(wanted[rows[misfits[0]].huggingface])
        raise ValueError(f"{misfits[0]} is {found}, and the model's numbers make it {expected}: they are not of one model")
    found_as: dict[str, LazyTensor] = {}
    as_f16 = []
    for name in llama.in_state_dict_order(one for one in tensors if one in rows):
        tensor, chosen = unpaired(tensors[name], rows[name], shape), dtype
        if len(tensor.spec.shape) < 2:
            chosen = FLOAT32
        elif tensor.spec.width % dtype.block:
            chosen = FLOAT16
            as_f16.append(name)
        found_as[names.get_name(name, try_suffixes=(".weight",))] = as_type(tensor, chosen)
    if as_f16:
        more = f" and {len(as_f16) - 1} more" if len(as_f16) > 1 else ""
        notes.append(f"{as_f16[0]}{more}: stored in f16: its rows are no whole blocks of {dtype.block}")
    return found_as


def as_type(tensor: LazyTensor, dtype: DType) -> LazyTensor:
    """A tensor in another type."""
    if tensor.spec.dtype == dtype:
        return tensor
    return derive(Cast(dtype) if dtype.kind == "float" else Quantize(dtype), tensor)


def numbers(config: Mapping[str, Any], shape: ModelShape) -> dict[str, Fact]:
    """The model's numbers; where config.json leaves some out, what transformers takes then."""
    context = config.get("max_position_embeddings", 2048)
    return {
        "llama.block_count": ("uint32", shape.layers),
        "llama.context_length": ("uint32", context if type(context) is int else 2048),
        "llama.embedding_length": ("uint32", shape.dim),
        "llama.feed_forward_length": ("uint32", shape.inner),
        "llama.attention.head_count": ("uint32", shape.heads),
        "llama.attention.head_count_kv": ("uint32", shape.kv_heads),
        "llama.rope.freq_base": ("float32", shape.rope_theta),
        "llama.attention.layer_norm_rms_epsilon": ("float32", shape.norm_eps),
        "llama.attention.key_length": ("uint32", shape.head_dim),
        "llama.attention.value_length": ("uint32", shape.head_dim),
    }
