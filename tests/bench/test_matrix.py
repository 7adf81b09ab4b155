"""The matrix: what is measured, in which order, what is kept, and where the budget ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagekit.bench import results
from stagekit.bench.matrix import Cell, Outcome, cells, left_out, run_matrix
from stagekit.errors import StagekitError
from stagekit.target import load_profile

from .made import made


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wanted() -> list[Cell]:
    profile = load_profile("ort-f32")
    return [Cell(profile, ("sea",)), Cell(profile), Cell(profile, ("line",))]


def test_every_profile_that_runs_here_comes_with_all_tasks_and_each_alone() -> None:
    found, out = cells(["land", "sea"], int8=False)
    names = [c.name for c in found]
    assert {"ort-f32", "ort-f32.land", "ort-f32.sea"} <= set(names)
    assert len(names) == len(set(names)), "an alias of a target brings nothing twice"
    assert out["ort-int8"] == "int8 needs --calibration"
    assert all(outcome.why for outcome in left_out(out))
    assert "ort-int8" in [c.name for c in cells(["sea"], int8=True)[0]]


def test_what_is_complete_is_kept_and_what_is_partial_is_done_again(tmp_path: Path, wanted: list[Cell]) -> None:
    done: list[str] = []

    def file(cell: Cell) -> Path:
        return tmp_path / f"{cell.name}.json"

    def measure(cell: Cell) -> None:
        done.append(cell.name)
        results.write(made(cell.name), file(cell))
        if cell.tasks == ("line",):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_matrix(wanted[::-1], file, measure)
    assert done == ["ort-f32", "ort-f32.line"], "all tasks together come first"
    results.write(made("ort-f32.line").model_copy(update={"status": "partial"}), file(wanted[2]))
    done.clear()
    wanted.pop()
    wanted.append(Cell(wanted[0].profile, ("line2",)))
    outcomes = run_matrix(wanted, file, lambda cell: done.append(cell.name))
    assert [o.what for o in outcomes] == ["kept", "measured", "measured"]
    assert done == ["ort-f32.sea", "ort-f32.line2"]


def test_a_failure_is_noted_and_the_rest_goes_on(tmp_path: Path, wanted: list[Cell]) -> None:
    def measure(cell: Cell) -> None:
        if not cell.tasks:
            raise StagekitError("the device is gone")

    outcomes = run_matrix(wanted, lambda cell: tmp_path / cell.name, measure)
    assert outcomes[0] == Outcome("ort-f32", "failed", "the device is gone")
    assert [o.what for o in outcomes[1:]] == ["measured", "measured"]


def test_no_cell_is_begun_that_would_end_after_the_budget(tmp_path: Path, wanted: list[Cell]) -> None:
    clock = Clock()

    def measure(cell: Cell) -> None:
        clock.now += 40

    outcomes = run_matrix(wanted, lambda cell: tmp_path / cell.name, measure, budget=100, clock=clock)
    assert [o.what for o in outcomes] == ["measured", "measured", "left"]
    assert clock.now == 80
