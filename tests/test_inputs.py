"""``--release`` takes its inputs at nobody's word: number, order, size, then the digests that were published of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.conftest import PEER, Run, sha256
from weightkit import catalog
from weightkit.checkpoints import open_checkpoint
from weightkit.core.errors import PlanError
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.merge import merge_lora
from weightkit.merge import prepare as prepare_merge

FIRST, SECOND = PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"
RAW = PEER / "meta" / "7B"
OTHER = "0123456789abcdef" * 4
Entry = Callable[..., None]


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """Puts an entry into a catalog of its own: its name, the text of its release.toml, digests by file."""
    root = tmp_path / "catalog"
    found: dict[str, catalog.Release] = {}

    def put(name: str, text: str, **digests: str) -> None:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "release.toml").write_text(f'title = "{name}"\n{text}')
        if digests:
            lines = (f"{digest}  {file.replace('__', '.')}\n" for file, digest in digests.items())
            (root / name / "SHA256SUMS").write_text("".join(lines))
        found[name] = catalog.read(root / name / "release.toml")

    monkeypatch.setattr(catalog, "releases", lambda: MappingProxyType(found))
    put("llama-7b", 'kind = "raw"\nvocabulary = 32000\n', **{"consolidated__00__pth": sha256(RAW / "consolidated.00.pth")})
    for one, folder in (("one", FIRST), ("two", SECOND)):
        put(one, 'kind = "lora"\nbase = "llama-7b"\n', adapter_model__bin=sha256(folder / "adapter_model.bin"))
    put("both", 'kind = "result"\nbase = "llama-7b"\n[recipe]\nmethod = "lora"\nlora = ["one", "two"]\nto = "meta"\n')
    return put


def test_the_published_inputs_are_taken(entry: Entry, tmp_path: Path) -> None:
    done = merge_lora(RAW, [FIRST, SECOND], tmp_path / "o", release="both")
    assert done.ok
    assert (tmp_path / "o" / "consolidated.00.pth").is_file()
    assert any("published digests of 3 input files must hold" in note for note in done.plan.notes)


def test_another_adapter_publishes_nothing(entry: Entry, tmp_path: Path) -> None:
    entry("two", 'kind = "lora"\nbase = "llama-7b"\n', adapter_model__bin=OTHER)
    done = merge_lora(RAW, [FIRST, SECOND], tmp_path / "o", release="both")
    assert not done.ok
    (error,) = done.report.mismatches
    assert error.path == str(SECOND / "adapter_model.bin")
    assert "is not the file of two" in error.reason
    assert not (tmp_path / "o" / "consolidated.00.pth").exists()
    trusted = merge_lora(RAW, [FIRST, SECOND], tmp_path / "o", release="both", trust_inputs=True)
    assert trusted.ok
    assert any("--trust-inputs" in note for note in trusted.plan.notes)


def test_another_base_publishes_nothing(entry: Entry, tmp_path: Path) -> None:
    entry("llama-7b", 'kind = "raw"\n', consolidated__00__pth=OTHER)
    done = merge_lora(RAW, [FIRST, SECOND], tmp_path / "o", release="both")
    assert [error.path for error in done.report.mismatches] == [str(RAW / "consolidated.00.pth")]
    assert not (tmp_path / "o" / "consolidated.00.pth").exists()


def test_a_base_may_be_any_conversion_that_is_known(entry: Entry, tmp_path: Path) -> None:
    base = PEER / "hf-bin"
    shards = {path.name: sha256(path) for path in base.glob("*.bin")}
    done = merge_lora(base, [FIRST, SECOND], tmp_path / "a", release="both")
    assert done.ok
    assert any(f"{base}: no digest of this base was published" in note for note in done.plan.notes)
    entry("a-conversion", 'kind = "converted"\nbase = "llama-7b"\n', **dict.fromkeys(shards, OTHER))
    assert not merge_lora(base, [FIRST, SECOND], tmp_path / "b", release="both").ok
    entry("b-conversion", 'kind = "converted"\nbase = "llama-7b"\n', **shards)
    assert merge_lora(base, [FIRST, SECOND], tmp_path / "c", release="both").ok


def test_what_has_no_published_digest_is_said(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "catalog" / "two" / "SHA256SUMS").unlink()
    entry("two", 'kind = "lora"\nbase = "llama-7b"\n')
    plan = prepare_merge(RAW, [FIRST, SECOND], tmp_path / "o", release="both")
    assert any(f"--lora {SECOND}: no digest of this adapter was published" in note for note in plan.notes)


def test_a_published_file_that_is_not_there_is_refused(entry: Entry, tmp_path: Path) -> None:
    entry("two", 'kind = "lora"\nbase = "llama-7b"\n', adapter_model__safetensors=OTHER)
    with pytest.raises(PlanError, match=r"is not two, which has adapter_model\.safetensors"):
        prepare_merge(RAW, [FIRST, SECOND], tmp_path / "o", release="both")


@pytest.mark.parametrize("trust", [False, True])
def test_number_and_size_come_first(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool) -> None:
    """Whatever is trusted: no digest is asked for before they fit."""
    with pytest.raises(PlanError, match="takes --lora one, then --lora two; --lora was given 1 time$"):
        prepare_merge(RAW, [SECOND], tmp_path / "o", release="both", trust_inputs=trust)
    width = embedding().shape[-1]
    monkeypatch.setattr(llama, "SIZES", {width: "LLaMA-13B"})
    with pytest.raises(PlanError, match="is made of llama-7b, and the base is of the size of LLaMA-13B"):
        prepare_merge(RAW, [FIRST, SECOND], tmp_path / "o", release="both", trust_inputs=trust)
    monkeypatch.setattr(llama, "SIZES", {width: "LLaMA-7B"})
    entry("llama-7b", 'kind = "raw"\nvocabulary = 7\n')
    with pytest.raises(PlanError, match="with llama-7b there are 7 rows of vocabulary"):
        prepare_merge(RAW, [FIRST, SECOND], tmp_path / "o", release="both", trust_inputs=trust)


def embedding() -> TensorSpec:
    return open_checkpoint(RAW, "--base").tensors["model.embed_tokens.weight"].spec


def test_forgetting_the_first_adapter_is_one_line(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("merge", "--base", RAW, "--lora", FIRST, "--release", "chinese-alpaca-plus-7b-merged", "--out", "o")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "--lora chinese-llama-plus-7b-lora, then --lora chinese-alpaca-plus-7b-lora" in done.stderr
    done = weightkit(
        *("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "stanford", "--release", "vicuna-7b-v0", "--out", "o")
    )
    assert done.returncode == 1
    assert "is not vicuna-7b-delta-v0" in done.stderr
    assert not (tmp_path / "o").exists()
