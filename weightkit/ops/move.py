"""Moving rows and columns about: joining the parts of a model, cutting it into parts, and the order of rotary pairs.

All bit-exact: values are moved, never computed.

Source: Meta's model-parallel parts and transformers 4.28.1 ``convert_llama_weights_to_hf.py`` (``permute``); peer-numerics,
section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weightkit.core.lazy import Rows
from weightkit.core.spec import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["JoinColumns", "JoinRows", "PairRows", "TakeColumns", "TakeRows"]


def matrices(specs: tuple[TensorSpec, ...]) -> None:
    """Refuse anything but matrices of one dtype."""
    if any(len(spec.shape) != 2 for spec in specs) or len({spec.dtype for spec in specs}) != 1:
        raise ValueError("not matrices of one dtype: " + ", ".join(str(spec) for spec in specs))


@dataclass(frozen=True, slots=True)
class JoinRows:
    """Parts one below the other. Shapes: (n1, width), (n2, width), ... -> (n1 + n2 + ..., width).

    Attributes:
        counts: Rows of each part.
    """

    counts: tuple[int, ...]

    def infer(self, *parts: TensorSpec) -> TensorSpec:
        """Dtype and shape of the whole; ``ValueError`` where widths differ."""
        matrices(parts)
        if len({spec.shape[1] for spec in parts}) != 1 or tuple(spec.shape[0] for spec in parts) != self.counts:
            raise ValueError("parts do not fit below each other: " + ", ".join(str(list(spec.shape)) for spec in parts))
        return TensorSpec(parts[0].dtype, (sum(self.counts), parts[0].shape[1]))

    def begin(self, *parts: Rows) -> Rows:
        """One pass, part after part."""
        import torch

        def rows(start: int, stop: int) -> torch.Tensor:
            found = []
            first = 0
            for part, count in zip(parts, self.counts, strict=True):
                low, high = max(start - first, 0), min(stop - first, count)
                if low < high:
                    found.append(part(low, high))
                first += count
            return found[0] if len(found) == 1 else torch.cat(found)

        return rows


@dataclass(frozen=True, slots=True)
class JoinColumns:
    """Parts side by side. Shapes: (n, w1), (n, w2), ... -> (n, w1 + w2 + ...)."""

    def infer(self, *parts: TensorSpec) -> TensorSpec:
        """Dtype and shape of the whole; ``ValueError`` where heights differ."""
        matrices(parts)
        if len({spec.shape[0] for spec in parts}) != 1:
            raise ValueError("parts do not fit beside each other: " + ", ".join(str(list(spec.shape)) for spec in parts))
        return TensorSpec(parts[0].dtype, (parts[0].shape[0], sum(spec.shape[1] for spec in parts)))

    def begin(self, *parts: Rows) -> Rows:
        """One pass, all parts in step."""
        import torch

        return lambda start, stop: torch.cat([part(start, stop) for part in parts], dim=1)


@dataclass(frozen=True, slots=True)
class TakeRows:
    """Rows ``[start, stop)``. Shapes: (n, width) -> (stop - start, width)."""

    start: int
    stop: int

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape of the rows taken."""
        matrices((tensor,))
        if not 0 <= self.start <= self.stop <= tensor.shape[0]:
            raise ValueError(f"{tensor} has no rows {self.start} to {self.stop}")
        return TensorSpec(tensor.dtype, (self.stop - self.start, tensor.shape[1]))

    def begin(self, tensor: Rows) -> Rows:
        """One pass over these rows alone."""
        return lambda start, stop: tensor(self.start + start, self.start + stop)


@dataclass(frozen=True, slots=True)
class TakeColumns:
    """Columns ``[start, stop)``. Shapes: (n, width) -> (n, stop - start)."""

    start: int
    stop: int

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape of the columns taken."""
        matrices((tensor,))
        if not 0 <= self.start <= self.stop <= tensor.shape[1]:
            raise ValueError(f"{tensor} has no columns {self.start} to {self.stop}")
        return TensorSpec(tensor.dtype, (tensor.shape[0], self.stop - self.start))

    def begin(self, tensor: Rows) -> Rows:
        """One pass over all rows."""
        return lambda start, stop: tensor(start, stop)[:, self.start : self.stop]


@dataclass(frozen=True, slots=True)
class PairRows:
    """Reorder the rows of each attention head between the two ways to lay out rotary pairs.

    Shapes: (heads * size, width) -> the same. Meta has the two rows of a rotary pair next to each other; transformers has
    the first rows of all pairs, then the second ones. ``halves`` says which way: to transformers' order, or back to Meta's.

    Attributes:
        size: Rows of one head.
        halves: Whether the result is in transformers' order.
    """

    size: int
    halves: bool

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape, unchanged; ``ValueError`` where the rows are no whole heads."""
        matrices((tensor,))
        if self.size < 2 or self.size % 2 or tensor.shape[0] % self.size:
            raise ValueError(f"{tensor} is not made of heads of {self.size} rows")
        return tensor

    def begin(self, tensor: Rows) -> Rows:
        """One pass, head by head; the last head is kept, since blocks need not end where heads do."""
        import torch

        order = torch.arange(self.size)
        order = order.view(-1, 2).t().reshape(-1) if self.halves else order.view(2, -1).t().reshape(-1)
        kept: tuple[int, torch.Tensor] | None = None

        def head(number: int) -> torch.Tensor:
            nonlocal kept
            if kept is None or kept[0] != number:
                kept = number, tensor(number * self.size, (number + 1) * self.size)[order]
            return kept[1]

        def rows(start: int, stop: int) -> torch.Tensor:
            first, last = start // self.size, (stop - 1) // self.size
            heads = [head(number) for number in range(first, last + 1)]
            block = heads[0] if len(heads) == 1 else torch.cat(heads)
            return block[start - first * self.size : stop - first * self.size]

        return rows
