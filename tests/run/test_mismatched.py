"""A file that is not what was published: thrown away, or set aside under another name and handed to explain."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import PEER, Run
from tests.run.parts import content, simple
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.run.execute import carry_out
from weightkit.run.ledgers.journal import JOURNAL
from weightkit.run.plan import Plan

OTHER = Digest("sha256", "12" * 32)


def wanting_another() -> Plan:
    planned = simple()
    return replace(planned, files=(planned.files[0], replace(planned.files[1], expect=(OTHER,)), planned.files[2]))


def test_a_mismatch_is_thrown_away_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert not carry_out(wanting_another(), tmp_path / "out").ok
    assert set(content(tmp_path / "out")) == {"part-0.plain", "part-2.plain", JOURNAL}


def test_a_mismatch_is_kept_whole(tmp_path: Path) -> None:
    carry_out(simple(), tmp_path / "right")
    out = tmp_path / "out"
    done = carry_out(wanting_another(), out, keep_mismatched=True)
    assert set(content(out)) == {"part-0.plain", "part-2.plain", "part-1.plain.mismatch", JOURNAL}
    assert content(out)["part-1.plain.mismatch"] == content(tmp_path / "right")["part-1.plain"]
    assert done.report.mismatches[0].actual == hashlib.sha256(content(out)["part-1.plain.mismatch"]).hexdigest()


def test_one_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "part-1.plain.mismatch").write_text("mine")
    with pytest.raises(PlanError, match=r"part-1\.plain\.mismatch is there already .* --overwrite"):
        carry_out(wanting_another(), out, keep_mismatched=True)
    assert content(out) == {"part-1.plain.mismatch": b"mine"}
    assert not carry_out(wanting_another(), out).ok
    assert content(out)["part-1.plain.mismatch"] == b"mine"
    carry_out(wanting_another(), out, keep_mismatched=True, overwrite=True)
    assert content(out)["part-1.plain.mismatch"].startswith(b"PLAIN")


def test_one_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PlanError, match=r"part-1\.plain\.mismatch is there already"):
        carry_out(
            wanting_another(),
            out,
            keep_mismatched=True,
            notify=lambda event: None if not out.is_dir() else (out / "part-1.plain.mismatch").write_text("mine") and None,
        )
    assert content(out)["part-1.plain.mismatch"] == b"mine"
    assert not list(out.glob(".*.partial"))


def test_the_same_command_replaces_what_it_has_set_aside(tmp_path: Path) -> None:
    out, name = tmp_path / "out", "part-1.plain.mismatch"
    for number in range(3):
        done = carry_out(wanting_another(), out, keep_mismatched=True)
        assert [one.path for one in done.report.mismatches] == ["part-1.plain"]
        assert [one.kept for one in done.report.receipts] == [number > 0] * 2
    made = content(out)[name]
    (out / name).write_bytes(made[:-1] + b"!")  # of the same size, and the user's now
    with pytest.raises(PlanError, match=r"part-1\.plain\.mismatch is there already .* --overwrite"):
        carry_out(wanting_another(), out, keep_mismatched=True)
    assert content(out)[name] == made[:-1] + b"!"


def test_the_summary_ends_in_the_command_that_examines_it(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "L").write_text(f"{OTHER.hex}  pytorch_model.bin\n")
    words = ("recover", "--raw", PEER / "hf-bin", "--diff", PEER / "diffs" / "knowlm", "--out", "o", "--checksums", "L")
    done = weightkit(*words)
    assert done.returncode == 3
    assert "--keep-mismatched" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o" / "pytorch_model.bin.mismatch").exists()
    done = weightkit(*words, "--keep-mismatched")
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert last.startswith("next: weightkit explain ")
    said = weightkit(*shlex.split(last.removeprefix("next: weightkit ")))
    assert said.returncode == 3, "it differs, and says why"
    assert "cause" in said.stdout
    assert not said.stderr
