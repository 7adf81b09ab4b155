"""The stages on which a recipe's task will run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stagekit.bundle import StagesManifest
from stagekit.errors import UsageError
from stagekit.partition.partition import partition_backbone
from stagekit.target import Progress, silent
from stagekit.tune.network import weights_of
from stagekit.tune.recipe_file import read_recipe

if TYPE_CHECKING:
    from stagekit.partition.from_torch import Exporter


def partition_recipe(
    recipe: Path, output: Path | None = None, *, exporter: Exporter = "dynamo", progress: Progress = silent
) -> StagesManifest:
    """Cuts the frozen backbone that a recipe names, with its weights, frame size, output stride and cuts.

    Args:
        recipe: a TOML file.
        output: the ``.stages`` folder; by default the architecture's name, here.

    Raises:
        UsageError: the recipe has errors, or its tasks run on stages that are made otherwise.
        WeightsError: the weights do not fit.
        BundleError: the output cannot be written.
    """
    stated = read_recipe(recipe)
    backbone = stated.backbone
    if backbone.name is None:
        raise UsageError(
            f"its stages are cut already: {backbone.stages}", where=recipe, remedy="compile its tasks with those"
        )
    if not stated.method.frozen:
        raise UsageError(
            f"method {stated.method.kind} learns a backbone of its own",
            where=recipe,
            remedy=f"its stages are written by: stagekit tune {recipe} -o X.task, as X.stages",
        )
    return partition_backbone(
        backbone.name,
        output or Path(f"{backbone.name}.stages"),
        weights=weights_of(backbone),
        size=backbone.size,
        output_stride=backbone.output_stride,
        cuts=backbone.cuts,
        exporter=exporter,
        progress=progress,
    )
