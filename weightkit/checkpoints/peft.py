"""LoRA adapters as PEFT writes them: a folder with ``adapter_config.json`` and ``adapter_model.bin`` or ``.safetensors``.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight      (rank, in)    down
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight      (out, rank)   up
    base_model.model.model.embed_tokens.lora_embedding_A                (rank, tokens)
    base_model.model.model.embed_tokens.lora_embedding_B                (width, rank)
    base_model.model.model.embed_tokens.weight                          a tensor stored whole (modules_to_save, bias)

Names differ between versions: with the adapter's name before ``weight`` (``lora_A.default.weight``), with
``modules_to_save.`` or ``base_layer.`` in a whole tensor's, with ``module.`` or ``_orig_mod.`` in front where the model was
wrapped; 0.3 also stored the frozen ``original_module`` beside the trained one.

Source: PEFT 0.2 to 0.21, ``get_peft_model_state_dict``, ``tuners/lora``; read and run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from weightkit.blobs import Place, folder_at
from weightkit.checkpoints.beside import beside, beside_notes
from weightkit.checkpoints.checkpoint import Checkpoint, lone_file
from weightkit.checkpoints.peft_config import CONFIG, Config, read_config
from weightkit.containers import open_file, suffixes
from weightkit.core.blob import Folder
from weightkit.core.errors import Incomplete, PlanError
from weightkit.core.lazy import LazyTensor, derive
from weightkit.families import llama
from weightkit.manifests.pointers import is_pointer
from weightkit.ops.move import DropLastAxis

__all__ = ["Adapter", "Factors", "in_base", "is_adapter", "open_adapter", "stripped"]

FILES = ("adapter_model.safetensors", "adapter_model.bin")
"""In the order in which PEFT looks for them."""

PREFIXES = ("base_model.model.", "base_model.", "module.", "_orig_mod.")

FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<which>[AB])(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?")
WHOLE = re.compile(r"(?P<module>.+?)(?:\.modules_to_save(?:\.[^.]+)?|\.base_layer)?\.(?P<kind>weight|bias)")
UNKNOWN = re.compile(r"\.(lora_magnitude_vector|lora_[AB]\b.*\.bias$|token_adapter|lora_\w+)")


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
    def name(self) -> str:
        """The folder's, for people and errors."""
        return self.folder.name

    def is_copy(self, own: str) -> bool:
        """Whether a whole tensor was stored beside what was trained: the original of a LoRA, or an embedding saved along."""
        module = own.removesuffix(".weight")
        return module in self.factors or (llama.is_vocabulary(own) and not self.config.saves(module))


def is_adapter(folder: Folder) -> bool:
    """Whether a folder holds an adapter, or is a single file under an adapter's name."""
    file = lone_file(folder)
    return file in FILES if file is not None else any(folder.holds(name) for name in (CONFIG, *FILES))


def open_adapter(place: Place, role: str) -> Adapter:
    """Index an adapter: its folder, or its file of weights with ``adapter_config.json`` beside it.

    Args:
        place: The folder or file.
        role: What it is to the caller, for messages: ``--lora``.

    Raises:
        PlanError: It is no LoRA, or of a kind that is not merged.
        Incomplete: Its config is there, and its weights are not.
        FormatError: A file of it is damaged.
    """
    folder = folder_at(place, role)
    file = lone_file(folder)
    files = [file] if file is not None else [name for name in FILES if folder.holds(name)]
    if not files and folder.holds(CONFIG):
        raise Incomplete(f"{role}: {folder.name}", [" or ".join(FILES)], f"{CONFIG} belongs to")
    if not files:
        instead = (
            " (it holds a model or a diff; recover takes a diff, as --diff)"
            if any(name.endswith(suffixes()) for name in folder.names())
            else ""
        )
        raise PlanError(
            f"{role}: {folder.name} holds no adapter{instead}: wanted {CONFIG} and adapter_model.bin or .safetensors",
            path=folder.name,
        )
    if not folder.holds(CONFIG):
        raise PlanError(
            f"{role}: {folder.name} has no {CONFIG}, which says the scale: fetch it from where the adapter came from"
        )
    fetched = [name for name in files if not is_pointer(folder.blob(name))]
    taken = (fetched or files)[0]
    container = open_file(folder.blob(taken))
    checkpoint = Checkpoint(folder, "huggingface", container.format, {taken: container}, dict(container.tensors))
    config = read_config(checkpoint.json(CONFIG), checkpoint.where(CONFIG))
    plain = [f"{name}: no tensor but {one}" for name, one in beside(checkpoint).items() if names_weight(name)]
    if plain:
        raise PlanError(f"{container.blob.name} is not understood:", plain[:20])
    factors, whole, frozen = sort_out(checkpoint.tensors, config, container.blob.name)
    notes = []
    if frozen:
        notes.append(f"{folder.name}: {frozen} frozen copies (original_module) in {taken} are left out")
    if len(fetched) < len(files):
        notes.append(f"{folder.name}: {files[0] if taken != files[0] else files[1]} is a Git-LFS pointer, so {taken} is used")
    elif len(files) > 1:
        notes.append(f"{folder.name}: has {files[0]} and {files[1]}; the first is used, as PEFT does")
    notes += beside_notes(checkpoint)
    return Adapter(checkpoint, config, factors, whole, tuple(notes))


def names_weight(name: str) -> bool:
    """Whether a name is a factor's or a weight's."""
    return bool(FACTOR.fullmatch(name) or WHOLE.fullmatch(name))


def sort_out(
    tensors: Mapping[str, LazyTensor], config: Config, origin: str
) -> tuple[dict[str, Factors], dict[str, LazyTensor], int]:
    """Which tensors are factors of which module, which are whole, and how many are frozen copies, which are left out.

    Raises:
        PlanError: Some are neither, or a factor lacks its other half.
    """
    halves: dict[str, dict[str, LazyTensor]] = {}
    embeddings: set[str] = set()
    whole: dict[str, LazyTensor] = {}
    problems: list[str] = []
    frozen = {name for name in tensors if ".original_module." in name}
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
        raise PlanError(f"{origin} is not understood:", problems)
    return factors, whole, len(frozen)


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
