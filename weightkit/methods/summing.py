"""How the sums of a merge were taken on this machine, said for people after the run."""

from __future__ import annotations

from weightkit.core.lazy import Derived, walk
from weightkit.ops.lora import MergeLora
from weightkit.ops.product import Sums
from weightkit.run.plan import OutputFile, Plan

__all__ = ["how_summed"]


def how_summed(plan: Plan) -> str:
    """How the products of a plan were computed on this machine, and what that cost; empty where there were none.

    To be asked after the run, which has tried the ways by then.
    """
    from weightkit.core.compute import one_thread
    from weightkit.ops.product import kernel_for

    files = [file for file in plan.files if isinstance(file, OutputFile)]
    tensors = [tensor for file in files for run in file.tensors for tensor in run]
    found = {
        (node.op.sums, node.op.rank, node.op.shape[1]): None
        for node in walk(tensors)
        if isinstance(node, Derived) and isinstance(node.op, MergeLora)
    }
    times: dict[tuple[Sums, str], float] = {}
    with one_thread():
        for sums, rank, width in found:
            kernel = kernel_for(sums, rank, width)
            times[sums, kernel.name] = max(times.get((sums, kernel.name), 0.0), kernel.times)
    return "; ".join(f"sums {sums}: {said(sums, name, cost)}" for (sums, name), cost in times.items())


def said(sums: Sums, kernel: str, times: float) -> str:
    """What a kernel is, for people."""
    if sums == "blas":
        return "as this machine's BLAS takes them; other machines may give other bits"
    if kernel == "blas":
        return "by the installed BLAS in blocks of 64 rows, whose bits were checked on these shapes"
    way = "torch, term by term" if kernel == "addcmul" else "portable arithmetic"
    return f"{way}, up to {times:.0f} times as long as this machine's BLAS, which has another order"
