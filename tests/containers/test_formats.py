"""Formats as values: which there are, what each chooses to write, and one that comes from another package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.conftest import GOLDEN
from weightkit.blobs import MemoryBlob, open_local
from weightkit.containers import Container, format_named, formats, open_file, sniff, suffixes
from weightkit.containers.safetensors import Safetensors
from weightkit.containers.torch_file import WRITTEN_BY
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip
from weightkit.core.errors import FormatError, WeightkitError

BIN, SAFETENSORS = format_named("bin"), format_named("safetensors")

TOY = '''
"""Numbers in text, as a container format of another package."""

from dataclasses import dataclass

from weightkit.blobs import known
from weightkit.containers.layout import one_each
from weightkit.core.dtypes import BY_NAME
from weightkit.core.spec import TensorSpec


@dataclass(frozen=True)
class Toy:
    name: str = "toy"
    stem: str = "numbers"
    suffixes: tuple = (".toy",)
    ties: bool = False
    ordered: bool = True

    def recognise(self, head, nbytes):
        return head.startswith(b"GGUF toy ")

    def open(self, blob):
        text = bytes(blob.read(9, blob.nbytes))
        return ToyFile(blob, {"numbers": known("numbers", TensorSpec(BY_NAME["uint8"], (len(text),)), text)})


@dataclass(frozen=True)
class ToyFile:
    blob: object
    tensors: dict
    profile = written_by = "toy"
    encoding = None
    format = property(lambda self: TOY)
    layout = property(lambda self: one_each((name, one.spec) for name, one in self.tensors.items()))


TOY = Toy()
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as a package manager leaves it, with an entry point for a format."""
    folder = tmp_path / "site"
    info = folder / "weightkit_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weightkit-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[weightkit.containers]\ntoy = toy_weights:TOY\n")
    (folder / "toy_weights.py").write_text(TOY)
    monkeypatch.syspath_prepend(folder)
    formats.cache_clear()
    yield folder
    formats.cache_clear()
    sys.modules.pop("toy_weights", None)


@pytest.mark.usefixtures("install")
def test_a_format_of_another_package_is_found() -> None:
    assert [one.name for one in formats()] == ["bin", "safetensors", "toy"]
    assert suffixes() == (".bin", ".pth", ".pt", ".safetensors", ".toy")
    container = open_file(MemoryBlob(b"GGUF toy 12345"))
    assert container.format == format_named("toy")
    assert bytes(container.tensors["numbers"].read(1, 3)) == b"23"


