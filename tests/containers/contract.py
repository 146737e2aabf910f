"""What every container that is read must do; each format inherits it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.conftest import bits, flip_bit
from weightkit.blobs import open_local
from weightkit.containers import Container, Format, format_named, formats, open_file, suffixes
from weightkit.containers.layout import Encoding
from weightkit.core.errors import FormatError
from weightkit.core.stored import Stored

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


def read(stored: Stored) -> bytes:
    """All bytes of a tensor."""
    return bytes(stored.read(0, stored.spec.rows))


def encoded(container: Container, encoding: Encoding) -> bytes:
    """The container's own tensors, in its own layout, written anew."""
    layout = container.layout
    parts: dict[int, dict[int, bytes]] = {run: {} for run in range(len(layout.runs))}
    for item in layout.items:
        parts[item.run][item.offset] = read(container.tensors[item.name])
    payloads = [[part for _, part in sorted(parts[run].items())] for run in encoding.order(layout)]
    written = b"".join(bytes(chunk) for chunk in encoding.encode(layout, payloads))
    assert encoding.nbytes(layout) == len(written)
    return written


class ContainerContract:
    """Reads back what the format's own library wrote, any rows of it; pickles small and equal; says where it was cut."""

    format: Format
    tensors: dict[str, torch.Tensor]

    def write(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write tensors with the format's own library."""
        raise NotImplementedError

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "model.file"
        self.write(path, self.tensors)
        return path

    def test_is_recognised(self, path: Path) -> None:
        container = open_file(open_local(path))
        assert container.format == self.format == format_named(self.format.name)
        assert self.format in formats()
        assert set(self.format.suffixes) <= set(suffixes())
        assert container.written_by

    def test_reads_back(self, path: Path) -> None:
        source = open_file(open_local(path)).tensors
        assert set(source) == set(self.tensors)
        for name, tensor in self.tensors.items():
            spec = source[name].spec
            assert spec.shape == tuple(tensor.shape)
            assert f"torch.{spec.dtype}" == str(tensor.dtype)
            assert read(source[name]) == bits(tensor)

    def test_reads_any_rows(self, path: Path) -> None:
        source, draw = open_file(open_local(path)).tensors, random.Random(0)
        for name, tensor in self.tensors.items():
            spec, whole = source[name].spec, bits(tensor)
            for _ in range(40):
                start, stop = sorted(draw.choices(range(spec.rows + 1), k=2))
                assert bytes(source[name].read(start, stop)) == whole[start * spec.row_nbytes : stop * spec.row_nbytes]

    def test_lies_as_the_layout_says(self, path: Path) -> None:
        container = open_file(open_local(path))
        assert [item.name for item in container.layout.items] == list(container.tensors)
        for item in container.layout.items:
            assert item.spec == container.tensors[item.name].spec
            run = container.layout.runs[item.run].spec
            assert (item.offset + item.spec.numel) * item.spec.dtype.itemsize <= run.nbytes

    def test_travels_to_a_worker(self, path: Path) -> None:
        container = open_file(open_local(path))
        source = pickle.loads(pickle.dumps(container))
        assert source == container
        for name, tensor in self.tensors.items():
            assert read(source.tensors[name]) == bits(tensor)

    def test_pickles_small(self, tmp_path: Path) -> None:
        """Names, specs and the file are pickled once, so that a tensor costs little more than its name."""
        path = tmp_path / "many.file"
        names = [f"model.layers.{number}.self_attn.q_proj.weight" for number in range(1000)]
        self.write(path, {name: torch.zeros(2, number % 3 + 1) for number, name in enumerate(names)})
        tensors = open_file(open_local(path)).tensors
        again = open_file(open_local(path)).tensors
        assert len(pickle.dumps([tensors[name] for name in names])) < sum(map(len, names)) + 1000 * 50
        both = [(tensors[name], again[name]) for name in names]
        assert len(pickle.dumps(both)) < sum(map(len, names)) + 2000 * 50

    def test_is_written_again(self, tmp_path: Path) -> None:
        """Plain tensors that are whole storages; what else a library can be made to write is not followed to the byte."""
        path = tmp_path / f"model{self.format.suffixes[0]}"
        self.write(path, TENSORS)
        container = open_file(open_local(path))
        if container.encoding is not None:
            assert container.encoding.profile == container.profile
            assert encoded(container, container.encoding) == path.read_bytes()
            followed = self.format.encoding(path.name, container, None, same=True)
            assert encoded(container, followed) == path.read_bytes()

    def test_variants_begin_with_what_is_there(self, path: Path) -> None:
        container = open_file(open_local(path))
        like = self.format.encoding("model.file", container, None, same=True)
        for all_kinds in (False, True):
            found = self.format.variants("model.file", like, all_kinds=all_kinds)
            assert found[0] == like
            assert len(set(found)) == len(found)

    def test_a_file_that_changed_is_not_read(self, path: Path) -> None:
        source = open_file(open_local(path)).tensors
        content = path.read_bytes()
        other = path.with_name("other")
        other.write_bytes(content)
        other.replace(path)
        with pytest.raises(FormatError, match="has changed since it was opened"):
            next(iter(source.values())).blob.check()

    def test_says_where_it_was_cut(self, path: Path) -> None:
        whole = path.read_bytes()
        for length in (0, 1, 7, 8, 60, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(FormatError, match=str(path)):
                open_file(open_local(path))

    def test_a_flipped_bit_never_ends_in_anything_but_a_format_error(self, path: Path) -> None:
        size = path.stat().st_size
        for position in [*range(0, min(size, 1500), 7), *range(max(0, size - 1500), size, 7)]:
            flip_bit(path, position)
            try:
                for stored in open_file(open_local(path)).tensors.values():
                    read(stored)
            except FormatError as error:
                assert str(path) in str(error)
            flip_bit(path, position)
