"""What images do to the layers of a deployment's stages: saturation, and distance from the float model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stagekit import targets
from stagekit.build.deploy import ENGINES
from stagekit.bundle import DeployManifest
from stagekit.errors import UsageError
from stagekit.quant.record import load
from stagekit.target import Observing

Rows = list[dict[str, float | None]]


def observe(
    path: Path, deployment: DeployManifest, stages: Path, record: Path | None, data: Path, limit: int
) -> dict[str, Rows]:
    """By stage, ``saturated`` and ``sqnr_db`` of each layer that its report lists.

    The images run through the stages alone, without any task's prompts; a stage of the device reads what the one
    before it gave, so that its distance from the float model includes all that was lost until there.

    Args:
        record: the calibration that the deployment was compiled with; it says whether weights were equalised.

    Raises:
        UsageError: the target cannot look inside its engines, or the stages are of another backbone.
    """
    from stagekit_calib.chain import OrtGraph, open_chain
    from stagekit_calib.readers import from_path

    device = targets.get(deployment.target)
    if not isinstance(device, Observing):
        raise UsageError(f"engines of the target {deployment.target} do not show their layers", where="--data")
    chain = open_chain(stages, equalised=record is not None and load(record).equalised)
    if chain.manifest.backbone.id != deployment.backbone:
        raise UsageError("its backbone is not the deployment's", where=stages)
    geometry = chain.geometry("")
    frames = np.stack([geometry.apply(image)[0] for _, image in from_path(data, limit=limit)])
    real, stored = [frames], [frames]
    found: dict[str, Rows] = {}
    for stage in deployment.stages:
        graph = chain.graphs[stage.name]
        names = [str(v.name) for node in graph.body for v in node.outputs]
        real, tensors = OrtGraph(graph, names).run(real)
        stored, found[stage.name] = device.observe(path / ENGINES / stage.engine, stored, tensors)
    return found


def with_observed(reports: Mapping[str, dict[str, Any]], observed: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """Reports whose layers have what images did to them."""
    return {
        name: {**report, "layers": [{**a, **b} for a, b in zip(report["layers"], observed[name], strict=True)]}
        for name, report in reports.items()
    }
