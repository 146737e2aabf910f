"""Plans, files, receipts: values that travel; what is looked at in a pass; inputs that change."""

from __future__ import annotations

import hashlib
import pickle
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.run.parts import UINT8, Plain, Same, content, output, plan, python, simple, stored, tensor, wait_for
from weightkit.blobs import known, open_local
from weightkit.containers.layout import Item, Layout, Run, one_each
from weightkit.core.buffers import Buffer
from weightkit.core.content import TensorHash
from weightkit.core.errors import FormatError
from weightkit.core.lazy import Rows, Stored, derive
from weightkit.core.probes import CONTENT, Changed, Content
from weightkit.core.spec import TensorSpec
from weightkit.core.stored import Read
from weightkit.run.execute import carry_out
from weightkit.run.ledgers.stage import FolderStage
from weightkit.run.looks import Looks
from weightkit.run.plan import OutputFile, Planned, SmallFile, StreamFile, Twin, Watched
from weightkit.run.receipts import Receipt
from weightkit.run.write import Work


@dataclass(frozen=True, slots=True)
class Sum(Same):
    """Two tensors added, modulo 256."""

    def infer(self, one: TensorSpec, other: TensorSpec) -> TensorSpec:  # type: ignore[override]
        return one

    def begin(self, one: Rows, other: Rows) -> Read:  # type: ignore[override]
        def read(start: int, stop: int) -> Buffer:
            return bytes((a + b) % 256 for a, b in zip(one.read(start, stop), other.read(start, stop), strict=True))

        return read


