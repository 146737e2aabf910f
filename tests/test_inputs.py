"""``--release`` takes its inputs at nobody's word: number, order, size, then the digests that were published of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import PEER, Run, sha256
from weightkit import catalog
from weightkit.checkpoints import open_checkpoint
from weightkit.checkpoints.form import Form
from weightkit.checkpoints.peft import open_adapter
from weightkit.core.errors import Incomplete, PlanError
from weightkit.core.events import BytesChecked, Event, Started
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.merge import merge_lora
from weightkit.merge import prepare as prepare_merge
from weightkit.recover import prepare as prepare_recover

FIRST, SECOND = PEER / "lora-zh1-bin", PEER / "lora-zh2-bin"
NAMED = {"one": FIRST, "two": SECOND}
RAW = PEER / "meta" / "7B"
OTHER = "0123456789abcdef" * 4
Entry = Callable[..., None]


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entry]:
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
    monkeypatch.setattr(llama, "SIZES", {embedding().shape[-1]: "LLaMA-7B"})
    put("llama-7b", 'kind = "raw"\nvocabulary = 320\n', **{"consolidated__00__pth": sha256(RAW / "consolidated.00.pth")})
    for one, folder in (("one", FIRST), ("two", SECOND)):
        put(one, 'kind = "lora"\nbase = "llama-7b"\n', adapter_model__bin=sha256(folder / "adapter_model.bin"))
    put("both", 'kind = "result"\nbase = "llama-7b"\n[recipe]\nmethod = "lora"\nlora = ["one", "two"]\nto = "meta"\n')
    catalog.by_digest.cache_clear()
    yield put
    catalog.by_digest.cache_clear()


def test_the_published_inputs_are_taken(entry: Entry, tmp_path: Path) -> None:
    done = merge_lora(RAW, [FIRST, SECOND], tmp_path / "o", release="both")
    assert done.ok
    assert (tmp_path / "o" / "consolidated.00.pth").is_file()
    assert any("published digests of 3 input files must hold" in note for note in done.plan.notes)


def test_a_release_in_another_container_is_proved_by_its_digests(entry: Entry, tmp_path: Path) -> None:
    recipe = 'kind = "result"\nbase = "llama-7b"\n[recipe]\nmethod = "lora"\nlora = ["one", "two"]\nto = "meta"\n'
    merge_lora(RAW, [FIRST, SECOND], tmp_path / "p", release="both")
    entry("both", recipe, consolidated__00__pth=sha256(tmp_path / "p" / "consolidated.00.pth"))
    for base in (RAW, PEER / "hf-bin"):  # of the second one no digest was published: the result's decides
        out = tmp_path / base.name
        done = merge_lora(base, [FIRST, SECOND], out, release="both", to="hf", form=Form(format="safetensors"))
        assert done.ok
        assert [one.path for one in done.report.proofs] == ["consolidated.00.pth"]
        assert not list(out.glob("*.pth"))
        assert list(out.glob("*.safetensors"))
    entry("both", recipe, consolidated__00__pth=OTHER)
    done = merge_lora(RAW, [FIRST, SECOND], tmp_path / "w", release="both", to="hf", form=Form(format="safetensors"))
    assert [one.path for one in done.report.mismatches] == ["consolidated.00.pth"]
    assert not list((tmp_path / "w").glob("*.safetensors"))
    entry("both", recipe, consolidated__00__pth=OTHER, consolidated__01__pth=OTHER, pytorch_model__bin=OTHER)
    with pytest.raises(Incomplete, match=r"consolidated.00.pth, consolidated.01.pth not there"):
        prepare_merge(RAW, [FIRST, SECOND], tmp_path / "w", release="both", to="hf", form=Form(format="safetensors"))


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
    with pytest.raises(PlanError, match="takes --lora one, then --lora two; --lora was given once: name each of them"):
        prepare_merge(RAW, [SECOND], tmp_path / "o", release="both", trust_inputs=trust)
    width = embedding().shape[-1]
    monkeypatch.setattr(llama, "SIZES", {width: "LLaMA-13B", 4096: "LLaMA-7B"})
    with pytest.raises(
        PlanError, match="is made of llama-7b, 4096 wide, and --base .* is 64 wide, LLaMA-13B's: name the original"
    ):
        prepare_merge(RAW, [FIRST, SECOND], tmp_path / "o", release="both", trust_inputs=trust)
    monkeypatch.setattr(llama, "SIZES", {width: "LLaMA-7B"})
    entry("llama-7b", 'kind = "raw"\nvocabulary = 7\n')
    with pytest.raises(
        PlanError, match="llama-7b, with 7 rows of vocabulary, and --base .* has 320: it is tuned or merged already"
    ):
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
    assert len(done.stderr.splitlines()) == 1
    assert "is made of llama-7b, 4096 wide, and --raw" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_diff_of_another_release_is_refused(entry: Entry, tmp_path: Path) -> None:
    entry("delta", 'kind = "diff"\nbase = "llama-7b"\n', **{"pytorch_model-00001-of-00002__bin": OTHER})
    text = 'kind = "result"\nbase = "llama-7b"\n[recipe]\nmethod = "additive"\ndiff = "delta"\nnew_rows = "mean"\n'
    entry("sum", text)
    words = (PEER / "hf-bin", PEER / "diffs" / "stanford", tmp_path / "o")
    with pytest.raises(
        PlanError, match=r"is not delta, which has pytorch_model-00001-of-00002\.bin and not pytorch_model\.bin"
    ):
        prepare_recover(*words, release="sum")
    entry("sum", text.replace("[recipe]", "vocabulary = 320\n[recipe]"))
    with pytest.raises(PlanError, match="has 320 rows of vocabulary, and with these inputs 321 come out"):
        prepare_recover(*words, release="sum", trust_inputs=True)
    with pytest.raises(PlanError, match="is an XOR payload, and the release takes delta; name that one"):
        prepare_recover(PEER / "hf-bin", PEER / "diffs" / "oasst", tmp_path / "o", release="sum", trust_inputs=True)


def test_only_what_is_read_proves_anything(entry: Entry, tmp_path: Path) -> None:
    """The published file deeper in the folder, or beside the one that PEFT takes first, is not what is merged."""
    deeper = shutil.copytree(FIRST, tmp_path / "deeper")
    (deeper / "sub").mkdir()
    shutil.copy(FIRST / "adapter_model.bin", deeper / "sub" / "adapter_model.bin")
    tensors = torch.load(FIRST / "adapter_model.bin", weights_only=True)
    tensors[next(iter(tensors))] += 1
    torch.save(tensors, deeper / "adapter_model.bin")
    done = merge_lora(RAW, [deeper, SECOND], tmp_path / "a", release="both")
    assert [error.path for error in done.report.mismatches] == [str(deeper / "adapter_model.bin")]
    beside = shutil.copytree(FIRST, tmp_path / "beside")
    save_file({name: one.contiguous() for name, one in tensors.items()}, beside / "adapter_model.safetensors")
    with pytest.raises(PlanError, match=r"is not one, which has adapter_model\.bin and not adapter_model\.safetensors"):
        prepare_merge(RAW, [beside, SECOND], tmp_path / "b", release="both")


def test_the_wrong_adapter_is_called_by_its_name(entry: Entry, tmp_path: Path) -> None:
    entry("both", 'kind = "result"\nbase = "llama-7b"\n[recipe]\nmethod = "lora"\nlora = ["two"]\nto = "meta"\n')
    done = merge_lora(RAW, [FIRST], tmp_path / "o", release="both")
    (error,) = done.report.mismatches
    assert error.reason.startswith("it is adapter_model.bin of one; it is not the file of two")


@pytest.mark.parametrize("trust", [False, True])
def test_the_order_is_told_by_the_vocabularies(entry: Entry, tmp_path: Path, trust: bool) -> None:
    rows = {one: next(iter(open_adapter(folder, "--lora").whole.values())).spec.shape[0] for one, folder in NAMED.items()}
    for one, count in rows.items():
        entry(one, f'kind = "lora"\nbase = "llama-7b"\nvocabulary = {count}\n')
    with pytest.raises(PlanError, match=f"has {rows['two']} rows of vocabulary, and one has {rows['one']}; the release takes"):
        prepare_merge(RAW, [SECOND, FIRST], tmp_path / "o", release="both", trust_inputs=trust)


def test_results_with_digests_decide_of_an_own_conversion(entry: Entry, tmp_path: Path) -> None:
    """Its bytes are of nobody's, its values may be right: where the result is proved anyhow, they are a note."""
    base = PEER / "hf-bin"
    entry("a-conversion", 'kind = "converted"\nbase = "llama-7b"\n', **{one.name: OTHER for one in base.glob("*.bin")})
    right = merge_lora(base, [FIRST, SECOND], tmp_path / "right", to="meta")
    text = 'kind = "result"\nbase = "llama-7b"\n[recipe]\nmethod = "lora"\nlora = ["one", "two"]\nto = "meta"\n'
    entry("both", text, consolidated__00__pth=right.report.receipts[0].sha256)
    done = merge_lora(base, [FIRST, SECOND], tmp_path / "a", release="both")
    assert done.ok, done.report.mismatches
    assert any("the published digests of the result decide" in note for note in done.plan.notes)
    entry("both", text, consolidated__00__pth=OTHER)
    assert not merge_lora(base, [FIRST, SECOND], tmp_path / "b", release="both").ok
    assert not (tmp_path / "b" / "consolidated.00.pth").exists()


def test_a_second_reading_is_counted_and_told(entry: Entry, tmp_path: Path) -> None:
    events: list[Event] = []
    done = merge_lora(RAW, [FIRST, SECOND], tmp_path / "o", release="both", notify=events.append)
    inputs = sum(one.blob.nbytes for one in done.plan.inputs)
    assert len(done.plan.inputs) == 3
    assert sum(one.nbytes for one in events if isinstance(one, BytesChecked)) == inputs
    assert [one.nbytes for one in events if isinstance(one, Started)] == [done.plan.nbytes + inputs]
