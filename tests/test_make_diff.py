"""Differences against those that the authors' own tools made from the same models, and the proof of the round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import PEER, bits, sha256
from tests.test_recover import make, small, tensors
from weightkit import manifests
from weightkit.core.dtypes import FLOAT16, FLOAT32
from weightkit.core.errors import PlanError
from weightkit.diff import make_diff
from weightkit.recover import Form, Rules, recover

BASE = PEER / "hf-bin"
WHOLE = Form(max_shard_bytes=10**10)


@pytest.mark.parametrize(
    ("tuned", "rules", "diff"),
    [
        ("tuned-fp32-bin", Rules(), "knowlm"),
        ("tuned1-fp32-bin", Rules(new_rows="mean"), "stanford"),
        ("tuned-fp16-bin", Rules(), "fastchat"),
    ],
)
def test_bytes_are_the_authors(tmp_path: Path, tuned: str, rules: Rules, diff: str) -> None:
    make_diff(BASE, PEER / tuned, tmp_path / "o", rules=rules, form=WHOLE)
    assert (tmp_path / "o" / "pytorch_model.bin").read_bytes() == (PEER / "diffs" / diff / "pytorch_model.bin").read_bytes()


@pytest.mark.parametrize("tuned", ["tuned-fp32-bin", "tuned-fp16-bin"])
@pytest.mark.parametrize("dtype", [None, FLOAT32, FLOAT16], ids=str)
@pytest.mark.parametrize("chosen", ["bin", "safetensors"])
def test_digests_promised_are_those_that_recovering_gives(tmp_path: Path, tuned: str, dtype: object, chosen: str) -> None:
    form = Form(format=chosen)  # type: ignore[arg-type]
    made = make_diff(BASE, PEER / tuned, tmp_path / "diff", rules=Rules(dtype), form=form, jobs=3)  # type: ignore[arg-type]
    promised = tmp_path / "diff" / "RELEASE.sha256"
    done = recover(BASE, tmp_path / "diff", tmp_path / "o", checksums=[promised])
    assert done.ok
    assert {one.path for one in done.report.receipts} == {entry.path for entry in manifests.read(promised)}
    wanted, found = tensors(PEER / tuned), tensors(tmp_path / "o")
    differing = 0
    for name, tensor in found.items():
        one, other = bits(tensor), bits(wanted[name].to(tensor.dtype))
        size = tensor.element_size()
        differing += sum(one[at : at + size] != other[at : at + size] for at in range(0, len(one), size))
    assert made.changed == differing
    assert made.elements == sum(tensor.numel() for tensor in found.values())


def test_what_does_not_come_back_is_counted(tmp_path: Path) -> None:
    below, above = small(1), small(2)
    below["lm_head.weight"][0, :3] = torch.tensor([1e8, -0.0, 1.0])
    above["lm_head.weight"][0, :3] = torch.tensor([1e-8, -0.0, 1.5])
    made = make_diff(make(tmp_path / "b", below), make(tmp_path / "t", above), tmp_path / "d")
    recover(tmp_path / "b", tmp_path / "d", tmp_path / "o")
    found = tensors(tmp_path / "o")["lm_head.weight"].flatten().view(torch.int32)
    differing = int((found != above["lm_head.weight"].flatten().view(torch.int32)).sum())
    assert made.tallies["lm_head.weight"].changed == differing >= 2


def test_lists_hold(tmp_path: Path) -> None:
    made = make_diff(BASE, PEER / "tuned-fp16-bin", tmp_path / "o")
    for entry in manifests.read(tmp_path / "o" / "SHA256SUMS"):
        assert sha256(tmp_path / "o" / entry.path) == entry.digest.hex
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {one.path for one in made.report.receipts} | {"SHA256SUMS", "RELEASE.sha256"}


def test_new_rows_need_a_rule(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="321 rows, the base 320"):
        make_diff(BASE, PEER / "tuned1-fp32-bin", tmp_path / "o")
