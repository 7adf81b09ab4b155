"""The matrix: what is measured, in which order, what is kept, and where the budget ends it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stagekit_openvino import OpenVinoTarget

from stagekit.bench import results
from stagekit.bench.cell import Bench
from stagekit.bench.labels import keep_labels, read_reference
from stagekit.bench.matrix import Cell, Outcome, cells, kept, left_out, reference, run_matrix
from stagekit.bench.options import Options
from stagekit.errors import StagekitError, UsageError
from stagekit.targets import load_profile

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
    return [Cell(profile), Cell(profile, ("sea",)), Cell(profile, ("line",))]


def test_every_profile_that_runs_here_comes_with_all_tasks_and_each_alone() -> None:
    found, out = cells(["land", "sea"], record=False)
    names = [c.name for c in found]
    assert {"ort-f32", "ort-f32.land", "ort-f32.sea"} <= set(names)
    assert len(names) == len(set(names)), "an alias of a target brings nothing twice"
    assert out["ort-int8"] == "int8 needs --calibration"
    assert all(outcome.why for outcome in left_out(out))
    assert names == sorted(names, key=lambda name: "." in name), "all tasks together come first"
    every = [c.name for c in cells(["sea"], record=True)[0]]
    assert {"ort-int8", "dpu-b4096-zcu104", "hls-16-6"} <= set(every), "8 and 16 bits want a record alike"
    assert out["hls-16-6"] == "int16 needs --calibration"


def test_profiles_can_be_chosen_and_tasks_kept_together() -> None:
    found, out = cells(["land", "sea"], True, ["ort-int8", "ort-f32"], alone=False)
    assert [c.name for c in found] == ["ort-f32", "ort-int8"], "floats first: the others are compared with them"
    assert out == {}
    with pytest.raises(UsageError, match="ort-int8"):
        cells(["sea"], True, ["ort-int9"])


def test_a_profile_that_this_machine_refuses_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoTarget, "refusal", lambda self, profile: "no" * (profile.precision == "bf16"))
    found, out = cells(["sea"], True, ["ov-bf16", "ov-f32"])
    assert [c.name for c in found] == ["ov-f32"]
    assert out == {"ov-bf16": "no"}


def test_labels_of_the_first_float_cell_are_what_others_are_compared_with(tmp_path: Path) -> None:
    found, _ = cells(["land", "sea"], True, ["ort-int8", "ort-f32"])
    first = reference(found)
    assert first is not None
    assert first.name == "ort-f32"
    assert reference([c for c in found if c.profile.precision == "int8"]) is None
    bench = Bench((), ("data",), Options(), tmp_path, reference=first)
    assert not any("--reference" in bench.arguments(cell) for cell in found), "there are no labels yet"
    labels = {"land": {"p0": np.array([[0, 1], [2, 3]], np.uint8)}}
    keep_labels(labels, tmp_path / "ort-f32.files")
    results.write(made("ort-f32"), tmp_path / "ort-f32.json")
    compared = [cell.name for cell in found if str(tmp_path / "ort-f32.json") in bench.arguments(cell)]
    assert compared == [c.name for c in found if c.name != "ort-f32"]
    name, read = read_reference(tmp_path / "ort-f32.json")
    assert name == "ort-f32"
    assert read["land"]["p0"].tolist() == [[0, 1], [2, 3]]
    results.write(made("other"), tmp_path / "other.json")
    with pytest.raises(UsageError, match="no label maps"):
        read_reference(tmp_path / "other.json")


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
        run_matrix([wanted[0], wanted[2], wanted[1]], file, measure)
    assert done == ["ort-f32", "ort-f32.line"]
    results.write(made("ort-f32.line").model_copy(update={"status": "partial"}), file(wanted[2]))
    done.clear()
    wanted.pop()
    wanted.append(Cell(wanted[0].profile, ("line2",)))
    outcomes = run_matrix(wanted, file, lambda cell: done.append(cell.name))
    assert [o.what for o in outcomes] == ["kept", "measured", "measured"]
    assert done == ["ort-f32.sea", "ort-f32.line2"]


def test_results_that_this_version_does_not_read_are_measured_again(tmp_path: Path, wanted: list[Cell]) -> None:
    path = tmp_path / "old.json"
    results.write(made("old"), path)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 0'))
    assert kept(path) is None
    outcomes = run_matrix(wanted[:1], lambda cell: path, lambda cell: results.write(made(cell.name), path))
    assert outcomes[0].what == "measured"
    before = kept(path)
    assert before is not None
    assert before.deployment.name == wanted[0].name


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
