"""The comparison of methods: what it consists of, and the arithmetic of its tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from methods_plan import ABLATIONS, GRIDS, LITE, VIT, Cell, plan, recipe
from methods_report import TABLES, difference, gap_closed, render, summary


def test_every_method_chooses_from_as_many_rates() -> None:
    assert {len(candidates) for grids in GRIDS.values() for candidates in grids.values()} == {3}


def test_no_cell_is_planned_twice() -> None:
    names = [cell.name for cell in plan()]
    assert len(names) == len(set(names))


def test_cells_at_equal_time_come_after_the_runs_that_they_are_measured_by() -> None:
    cells = list(plan())
    timed = [(position, cell.timed_by() or ()) for position, cell in enumerate(cells)]
    assert any(needed for _, needed in timed)
    assert all(cells.index(one) < position for position, needed in timed for one in needed)
    assert Cell("brain", VIT, "head", "equal-long-time", 1).timed_by() == (
        Cell("brain", VIT, "spm", "long", 1),
        Cell("brain", VIT, "head", "headline", 1),
    )


def test_every_cell_has_a_valid_recipe(tmp_path: Path) -> None:
    for cell in plan():
        stated = recipe(cell, {}, tmp_path, iterations=120, minutes=10)
        assert (stated.train.cache == "off") == (cell.method not in ("head", "head-wide"))


def test_the_headline_head_reads_the_last_feature(tmp_path: Path) -> None:
    for backbone, last in ((VIT, "unit12"), (LITE, "stage5")):
        assert recipe(Cell("brain", backbone, "spm"), {}, tmp_path, 120, 10).head.reads == (last,)


def test_seeds_and_ablations_take_the_rates_that_seed_0_of_the_headline_chose() -> None:
    chosen_by = Cell("brain", VIT, "spm").searches()
    assert len(chosen_by) == 3
    assert all(Cell("brain", VIT, "spm", setting, seed=2).searches() == chosen_by for setting in ABLATIONS)


def test_gap_closed_is_left_out_where_the_gap_is_noise() -> None:
    assert gap_closed([0.30], [0.45], [0.50]) == pytest.approx(0.75)
    assert gap_closed([0.30], [0.45], [0.319]) is None
    assert gap_closed([0.29, 0.31], [0.45], [0.49, 0.51]) == pytest.approx(0.75)
    assert gap_closed([0.20, 0.40], [0.45], [0.33, 0.37]) is None  # 5 points, of which the error is 10


def test_a_mean_of_several_seeds_has_its_standard_error() -> None:
    assert summary([0.5]) == "50.0"
    assert summary([0.4, 0.5, 0.6]) == "50.0 ± 5.8"  # 10 / sqrt(3)


def test_a_difference_of_means_has_its_standard_error_and_both_numbers() -> None:
    assert difference([0.5], [0.4, 0.3]) == "+15.0"
    assert difference([0.4, 0.5, 0.6], [0.3, 0.4]) == "+15.0 ± 7.6 (3, 2)"  # 100 / 3 + 50 / 2, its root
    assert difference([0.4], []) == "-"


def test_ablations_are_compared_with_the_same_seeds_on_the_same_processor() -> None:
    row = {"task": "brain", "backbone": VIT, "method": "spm", "val_miou": 0.5, "parameters": 1000, "macs_share": 0.1}
    row |= {"recipe": {"method": {"prompts": ["stem"]}}}
    rows = [row | {"setting": "headline", "seed": seed, "miou": 0.5 + seed / 100} for seed in range(3)]
    rows += [row | {"setting": "prompts-1", "seed": seed, "miou": 0.48 + seed / 100} for seed in (1, 2)]
    other = row | {"processor": "aarch64", "seed": 1}
    rows += [other | {"setting": "repeat", "miou": 0.40}, other | {"setting": "additive", "miou": 0.43}]
    (line,) = (line for line in TABLES["ablations"](rows).splitlines() if line.startswith("| prompts-1"))
    assert line.split(" | ")[2:5] == ["49.5 ± 0.5", "-2.0 ± 0.0", "2"]
    (line,) = (line for line in TABLES["ablations"](rows).splitlines() if line.startswith("| additive"))
    assert line.split(" | ")[2:5] == ["43.0", "+3.0", "1"]


def test_rendering_replaces_tables_and_nothing_else(tmp_path: Path) -> None:
    row = {"task": "brain", "backbone": VIT, "setting": "headline", "candidate": None, "val_miou": 0.5}
    row |= {"parameters": 1000, "megabytes": 1.0, "macs_share": 0.1, "steps": 3, "cpu_seconds": 1.0}
    for method, miou in (("head", 0.2), ("spm", 0.5), ("full", 0.6)):
        (tmp_path / f"{method}.json").write_text(
            json.dumps(row | {"method": method, "miou": miou, "caching_cpu_seconds": 0.0})
        )
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table gaps -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    render(tmp_path, page)
    first = page.read_text(encoding="utf-8")
    assert first.startswith("before\n<!-- table gaps -->\n")
    assert first.endswith("<!-- end -->\nafter\n")
    assert "| brain | ViT-S/14 | +30.0 | - | +40.0 | 75 % |" in first
    assert "old" not in first
    render(tmp_path, page)
    assert page.read_text(encoding="utf-8") == first
