"""A backbone of four small convolutions and a data set of coloured rectangles, learned in a second."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stagekit.data.classes import Classes
from stagekit.data.folder import Folder, Sample, write_folder
from stagekit.models.backbone import Backbone, BoundaryInfo, Preprocessing
from stagekit.tune.recipe import Recipe
from stagekit.tune.recipe_file import parse_recipe

HEIGHT, WIDTH = 24, 32


def _unit(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def build_backbone() -> Backbone:
    """Stem and stages 1 to 3 at strides 2, 4, 8, 8; frozen, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        segments = [
            nn.Sequential(OrderedDict(stem=_unit(3, 8, 2))),
            nn.Sequential(OrderedDict(stage1_1=_unit(8, 12, 2))),
            nn.Sequential(OrderedDict(stage2_1=_unit(12, 16, 2))),
            nn.Sequential(OrderedDict(stage3_1=_unit(16, 20, 1))),
        ]
    boundaries = [
        BoundaryInfo("stem", 8, 2),
        BoundaryInfo("stage1", 12, 4),
        BoundaryInfo("stage2", 16, 8),
        BoundaryInfo("stage3", 20, 8),
    ]
    preprocessing = Preprocessing((127.0,) * 3, (128.0,) * 3)
    backbone = Backbone({"name": "tiny-conv", "revision": 1}, preprocessing, boundaries, segments, (HEIGHT, WIDTH))
    backbone.eval().requires_grad_(False)
    return backbone


@pytest.fixture
def backbone() -> Backbone:
    return build_backbone()


@pytest.fixture
def new_backbone() -> Callable[[], Backbone]:
    return build_backbone


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Dark ground with a red and a green rectangle, a strip of unlabelled pixels; 8 / 3 / 3 images of 36 x 44."""
    rng = np.random.default_rng(0)
    samples: list[tuple[str | None, Sample]] = []
    for index in range(14):
        image = rng.integers(0, 60, (36, 44, 3)).astype(np.uint8)
        mask = np.zeros((36, 44), dtype=np.uint8)
        for label, channel in ((1, 0), (2, 1)):
            top, left = rng.integers(0, 18), rng.integers(0, 22)
            image[top : top + 16, left : left + 20, channel] = 220
            mask[top : top + 16, left : left + 20] = label
        mask[:, 40:] = 255
        split = "train" if index < 8 else "val" if index < 11 else "test"
        samples.append((split, Sample(f"image{index:02}", image, mask)))
    classes = Classes(("ground", "red", "green"), ((60, 60, 60), (220, 0, 0), (0, 220, 0)), source="drawn")
    return write_folder(tmp_path / "data", classes, samples)


@pytest.fixture
def recipe(folder: Folder) -> Callable[..., Recipe]:
    """A recipe of 6 steps on the data set; keyword arguments update its sections."""

    def make(**sections: dict[str, Any]) -> Recipe:
        stated: dict[str, dict[str, Any]] = {
            "task": {"name": "rectangles"},
            "backbone": {"name": "tiny-conv"},
            "data": {"folder": folder.root},
            "method": {"kind": "spm", "prompts": ["stage1", "stage3"], "widths": [8, 8]},
            "head": {"reads": ["stage1", "stage3"], "width": 8},
            "train": {"iterations": 6, "batch": 4, "warmup": 2, "eval_every": 2, "precision": "f32"},
        }
        for name, changes in sections.items():
            stated[name] = stated.get(name, {}) | changes
        return parse_recipe(stated)

    return make
