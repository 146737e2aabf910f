"""What every container that is read must do; each format inherits it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import bits, flip_bit
from weightkit.containers import Container
from weightkit.core.errors import FormatError

torch.manual_seed(0)
BLOCK = torch.randn(12, 5)
TENSORS = {
    "f32": torch.randn(7, 3),
    "f16": torch.randn(4, 2, 3).half(),
    "bf16": torch.randn(9).bfloat16(),
    "f64": torch.randn(2, 2, dtype=torch.float64),
    "i64": torch.arange(-3, 5),
    "u8": torch.arange(200, 220, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 4),
    "nan": torch.tensor([float("nan"), float("inf"), -0.0, 5e-324]),
}
VIEWS = {
    "transposed": torch.randn(5, 3).t(),
    "transposed wide": torch.randn(300, 700).t(),
    "slice": BLOCK[3:9],
    "columns": BLOCK[:, 1:4],
    "tied": BLOCK,
    "expanded": torch.randn(1, 4).expand(6, 4),
    "permuted": torch.randn(3, 4, 5).permute(2, 0, 1),
}


class SourceContract:
    """Reads back what the format's own library wrote, any rows of it; travels; says where it was cut."""

    open: Callable[[Path], Container]
    tensors: dict[str, torch.Tensor]

    def write(self, path: Path) -> None:
        raise NotImplementedError

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "model.file"
        self.write(path)
        return path

    def test_reads_back(self, path: Path) -> None:
        source = self.open(path)
        assert set(source.specs) == set(self.tensors)
        for name, tensor in self.tensors.items():
            spec = source.specs[name]
            assert spec.shape == tuple(tensor.shape)
            assert f"torch.{spec.dtype}" == str(tensor.dtype)
            assert bytes(source.read(name, 0, spec.rows)) == bits(tensor)

    def test_reads_any_rows(self, path: Path) -> None:
        source, draw = self.open(path), random.Random(0)
        for name, tensor in self.tensors.items():
            spec, whole = source.specs[name], bits(tensor)
            for _ in range(40):
                start, stop = sorted(draw.choices(range(spec.rows + 1), k=2))
                assert bytes(source.read(name, start, stop)) == whole[start * spec.row_nbytes : stop * spec.row_nbytes]

    def test_travels_to_a_worker(self, path: Path) -> None:
        source = pickle.loads(pickle.dumps(self.open(path)))
        for name, tensor in self.tensors.items():
            assert bytes(source.read(name, 0, source.specs[name].rows)) == bits(tensor)

    def test_says_where_it_was_cut(self, path: Path) -> None:
        whole = path.read_bytes()
        for length in (0, 1, 7, 8, 60, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(FormatError, match=str(path)):
                self.open(path)

    def test_a_flipped_bit_never_ends_in_anything_but_a_format_error(self, path: Path) -> None:
        size = path.stat().st_size
        for position in [*range(0, min(size, 1500), 7), *range(max(0, size - 1500), size, 7)]:
            flip_bit(path, position)
            try:
                source = self.open(path)
                for name, spec in source.specs.items():
                    source.read(name, 0, spec.rows)
            except FormatError as error:
                assert str(path) in str(error)
            flip_bit(path, position)
