"""The stages of a recipe: those that its tasks are bound to, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stagekit.errors import UsageError
from stagekit.models.registry import create
from stagekit.models.weights import canonical_state
from stagekit.tune.bundled import identity
from stagekit.tune.network import create_backbone
from stagekit.tune.recipe_file import read_recipe
from stagekit.tune.stages import partition_recipe

RECIPE = """
[task]
name = "water"
[data]
folder = "water"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    state = canonical_state(create("lite0", seed=3))
    torch.save(state, tmp_path / "lite0.pth")
    file = tmp_path / "water.toml"
    own = '[backbone]\nname = "lite0"\nweights = "lite0.pth"\nsize = [64, 64]\noutput_stride = 16\ncuts = ["stage3"]\n'
    file.write_text(RECIPE + own)
    return file


def test_they_are_of_the_backbone_that_its_tasks_are_bound_to(recipe: Path, tmp_path: Path) -> None:
    manifest = partition_recipe(recipe, tmp_path / "water.stages")
    stated = read_recipe(recipe)
    assert manifest.backbone.id == identity(create_backbone(stated.backbone, stated.method, seed=0))
    assert manifest.backbone.weights == "lite0.pth"
    assert (manifest.frame.height, manifest.frame.width) == (64, 64)
    assert manifest.stages[-1].boundary.tensors[0].shape[-1] == 4  # 64 / 16


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[backbone]\nstages = "any.stages"\n', "cut already: .*any.stages"),
        ('[backbone]\nname = "lite0"\n[method]\nkind = "full"\n', "learns a backbone of its own"),
    ],
)
def test_a_recipe_whose_stages_are_made_otherwise_says_how(more: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "water.toml"
    file.write_text(RECIPE + more)
    with pytest.raises(UsageError, match=message):
        partition_recipe(file)
