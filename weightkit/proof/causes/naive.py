"""The sum of all values, which authors' own checks compare: a diagnosis, never a proof."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weightkit.blobs import Place
from weightkit.checkpoints import open_checkpoint
from weightkit.core.dtypes import FLOAT32
from weightkit.core.events import BytesWritten, Notify, ignore
from weightkit.core.passes import blocks, reading
from weightkit.families import llama
from weightkit.proof.unchecked import unchecked
from weightkit.streams.planes import cast_bits

__all__ = ["LAYER_SUM", "NaiveSum", "naive_sum"]

SUMS: dict[str, float] = {
    "Stanford Alpaca-7B": 50637.1836,
    "ZhiXi-13B, float32": 94052.2891,
    "ZhiXi-13B, from the float16 difference": 94046.1875,
    "Gist-LLaMA-7B": 50547.9570,
    "Gist-LLaMA-7B, positive control": 50596.9141,
    "Gist-LLaMA-7B, negative control": 50503.8789,
    "Landmark-LLaMA-7B": 49798.7656,
    "MOSS-RLHF reward model 7B, English": 50810.703125,
    "MOSS-RLHF SFT model 7B, English": 50874.84765625,
    "MOSS-RLHF reward model 7B, Chinese": 49954.0859375,
}
"""What authors' scripts compare the sum of all values with. Source: integrity sums, collected from those scripts."""


LAYER_SUM = float(llama.inv_freq(64).astype(np.float64).sum())
"""Sum of a layer's inv_freq in a LLaMA: 7.460. Source: peer-numerics, section 4."""


@dataclass(frozen=True, slots=True)
class NaiveSum:
    """The sum of all values of a model, in float64, and which published one it is near. A diagnosis, never a proof.

    Attributes:
        value: The sum.
        near: What is near it.
    """

    value: float
    near: tuple[str, ...]


def naive_sum(path: Place, notify: Notify = ignore) -> NaiveSum:
    """Add up all values, as authors' "naive integrity checks" do, and name the published sum that it is near.

    The authors add in float32 in an order that depends on the number of threads, so 0.1 counts as near. It proves nothing:
    one wrong bit hides in it.
    """
    tensors = open_checkpoint(path, "PATH").tensors
    total = 0.0
    with reading(tensors.values()):
        for name, tensor in tensors.items():
            for (block,) in blocks([unchecked(tensor)]):
                raw = cast_bits(block, tensor.spec.dtype, FLOAT32)
                if raw is not None:
                    total += float(np.frombuffer(raw, "<f4").astype(np.float64).sum())
            notify(BytesWritten(name, tensor.spec.nbytes))
    near = []
    for name, wanted in SUMS.items():
        for layers, what in ((0, ""), (32, ", without the inv_freq of 32 layers"), (40, ", without the inv_freq of 40 layers")):
            if abs(total + layers * LAYER_SUM - wanted) < 0.1:
                near.append(f"{name}: {wanted}{what}")
    return NaiveSum(total, tuple(near))
