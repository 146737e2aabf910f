"""The budget: measures the process, counts what files need, gives up block size before jobs. Real peaks: test_memory.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from tests.run.parts import Plain, Same, output, tensor
from weightkit.core.errors import PlanError
from weightkit.core.lazy import derive
from weightkit.core.probes import Changed
from weightkit.core.spec import TensorSpec
from weightkit.run import budget
from weightkit.run.budget import Budget, fit
from weightkit.run.plan import OutputFile, Twin, Watched

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Holding(Same):
    """An operation that holds so much."""

    nbytes: int

    def held_nbytes(self, *specs: TensorSpec) -> int:
        return self.nbytes


@dataclass(frozen=True, slots=True)
class Computing(Same):
    torch: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of 100 MiB, with torch 300 MiB."""
    monkeypatch.setattr(budget, "resident_nbytes", lambda *, torch: (300 if torch else 100) * MIB)


def files(count: int = 8, held: int = 0) -> list[OutputFile]:
    return [output(f"{n}.plain", {"a": derive(Holding(held), tensor("a", 1))}) for n in range(count)]


def peak(found: Budget) -> int:
    return found.peak_nbytes


def test_what_an_operation_holds_is_counted_once_a_job() -> None:
    plain, holding = fit(files(), 8), fit(files(held=10 * MIB), 8)
    assert peak(holding) - peak(plain) == 80 * MIB
    assert (plain.jobs, plain.block_nbytes) == (8, MIB)


def test_blocks_shrink_before_jobs_are_given_up() -> None:
    allowed = peak(fit(files(), 8))
    assert fit(files(), 8, allowed).block_nbytes == MIB
    assert (fit(files(), 8, allowed - 1).jobs, fit(files(), 8, allowed - 1).block_nbytes) == (8, MIB // 2)
    few = fit(files(held=40 * MIB), 8, 250 * MIB)
    assert 1 <= few.jobs < 8
    assert peak(few) <= 250 * MIB
    assert fit(files(2), 8).jobs == 2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PlanError, match=r"this takes .* of memory, and --max-memory allows 104.86 MB"):
        fit(files(), 8, 100 * MIB)


def test_a_block_is_no_smaller_than_a_row() -> None:
    wide = [output("a", {"a": tensor("a", 1, 2, 8 * MIB)})]
    assert peak(fit(wide, 1)) - peak(fit(files(1), 1)) > 20 * 7 * MIB


def test_torch_is_measured_where_it_is_needed() -> None:
    computing = [output("a", {"a": derive(Computing(), tensor("a", 1))})]
    assert fit(computing, 1).needs.torch
    assert peak(fit(computing, 1)) - peak(fit(files(1), 1)) >= 200 * MIB


def test_processes_are_counted_each() -> None:
    assert peak(fit(files(), 4, processes=4)) - peak(fit(files(), 4)) >= 400 * MIB
    assert fit(files(), 8, 500 * MIB, processes=8).jobs == 3, "one that coordinates, three that work"


def test_what_is_computed_beside_is_counted() -> None:
    file = files(1)[0]
    (one,), watched = file.tensors[0], (Watched(Changed(), (((file.tensors[0][0], file.tensors[0][0]),),)),)
    twin = replace(file, twin=Twin(Plain(), ((one,),)))
    assert peak(fit([twin], 1)) > peak(fit([file], 1))
    assert peak(fit([replace(twin, watched=watched)], 1)) > peak(fit([twin], 1))


def test_the_tensors_themselves_are_counted() -> None:
    many = [output("a", {f"t{n}": tensor("t", 1, 1, 1) for n in range(10_000)})]
    assert peak(fit(many, 1)) - peak(fit(files(1), 1)) > 3 * MIB


def test_the_process_is_measured() -> None:
    code = (
        "import resource; from weightkit.run.budget import resident_nbytes as r\n"
        "one = r(torch=False); held = b'1' * (64 << 20); two = r(torch=False); three = r(torch=True)\n"
        "import sys; print(two - one >> 20, three - two >> 20, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    held, torch, imported = done.stdout.split()
    assert 60 <= int(held) <= 70
    assert int(torch) > 50
    assert imported == "True"


def test_what_the_caller_holds_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook of many gigabytes plans as another process does; so do its workers, which begin without them."""
    monkeypatch.setattr(budget, "resident_nbytes", lambda *, torch: 200 << 30)
    assert peak(fit(files(), 1)) < 600 * MIB
    assert peak(fit(files(), 2, processes=2)) < 1200 * MIB
