"""What the comparison of tuning methods consists of: cells, their rates, their recipes, their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stagekit.tune.recipe import Recipe
from stagekit.tune.recipe_file import parse_recipe

TASKS = ("brain", "landcover", "sea")
VIT, LITE = "vit_s14", "efficientnet_lite0"
METHODS = ("head", "spm", "full", "head-wide", "scratch")
UNSETTLED = ("head", "spm", "head-wide")
ITERATIONS = 120
LONG = 3
"""How many times as many steps ``long`` takes."""
ROUNDS = 3
"""A candidate of the search runs the first of so many parts of the schedule; the best on val runs it to its end."""
CACHED_VARIANTS = 16
"""Augmented variants of an image whose features ``head`` learns from; it sees each image 15 times."""

LAST = {VIT: ("unit12",), LITE: ("stage5",)}
SEVERAL = {VIT: ("unit4", "unit8", "unit12"), LITE: ("stage2", "stage3", "stage4", "stage5")}
PROMPTS = {VIT: ("stem", "unit4", "unit8"), LITE: ("stage2", "stage3", "stage4", "stage5")}

Rates = dict[str, float]
GRIDS: dict[str, dict[str, tuple[Rates, ...]]] = {
    backbone: {
        "head": tuple({"lr_head": rate} for rate in (1e-2, 1e-1, 3e-2)),
        "spm": tuple({"lr_head": 1e-2, "lr_spm": rate} for rate in (2e-3, 1e-3, 4e-3)),
        "full": tuple({"lr_head": 1e-2, "lr_backbone": rate} for rate in full),
        "scratch": tuple({"lr_head": 1e-2, "lr_backbone": rate} for rate in (1e-3, 3e-4, 3e-3)),
    }
    for backbone, full in ((VIT, (1.5e-4, 5e-5, 4e-4)), (LITE, (3e-4, 1e-4, 1e-3)))
}
"""Candidates for each method, as many for one as for another."""
DECAYED: dict[str, tuple[Rates, ...]] = {
    setting: tuple({"lr_head": 1e-2, "lr_backbone": rate, "layer_decay": 0.75} for rate in rates)
    for setting, rates in (("layer-decay", (4e-4, 1.5e-4, 1e-3)), ("layer-decay-low", (5e-5,)))
}
"""Of ``full`` whose blocks of a transformer learn slower than the one behind.

As the lowest rate was the best of three, a lower one is run to the end too.
"""

ABLATIONS: dict[str, dict[str, Any]] = {
    # Table 6 of the paper: fewer boundaries prompted, or SPMs inside a stage too. All three stages are the headline.
    "prompts-1": {"method": {"prompts": ("stem",)}},
    "prompts-2": {"method": {"prompts": ("stem", "unit4")}},
    "plus-1": {"method": {"prompts": ("stem", "unit4", "unit6", "unit8")}},
    "plus-2": {
        "method": {"prompts": ("stem", "unit4", "unit5", "unit7", "unit8")},
        "backbone": {"cuts": ("unit4", "unit5", "unit7", "unit8", "unit12")},
    },
    # Its table 9: a transformer in two even stages. In one it is prompts-1, in three the headline.
    "stages-2": {"method": {"prompts": ("stem", "unit6")}},
    # Its table 7.
    "no-guidance": {"method": {"interim_weight": 0.0}},
    "single-convolution": {"method": {"pdc": "single"}},
    # What it leaves open: widths, the form of the prompt, normalisation.
    "widths-aligned": {"method": {"preset": "aligned"}},
    "widths-paper": {"method": {"preset": "paper"}},
    "additive": {"method": {"prompt": "additive"}},
    "group-norm": {"method": {"norm": "group", "activation": "relu"}},
}
EQUAL_TIME = {"equal-time": "headline", "equal-long-time": "long"}
"""Settings that take as long as ``spm`` takes in another."""
# DECAYED: whether `full` is short of what transformers are usually tuned with.
# repeat: the headline again, on the processor that later ablations ran on: one seed does not give the same on all.
SETTINGS = {name: {} for name in ("headline", "several", "long", *EQUAL_TIME, *DECAYED, "repeat")} | ABLATIONS
"""Changes to the recipe."""
SEARCHED = ("headline", "several", *DECAYED)
"""Settings with a search of their own; the others take the rates that ``headline`` chose."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run.

    Attributes:
        candidate: of the grid: the first part of a run with seed 0, scored on val alone; None for a whole run with
            the chosen rates, scored on test.
    """

    task: str
    backbone: str
    method: str
    setting: str = "headline"
    seed: int = 0
    candidate: int | None = None

    @property
    def name(self) -> str:
        run = f"seed{self.seed}" if self.candidate is None else f"search{self.candidate}"
        return f"{self.task}.{self.backbone}.{self.setting}.{self.method}.{run}"

    def searches(self) -> list[Cell]:
        """The cells that choose this one's rates."""
        setting = self.setting if self.setting in SEARCHED else "headline"
        return [replace(self, setting=setting, seed=0, candidate=index) for index in range(len(grid(self)))]

    def timed_by(self) -> tuple[Cell, Cell] | None:
        """At equal time: the cell of ``spm`` that says how long, and the one that says how long a step takes."""
        if self.setting not in EQUAL_TIME:
            return None
        return replace(self, method="spm", setting=EQUAL_TIME[self.setting]), replace(self, setting="headline")


