"""The small files and indexes of 2023's converters, against digests that were published; sizes against published sizes."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest

from tests.conftest import DATA, Run
from weightkit.checkpoints.params import encode_params
from weightkit.checkpoints.shards import shard
from weightkit.containers.layout import one_each
from weightkit.containers.torch_zip_writer import TorchZip, root_for
from weightkit.convert import huggingface_specs, index_from_params
from weightkit.core.dtypes import FLOAT16, FLOAT32, DType
from weightkit.families.converters import CONVERTERS, ModelShape, converter_named

SHAPES = {
    "7B": ModelShape(4096, 11008, 32, 32, 32, 32000, 1e-6),
    "13B": ModelShape(5120, 13824, 40, 40, 40, 32000, 1e-6),
    "30B": ModelShape(6656, 17920, 52, 52, 60, 32000, 1e-6),
    "65B": ModelShape(8192, 22016, 64, 64, 80, 32000, 1e-5),
}
DERIVED = {row["content"]: row for row in csv.DictReader((DATA / "derived-digests.tsv").open(), delimiter="\t")}


def derived(content: str) -> str:
    return next(row["sha256"] for text, row in DERIVED.items() if text.startswith(content))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.mark.parametrize(
    ("converter", "size", "name", "content"),
    [
        ("transformers-4.28.0.dev0", "7B", "config.json", "config.json: LLaMA-7B"),
        ("transformers-4.28.0.dev0", "13B", "config.json", "config.json: LLaMA-13B"),
        (
            "transformers-4.27.0.dev0",
            "7B",
            "generation_config.json",
            "generation_config.json: bos 0, eos 1, pad 0, transformers 4.27",
        ),
        (
            "transformers-4.28.0.dev0+bos-0",
            "7B",
            "generation_config.json",
            "generation_config.json: bos 0, eos 1, pad 0, transformers 4.28.0.dev0",
        ),
        (
            "transformers-4.28.0.dev0",
            "13B",
            "generation_config.json",
            "generation_config.json: bos 1, eos 2, pad 0, transformers 4.28.0.dev0",
        ),
        (
            "transformers-4.28.1",
            "13B",
            "generation_config.json",
            "generation_config.json: bos 1, eos 2, pad 0, transformers 4.28.1",
        ),
        (
            "transformers-4.29.0.dev0",
            "7B",
            "generation_config.json",
            "generation_config.json: bos 1, eos 2, pad 0, transformers 4.29.0.dev0",
        ),
        ("transformers-4.28.1", "7B", "special_tokens_map.json", "special_tokens_map.json: bos/eos/unk as AddedToken"),
        ("transformers-4.27.0.dev0", "7B", "special_tokens_map.json", "special_tokens_map.json: empty object, no newline"),
        (
            "transformers-4.28.1+no-special-tokens-newline",
            "7B",
            "special_tokens_map.json",
            "special_tokens_map.json: empty object, with newline",
        ),
        (
            "transformers-4.28.1",
            "7B",
            "tokenizer_config.json",
            "tokenizer_config.json: bos/eos/unk ('<s>', '</s>', '<unk>'), model_max_length 1000",
        ),
        (
            "transformers-4.28.1+max-length-2048",
            "7B",
            "tokenizer_config.json",
            "tokenizer_config.json: bos/eos/unk ('<s>', '</s>', '<unk>'), model_max_length 2048",
        ),
        ("transformers-4.28.1+empty-tokens", "7B", "tokenizer_config.json", "tokenizer_config.json: bos/eos/unk ('', '', '')"),
    ],
)
def test_small_files_have_published_digests(converter: str, size: str, name: str, content: str) -> None:
    assert sha256(converter_named(converter).small_files(SHAPES[size])[name]) == derived(content)


def test_configs_of_30b_have_published_digests() -> None:
    """Open-Assistant's list of its base (4.29.0.dev0), and what its README says 4.28.0 gives."""
    assert md5(CONVERTERS["transformers-4.29.0.dev0"].config(SHAPES["30B"])) == "598538f18fed1877b41f77de034c0c8a"
    assert md5(CONVERTERS["transformers-4.28.0"].config(SHAPES["30B"])).startswith("8e9e0ef0")
    assert md5(CONVERTERS["transformers-4.28.0"].generation_config()).startswith("a5f7595e")


def params(folder: Path, size: str) -> Path:
    (folder / "params.json").write_bytes(encode_params(SHAPES[size]))
    return folder


@pytest.mark.parametrize(("size", "content"), [("7B", "LLaMA-7B params.json"), ("13B", "LLaMA-13B params.json")])
def test_params_have_published_digests(size: str, content: str) -> None:
    assert sha256(encode_params(SHAPES[size])) == derived(content)


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        ("30B", "2c07118ea98d69dbe7810d88520e30288fa994751b337f8fca02b171955f44cb"),
        ("65B", "999ed1659b469ccc2a941714c0a9656fa571d17c9f7c8c7589817ca90edef51b"),
    ],
)
def test_params_of_the_larger_ones_too(size: str, digest: str) -> None:
    """facebookresearch/llama pull request 87."""
    assert sha256(encode_params(SHAPES[size])) == digest


