"""A model as tensors that are computed when they are asked for: a mapping with ``safe_open``'s methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from weightkit.core.errors import spoken
from weightkit.core.lazy import LazyTensor
from weightkit.core.passes import BLOCK_NBYTES, blocks, open_reads, reading
from weightkit.core.sizes import format_size
from weightkit.run.plan import SmallFile

if TYPE_CHECKING:
    import torch

__all__ = ["Opened", "TensorSlice"]


class Opened(Mapping[str, "torch.Tensor"]):
    """A model as a mapping from names to tensors, each computed when it is asked for, bit for bit as it would be written.

    It holds no open files, may be read from several threads, and pickles to the workers of a DataLoader.

    Attributes:
        tensors: Name -> dtype, shape and how it is computed.
        small: Name -> bytes of config.json, tokenizer files and the like, as they would be written.
        steps: What is done to the tensors, one line each.
        notes: What the user should know.
    """

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        small: Sequence[SmallFile] = (),
        steps: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.tensors = dict(tensors)
        self.small = {one.path: one.content for one in small}
        self.steps, self.notes = tuple(map(spoken, steps)), tuple(map(spoken, notes))

    def __repr__(self) -> str:
        return f"<{len(self)} tensors, {format_size(sum(one.spec.nbytes for one in self.tensors.values()))}>"

    def __getitem__(self, name: str) -> torch.Tensor:
        from weightkit.core.compute import filled_tensor, one_thread

        tensor = self.lazy(name)
        with one_thread(), reading([tensor]):
            return filled_tensor(tensor.spec, (block for (block,) in blocks([tensor])))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:  # a Mapping's own would compute the tensor
        return name in self.tensors

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor, in memory of its own.

        Raises:
            KeyError: There is none of this name.
            FormatError: An input is damaged, or has changed since it was opened.
        """
        return self[name]

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor of which only some rows are to be computed: ``get_slice(name)[3:5]``."""
        return TensorSlice(self.lazy(name))

    def lazy(self, name: str) -> LazyTensor:
        """How a tensor is computed; ``KeyError`` where there is none of this name."""
        if name in self.tensors:
            return self.tensors[name]
        near = get_close_matches(name, self.tensors, n=1)
        raise KeyError(f"{name}; did you mean {near[0]}?" if near else name)

    def offset_keys(self) -> list[str]:
        """The names, in the order of the files."""
        return list(self.tensors)

    def metadata(self) -> dict[str, str]:
        """What a safetensors header says beside the tensors."""
        return {"format": "pt"}


class TensorSlice:
    """A tensor of which some rows are computed: ``[a:b]``, ``[a:b, c:d]`` and whatever else torch takes for an index.

    Rows are those of the first axis. A step, or numbers, are cut out of the rows between the first and the last of them.
    """

    def __init__(self, tensor: LazyTensor) -> None:
        self.tensor = tensor

    def __repr__(self) -> str:
        return f"<slice of {self.tensor!r}>"

    def get_shape(self) -> list[int]:
        """Of the whole tensor."""
        return list(self.tensor.spec.shape)

    def get_dtype(self) -> str:
        """As safetensors names it: ``F16``."""
        dtype = self.tensor.spec.dtype
        return dtype.safetensors or dtype.name

    def __getitem__(self, index: Any) -> torch.Tensor:
        from weightkit.core.compute import filled_tensor, one_thread

        spec = self.tensor.spec
        parts = index if isinstance(index, tuple) else (index,)
        first = parts[0] if parts else slice(None)
        if not isinstance(first, slice | int) or isinstance(first, bool) or not spec.shape:
            first, parts = slice(None), (slice(None), *parts) if parts and first is None else parts
            low, high, rest = 0, (spec.shape or (1,))[0], index
        elif isinstance(first, int):
            if not -spec.shape[0] <= first < spec.shape[0]:
                raise IndexError(f"row {first} of {spec.shape[0]}")
            low = first % spec.shape[0]
            high, rest = low + 1, (0, *parts[1:])
        else:
            low, high, step = first.indices(spec.shape[0])
            if step < 1:
                raise ValueError("a slice's step must be positive, as torch has it")
            high = max(low, high)
            rest = (slice(None, None, step), *parts[1:])
        shape = (high - low, *spec.shape[1:]) if spec.shape else ()
        wanted = replace(spec, shape=shape)
        each = spec.rows // spec.shape[0] if spec.shape and spec.shape[0] else 1
        with one_thread(), reading([self.tensor]):
            (read,) = open_reads([self.tensor])
            pieces = (read(low * each + start, low * each + stop) for start, stop in wanted.blocks(BLOCK_NBYTES))
            found = filled_tensor(wanted, pieces)
        return found[rest].clone() if isinstance(rest, tuple) and len(rest) > 1 else found[rest]
