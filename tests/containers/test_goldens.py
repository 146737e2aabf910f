"""Files that real torch releases wrote: each is read right, and those a checkpoint writer needs are written again.

The expected bytes come from ``cases.json`` (a formula for every storage) and from ``torch.load``, never from weightkit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import GOLDEN, bits
from tests.containers.contract import encoded, read
from weightkit.blobs import open_local
from weightkit.containers import open_file
from weightkit.containers.layout import Item, Layout, Run
from weightkit.containers.torch_file import TorchFile
from weightkit.containers.torch_zip_writer import PROFILES, TorchZip, profile_for_version, root_for
from weightkit.core.dtypes import BY_NAME
from weightkit.core.spec import TensorSpec

FILES = sorted(path for path in GOLDEN.glob("*/*/*") if path.is_file())
CASES: dict[str, dict[str, Any]] = {case["case"]: case for case in json.loads((GOLDEN / "cases.json").read_text())}
UNWRITTEN = {
    "c04c_transposed_view": "a transposed tensor is written contiguous",
    "c04e_one_slice_view": "a view is written without the rest of its storage",
    "c04o_offsets": "overlapping views are written apart",
    "c05a_parameter": "parameters are written as tensors",
    "c05b_state_dict_keep_vars": "parameters are written as tensors",
    "c11_nested": "not a dict of tensors",
    "c14_bare_tensor": "not a dict of tensors",
    "c15_tensor_attr": "attributes of tensors are not kept",
    "c17_proto4": "pickle protocol 2 only",
    "c19_faketag_cuda0": "tensors are written as those of a CPU",
    "c20_nocrc": "CRCs are always written",
    "c21_align4096": "aligned to 64 bytes only",
    "c24_shared_strings": "names read from a file are never literals of torch",
}
"""Golden cases that are read but not written, with the reason."""

LATER = ("c04k_float8", "c04l_uint16")
"""Golden cases that only a torch later than 2.1 reads."""


def flat(name: str, value: Any) -> dict[str, torch.Tensor]:
    """The tensors in what ``torch.load`` gives, by dotted name."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict[str, torch.Tensor] = {}
    for key, inner in pairs:
        found |= flat(f"{name}.{key}" if name else str(key), inner)
    return found


def formula(storage: dict[str, Any]) -> bytes:
    """The bytes of a storage, from the rule that cases.json goes by."""
    if "bytes_hex" in storage:
        return bytes.fromhex(storage["bytes_hex"])
    index = np.arange(storage["numel"], dtype=np.int64)
    values = (37 * index + 11 * storage["seed"]) % 251 - 125
    match storage["dtype"]:
        case "uint8":
            return (values + 125).astype(np.uint8).tobytes()
        case "bool":
            return (values > 0).tobytes()
        case "bfloat16":
            return ((values / 64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        case "float16" | "float32" | "float64" as name:
            return (values / 64).astype(name).tobytes()
    return values.astype(storage["dtype"]).tobytes()


def ids(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.parent.name}"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_is_read_as_torch_reads_it(path: Path) -> None:
    if path.parent.name in LATER and not hasattr(torch._utils, "_rebuild_tensor_v3"):
        pytest.skip("this torch cannot read it; test_holds_what_the_formula_says does without")
    source = open_file(open_local(path))
    wanted = flat("", torch.load(path, weights_only=False, map_location="cpu"))
    assert list(source.tensors) == list(wanted)
    for name, tensor in wanted.items():
        spec = source.tensors[name].spec
        assert (spec.shape, f"torch.{spec.dtype}") == (tuple(tensor.shape), str(tensor.dtype))
        assert read(source.tensors[name]) == bits(tensor)


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name in CASES], ids=ids)
def test_holds_what_the_formula_says(path: Path) -> None:
    case, source = CASES[path.parent.name], open_file(open_local(path))
    entries = case.get("entries") or ([{**case["tensor"], "name": ""}] if "tensor" in case else [])
    assert list(source.tensors) == [entry["name"] for entry in entries]
    for entry in entries:
        spec = source.tensors[entry["name"]].spec
        cell = np.dtype((np.void, spec.dtype.itemsize))
        storage = np.frombuffer(formula(case["storages"][entry["storage"]]), cell)[entry["offset"] :]
        steps = [stride * cell.itemsize for stride in entry["stride"]]
        wanted = np.lib.stride_tricks.as_strided(storage, entry["shape"], steps).tobytes() if spec.numel else b""
        assert read(source.tensors[entry["name"]]) == wanted


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_profile_is_told(path: Path) -> None:
    source = open_file(open_local(path))
    saved_to_file_object = path.parent.name in ("c06a_bytesio", "c06b_fileobj") and path.parent.parent.name == "zip-1.13"
    without_keys = path.parent.name.startswith("c12_") or path.parent.name.startswith("c12b_")
    if saved_to_file_object or (without_keys and path.parent.parent.name == "zip-1.6"):
        assert source.profile == "zip-1.9"  # the two write the same bytes then
    else:
        assert source.profile == path.parent.parent.name