def test_a_format_of_another_package_that_does_not_load(install: Path) -> None:
    (install / "toy_weights.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(WeightkitError, match="toy_weights:TOY.*nothing_of_this_name"):
        formats()


def test_without_it_there_are_two() -> None:
    assert [one.name for one in formats()] == ["bin", "safetensors"]
    with pytest.raises(ValueError, match="'toy' is no container format; known: bin, safetensors"):
        format_named("toy")
    with pytest.raises(FormatError, match="GGUF file"):
        open_file(MemoryBlob(b"GGUF toy 12345", "numbers.toy"))


def test_a_large_gguf_file_is_no_safetensors_file() -> None:
    """One with 123 tensors has the brace where a header of safetensors would begin."""
    head = b"GGUF" + (3).to_bytes(4, "little") + (123).to_bytes(8, "little")
    with pytest.raises(ValueError, match="GGUF file"):
        sniff(head, 20 << 30)


def opened(path: Path) -> Container:
    return open_file(open_local(path))


def golden(profile: str, case: str) -> Container:
    (path,) = (GOLDEN / profile / ("c08_legacy" if profile == "legacy" else case)).iterdir()
    return opened(path)


@pytest.mark.parametrize("profile", WRITTEN_BY)
def test_the_writer_is_named(profile: str) -> None:
    container = golden(profile, "c01_dict")
    assert (container.profile, container.written_by) == (profile, WRITTEN_BY[profile])
    assert (container.encoding is not None) == (profile in PROFILES)


def test_the_writer_is_followed() -> None:
    for profile in PROFILES:
        container = golden(profile, "c02a_ordereddict")
        for name in ("model.bin", "other.bin"):
            root = "archive" if profile == "zip-1.9" else name.removesuffix(".bin")
            assert BIN.encoding(name, container, None, same=False) == TorchZip(profile, root)
            assert BIN.encoding(name, container, None, same=True) == TorchZip(profile, root, "OrderedDict")


def test_a_writer_that_is_named_comes_first() -> None:
    container = golden("zip-2.7", "c02a_ordereddict")
    assert BIN.encoding("a.bin", container, "2.0.1", same=True) == TorchZip("zip-1.13", "a", "OrderedDict")
    assert BIN.encoding("a.bin", None, "zip-2.1", same=True) == TorchZip("zip-2.1", "a")
    with pytest.raises(ValueError, match="memory addresses"):
        BIN.encoding("a.bin", container, "1.6", same=True)


def test_a_writer_that_cannot_be_followed(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert BIN.encoding("a.bin", None, None, same=False) == TorchZip("zip-1.13", "a")
    assert BIN.encoding("a.bin", opened(tmp_path / "a.safetensors"), None, same=True) == TorchZip("zip-1.13", "a")
    for profile in ("legacy", "zip-1.6"):
        assert BIN.encoding("a.bin", golden(profile, "c01_dict"), None, same=True) == TorchZip("zip-1.9", "archive")


def test_metadata_of_safetensors_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path, {"made by": "me"})
    container = opened(path)
    assert container.encoding == Safetensors((("made by", "me"),))
    assert SAFETENSORS.encoding("b.safetensors", container, None, same=True) == container.encoding
    assert SAFETENSORS.encoding("b.safetensors", container, "2.0", same=False) == Safetensors((("format", "pt"),))
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    assert opened(path).encoding == Safetensors(())
    assert SAFETENSORS.encoding("b.safetensors", opened(path), None, same=True) == Safetensors((("format", "pt"),))
    assert SAFETENSORS.encoding("b.safetensors", golden("zip-2.1", "c01_dict"), None, same=True) == Safetensors()


def test_variants_are_those_of_each_torch() -> None:
    like = TorchZip("zip-2.1", "a", "OrderedDict")
    found = BIN.variants("a.bin", like, all_kinds=False)
    assert found == [like, TorchZip("zip-1.9", "archive", "OrderedDict")] + [
        TorchZip(profile, "a", "OrderedDict") for profile in ("zip-1.13", "zip-2.7")
    ]
    more = BIN.variants("a.bin", like, all_kinds=True)
    assert more[:2] == [like, TorchZip("zip-2.1", "a")]
    assert len(more) == 2 * len(PROFILES)
    assert len(BIN.variants("a.bin", TorchZip("zip-2.1", "a"), all_kinds=True)) == len(PROFILES)
    assert SAFETENSORS.variants("a.safetensors", Safetensors(), all_kinds=True) == [Safetensors()]


def test_a_renamed_file_may_have_been_called_otherwise() -> None:
    like = TorchZip("zip-2.1", "before")
    found = BIN.variants("after.bin", like, all_kinds=False)
    assert found[:2] == [like, TorchZip("zip-2.1", "after")]


class Counted(MemoryBlob):
    """Bytes in memory that count how often they are read."""

    reads = 0

    def read(self, start: int, stop: int) -> bytearray:
        type(self).reads += 1
        return bytearray(self.content[start:stop])


def test_heads_of_small_neighbours_cost_no_read_each(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save({f"layer {number}": torch.ones(2) for number in range(1000)}, path)
    Counted.reads = 0
    container = open_file(Counted(path.read_bytes(), "model.bin"))
    assert len(container.tensors) == 1000
    assert Counted.reads < 100
