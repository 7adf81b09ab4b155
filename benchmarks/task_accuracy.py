"""The example tasks, compiled for each target, on the test split of their data: mIoU beside the torch network's own.

    python benchmarks/task_accuracy.py --task examples/landcover.task data/landcover --task examples/sea.task data/sea

Rows: task, backbone, target, miou, miou_float (torch, from the task's manifest), images; mIoU in percent.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

import stagekit
from stagekit.bundle import TaskManifest, read_manifest
from stagekit.data.folder import Folder
from stagekit.data.metrics import Confusion
from stagekit.models.registry import find
from stagekit.models.weights import find_packaged_weights


@click.command()
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--task", "tasks", type=(Path, Path), multiple=True, required=True, help="A .task and its data set.")
@click.option("--profile", "profiles", multiple=True, default=["ort-f32", "ov-f32", "ov-bf16"], show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(backbone: str, tasks: tuple[tuple[Path, Path], ...], profiles: tuple[str, ...], path: Path | None) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        stages = Path(folder) / "backbone.stages"
        stagekit.partition(backbone, stages, weights=find_packaged_weights(find(backbone).name))
        for profile in profiles:
            deployment = Path(folder) / f"{profile}.deploy"
            stagekit.compile([stages, *(task for task, _ in tasks)], profile=profile, output=deployment)
            rows += [measure(deployment, task, data, backbone, profile) for task, data in tasks]
    text = json.dumps({"rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def measure(deployment: Path, task: Path, data: Path, backbone: str, profile: str) -> dict[str, Any]:
    manifest = read_manifest(task, TaskManifest)
    samples = list(Folder.open(data).samples("test"))
    confusion = Confusion(len(manifest.classes))
    with stagekit.Session(deployment, [manifest.name]) as session:
        for sample in samples:
            confusion.update(session.run(sample.image)[manifest.name], sample.mask)
    own = next((m.value for m in manifest.metrics if m.name == "miou" and m.split == "test"), None)
    return {
        "task": manifest.name,
        "backbone": backbone,
        "target": profile,
        "miou": round(100 * confusion.miou(), 3),
        "miou_float": None if own is None else round(100 * own, 3),
        "images": len(samples),
    }


if __name__ == "__main__":
    main()