WRITTEN = [path for path in FILES if path.parent.parent.name in PROFILES and path.parent.name not in UNWRITTEN]


@pytest.mark.parametrize("path", WRITTEN, ids=ids)
def test_is_written_again_byte_for_byte(path: Path) -> None:
    source = open_file(open_local(path))
    assert isinstance(source, TorchFile)
    assert source.kind in ("dict", "OrderedDict")
    encoding = TorchZip(path.parent.parent.name, source.root, source.kind, source.metadata)
    assert encoded(source, encoding) == path.read_bytes()
    if source.profile == encoding.profile:
        assert source.encoding == encoding


def test_every_golden_case_is_written_or_has_a_reason() -> None:
    assert {path.parent.name for path in FILES if path.parent.parent.name in PROFILES} - set(UNWRITTEN) == {
        path.parent.name for path in WRITTEN
    }


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("case", ["c01_dict", "c02a_ordereddict", "c02d_llama_state_dict", "c07c_300_tensors", "c04j_dtypes"])
def test_is_written_from_its_description_alone(profile: str, case: str) -> None:
    """The same from cases.json, so that nothing of the golden file is needed to make it."""
    facts = CASES[case]
    runs = tuple(Run(TensorSpec(BY_NAME[one["dtype"]], (one["numel"],))) for one in facts["storages"])
    items = tuple(
        Item(one["name"], TensorSpec(runs[one["storage"]].spec.dtype, tuple(one["shape"])), one["storage"], one["offset"])
        for one in facts["entries"]
    )
    found = facts.get("_metadata")
    metadata = tuple((name, tuple(held.items())) for name, held in found) if found else None
    layout = Layout(items, runs)
    encoding = TorchZip(profile, root_for(facts["file"], profile), facts["container"], metadata)
    chunks = encoding.encode(layout, [[formula(facts["storages"][run])] for run in encoding.order(layout)])
    assert b"".join(bytes(chunk) for chunk in chunks) == (GOLDEN / profile / case / facts["file"]).read_bytes()


def test_thousands_of_keys_as_torch_writes_them(tmp_path: Path) -> None:
    """Batches of a thousand items end differently in dicts and OrderedDicts; the installed torch is the oracle."""
    from collections import OrderedDict

    path = tmp_path / "pytorch_model.bin"
    profile = profile_for_version(torch.__version__)
    for count in (1, 2, 999, 1000, 1001, 2000, 2001):
        for kind in (dict, OrderedDict):
            torch.save(kind((f"k{number}", torch.tensor([float(number)])) for number in range(count)), path)
            source = open_file(open_local(path))
            assert isinstance(source, TorchFile)
            encoding = TorchZip(profile, "pytorch_model", kind.__name__, None)
            assert encoded(source, encoding) == path.read_bytes(), (count, kind)


@pytest.mark.parametrize(
    ("version", "profile"),
    [("1.9", "zip-1.9"), ("1.12.1", "zip-1.9"), ("1.13.1", "zip-1.13"), ("2.0", "zip-1.13"), ("2.1", "zip-2.1")]
    + [("2.6.0", "zip-2.1"), ("2.7", "zip-2.7"), ("2.15.0", "zip-2.7"), ("2.13.0+cpu", "zip-2.7"), ("zip-1.13", "zip-1.13")],
)
def test_versions_and_their_profiles(version: str, profile: str) -> None:
    assert profile_for_version(version) == profile


@pytest.mark.parametrize("version", ["1.8.1", "1.6", "0.4", "latest", ""])
def test_versions_that_cannot_be_written(version: str) -> None:
    with pytest.raises(ValueError, match=r"torch"):
        profile_for_version(version)


@pytest.mark.parametrize(
    ("name", "root"),
    [("consolidated.00.pth", "consolidated.00"), ("a.b.c.d", "a.b.c"), ("ckpt-1.5.tar.gz", "ckpt-1.5.tar"), ("model", "model")]
    + [("a.", "a"), ("..bin", "."), ("mödel.bin", "mödel")],
)
def test_roots(name: str, root: str) -> None:
    assert root_for(name, "zip-1.13") == root
    assert root_for(name, "zip-1.9") == "archive"
    assert root_for(name, "zip-2.1") == (root if name.isascii() else "archive")
