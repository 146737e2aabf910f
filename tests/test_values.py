"""What a checkpoint says beside its tensors' bytes: views and lazy bits, config.json, sums that are none."""

from __future__ import annotations

import collections
import io
import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import PEER, Run, bits
from weightkit.blobs import open_local
from weightkit.checkpoints.config_text import set_values
from weightkit.containers import open_file
from weightkit.core.dtypes import BY_NAME
from weightkit.core.errors import FormatError
from weightkit.core.spec import TensorSpec
from weightkit.ops.add import Add

NORM = "model.norm.weight"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["vocab_size", "dtype", "a", "é"]), inner),
    max_leaves=12,
)


def test_own_values_change_and_nested_ones_stay() -> None:
    text = (
        '{ "vocab_size" :40,\n\t"text_config": {"vocab_size": 1, "dtype": "int8"}, "torch_dtype": "float32",'
        '"dtype":null, "x": "\\"vocab_size\\": 3", "pad_token_id": null}\n'
    )
    values: dict[str, str | int] = {
        "vocab_size": 41,
        "torch_dtype": "bfloat16",
        "pad_token_id": 7,
        "dtype": "int8",
        "absent": 1,
    }
    wanted = text.replace(":40", ":41").replace('"float32"', '"bfloat16"').replace('"pad_token_id": null', '"pad_token_id": 7')
    assert set_values(text.encode(), values) == wanted.encode()


@given(st.dictionaries(st.sampled_from(["vocab_size", "dtype", "b", "ü"]), json_values), st.sampled_from([None, 1, "\t"]))
def test_a_text_whose_values_change_is_the_object_whose_values_do(value: dict[str, object], indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    assert set_values(text, {}) == text
    changed = dict(value)
    if type(value.get("vocab_size")) is int:
        changed["vocab_size"] = 5
    if isinstance(value.get("dtype"), str):
        changed["dtype"] = "float16"
    found = set_values(text, {"vocab_size": 5, "dtype": "float16"})
    assert found == json.dumps(changed, indent=indent, ensure_ascii=False).encode()


BROKEN = ("", "[]", "{", '{"a" 1}', '{"a": 1,}', "{1: 2}", '{"a": }', '{"a": 1 "b": 2}', '{"a": ' + "[" * 100_000)


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"config.json|Expecting"):
        set_values(text.encode(), {"a": 2})