@pytest.mark.parametrize(
    ("size", "converter", "dtype", "tokens", "digest"),
    [
        (
            "13B",
            "transformers-4.28.0.dev0+inv-freq-16",
            FLOAT16,
            32000,
            "72e91e29282dae48ea5562fcf4d6ca0d5a9c2a30ebc8d67174a19e192552a20b",
        ),
        ("13B", "transformers-4.28.1", FLOAT16, 32000, "92c31ad5e853e9a6660e248871f9bd0cd273518de7ec12ca893e1b1078c10898"),
        (
            "7B",
            "transformers-4.28.0.dev0+inv-freq-16",
            FLOAT16,
            32000,
            "f56e69fedde5d28e4f37f2b62f74e8522bbfa13395a6d696d1ef99222a431ab7",
        ),
        ("7B", "transformers-4.28.1", FLOAT16, 32000, "aca3c1facc89d12311a667c32e85ac86e625990992ea8a189e3b036ba371b931"),
        ("7B", "transformers-4.27.0.dev0", FLOAT32, 32001, "07ca8edea996b6c3274395fdb2b6c9108f2ffdd610ae55e35c126c21a9d535b1"),
        (
            "7B",
            "transformers-4.28.0.dev0+inv-freq-16",
            FLOAT16,
            79458,
            "4f08b269e18619675bc3fd62f6efb3a8d59f9d54fa50f5625d0bba7adabaf90e",
        ),
        (
            "13B",
            "transformers-4.28.0.dev0+inv-freq-16",
            FLOAT16,
            79458,
            "af10ab40cc0368fba37018148447e3dcd9b72829a38e26c9eaf3eda3a7850b56",
        ),
        ("30B", "transformers-4.29.0.dev0", FLOAT16, 32000, "fecfda4fba7bfd911e187a85db5fa2ef"),
        ("30B", "transformers-4.29.0.dev0+inv-freq-16", FLOAT16, 32000, "b77e99aa2ddc3df500c2b2dc4455a6af"),
        ("30B", "transformers-4.29.0.dev0", FLOAT16, 32016, "76d47e4f51a8df1d703c6f594981fcab"),
    ],
)
def test_indexes_have_published_digests(
    tmp_path: Path, size: str, converter: str, dtype: DType, tokens: int, digest: str
) -> None:
    """7B, 13B, 30B; of LLaMA, BELLE and its extended vocabulary, point-alpaca, Open-Assistant: from params.json alone."""
    name, content = index_from_params(params(tmp_path, size), converter_named(converter), dtype=dtype, tokens=tokens)
    assert name == "pytorch_model.bin.index.json"
    assert digest in (sha256(content), md5(content))


def test_the_index_from_the_command_line(weightkit: Run, tmp_path: Path) -> None:
    params(tmp_path, "13B")
    words = ("convert", "params.json", "o", "--to", "hf", "--as", "transformers-4.28", "--dry-run", "--write-index")
    assert weightkit(*words).returncode == 0
    content = (tmp_path / "o" / "pytorch_model.bin.index.json").read_bytes()
    assert sha256(content) == "92c31ad5e853e9a6660e248871f9bd0cd273518de7ec12ca893e1b1078c10898"
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["pytorch_model.bin.index.json"]
    assert weightkit(*words).returncode == 1
    assert weightkit("convert", "params.json", "o", "--to", "hf", "--write-index").returncode == 2


def test_the_first_shard_of_13b_has_the_published_size() -> None:
    """BELLE-LLaMA-13B-2M, part 1 of 3: 9948722999 bytes; float16, inv_freq in 16 bits, torch 1.9 to 1.12."""
    named = huggingface_specs(SHAPES["13B"], converter_named("transformers-4.28.0.dev0+inv-freq-16"), FLOAT16)
    first = shard(named, 10 * 10**9)[0]
    specs = dict(named)
    root = root_for("pytorch_model-00001-of-00003.bin", "zip-1.9")
    assert TorchZip("zip-1.9", root).nbytes(one_each((name, specs[name]) for name in first)) == 9948722999


@pytest.mark.parametrize(
    ("size", "inv_freq", "total"),
    [
        ("7B", "16", 13476835328),
        ("7B", "32", 13476839424),
        ("13B", "16", 26031733760),
        ("13B", "32", 26031738880),
        ("30B", "16", 65057894912),
        ("30B", "32", 65057902592),
    ],
)
def test_total_sizes_are_the_published_ones(tmp_path: Path, size: str, inv_freq: str, total: int) -> None:
    _, content = index_from_params(params(tmp_path, size), converter_named(f"transformers-4.28.1+inv-freq-{inv_freq}"))
    assert json.loads(content)["metadata"]["total_size"] == total


def test_names_of_converters() -> None:
    assert converter_named("transformers-4.28") == CONVERTERS["transformers-4.28.1"]
    for name in ("transformers-4.31.0", "transformers", "4.28.1", "transformers-4.28.1+"):
        with pytest.raises(ValueError, match="known"):
            converter_named(name)
