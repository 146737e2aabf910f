"""Moving rows and columns about: joining the parts of a model, cutting it into parts, and the order of rotary pairs.

All bit-exact: bytes are moved, never computed, so no torch is needed.

Source: Meta's model-parallel parts and transformers 4.28.1 ``convert_llama_weights_to_hf.py`` (``permute``); peer-numerics,
section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from weightkit.core.buffers import Buffer
from weightkit.core.lazy import Read, Rows
from weightkit.core.spec import TensorSpec

__all__ = ["DropLastAxis", "JoinColumns", "JoinRows", "PairRows", "TakeColumns", "TakeRows", "Transpose"]

BAND_NBYTES = 32 << 20
"""How much of a matrix may be held to transpose it. One that has more is read once for every so many bytes."""

LINE_NBYTES = 64
"""Put between the rows of a band: where they lie powers of two apart, a column's values push each other out of the cache."""

Matrix = np.ndarray[Any, np.dtype[Any]]


def matrices(specs: tuple[TensorSpec, ...]) -> None:
    """Refuse anything but matrices of one dtype."""
    if any(len(spec.shape) != 2 for spec in specs) or len({spec.dtype for spec in specs}) != 1:
        raise ValueError("not matrices of one dtype: " + ", ".join(str(spec) for spec in specs))


BYTE = np.dtype(np.uint8)


