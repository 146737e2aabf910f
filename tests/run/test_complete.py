"""The same command again on a folder that is complete: right is said to be right, anything else is refused, nothing written."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.parts import content, output, plan, simple, tensor
from weightkit.core.digest import Digest
from weightkit.core.errors import PlanError
from weightkit.core.events import Event, FileFinished, Resumed
from weightkit.run.execute import carry_out, preview
from weightkit.run.plan import SmallFile


def states(out: Path) -> dict[str, tuple[int, int, int]]:
    found = {path.name: path.lstat() for path in out.iterdir()}
    return {name: (state.st_ino, state.st_mtime_ns, state.st_ctime_ns) for name, state in found.items()}


@pytest.mark.parametrize("tensors", [False, True])
def test_what_is_right_is_compared_and_kept(tmp_path: Path, tensors: bool) -> None:
    out = tmp_path / "out"
    first = carry_out(simple(tensors=tensors), out)
    before = states(out)
    events: list[Event] = []
    done = carry_out(simple(tensors=tensors), out, notify=events.append)
    assert (done.ok, done.stood, first.stood) == (True, True, False)
    assert [one.sha256 for one in done.report.receipts] == [one.sha256 for one in first.report.receipts]
    assert all(one.kept for one in done.report.receipts)
    assert states(out) == before
    total = sum(one.nbytes for one in first.report.receipts)
    assert [one for one in events if isinstance(one, Resumed)] == [Resumed(4, 4, total, whole=True)]
    assert not [one for one in events if isinstance(one, FileFinished)]
    assert preview(simple(tensors=tensors), out).needed_nbytes == 0


def test_other_inputs_of_the_same_shapes_are_no_proof(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = [SmallFile("config.json", b"{}\n")]
    carry_out(plan(output("a.plain", {"a": tensor("a", 1), "b": tensor("b", 2)}), small=small), out)
    before = states(out)
    with pytest.raises(PlanError, match=r"a\.plain is there already, is not what this command makes .* --overwrite"):
        carry_out(plan(output("a.plain", {"a": tensor("a", 1), "b": tensor("b", 3)}), small=small), out)
    assert states(out) == before


@pytest.mark.parametrize("name", ["part-2.plain", "SHA256SUMS", "TENSORS"])
def test_a_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    carry_out(simple(tensors=True), out)
    text = bytearray((out / name).read_bytes())
    text[10] ^= 1
    (out / name).write_bytes(text)
    before = states(out)
    with pytest.raises(PlanError, match="is there already"):
        carry_out(simple(tensors=True), out)
    assert states(out) == before


@pytest.mark.parametrize("way", ["missing", "longer", "small", "list", "link", "beside"])
def test_what_does_not_look_complete_is_refused_before_work(tmp_path: Path, way: str) -> None:
    out = tmp_path / "out"
    carry_out(simple(), out)
    match way:
        case "missing":
            (out / "part-1.plain").unlink()
        case "longer":
            with (out / "part-1.plain").open("ab") as file:
                file.write(b"x")
        case "small":
            (out / "config.json").write_text("[]\n")
        case "list":
            lines = (out / "SHA256SUMS").read_text().splitlines(keepends=True)
            (out / "SHA256SUMS").write_text("".join(lines[1:]))
        case "link":
            (out / "part-1.plain").rename(tmp_path / "elsewhere")
            (out / "part-1.plain").symlink_to(tmp_path / "elsewhere")
        case "beside":
            (out / "model.safetensors").write_text("another's")
    before = states(out)
    events: list[Event] = []
    with pytest.raises(PlanError, match="is there already"):
        carry_out(simple(), out, notify=events.append)
    assert (states(out), events) == (before, [])


def test_a_published_digest_that_does_not_hold_is_a_mismatch_still(tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(simple(), out)
    before = content(out)
    planned = simple()
    wrong = replace(planned.files[0], expect=(Digest("sha256", "12" * 32),))
    done = carry_out(replace(planned, files=(wrong, *planned.files[1:])), out)
    assert (done.ok, done.stood) == (False, True)
    assert done.report.mismatches[0].actual == hashlib.sha256(before["part-0.plain"]).hexdigest()
    assert content(out) == before


def test_a_folder_that_may_not_be_written_to_is_right_all_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(simple(), out)
    out.chmod(0o555)
    try:
        assert carry_out(simple(), out).stood
    finally:
        out.chmod(0o755)


def test_overwrite_writes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    carry_out(simple(), out)
    done = carry_out(simple(), out, overwrite=True)
    assert done.ok
    assert not done.stood
