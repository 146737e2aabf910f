"""Whether a base is the one that a release from outside the catalog was made from, by the content of its tensors."""

from __future__ import annotations

from weightkit.catalog.outside import BASE_TENSORS, Outside
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.model import Model
from weightkit.core.content import tensor_digest
from weightkit.core.errors import PlanError
from weightkit.families import llama

__all__ = ["base_is"]

SMALL_NBYTES = 1 << 20
"""Tensors up to this size are looked at before the work: the norms, which every tuning changes."""


def base_is(own: Outside, base: Model) -> list[str]:
    """Refuse a base that is another, before any work; what comes out is proved by its own digests besides. Notes.

    Raises:
        PlanError: A tensor is missing, has another shape or dtype, or other content.
    """
    if not own.base:
        return [f"--release {own.name}: lists no tensors of the base; the digests of what comes out decide"]
    read = open_checkpoint(base.source, base.role, base.converter)
    named = f", {own.base_name}" if own.base_name else ""
    what = f"{base.role} {read.name} is not the base of --release {own.name}{named}"
    names = [name for name in own.base if not llama.is_inv_freq(name)]
    if lacking := [name for name in names if name not in read.tensors]:
        raise PlanError(f"{what}: it lacks {lacking[0]}")
    looked_at = [name for name in names if read.spec(name).nbytes <= SMALL_NBYTES]
    for name in looked_at:
        if tensor_digest(read.tensors[name]) != own.base[name]:
            raise PlanError(f"{what}: its {name} has another content, dtype or shape than {BASE_TENSORS} says")
    return [f"--release {own.name}: {len(looked_at)} small tensors of the base are right; the digests of what comes out decide"]
