"""Names are given in one step: nothing that was not there when --overwrite was said is ever replaced, whatever the moment."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.run.parts import content, output, plan, simple, tensor
from tests.run.test_mismatched import wanting_another
from weightkit.core.errors import PlanError
from weightkit.core.events import BytesWritten, Event
from weightkit.run.execute import carry_out
from weightkit.run.ledgers import naming


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake: a file system without hard links."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_without_hard_links_one_that_comes_at_the_last_moment_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the rename."""
    no_links(monkeypatch)
    partial, final = tmp_path / "p", tmp_path / "f"
    partial.write_text("ours")
    looked = os.path.lexists

    def late(path: Any) -> bool:
        found = looked(path)
        final.write_text("mine")
        return found

    monkeypatch.setattr(os.path, "lexists", late)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda one, two: (late(two), rename(one, two))[1])
    final.write_text("mine")
    with pytest.raises(FileExistsError):
        naming.give_name(partial, final)
    assert (final.read_text(), partial.read_text()) == ("mine", "ours")


def test_one_that_is_changed_between_the_look_and_the_rename_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial, final = tmp_path / "p", tmp_path / "f"
    partial.write_text("ours")
    final.write_text("old")
    known, looked = naming.version_of(final), naming.version_of
    once = [True]

    def late(path: Path) -> naming.Version | None:
        found = looked(path)
        if path == final and once:
            once.clear()
            (tmp_path / "new").write_text("new, and mine")
            (tmp_path / "new").rename(final)
        return found

    monkeypatch.setattr(naming, "version_of", late)
    with pytest.raises(FileExistsError):
        naming.put(partial, final, known)
    assert (final.read_text(), partial.read_text()) == ("new, and mine", "ours")
    naming.put(partial, final, looked(final))
    assert final.read_text() == "ours"
    assert not partial.exists()


def test_where_the_kernel_cannot_it_is_done_in_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on old systems; a fake."""
    no_links(monkeypatch)
    monkeypatch.setattr(naming, "renamed", lambda *_: False)
    assert carry_out(simple(), tmp_path / "out").ok
    assert carry_out(simple(), tmp_path / "out", overwrite=True).ok
    (tmp_path / "p").write_text("ours")
    (tmp_path / "f").write_text("mine")
    with pytest.raises(FileExistsError):
        naming.give_name(tmp_path / "p", tmp_path / "f")


def test_the_folder_is_flushed_after_a_mismatch_was_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    fsync, link = os.fsync, os.link

    def note_flush(descriptor: int) -> None:
        log.append("flush " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def note_link(one: Path, two: Path) -> None:
        log.append(f"name {two.name}")
        link(one, two)

    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(os, "link", note_link)
    carry_out(wanting_another(), tmp_path / "out", keep_mismatched=True)
    at = log.index("name part-1.plain.mismatch")
    assert "flush .part-1.plain.partial" in log[:at]
    assert log[at + 1] == "flush out"


def test_a_mismatch_replaces_only_what_was_there_when_overwrite_was_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "part-1.plain.mismatch").write_text("old")

    def notify(event: Event) -> None:
        if isinstance(event, BytesWritten) and event.path == "part-0.plain":
            (out / "part-1.plain.mismatch").write_text("mine, new")

    with pytest.raises(PlanError, match=r"part-1\.plain\.mismatch is there already, or was changed"):
        carry_out(wanting_another(), out, keep_mismatched=True, overwrite=True, notify=notify)
    assert content(out)["part-1.plain.mismatch"] == b"mine, new"
    assert not carry_out(wanting_another(), out, keep_mismatched=True, overwrite=True).ok
    assert content(out)["part-1.plain.mismatch"].startswith(b"PLAIN")


def test_a_folder_under_that_name_is_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "out" / "part-1.plain.mismatch").mkdir(parents=True)
    events: list[Event] = []
    for overwrite in (False, True):
        with pytest.raises(PlanError, match=r"part-1\.plain\.mismatch is there already"):
            carry_out(wanting_another(), tmp_path / "out", keep_mismatched=True, overwrite=overwrite, notify=events.append)
    assert not events


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dangling", [False, True])
def test_nothing_is_written_through_a_linked_sub_folder(tmp_path: Path, overwrite: bool, dangling: bool) -> None:
    """It may lead into an input, or into a folder in which another run works."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    if not dangling:
        elsewhere.mkdir()
        (elsewhere / "a.plain").write_text("mine")
        (elsewhere / ".a.plain.partial").write_text("another run's")
    before = content(elsewhere)
    out.mkdir()
    (out / "sub").symlink_to(elsewhere)
    planned = plan(output("sub/a.plain", {"a": tensor("a", 1)}))
    with pytest.raises(PlanError, match="sub is a link.* --out"):
        carry_out(planned, out, overwrite=overwrite)
    assert content(elsewhere) == before
    assert elsewhere.exists() is not dangling


def test_a_link_that_is_put_there_meanwhile(tmp_path: Path) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    planned = plan(output("a.plain", {"a": tensor("a", 1)}), output("sub/b.plain", {"a": tensor("a", 1)}))

    def notify(event: Event) -> None:
        if (out / "sub").is_dir() and not (out / "sub").is_symlink():
            (out / "sub").rmdir()
        if not (out / "sub").exists():
            (out / "sub").symlink_to(elsewhere)

    with pytest.raises(PlanError, match="sub is a link"):
        carry_out(planned, out, notify=notify)
    assert not list(elsewhere.iterdir())


def test_a_file_where_a_sub_folder_is_needed_is_refused_before_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").write_text("mine")
    events: list[Event] = []
    for overwrite in (False, True):
        with pytest.raises(PlanError, match="sub is there already and is no folder"):
            carry_out(plan(output("sub/a.plain", {"a": tensor("a", 1)})), out, overwrite=overwrite, notify=events.append)
    assert (content(out), events) == ({"sub": b"mine"}, [])