def large_model(tmp_path: Path, tensors: int = 10_000, files: int = 25) -> list[OutputFile]:
    base, diff = (open_local(path) for path in (tmp_path / "base", tmp_path / "diff"))
    spec = TensorSpec(UINT8, (8, 8))
    names = [sys.intern(f"model.layers.{n // 100}.mlp.experts.{n % 100}.down_proj.weight") for n in range(tensors)]
    made = {
        name: derive(Sum(), Stored(base, name, spec, 64 * n), Stored(diff, name, spec, 64 * n)) for n, name in enumerate(names)
    }
    cuts = [names[tensors * n // files : tensors * (n + 1) // files] for n in range(files)]
    return [output(f"model-{n + 1:05d}-of-{files:05d}.plain", {name: made[name] for name in cut}) for n, cut in enumerate(cuts)]


def test_everything_that_travels_is_small(tmp_path: Path) -> None:
    for name in ("base", "diff"):
        (tmp_path / name).write_bytes(bytes(640_000))
    files = [file.with_content() for file in large_model(tmp_path)]
    sizes = [len(pickle.dumps(file)) for file in files]
    assert max(sizes) < 100_000
    whole = plan(*files, tensors=True)
    assert len(pickle.dumps(whole)) < 25 * 100_000
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert pickle.loads(pickle.dumps(files[0])).fingerprint() == files[0].fingerprint()
    work = Work(FolderStage(tmp_path), 1 << 20)
    assert len(pickle.dumps(work)) < 1000
    receipt = work(files[0])
    assert len(pickle.dumps(receipt)) < 100_000
    assert pickle.loads(pickle.dumps(receipt)) == receipt
    assert receipt.tensors is not None
    assert len(receipt.tensors) == 400


def test_looks_are_short(tmp_path: Path) -> None:
    for name in ("base", "diff"):
        (tmp_path / name).write_bytes(bytes(640_000))
    whole = plan(*large_model(tmp_path), small=[SmallFile("config.json", b"{}" * 10_000)], tensors=True)
    done = carry_out(whole, tmp_path / "out")
    for value in (whole, whole.files[0], whole.small[0], done, done.report):
        assert len(repr(value)) < 200
    assert repr(whole.files[0]) == "<model-00001-of-00025.plain: 400 tensors, 25.6 kB>"
    assert repr(done) == "<test, ok: <26 files, 660.1 kB, 0 mismatches>>"
    page = done._repr_html_()
    assert page.count("<tr>") == 27
    odd = replace(done.report.receipts[0], path="<script>")
    assert "<script>" not in replace(done, report=replace(done.report, receipts=(odd,)))._repr_html_()


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    source = stored(tmp_path / "in", 8)
    one = output("a", {"w": source})
    same = output("b", {"w": Stored(open_local(tmp_path / "in"), "other name", source.spec, 0)}, expect=())
    assert one.fingerprint() == output("a", {"w": source}).fingerprint()
    assert one.fingerprint() == replace(same, layout=one.layout).fingerprint()
    others = [
        replace(one, encoding=Plain(b"OTHER")),
        output("a", {"v": source}),
        output("a", {"w": derive(Same(), source)}),
        replace(one, twin=Twin(Plain(), ((source,),))),
        one.with_content(),
        output("a", {"w": tensor("w", 1, 8, 4096)}),
    ]
    stored(tmp_path / "in", 8)
    others.append(output("a", {"w": Stored(open_local(tmp_path / "in"), "w", source.spec, 0)}))
    assert len({file.fingerprint() for file in [one, *others]}) == len(others) + 1
    assert StreamFile("s", Planned(one)).fingerprint() != StreamFile("s", Planned(others[0])).fingerprint()
    assert SmallFile("s", b"1").fingerprint() != SmallFile("s", b"2").fingerprint()


def test_needs_add_up(tmp_path: Path) -> None:
    source = stored(tmp_path / "in", 8)
    both = output("a", {"v": source, "w": derive(Same(), source)})
    assert both.needs.read_nbytes == source.spec.nbytes, "a tensor used twice is counted once"
    assert both.needs.blobs == (source.blob,)
    assert both.needs.widest_row_nbytes == 4096
    assert both.needs.held_nbytes == 2 * len(Plain().magic)
    assert StreamFile("s", Planned(both)).needs == both.needs
    assert not both.needs.torch


def digest_of(spec: TensorSpec, data: bytes) -> str:
    taken = TensorHash(spec)
    taken.update(data)
    return taken.digest().hex


def test_names_on_one_place_share_a_look(tmp_path: Path) -> None:
    """By name, each with its own shape; empty tensors and scalars among them; runs of several tensors, too."""
    flat, square, none, scalar = (TensorSpec(UINT8, shape) for shape in ((16,), (4, 4), (0, 3), ()))
    data = {"x": bytes(range(16)), "y": bytes(range(16, 32)), "s": b"\7"}
    tensors = (
        (known("x", square, data["x"]), known("e", none, b""), known("y", flat, data["y"])),
        (known("s", scalar, b"\7"),),
    )
    items = (
        Item("x", square, 0),
        Item("tied to x", square, 0),
        Item("x flat", flat, 0),
        Item("e", none, 0, 16),
        Item("y", flat, 0, 16),
        Item("s", scalar, 1),
    )
    file = OutputFile("a", Plain(), Layout(items, (Run(TensorSpec(UINT8, (32,))), Run(scalar))), tensors).with_content()
    begun = []

    @dataclass(frozen=True, slots=True)
    class Counting(Content):
        def begin(self, *specs: TensorSpec) -> Any:
            begun.append(specs)
            return Content.begin(self, *specs)

    file = replace(file, watched=(Watched(Counting()),))
    receipt = Work(FolderStage(tmp_path), 7)(file)
    assert receipt.found[CONTENT] == {
        "x": digest_of(square, data["x"]),
        "tied to x": digest_of(square, data["x"]),
        "x flat": digest_of(flat, data["x"]),
        "e": digest_of(none, b""),
        "y": digest_of(flat, data["y"]),
        "s": digest_of(scalar, b"\7"),
    }
    assert len(begun) == 5


def test_looks_begin_and_end_with_their_tensor(tmp_path: Path) -> None:
    file = output("a", {f"t{n}": tensor("t", n, 4, 4) for n in range(100)}).with_content()
    looks, most = Looks(file), 0
    for _ in file.chunks(8, lambda *part: looks.update(part)):
        most = max(most, len(looks.open))
    assert most <= 1
    assert len(looks.found[CONTENT]) == 100


def test_all_is_computed_in_one_pass(tmp_path: Path) -> None:
    """File, twin, counts and content digests: what they have in common is read once."""
    source = stored(tmp_path / "in", 256)
    read = []

    @dataclass(frozen=True, slots=True)
    class Counted(Same):
        def begin(self, one: Rows) -> Read:
            return lambda start, stop: (read.append((start, stop)), one.read(start, stop))[1]

    below = derive(Counted(), source)
    change = derive(Sum(), below, tensor("c", 1, 256, 4096))
    twin = Twin(Plain(b"BACK"), ((below,),))
    watched = (Watched(Changed(), (((below, change),),)), Watched(Content(), (((below,),),)))
    receipt = Work(FolderStage(tmp_path), 1 << 16)(output("a", {"w": change}, twin=twin, watched=watched))
    assert read == [(start, start + 16) for start in range(0, 256, 16)]
    assert receipt.found["changed"]["w"] == {"elements": 1 << 20, "changed": 1 << 20}
    assert receipt.found[CONTENT]["w"] == digest_of(source.spec, bytes([1]) * (1 << 20))
    assert receipt.twin is not None
    assert receipt.twin["sha256"].hex == hashlib.sha256(b"BACK" + bytes([1]) * (1 << 20)).hexdigest()
    assert receipt.sha256 == hashlib.sha256(b"PLAIN" + bytes([2]) * (1 << 20)).hexdigest()


RUN = """
source = Stored(open_local(Path(sys.argv[2])), "w", TensorSpec(UINT8, (64, 1 << 16)), 0)
done = output("a.plain", {"a": tensor("a", 1)})
carry_out(plan(done, output("b.plain", {"b": waiting(source, Path(sys.argv[3]), 40)})), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("way", ["replaced", "written over"])
def test_an_input_that_changes_is_one_clear_error(tmp_path: Path, way: str) -> None:
    """And nothing torn is published, even where all bytes had been read of the old one."""
    out, flag, path = tmp_path / "out", tmp_path / "flag", tmp_path / "in"
    path.write_bytes(b"\1" * (64 << 16))
    run = python(RUN, out, path, flag)
    wait_for(flag.exists)
    if way == "replaced":
        (tmp_path / "new").write_bytes(b"\2" * (64 << 16))
        (tmp_path / "new").rename(path)
    else:
        path.write_bytes(b"\2" * (64 << 16))
    flag.unlink()
    _, errors = run.communicate()
    assert run.returncode == 1
    assert f"FormatError: {path}: has changed since it was opened" in errors
    assert errors.count("Traceback") <= errors.count("The above exception") + 1
    assert set(content(out)) <= {".weightkit-journal", "a.plain"}


def test_a_stream_whose_input_changes(tmp_path: Path) -> None:
    source = stored(tmp_path / "in", 8)
    file = StreamFile("s", Planned(output("a", {"w": source})))
    stored(tmp_path / "in", 8)
    with pytest.raises(FormatError, match="has changed"):
        carry_out(plan(file), tmp_path / "out")  # type: ignore[arg-type]
    assert not list((tmp_path / "out").glob("*s*.partial"))


def test_what_a_file_gives_must_be_what_was_planned(tmp_path: Path) -> None:
    from weightkit.core.errors import WeightkitError

    @dataclass(frozen=True, slots=True)
    class Short(Same):
        def begin(self, one: Rows) -> Read:
            return lambda start, stop: one.read(start, stop)

    @dataclass(frozen=True, slots=True)
    class Wrong(Plain):
        def nbytes(self, layout: Layout) -> int:
            return Plain.nbytes(self, layout) + 1

    layout = one_each([("a", TensorSpec(UINT8, (64, 64)))])
    with pytest.raises(WeightkitError, match="were planned: a fault of weightkit"):
        carry_out(plan(OutputFile("a", Wrong(), layout, ((tensor("a", 1),),))), tmp_path / "out")


def test_receipts_say_what_was_seen() -> None:
    receipt = Receipt("a", "f", 1, {}, found={CONTENT: {"w": "ab" * 32}})
    assert receipt.tensors is not None
    assert receipt.tensors["w"].hex == "ab" * 32
    assert Receipt("a", "f", 1, {}).tensors is None


def test_a_plan_of_nothing_but_small_files(tmp_path: Path) -> None:
    done = carry_out(plan(small=[SmallFile("config.json", b"{}"), SmallFile("empty", b"")]), tmp_path / "out")
    assert done.ok
    assert content(tmp_path / "out")["empty"] == b""


def test_plan_imports_no_torch() -> None:
    run = python("print(sorted(name for name in ('torch', 'weightkit.run.execute') if name in sys.modules))")
    assert run.communicate()[0] == "['weightkit.run.execute']\n"


def test_simple() -> None:
    assert simple().nbytes == 3 * (5 + 2 * 4096) + 3
