"""How Meta laid LLaMA 1's parts out in their files.

    7B        root ``consolidated``; a storage a tensor; after all layers the float16 rope.freqs of each layer; from the CPU
    65B       root ``consolidated.NN``; a storage a tensor; one float16 rope.freqs at the end; from the CPU
    13B, 30B  root ``consolidated.NN``; one storage for the three tensors outside the layers, one for each layer's nine; one
              float32 rope.freqs with a storage of its own at the end; from a GPU, whose name each tensor has (``cuda:0``)

All are plain dicts in torch's zip as torch 1.13 to 2.0 write it. What was not published is laid out as 7B where it is one part,
and as 65B where it is more.

Source: published digests of ``.enc`` files of known content, which are XORed with the beginning of such a file: three MD5s
prove the first 33 444 bytes of 7B's, two MD5s and a SHA-256 those of 13B's first part. The published sizes of all four are met
to the byte. 30B's and 65B's rest on the size alone, and so does the end of 13B's pickle. Which GPU the other parts name is not
known: see ``Order``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from weightkit.checkpoints.form import Order
from weightkit.containers.bin import BIN, DEFAULT_PROFILE
from weightkit.containers.layout import Item, Layout, Run
from weightkit.containers.torch_zip_writer import TorchZip
from weightkit.core.dtypes import DType
from weightkit.core.lazy import LazyTensor
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.families.converters import ModelShape

__all__ = [
    "FREQS",
    "LAYER_FREQS",
    "MANY",
    "ONE",
    "SHARED",
    "SHARING",
    "PartForm",
    "encoding_of",
    "form_for",
    "laid_out",
    "part_name",
]

FREQS = "rope.freqs"
LAYER_FREQS = "attention.inner_attention.rope.freqs"
"""The frequencies' name where the part has them once, and in a layer, there without ``layers.N.``."""


@dataclass(frozen=True, slots=True)
class PartForm:
    """How a model's parts lie in their files.

    Attributes:
        like: Of which of LLaMA 1's sizes Meta's files are so, for people.
        numbered: Whether the folder in the zip has the part's number: ``consolidated.00``, else ``consolidated``.
        shared: Whether the tensors outside the layers share a storage, and those of each layer; such parts come from a GPU, and
            their frequencies are float32.
        each: Whether each layer has its frequencies, else the part has them once.
    """

    like: str
    numbered: bool
    shared: bool
    each: bool

    @property
    def told(self) -> str:
        """What is particular about it, for people."""
        root = "consolidated.NN" if self.numbered else "consolidated"
        storages = "a storage for each layer" if self.shared else "a storage a tensor"
        return f"root {root}, {storages}, {FREQS} {'of each layer' if self.each else 'once'} at the end"


ONE = PartForm("7B", numbered=False, shared=False, each=True)
MANY = PartForm("65B", numbered=True, shared=False, each=False)
SHARED = PartForm("13B and 30B", numbered=True, shared=True, each=False)

SHARING = {(5120, 2): (13824, 40), (6656, 4): (17920, 60)}
"""Width and parts of 13B and 30B -> width of the MLP, and layers."""


def part_name(number: int) -> str:
    """What a part is called."""
    return f"consolidated.{number:02d}.pth"


def form_for(shape: ModelShape, count: int, dtypes: Collection[DType]) -> PartForm:
    """How Meta wrote a model of these numbers in so many parts, of tensors of these dtypes.

    LLaMA-2-13B, told by its epsilon, is not LLaMA-13B; and what shares a storage is of one dtype.
    """
    if count == 1:
        return ONE
    one_dtype, first = len(dtypes) == 1, shape.norm_eps == 1e-6 and shape.kv_heads == shape.heads
    sharing = SHARING.get((shape.dim, count)) == (shape.inner, shape.layers)
    return SHARED if sharing and first and one_dtype else MANY


def encoding_of(form: PartForm, number: int, order: Order = "meta", torch: str | None = None) -> TorchZip:
    """What writes a part.

    Args:
        form: How the parts lie in their files.
        number: The part's.
        order: Which GPU parts from one name.
        torch: The torch version whose file bytes are written; None for that of Meta's.
    """
    path = part_name(number) if form.numbered else "consolidated.pth"
    encoding = BIN.encoding(path, None, torch or DEFAULT_PROFILE, same=False)
    return replace(encoding, location=f"cuda:{0 if order == 'meta-cuda-0' else number}") if form.shared else encoding


def laid_out(
    form: PartForm, named: Mapping[str, LazyTensor], freqs: LazyTensor | None
) -> tuple[Layout, tuple[tuple[LazyTensor, ...], ...]]:
    """How the tensors of one part lie in it, and what fills each storage.

    Args:
        form: How.
        named: Meta's name -> the tensor, in Meta's order: those outside the layers, then layer by layer.
        freqs: The frequencies; None where none are stored.
    """
    groups = [[(name, named[name]) for name in group] for group in groups_of(named, shared=form.shared)]
    if freqs is not None:
        layers = dict.fromkeys(number for name in named if (number := llama.block_of(name)) is not None)
        names = [f"layers.{number}.{LAYER_FREQS}" for number in layers] if form.each else [FREQS]
        groups += [[(name, freqs)] for name in names]
    items = []
    for run, group in enumerate(groups):
        at = 0
        for name, one in group:
            items.append(Item(name, one.spec, run, at))
            at += one.spec.numel
    return Layout(tuple(items), tuple(map(run_of, groups))), tuple(tuple(one for _, one in group) for group in groups)


def groups_of(names: Iterable[str], *, shared: bool) -> Iterable[Sequence[str]]:
    """Names that share a storage: those outside the layers, then those of each layer; or each by itself."""
    found: dict[object, list[str]] = {}
    for name in names:
        found.setdefault(llama.block_of(name) if shared else name, []).append(name)
    return found.values()


def run_of(group: Sequence[tuple[str, LazyTensor]]) -> Run:
    """A storage that some tensors fill."""
    if len(group) == 1:
        return Run(group[0][1].spec)
    return Run(TensorSpec(group[0][1].spec.dtype, (sum(one.spec.numel for _, one in group),)))