def test_merge_leaves_nested_settings_alone(weightkit: Run, tmp_path: Path) -> None:
    shutil.copytree(PEER / "hf-bin", tmp_path / "base")
    path = tmp_path / "base/config.json"
    nested = {"vision_config": {"vocab_size": 49408, "torch_dtype": "float32"}, "quantization_config": {"dtype": "int8"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | nested))
    done = weightkit("convert", tmp_path / "base", tmp_path / "out", "--to", "hf", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert {key: config[key] for key in nested} == nested
    assert config["torch_dtype"] == "bfloat16"


def test_convert_of_metas_layout_says_its_dtype(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("convert", PEER / "meta/7B", tmp_path / "out", "--to", "hf", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_convert_says_where_the_size_of_the_vocabulary_is_not_the_checkpoints(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("convert", PEER / "meta/7B", tmp_path / "out", "--to", "hf")
    rows = torch.load(PEER / "meta/7B/consolidated.00.pth", weights_only=True)["tok_embeddings.weight"].shape[0]
    assert rows != 32000
    assert f"the embedding has {rows} rows" in done.stdout
    found = weightkit(
        "convert", PEER / "meta/7B", tmp_path / "found", "--to", "hf", "--as", "transformers-4.28.1+vocabulary-found"
    )
    assert "note:" not in found.stdout
    assert json.loads((tmp_path / "found/config.json").read_text())["vocab_size"] == rows


@pytest.mark.parametrize(("said", "rows"), [(-1, 32000), (79458, 79458), (None, 32000)])
def test_an_index_from_params_alone_has_its_vocabulary(weightkit: Run, tmp_path: Path, said: int | None, rows: int) -> None:
    params = {"dim": 64, "multiple_of": 32, "n_heads": 4, "n_layers": 1, "norm_eps": 1e-06, "vocab_size": said}
    (tmp_path / "params.json").write_text(json.dumps(params))
    done = weightkit("convert", tmp_path / "params.json", tmp_path / "out", "--to", "hf", "--dry-run", "--write-index")
    assert done.returncode == 0, done.stderr
    inner = 32 * -(-int(8 * 64 / 3) // 32)
    elements = 2 * rows * 64 + 4 * 64 * 64 + 3 * 64 * inner + 3 * 64
    index = json.loads((tmp_path / "out/pytorch_model.bin.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * elements + 4 * 8  # and one inv_freq


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64"])
@pytest.mark.parametrize("sign", [1, -1])
def test_unsigned_integers_are_refused_on_paper(name: str, sign: int) -> None:
    spec = TensorSpec(BY_NAME[name], (2, 2))
    with pytest.raises(ValueError, match=f"unsigned integers as {name}"):
        Add(spec.dtype, sign).infer(spec, spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64", "float64"])
def test_what_is_added_on_paper_is_added(name: str) -> None:
    spec = TensorSpec(BY_NAME[name], (2, 2))
    assert Add(spec.dtype).infer(spec, spec) == spec
    torch.add(torch.ones(2, dtype=getattr(torch, name)), 1)


class Storage:
    """Stands for a storage in a pickle that torch itself no longer writes."""

    def __init__(self, *view: object) -> None:
        self.view = view


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return ("storage", torch.FloatStorage, "7", "cpu", 8, *obj.view) if isinstance(obj, Storage) else None


class Tensor:
    def __init__(self, storage: Storage, offset: int, *shape: int) -> None:
        self.arguments: tuple[object, ...] = (storage, offset, shape, (1,) * len(shape), False, collections.OrderedDict())

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, self.arguments


def legacy(path: Path, tensors: dict[str, Tensor]) -> Path:
    """A file of torch before 1.6: one storage of eight floats, 0 to 7, of which some may be views."""
    file = io.BytesIO()
    for one in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(one, file, protocol=2)
    Pickler(file, protocol=2).dump(tensors)
    pickle.dump(["7"], file, protocol=2)
    path.write_bytes(file.getvalue() + struct.pack("<q8f", 8, *range(8)))
    return path


def test_views_of_storages_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    view = Storage(("7v", 4, 4))
    path = legacy(tmp_path / "a.bin", {"w": Tensor(view, 0, 4), "x": Tensor(view, 1, 2), "y": Tensor(Storage(None), 3, 4)})
    wanted = torch.load(path, weights_only=True)
    assert wanted["w"].tolist() == [4, 5, 6, 7]
    found = open_file(open_local(path)).tensors
    assert {name: bytes(one.read(0, one.spec.rows)) for name, one in found.items()} == {
        name: bits(one) for name, one in wanted.items()
    }


@pytest.mark.parametrize("view", [("7v", 4, 5), ("7v", -1, 2), ("7v", 6, 3), ("7v", 4), "7v", (7, 0, 8)])
def test_a_view_that_is_none_is_refused(tmp_path: Path, view: object) -> None:
    with pytest.raises(FormatError, match="storage"):
        open_file(open_local(legacy(tmp_path / "a.bin", {"w": Tensor(Storage(view), 0, 1)})))


def test_a_tensor_stays_in_its_view(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="past the end of its storage"):
        open_file(open_local(legacy(tmp_path / "a.bin", {"w": Tensor(Storage(("7v", 0, 4)), 1, 4)})))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["conj", "neg"])
def test_lazy_bits_are_refused_by_name(tmp_path: Path, kind: str, zipped: bool) -> None:
    value = torch.conj(torch.complex(torch.arange(4.0), torch.arange(4.0)))
    lazy = value if kind == "conj" else torch.imag(value)
    torch.save({"w": lazy}, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(FormatError, match=rf"w: is kept lazily \({kind}\).*resolve_conj\(\)\.resolve_neg\(\)"):
        open_file(open_local(tmp_path / "a.bin"))
    torch.save({"w": lazy.resolve_conj().resolve_neg()}, tmp_path / "b.bin", _use_new_zipfile_serialization=zipped)
    assert set(open_file(open_local(tmp_path / "b.bin")).tensors) == {"w"}


@pytest.mark.parametrize(("dtype", "large"), [("float16", 60000.0), ("bfloat16", 3e38), ("float32", 3e38)])
def test_sums_that_overflow_are_counted(weightkit: Run, tmp_path: Path, dtype: str, large: float) -> None:
    shape = (4, 8)
    base = torch.ones(shape, dtype=getattr(torch, dtype))
    diff = torch.zeros(shape, dtype=getattr(torch, dtype))
    base[1, 2] = diff[1, 2] = base[3, 7] = diff[3, 7] = large
    base[0, 0] = float("nan")
    for name, tensor in (("b", base), ("d", diff)):
        (tmp_path / name).mkdir()
        torch.save({"model.layers.0.mlp.up_proj.weight": tensor}, tmp_path / name / "pytorch_model.bin")
    done = weightkit("recover", "--raw", "b", "--diff", "d", "--out", "o", "--json")
    assert done.returncode == 0, done.stderr
    wanted = int(torch.isinf(base + diff).sum())
    assert wanted == 2
    notes = json.loads(done.stdout)["notes"]
    assert next(one for one in notes if "infinite" in one).startswith(
        "model.layers.0.mlp.up_proj.weight: 2 elements are infinite"
    )