def cells(rows: Rows, start: int, stop: int, cell: np.dtype[Any] = BYTE) -> Matrix:
    """Rows ``[start, stop)`` of an input as a matrix of cells, each a byte or an element; not to be written to."""
    return np.frombuffer(rows.read(start, stop), cell).reshape(stop - start, rows.spec.row_nbytes // cell.itemsize)


def flat(matrix: Matrix) -> Buffer:
    """The bytes of a contiguous matrix."""
    return matrix.reshape(-1).view(BYTE).data


@dataclass(frozen=True, slots=True)
class JoinRows:
    """Parts one below the other. Shapes: (n1, width), (n2, width), ... -> (n1 + n2 + ..., width).

    Attributes:
        counts: Rows of each part.
    """

    torch: ClassVar[bool] = False

    counts: tuple[int, ...]

    def infer(self, *parts: TensorSpec) -> TensorSpec:
        """Dtype and shape of the whole; ``ValueError`` where widths differ."""
        matrices(parts)
        if len({spec.shape[1] for spec in parts}) != 1 or tuple(spec.shape[0] for spec in parts) != self.counts:
            raise ValueError("parts do not fit below each other: " + ", ".join(str(list(spec.shape)) for spec in parts))
        return TensorSpec(parts[0].dtype, (sum(self.counts), parts[0].shape[1]))

    def begin(self, *parts: Rows) -> Read:
        """One pass, part after part; a block within one part is that part's own."""

        def read(start: int, stop: int) -> Buffer:
            found = []
            first = 0
            for part, count in zip(parts, self.counts, strict=True):
                low, high = max(start - first, 0), min(stop - first, count)
                if low < high:
                    found.append(part.read(low, high))
                first += count
            return found[0] if len(found) == 1 else bytearray().join(found)

        return read

    def held_nbytes(self, *parts: TensorSpec) -> int:
        """Nothing: the rows of all parts in a block are a block."""
        return 0


@dataclass(frozen=True, slots=True)
class JoinColumns:
    """Parts side by side. Shapes: (n, w1), (n, w2), ... -> (n, w1 + w2 + ...)."""

    torch: ClassVar[bool] = False

    def infer(self, *parts: TensorSpec) -> TensorSpec:
        """Dtype and shape of the whole; ``ValueError`` where heights differ."""
        matrices(parts)
        if len({spec.shape[0] for spec in parts}) != 1:
            raise ValueError("parts do not fit beside each other: " + ", ".join(str(list(spec.shape)) for spec in parts))
        return TensorSpec(parts[0].dtype, (parts[0].shape[0], sum(spec.shape[1] for spec in parts)))

    def begin(self, *parts: Rows) -> Read:
        """One pass, all parts in step."""
        width = sum(part.spec.row_nbytes for part in parts)

        def read(start: int, stop: int) -> Buffer:
            out = np.empty((stop - start, width), BYTE)
            at = 0
            for part in parts:
                end = at + part.spec.row_nbytes
                out[:, at:end] = cells(part, start, stop)
                at = end
            return flat(out)

        return read

    def held_nbytes(self, *parts: TensorSpec) -> int:
        """Nothing: each part's rows are let go once they are in their place."""
        return 0


@dataclass(frozen=True, slots=True)
class TakeRows:
    """Rows ``[start, stop)``. Shapes: (n, width) -> (stop - start, width)."""

    torch: ClassVar[bool] = False

    start: int
    stop: int

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape of the rows taken."""
        matrices((tensor,))
        if not 0 <= self.start <= self.stop <= tensor.shape[0]:
            raise ValueError(f"{tensor} has no rows {self.start} to {self.stop}")
        return TensorSpec(tensor.dtype, (self.stop - self.start, tensor.shape[1]))

    def begin(self, tensor: Rows) -> Read:
        """One pass over these rows alone."""
        return lambda start, stop: tensor.read(self.start + start, self.start + stop)

    def held_nbytes(self, tensor: TensorSpec) -> int:
        """Nothing."""
        return 0


@dataclass(frozen=True, slots=True)
class TakeColumns:
    """Columns ``[start, stop)``. Shapes: (n, width) -> (n, stop - start)."""

    torch: ClassVar[bool] = False

    start: int
    stop: int

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape of the columns taken."""
        matrices((tensor,))
        if not 0 <= self.start <= self.stop <= tensor.shape[1]:
            raise ValueError(f"{tensor} has no columns {self.start} to {self.stop}")
        return TensorSpec(tensor.dtype, (tensor.shape[0], self.stop - self.start))

    def begin(self, tensor: Rows) -> Read:
        """One pass over all rows; the input, which is wider, is read in more and smaller blocks."""
        itemsize = tensor.spec.dtype.itemsize
        columns = slice(self.start * itemsize, self.stop * itemsize)

        def read(start: int, stop: int) -> Buffer:
            out = np.empty((stop - start, columns.stop - columns.start), BYTE)
            most = max(1, out.nbytes // max(1, tensor.spec.row_nbytes))
            for low in range(start, stop, most):
                high = min(low + most, stop)
                out[low - start : high - start] = cells(tensor, low, high)[:, columns]
            return flat(out)

        return read

    def held_nbytes(self, tensor: TensorSpec) -> int:
        """Nothing: no more bytes of the input at a time than are wanted, or one row."""
        return 0


@dataclass(frozen=True, slots=True)
class PairRows:
    """Reorder the rows of each attention head between the two ways to lay out rotary pairs.

    Shapes: (heads * size, width) -> the same. Meta has the two rows of a rotary pair next to each other; transformers has
    the first rows of all pairs, then the second ones. ``halves`` says which way: to transformers' order, or back to Meta's.

    Attributes:
        size: Rows of one head.
        halves: Whether the result is in transformers' order.
    """

    torch: ClassVar[bool] = False

    size: int
    halves: bool

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape, unchanged; ``ValueError`` where the rows are no whole heads."""
        matrices((tensor,))
        if self.size < 2 or self.size % 2 or tensor.shape[0] % self.size:
            raise ValueError(f"{tensor} is not made of heads of {self.size} rows")
        return tensor

    def begin(self, tensor: Rows) -> Read:
        """One pass, head by head; a head that a block ends in is kept, reordered."""
        numbers = np.arange(self.size)
        places = (numbers.reshape(2, -1) if self.halves else numbers.reshape(-1, 2)).T.reshape(-1)
        width = tensor.spec.row_nbytes
        kept = np.empty((0, width), BYTE)
        held = -1

        def reorder(first: int, most: int, out: Matrix) -> None:
            """Read one head, at most so many rows at a time, each to its place."""
            for low in range(0, self.size, most):
                high = min(low + most, self.size)
                out[places[low:high]] = cells(tensor, first + low, first + high)

        def read(start: int, stop: int) -> Buffer:
            nonlocal kept, held
            out = np.empty((stop - start, width), BYTE)
            at = start
            while at < stop:
                first = at - at % self.size
                end = min(stop, first + self.size)
                part = out[at - start : end - start]
                if len(part) == self.size:
                    reorder(first, stop - start, part)
                else:
                    if held != first:
                        kept = kept if len(kept) else np.empty((self.size, width), BYTE)
                        reorder(first, stop - start, kept)
                        held = first
                    part[:] = kept[at - first : end - first]
                at = end
            return flat(out)

        return read

    def held_nbytes(self, tensor: TensorSpec) -> int:
        """One head."""
        return self.size * tensor.row_nbytes


@dataclass(frozen=True, slots=True)
class Transpose:
    """A matrix with rows and columns exchanged, for the factors of a LoRA. Shapes: (n, m) -> (m, n).

    Of a large one a band of columns is held at a time, and the input is read again from its first row for the next band.

    Attributes:
        rows: Of the matrix as it is.
    """

    torch: ClassVar[bool] = False

    rows: int

    def infer(self, matrix: TensorSpec) -> TensorSpec:
        """Dtype and shape of the other way round."""
        if len(matrix.shape) != 2 or matrix.shape[0] != self.rows:
            raise ValueError(f"{matrix} is no matrix of {self.rows} rows")
        return TensorSpec(matrix.dtype, (matrix.shape[1], matrix.shape[0]))

    def begin(self, matrix: Rows) -> Read:
        """One pass over the matrix for each band; it is read with the band's first rows."""
        cell = np.dtype((np.void, matrix.spec.dtype.itemsize))
        width = max(1, BAND_NBYTES // max(1, self.rows * cell.itemsize))
        band = np.empty((0, 0), cell)
        held = -1

        def gather(first: int, nbytes: int) -> None:
            """Hold the band that begins with a column; about so many bytes are read at a time."""
            nonlocal band, held
            columns = slice(first, min(first + width, matrix.spec.width))
            if held < 0:
                band = np.empty((self.rows, columns.stop - first + LINE_NBYTES // cell.itemsize), cell)
            for low, high in matrix.spec.blocks(nbytes):
                band[low:high, : columns.stop - first] = cells(matrix, low, high, cell)[:, columns]
            held = first

        def read(start: int, stop: int) -> Buffer:
            out = np.empty((stop - start, self.rows), cell)
            at = start
            while at < stop:
                first = at - at % width
                if held != first:
                    gather(first, out.nbytes)
                end = min(stop, first + width)
                out[at - start : end - start] = band[:, at - first : end - first].T
                at = end
            return flat(out)

        return read

    def held_nbytes(self, matrix: TensorSpec) -> int:
        """One band: the whole of a small matrix; of a large one at least a column."""
        return min(matrix.nbytes, max(BAND_NBYTES, self.rows * matrix.dtype.itemsize)) + self.rows * LINE_NBYTES


@dataclass(frozen=True, slots=True)
class DropLastAxis:
    """The weight of a convolution over one place as the matrix it is. Shapes: (n, width, 1) -> (n, width).

    Attributes:
        width: Columns of the matrix; its rows are as many rows of the tensor.
    """

    torch: ClassVar[bool] = False

    width: int

    def infer(self, tensor: TensorSpec) -> TensorSpec:
        """Dtype and shape without the last axis."""
        if tensor.shape[1:] != (self.width, 1):
            raise ValueError(f"{tensor} is no weight of a convolution over one place, {self.width} wide")
        return TensorSpec(tensor.dtype, tensor.shape[:2])

    def begin(self, tensor: Rows) -> Read:
        """One pass."""
        return lambda start, stop: tensor.read(start * self.width, stop * self.width)

    def held_nbytes(self, tensor: TensorSpec) -> int:
        """Nothing."""
        return 0
