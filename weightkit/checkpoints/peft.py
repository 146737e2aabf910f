"""LoRA adapters as PEFT writes them: a folder with ``adapter_config.json`` and ``adapter_model.bin`` or ``.safetensors``.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight      (rank, in)    down
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight      (out, rank)   up
    base_model.model.model.embed_tokens.lora_embedding_A                (rank, tokens)
    base_model.model.model.embed_tokens.lora_embedding_B                (width, rank)
    base_model.model.model.embed_tokens.weight                          a tensor stored whole (modules_to_save, bias)

Names differ between versions: with the adapter's name before ``weight`` (``lora_A.default.weight``), with
``modules_to_save.`` or ``base_layer.`` in a whole tensor's, with ``module.`` or ``_orig_mod.`` in front where the model was
wrapped; 0.3 also stored the frozen ``original_module`` beside the trained one.

Source: PEFT 0.2 to 0.21, ``get_peft_model_state_dict``, ``LoraConfig``, ``tuners/lora``; read and run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightkit.checkpoints.huggingface import Checkpoint
from weightkit.containers import open_file
from weightkit.core.errors import FormatError, PlanError
from weightkit.core.lazy import LazyTensor, Stored, derive
from weightkit.ops.lora import DropLastAxis

__all__ = ["Adapter", "Config", "Factors", "is_adapter", "open_adapter"]

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""In the order in which PEFT looks for them."""

APPLIED = {
    "r",
    "lora_alpha",
    "peft_type",
    "fan_in_fan_out",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "enable_lora",
    "init_lora_weights",
}
"""Fields of the config that decide something here."""

WITHOUT_EFFECT = {
    "alpha",  # absent in PEFT; some trainers repeat lora_alpha so
    "auto_mapping",
    "base_model_name_or_path",
    "bias",  # whole tensors in the file, told by their names
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "modules_to_save",  # whole tensors in the file, told by their names
    "peft_version",
    "qalora_group_size",  # of use_qalora, which is refused
    "revision",
    "runtime_config",
    "target_modules",  # what is in the file has been trained
    "task_type",
}
"""Fields that are known to change nothing in a merge: they say what was trained and how, not what it means."""

PROMPT_FIELDS = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")
"""Of PEFT 0.2's base class: null for a LoRA."""

REFUSED = {
    "use_dora": "DoRA (a magnitude for each row) is not merged",
    "use_qalora": "QALoRA is not merged",
    "lora_bias": "a bias beside lora_B is not merged",
    "target_parameters": "LoRAs of bare parameters, as expert layers have them, are not merged",
    "layer_replication": "it repeats layers of the base, which is not done",
    "trainable_token_indices": "single trained rows of the embedding are not merged",
    "alora_invocation_tokens": "an activated LoRA cannot be merged: it works from some token on",
    "megatron_config": "parallel layers of Megatron are not merged",
    "loftq_config": "LoftQ changes the base",
    "corda_config": "CorDA changes the base",
    "lora_ga_config": "LoRA-GA changes the base",
    "velora_config": "VeLoRA is not merged",
    "monteclora_config": "MonteCLoRA is not merged",
    "use_bdlora": "block-diagonal LoRA is not merged",
    "arrow_config": "Arrow routes between adapters: there is nothing to merge",
    "kasa_config": "KaSA is not merged",
}
"""Fields that must be null, false or empty: what it means where they are not."""

PLAIN_INIT = ("gaussian", "orthogonal", "eva")
"""Values of ``init_lora_weights`` beside true and false that leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ do not."""

PREFIXES = ("base_model.model.", "base_model.", "module.", "_orig_mod.")

FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<which>[AB])(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?")
WHOLE = re.compile(r"(?P<module>.+?)(?:\.modules_to_save(?:\.[^.]+)?|\.base_layer)?\.(?P<kind>weight|bias)")
UNKNOWN = re.compile(r"\.(lora_magnitude_vector|lora_[AB]\b.*\.bias$|token_adapter|lora_\w+)")


@dataclass(frozen=True, slots=True)
class Config:
    """What an adapter's config says of its merge.

    Attributes:
        rank: Of the modules that have none of their own.
        alpha: Likewise.
        ranks: Pattern of module names -> rank.
        alphas: Pattern of module names -> alpha.
        root: Whether the scale is alpha / sqrt(rank) (rsLoRA).
        transposed: Whether weights are stored (in, out) (``fan_in_fan_out``).
        enabled: Of a weight that joins several, which have a LoRA (``enable_lora``); empty where that is not so.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    root: bool = False
    transposed: bool = False
    enabled: tuple[bool, ...] = ()

    def scale(self, module: str) -> tuple[int, float]:
        """Rank of a module's LoRA and what its product is multiplied by."""
        rank = self.ranks.get(pattern_of(self.ranks, module), self.rank)
        alpha = self.alphas.get(pattern_of(self.alphas, module), self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.root else rank)


def pattern_of(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that a module's name ends in, whole names between dots. Source: PEFT, ``get_pattern_key``."""
    return next((one for one in patterns if re.fullmatch(rf"(?:.*\.)?(?:{one})", module)), module)


@dataclass(frozen=True, slots=True)
class Factors:
    """One LoRA of an adapter: ``weight + scale * (up @ down)``.

    Attributes:
        down: (rank, in).
        up: (out, rank).
        rank: As the config says.
        scale: Dimensionless.
        transposed: Whether weight is (in, out): the product is transposed before it is added.
        embedding: Whether the weight is an embedding's (``lora_embedding_A``).
    """

    down: LazyTensor
    up: LazyTensor
    rank: int
    scale: float
    transposed: bool
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as an index of tensors, under the names it has itself.

    Attributes:
        folder: Its small files.
        config: What its config says.
        factors: Module as the file names it -> its LoRA.
        whole: Name of a tensor as the file has it -> the tensor, to take the place of the base's.
        notes: What was left out.
    """

    folder: Checkpoint
    config: Config
    factors: Mapping[str, Factors]
    whole: Mapping[str, LazyTensor]
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter, or a file lies in such a folder under an adapter's name."""
    if path.is_file():
        return path.name in FILES
    return (path / CONFIG).is_file() or any((path / name).is_file() for name in FILES)


def open_adapter(path: Path, role: str) -> Adapter:
    """Index an adapter: its folder, or its file of weights with ``adapter_config.json`` beside it.

    Args:
        path: The folder or file.
        role: What it is to the caller, for messages: ``--lora``.

    Raises:
        PlanError: It is no LoRA, or of a kind that is not merged.
        FormatError: A file of it is damaged.
    """
    if not path.exists():
        raise PlanError(f"{role}: {path} does not exist")
    folder = path.parent if path.is_file() else path
    files = [path] if path.is_file() else [folder / name for name in FILES if (folder / name).is_file()]
    if not files:
        raise PlanError(f"{role}: {folder} holds no adapter: wanted {CONFIG} and adapter_model.bin or .safetensors")
    if not (folder / CONFIG).is_file():
        raise PlanError(f"{role}: {folder} has no {CONFIG}, which says the scale: fetch it from where the adapter came from")
    container = open_file(files[0])
    tensors: dict[str, LazyTensor] = {name: Stored(container, name) for name in container.specs}
    chosen = "safetensors" if container.profile == "safetensors" else "bin"
    checkpoint = Checkpoint(folder, "huggingface", chosen, {files[0].name: container}, tensors)
    config = read_config(checkpoint.json(CONFIG), folder / CONFIG)
    factors, whole, notes = sort_out(tensors, config, files[0])
    if len(files) > 1:
        notes.append(f"{folder}: has {files[0].name} and {files[1].name}; the first is used, as PEFT does")
    return Adapter(checkpoint, config, factors, whole, tuple(notes))


def read_config(fields: Mapping[str, Any], path: Path) -> Config:
    """The config, with every field either applied or known to change nothing.

    Raises:
        PlanError: A field asks for what is not built, or is not known.
        FormatError: A field has a value of the wrong kind.
    """
    kind = fields.get("peft_type", "LORA")
    if kind != "LORA":
        raise PlanError(f"{path}: peft_type is {kind!r}: only LORA is merged")
    problems = [f"{name}: {REFUSED[name]}" for name in fields if name in REFUSED and fields[name]]
    unknown = set(fields) - APPLIED - WITHOUT_EFFECT - set(REFUSED) - set(PROMPT_FIELDS)
    problems += [
        f"{name} is {json.dumps(fields[name])}: what it does to a merge is not known here"
        for name in fields
        if name in unknown and fields[name] not in (None, False)
    ]
    problems += [f"{name}: of a prompt, not of a LoRA" for name in PROMPT_FIELDS if fields.get(name)]
    start = fields.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_INIT:
        problems.append(
            f"init_lora_weights is {start!r}: it changes the base; have its publisher convert it to a plain LoRA "
            "(path_initial_model_for_weight_conversion)"
        )
    if problems:
        raise PlanError(f"{path} asks for what is not merged:", problems)
    enabled = fields.get("enable_lora") or []
    if not isinstance(enabled, list) or any(type(one) is not bool for one in enabled):
        raise FormatError(path, f"enable_lora is {enabled!r}: wanted a list of true and false")
    return Config(
        positive_int(fields.get("r"), "r", path),
        number(fields.get("lora_alpha"), "lora_alpha", path),
        {key: positive_int(value, f"rank_pattern {key}", path) for key, value in patterns(fields, "rank_pattern", path)},
        {key: number(value, f"alpha_pattern {key}", path) for key, value in patterns(fields, "alpha_pattern", path)},
        root=bool(fields.get("use_rslora")),
        transposed=bool(fields.get("fan_in_fan_out")),
        enabled=tuple(enabled),
    )


def patterns(fields: Mapping[str, Any], name: str, path: Path) -> list[tuple[str, Any]]:
    """The entries of a field that maps patterns to numbers."""
    found = fields.get(name) or {}
    if not isinstance(found, dict):
        raise FormatError(path, f"{name} is {found!r}: wanted an object")
    for key in found:
        try:
            re.compile(key)
        except re.error as error:
            raise FormatError(path, f"{name}: {key!r} is no pattern: {error}") from error
    return list(found.items())


def positive_int(value: object, name: str, path: Path) -> int:
    """A rank."""
    if type(value) is not int or not 0 < value <= 1 << 20:
        raise FormatError(path, f"{name} is {value!r}: wanted a number above 0")
    return value


def number(value: object, name: str, path: Path) -> float:
    """An alpha. A whole number stays one, so that ``alpha / rank`` is divided as Python divides it there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FormatError(path, f"{name} is {value!r}: wanted a number")
    return value


def sort_out(
    tensors: Mapping[str, LazyTensor], config: Config, path: Path
) -> tuple[dict[str, Factors], dict[str, LazyTensor], list[str]]:
    """Which tensors are factors of which module, and which are whole.

    Raises:
        PlanError: Some are neither, or a factor lacks its other half.
    """
    halves: dict[str, dict[str, LazyTensor]] = {}
    embeddings: set[str] = set()
    whole: dict[str, LazyTensor] = {}
    notes: list[str] = []
    problems: list[str] = []
    frozen = [name for name in tensors if ".original_module." in name]
    for name, tensor in tensors.items():
        if name in frozen:
            continue
        if match := FACTOR.fullmatch(name):
            module = halves.setdefault(match["module"], {})
            if match["which"] in module:
                problems.append(f"{name}: a second lora_{match['which']} of {match['module']}: two adapters in one file")
            module[match["which"]] = tensor
            if match["embedding"]:
                embeddings.add(match["module"])
        elif unknown := UNKNOWN.search(name):
            problems.append(f"{name}: what {unknown[1]} does to a merge is not known here")
        elif match := WHOLE.fullmatch(name):
            whole[f"{match['module']}.{match['kind']}"] = tensor
        else:
            problems.append(f"{name}: neither a LoRA factor nor a weight")
    if frozen:
        notes.append(f"{path.parent}: {len(frozen)} frozen copies (original_module) in {path.name} are left out")
    factors = {}
    for name, pair in halves.items():
        if len(pair) != 2:
            problems.append(f"{name}: has lora_{min(pair)} alone, without its other half; download the file again")
            continue
        try:
            factors[name] = factors_of(name, pair["A"], pair["B"], config, embedding=name in embeddings)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not tensors:
        problems.append("it holds no tensors")
    if problems:
        raise PlanError(f"{path} is not understood:", problems)
    return factors, whole, notes


def factors_of(name: str, down: LazyTensor, up: LazyTensor, config: Config, *, embedding: bool) -> Factors:
    """A module's LoRA.

    The factors of an embedding multiply to (width, tokens), so that product is always transposed. In the merged-linear form
    (``enable_lora``, PEFT 0.2) up is the weight of a grouped convolution, (out, rank, 1), and down has the rows of all groups.

    Raises:
        ValueError: The shapes are not those of a LoRA of the config's rank.
    """
    rank, scale = config.scale(stripped(name))
    parts = max(1, sum(config.enabled))
    if config.enabled and len(up.spec.shape) == 3 and up.spec.shape[2] == 1:
        up = derive(DropLastAxis(up.spec.shape[1]), up)
    shapes = down.spec.shape, up.spec.shape
    if any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"lora_A is {list(shapes[0])}, lora_B {list(shapes[1])}: only matrices are merged")
    if (shapes[0][0], shapes[1][1]) != (rank * parts, rank):
        raise ValueError(f"lora_A is {list(shapes[0])}, lora_B {list(shapes[1])}, and the config says rank {rank}")
    return Factors(down, up, rank, scale, config.transposed or embedding, embedding)


def stripped(name: str) -> str:
    """A module's name without what PEFT and wrappers put in front."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def in_base(name: str, base: Collection[str]) -> str | None:
    """What the base calls a tensor that an adapter names; None where it has none such."""
    seen = [name.replace("._orig_mod.", ".")]
    for one in seen:
        if one in base:
            return one
        seen += [rest for prefix in PREFIXES if (rest := one.removeprefix(prefix)) != one and rest not in seen]
    return None
