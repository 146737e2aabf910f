"""Every format that is read, against files that its own library wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.containers.contract import TENSORS, VIEWS, ContainerContract
from weightkit.blobs import open_local
from weightkit.containers import format_named, open_file
from weightkit.core.errors import FormatError


class TestTorchZip(ContainerContract):
    format = format_named("bin")
    tensors = TENSORS | VIEWS

    def write(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        torch.save(dict(tensors), path)

    def test_records_crcs_of_whole_storages_only(self, path: Path) -> None:
        source = open_file(open_local(path)).tensors
        assert source["f32"].record is not None
        assert source["f32"].whole
        assert not source["slice"].whole
        assert not source["transposed"].whole


class TestTorchLegacy(ContainerContract):
    format = format_named("bin")
    tensors = TENSORS | VIEWS

    def write(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        torch.save(dict(tensors), path, _use_new_zipfile_serialization=False)


class TestSafetensors(ContainerContract):
    format = format_named("safetensors")
    tensors = TENSORS

    def write(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        safetensors.torch.save_file(dict(tensors), path, {"format": "pt"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git-LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"<html lang=en>", "web page"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (bytes(4096), "zeros only"),
        (b"hello, world", "begins with"),
    ],
)
def test_says_what_a_file_is_instead(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=said):
        open_file(open_local(path))


def test_says_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read: Is a directory"):
        open_file(open_local(tmp_path))
    with pytest.raises(FormatError, match="cannot be read: No such file"):
        open_file(open_local(tmp_path / "nothing"))


def test_refuses_a_torchscript_program(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(FormatError, match="TorchScript|torch"):
        open_file(open_local(path))
