"""TencentPretrain's layout: one torch file, rotary pairs as Meta has them, a JSON of numbers beside it.

Source: TencentPretrain ``scripts/convert_llama_to_tencentpretrain.py`` and ``models/llama/7b_config.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from weightkit.checkpoints.agreement import without_lone_tokenizer
from weightkit.checkpoints.checkpoint import Checkpoint, lone_file, read_json, whole
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.layout import known_tensors
from weightkit.checkpoints.model import Model, Written
from weightkit.checkpoints.original import (
    dropped_buffers,
    inv_freq_tensors,
    shape_of,
    tokenizer_beside,
    tokenizer_notes,
    torch_encoding,
    unpaired,
)
from weightkit.containers import open_file
from weightkit.containers.bin import BIN
from weightkit.containers.layout import one_each
from weightkit.core.blob import Folder
from weightkit.core.errors import FormatError, PlanError
from weightkit.core.lazy import LazyTensor, derive
from weightkit.families import llama
from weightkit.families.converters import Converter, ModelShape
from weightkit.ops.move import PairRows
from weightkit.run.plan import OutputFile, SmallFile

__all__ = ["TENCENTPRETRAIN", "TencentPretrain"]

FILE_NAME = "tp.bin"
CONFIG_NAME = "tp_config.json"
NORM_EPS = 1e-6
"""What TencentPretrain takes where its JSON says nothing."""

FIRST = "embedding.word.embedding.weight"
LEFT = "has a tensor that is none of a LLaMA, so it would be another model without it:"
PREFIX = "encoder.transformer."
LAYER = re.compile(rf"{re.escape(PREFIX)}(\d{{1,6}})\.")

SCRIPT = ("q_proj", "k_proj", "v_proj", "o_proj", "input_layernorm", "gate_proj", "up_proj", "down_proj", "post_attention")
"""The tensors of a layer in the order in which TencentPretrain's own script writes them: a part of transformers' names."""


@dataclass(frozen=True, slots=True)
class TencentPretrain:
    """The layout, as a ``FolderLayout``."""

    name: ClassVar[str] = "tencentpretrain"

    def recognise(self, folder: Folder) -> bool:
        """Whether its only torch file holds a model under TencentPretrain's names; nothing else in the folder tells it."""
        file = only_file(folder)
        return file is not None and FIRST in open_file(folder.blob(file)).tensors

    def open(self, folder: Folder, role: str, converter: Converter) -> Checkpoint:
        """A TencentPretrain file under transformers' names."""
        file = only_file(folder)
        if file is None:
            raise PlanError(f"{role}: {folder.name} holds no model of TencentPretrain: wanted one torch file")
        container = open_file(folder.blob(file))
        where, stored = container.blob.name, container.tensors
        layers = 1 + max((int(match[1]) for name in stored if (match := LAYER.match(name))), default=-1)
        gate = stored.get(f"{PREFIX}0.feed_forward.linear_gate.weight")
        if gate is None:
            raise PlanError(f"{role}: {where} has no gated feed-forward in layer 0: no LLaMA")
        if layers > len(stored):
            raise PlanError(f"{role}: {where}: a name speaks of layer {layers - 1}, and it has {len(stored)} tensors")
        tokens, width = stored[FIRST].spec.rows, stored[FIRST].spec.width
        numbers = numbers_beside(folder)
        heads = head_count(numbers, where, width, role)
        shape = ModelShape(width, gate.spec.rows, heads, heads, layers, tokens, norm_eps(numbers, where))
        rows = llama.all_rows(layers)
        lacking = [theirs for _, _, _, theirs in rows if theirs not in stored]
        if lacking:
            raise PlanError(f"{role}: {where} is incomplete:", [f"{name}: missing" for name in lacking[:20]])
        known = {theirs for _, _, _, theirs in rows}
        if left := [f"{name}: none of a LLaMA" for name in stored if name not in known]:
            raise PlanError(f"{role}: {where} {LEFT}", left[:20])
        tensors: dict[str, LazyTensor] = {}
        for row, name, _, theirs in rows:
            own = stored[theirs]
            tensors[name] = derive(PairRows(shape.head_dim, halves=True), own) if row.paired else own
        tensors |= inv_freq_tensors(shape, converter)
        ordered = {name: tensors[name] for name in llama.in_state_dict_order(tensors)}
        made = without_lone_tokenizer(converter.small_files(shape), tokenizer_beside(folder))
        return Checkpoint(folder, "tencentpretrain", container.format, {file: container}, ordered, made=made)

    def write(self, model: Model, form: Form) -> Written:
        """One torch file, in the order of TencentPretrain's own script, and its JSON of numbers."""
        follows, tensors = known_tensors(model)
        shape = shape_of(follows, tensors)
        refuse_shape(shape)
        named = in_script_order(tensors, shape)
        encoding = replace(torch_encoding(FILE_NAME, follows, form), kind="OrderedDict")
        layout = one_each((name, tensor.spec) for name, tensor in named.items())
        small = [SmallFile(CONFIG_NAME, encode_config(shape))]
        tokenizer = follows.small("tokenizer.model")
        if tokenizer is not None:
            small.append(SmallFile("tokenizer.model", tokenizer))
        return Written(
            (OutputFile(FILE_NAME, encoding, layout, tuple((one,) for one in named.values())),),
            tuple(small),
            (*dropped_buffers(follows, tensors), *tokenizer_notes(follows)),
        )


