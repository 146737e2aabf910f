"""Content digests: the specification's own code, and equal whatever the container, shards, layout and torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import PEER, Run, flip_bit
from tests.test_recover import tensors
from weightkit.checkpoints import open_checkpoint
from weightkit.convert import convert
from weightkit.core.errors import FormatError
from weightkit.manifest import of_tensors
from weightkit.manifests.tensors import model_digest, parse
from weightkit.merge import merge_lora
from weightkit.proof.contents import tensor_digests
from weightkit.recover import Form, recover
from weightkit.verify import verify

ROOT = Path(__file__).resolve().parents[1]
BASE = PEER / "hf-bin"


def specification() -> dict[str, Any]:
    """The functions that docs/content-digests.md gives for others."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "content-digests.md").read_text(), re.DOTALL)
    space: dict[str, Any] = {}
    exec(code, space)
    return space


def test_the_specifications_code_gives_the_same() -> None:
    given, model = specification(), tensors(BASE)
    found = tensor_digests(open_checkpoint(BASE, "PATH").tensors)
    assert {name: digest.hex for name, digest in found.items()} == {name: given["tensor"](one) for name, one in model.items()}
    assert model_digest(found).hex == given["model"](model)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "int64", "bool", "float8_e4m3fn"])
def test_every_dtype_and_shape(tmp_path: Path, dtype: str) -> None:
    model = {
        name: torch.arange(count).to(getattr(torch, dtype)).view(shape)
        for name, count, shape in (("a", 24, (2, 3, 4)), ("b", 1, ()), ("c", 0, (0, 5)), ("d", 7, (7,)))
    }
    torch.save(model, tmp_path / "pytorch_model.bin")
    given = specification()
    found = tensor_digests(open_checkpoint(tmp_path, "PATH").tensors)
    assert {name: digest.hex for name, digest in found.items()} == {name: given["tensor"](one) for name, one in model.items()}


def test_equal_for_every_container_shard_and_layout(tmp_path: Path) -> None:
    wanted = of_tensors(BASE)[1].splitlines()[0]
    convert(BASE, tmp_path / "tp", "tencentpretrain")
    for folder in (PEER / "hf-bin-nofreq", PEER / "meta" / "7B", PEER / "meta-shared" / "7B", tmp_path / "tp"):
        assert of_tensors(folder)[1].splitlines()[0] == wanted, folder
    for number, form in enumerate((Form(format="safetensors"), Form(max_shard_bytes=30_000), Form(torch_compat="2.13"))):
        convert(BASE, tmp_path / str(number), "hf", form=form)
        assert (tmp_path / str(number) / "TENSORS").read_bytes().splitlines()[0] == wanted
    convert(BASE, tmp_path / "parts", "meta", parts=2)
    assert not (tmp_path / "parts" / "TENSORS").exists()
    assert of_tensors(tmp_path / "parts")[1].splitlines()[0] == wanted


def test_every_run_leaves_them(tmp_path: Path) -> None:
    recover(BASE, PEER / "diffs" / "knowlm", tmp_path / "r", jobs=2)
    merge_lora(BASE, [PEER / "lora-zh1-bin"], tmp_path / "m", jobs=2)
    for folder in ("r", "m"):
        assert (tmp_path / folder / "TENSORS").read_bytes() == of_tensors(tmp_path / folder)[1]
        assert verify(tmp_path / folder).count("extra") == 0


def test_views_and_ties_are_named_each(tmp_path: Path) -> None:
    weight = torch.randn(6, 4)
    model = {"a": weight, "b": weight, "c": weight.view(4, 6), "d": weight[:2]}
    (tmp_path / "i").mkdir()
    torch.save(model, tmp_path / "i" / "pytorch_model.bin")
    convert(tmp_path / "i", tmp_path / "o", "hf")
    given = specification()
    listed = parse(tmp_path / "o" / "TENSORS")
    assert {name: digest.hex for name, digest in listed.items()} == {name: given["tensor"](one) for name, one in model.items()}


def test_they_are_checked_wherever_file_digests_are(weightkit: Run, tmp_path: Path) -> None:
    weightkit("manifest", BASE, "--tensors", "-o", "TENSORS")
    convert(BASE, tmp_path / "st", "hf", form=Form(format="safetensors", max_shard_bytes=10**9))
    done = weightkit("verify", "st", "--checksums", "TENSORS")
    assert done.returncode == 0
    assert "23 ok, 0 FAILED" in done.stdout
    assert verify(PEER / "meta" / "7B", [tmp_path / "TENSORS"]).ok
    file = tmp_path / "st" / "model.safetensors"
    flip_bit(file, file.stat().st_size - 5)
    done = weightkit("verify", "st", "--checksums", "TENSORS")
    assert done.returncode == 3
    assert done.stdout.count("FAILED  ") == 1
    model = load_file(file)
    model["new"] = torch.zeros(3)
    del model["model.norm.weight"]
    save_file(model, tmp_path / "model.safetensors")
    found = verify(tmp_path / "model.safetensors", [tmp_path / "TENSORS"])
    assert {one.path for one in found.checked if one.status == "missing"} == {"model.norm.weight"}
    assert {one.path for one in found.checked if one.status == "extra"} == {"new"}


def test_a_damaged_list_is_refused(tmp_path: Path) -> None:
    _, text = of_tensors(BASE)
    (tmp_path / "TENSORS").write_bytes(text.replace(b"model.norm.weight", b"model.morn.weight"))
    with pytest.raises(FormatError, match="its first line is not the digest of the others"):
        verify(BASE, [tmp_path / "TENSORS"])