def grid(cell: Cell) -> tuple[Rates, ...]:
    """The learning rates to choose from."""
    if cell.setting in DECAYED:
        return DECAYED[cell.setting]
    return GRIDS[cell.backbone]["head" if cell.method == "head-wide" else cell.method]


def plan() -> Iterator[Cell]:
    """All cells but the searches, cheapest and most telling first."""
    pairs = [("brain", VIT), ("brain", LITE), ("landcover", LITE), ("landcover", VIT), ("sea", LITE), ("sea", VIT)]
    for methods, seeds in ((METHODS[:3], (0,)), (("head-wide",), (0,)), (METHODS[:4], (1, 2))):
        for task, backbone in pairs:
            yield from (Cell(task, backbone, method, seed=seed) for seed in seeds for method in methods)
        yield from (Cell(*pairs[0], method, "long", seed) for seed in seeds for method in methods)
    # Three seeds left spm's lead under two standard errors on the last pair; on the first they differ by processor.
    for pair in (pairs[-1], pairs[0]):
        yield from (Cell(*pair, method, seed=seed) for seed in (3, 4) for method in UNSETTLED)
    yield from (Cell(*pairs[0], "spm", "repeat", seed) for seed in (1, 2))
    for task, backbone in pairs:
        yield from (Cell(task, backbone, "scratch", seed=seed) for seed in range(3))
        yield from (
            Cell(task, backbone, method, "equal-time", seed)
            for method in ("head", "head-wide", "full")
            for seed in range(3)
        )
    # In the time of `spm`'s long runs.
    yield from (
        Cell(*pairs[0], method, "equal-long-time", seed) for method in ("head", "head-wide") for seed in range(2)
    )
    for setting, tasks in (("layer-decay", TASKS), ("layer-decay-low", ("landcover", "sea"))):  # behind on brain
        yield from (Cell(task, VIT, "full", setting, seed) for task in tasks for seed in range(3))
    for setting in ABLATIONS:
        yield from (Cell("brain", VIT, "spm", setting, seed) for seed in range(3))
    for task in TASKS:
        yield from (Cell(task, LITE, method, "several", seed) for seed in range(3) for method in METHODS[:3])


def recipe(cell: Cell, rates: Rates, data: Path, iterations: int, minutes: float) -> Recipe:
    """What a cell runs.

    Args:
        rates: of the parts that learn.
        data: folder of the data sets.
        iterations: steps.
        minutes: at which the run is ended whatever its step.
    """
    kind = "head" if cell.method == "head-wide" else cell.method
    prompts, changes = PROMPTS[cell.backbone], SETTINGS[cell.setting]
    reads = (SEVERAL if cell.setting == "several" else LAST)[cell.backbone]
    dilated = cell.backbone == LITE and cell.setting != "several"
    method = {"kind": kind} | ({"prompts": prompts} if kind == "spm" else {}) | changes.get("method", {})
    return parse_recipe(
        {
            "task": {"name": cell.task},
            "backbone": {"name": cell.backbone, "size": (224, 224)}
            | ({"output_stride": 16} if dilated else {})
            | changes.get("backbone", {}),
            "data": {"folder": data / cell.task},
            "method": method,
            "head": {"kind": "light", "reads": reads, "width": 64},
            "train": {
                "iterations": iterations,
                "eval_every": max(iterations // ROUNDS, 1),
                "class_weights": "balanced",
                "seed": cell.seed,
                "minutes": minutes,
                "cache": CACHED_VARIANTS if kind == "head" else "off",
                "device": "cpu",
                "augment": {"flip": True, "rotate": 0.25, "scale": (0.8, 1.2), "brightness": 0.15},
                **rates,
            },
        }
    )