TENCENTPRETRAIN = TencentPretrain()


def only_file(folder: Folder) -> str | None:
    """The file that may be TencentPretrain's: a single file, or the only torch file of a folder without config.json."""
    file = lone_file(folder)
    if file is not None or folder.holds("config.json"):
        return file
    found = [name for name in folder.names() if "/" not in name and name.endswith(BIN.suffixes[0])]
    return found[0] if len(found) == 1 else None


def in_script_order(tensors: Mapping[str, LazyTensor], shape: ModelShape) -> dict[str, LazyTensor]:
    """TencentPretrain's names, in the order of its script -> the tensors in its shapes."""
    layer_rows = [next(row for row in llama.LAYER_TABLE if part in row.huggingface) for part in SCRIPT]
    embedding, norm, head = llama.TOP_TABLE
    named = {embedding.tencent: tensors[embedding.huggingface]}
    for layer in range(shape.layers):
        for row in layer_rows:
            tensor = tensors[f"model.layers.{layer}.{row.huggingface}"]
            named[f"{PREFIX}{layer}.{row.tencent}"] = unpaired(tensor, row, shape)
    return named | {row.tencent: tensors[row.huggingface] for row in (norm, head)}


def refuse_shape(shape: ModelShape) -> None:
    """Refuse numbers that the JSON beside the file has no word for: ``ValueError``."""
    if shape.rope_theta != 10000.0 or shape.rope_scaled:
        scaled = ", scaled" if shape.rope_scaled else ""
        raise ValueError(f"its rope_theta is {shape.rope_theta}{scaled}, which TencentPretrain's layout has no word for")
    if shape.kv_heads != shape.heads:
        raise ValueError(f"has {shape.kv_heads} heads of keys to {shape.heads}, which TencentPretrain's layout has no word for")


def numbers_beside(folder: Folder) -> dict[str, Any]:
    """The JSON beside the file; empty where there is none.

    Raises:
        FormatError: It is none, or a pointer to one.
    """
    if not folder.holds(CONFIG_NAME):
        return {}
    blob = folder.blob(CONFIG_NAME)
    return read_json(whole(blob), blob.name)


def norm_eps(numbers: Mapping[str, Any], where: str) -> float:
    """What keeps the norms from dividing by 0. Source: TencentPretrain ``opts.py``, which a field of the JSON goes before."""
    said = numbers.get("layernorm_eps", NORM_EPS)
    if type(said) not in (int, float) or not 0 <= said < 1:
        raise FormatError(where, f"its {CONFIG_NAME} says layernorm_eps {str(said)[:40]!r}; wanted a number, as 1e-06")
    return float(said)


def head_count(numbers: Mapping[str, Any], where: str, width: int, role: str) -> int:
    """Attention heads: from the JSON beside the file, or known for LLaMA's widths."""
    heads = numbers.get("heads_num")
    if type(heads) is int and heads > 0 and width % heads == 0:
        return heads
    if width not in llama.HEADS:
        raise PlanError(
            f"{role}: {where} is {width} wide, and its number of heads is not known: put {CONFIG_NAME} with heads_num beside it"
        )
    return llama.HEADS[width]


def encode_config(shape: ModelShape) -> bytes:
    """The JSON of numbers, with the fields and in the order of TencentPretrain's own files for LLaMA.

    They have no eps of norms, which is then 1e-06; of another model it stands there.
    """
    eps = {} if shape.norm_eps == NORM_EPS else {"layernorm_eps": shape.norm_eps}
    content = {
        "emb_size": shape.dim,
        "feedforward_size": shape.inner,
        "hidden_size": shape.dim,
        "hidden_act": "silu",
        "heads_num": shape.heads,
        "layers_num": shape.layers,
        "dropout": 0.1,
        "data_processor": "lm",
        "max_seq_length": 2048,
        "embedding": ["word"],
        "remove_transformer_bias": True,
        "remove_embedding_layernorm": True,
        "rotary_position_embedding": True,
        "encoder": "transformer",
        "feed_forward": "gated",
        "mask": "causal",
        "layernorm_positioning": "pre",
        "layernorm": "rms",
        **eps,
        "target": ["lm"],
    }
    return (json.dumps(content, indent=2) + "\n").encode()
