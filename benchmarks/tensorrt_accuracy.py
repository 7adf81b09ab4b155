"""mIoU of the exact files that TensorRT's builder is given, run by ONNX Runtime, Q/DQ nodes, Casts and all.

The files come out of ``stagekit compile --emit-kit``. Rows: task, backbone, precision, boundaries (their element
types), casts, quantize_nodes, images, miou_float (torch, from the task's manifest), miou, drop; mIoU in percent over
the data set's test split, in the images' own size. Half precision is rounded at every tensor, as
``stagekit_tensorrt.reference`` says. Existing rows of the JSON file are kept, so that an interrupted run goes on where
it was.

    python benchmarks/tensorrt_accuracy.py --stages lite0.stages --calibration lite0.calib \\
        --task examples/landcover.task data/landcover --task examples/sea.task data/sea --json out.json
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from stagekit_tensorrt import reference
from stagekit_tensorrt.kit import MANIFEST

from stagekit.build.kit import emit_kit
from stagekit.bundle import StagesManifest, TaskManifest, read_manifest
from stagekit.data.folder import Folder
from stagekit.data.geometry import Geometry
from stagekit.data.metrics import Confusion
from stagekit.graph import Graph, load

PATH = click.Path(path_type=Path)
Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@click.command()
@click.option("--stages", type=PATH, required=True)
@click.option("--task", "tasks", type=(PATH, PATH), multiple=True, required=True, help="A .task and its data set.")
@click.option("--calibration", type=PATH, required=True, help="The record for int8; must cover all tasks.")
@click.option("--precision", "precisions", multiple=True, default=["f32", "fp16", "bf16", "int8"], show_default=True)
@click.option("--json", "path", type=PATH, required=True, help="Rows are read from here and written here.")
def main(
    stages: Path, tasks: tuple[tuple[Path, Path], ...], calibration: Path, precisions: tuple[str, ...], path: Path
) -> None:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {(row["precision"], row["backbone"], row["task"]) for row in rows}
    for precision in precisions:
        missing = [t for t in tasks if (precision, stages.stem, read_manifest(t[0], TaskManifest).name) not in known]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            record = calibration if precision == "int8" else None
            emit_kit([stages, *(t for t, _ in missing)], folder, profile=f"trt-{precision}", calibration=record)
            kit = Kit(Path(folder), stages)
            for task, data in missing:
                rows.append({"precision": precision, **measure(kit, task, data)})
                click.echo(", ".join(f"{k} {v}" for k, v in rows[-1].items()), err=True)
                path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


class Kit:
    """The files of a kit, opened, and how images run through them."""

    def __init__(self, folder: Path, stages: Path) -> None:
        self.stages = read_manifest(stages, StagesManifest)
        entries = json.loads((folder / MANIFEST).read_text())["graphs"]
        self.graphs: dict[str, Graph] = {e["graph"]: load(folder / f"{e['name']}.onnx") for e in entries}
        self.runs: dict[str, Run] = {name: reference.runner(graph) for name, graph in self.graphs.items()}

    def labels(self, frame: Array, task: TaskManifest) -> Array:
        """Labels in the frame's size."""
        prompts = {prompt.boundary: f"{task.name}/spm{i}" for i, prompt in enumerate(task.prompts)}
        given: list[Array] = [frame]
        reads: dict[str, Array] = {}
        semantic: dict[str, Array] = {}
        for stage in self.stages.stages:
            inputs = zip((spec.name for spec in self.graphs[stage.name].inputs), given, strict=True)
            given = list(self.runs[stage.name](dict(inputs)).values())
            feature = stage.boundary.feature
            if spm := prompts.get(stage.boundary.name):
                given[feature], *rest = self.runs[spm]({"feature": given[feature], **semantic}).values()
                semantic = dict(zip(["semantic"], rest, strict=False))
            reads[stage.boundary.name] = given[feature]
        (labels,) = self.runs[f"{task.name}/head"]({name: reads[name] for name in task.head.reads}).values()
        return labels[0]

    def facts(self) -> dict[str, Any]:
        """Of the stages' files."""
        files = [self.graphs[stage.name] for stage in self.stages.stages]
        nodes = Counter(node.op_type for graph in files for node in graph.body)
        kinds = Counter(spec.dtype for graph in files for spec in graph.outputs)
        return {
            "boundaries": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
            "casts": nodes["Cast"],
            "quantize_nodes": nodes["QuantizeLinear"],
        }


def measure(kit: Kit, path: Path, data: Path) -> dict[str, Any]:
    task, frame = read_manifest(path, TaskManifest), kit.stages.frame
    geometry = Geometry(frame.height, frame.width, task.resize or frame.resize, frame.fill)
    samples = list(Folder.open(data).samples("test"))
    confusion = Confusion(len(task.classes))
    for sample in samples:
        pixels, placement = geometry.apply(sample.image)
        confusion.update(placement.labels_to_image(kit.labels(pixels[None], task)), sample.mask)
    own = next(100 * m.value for m in task.metrics if m.name == "miou" and m.split == "test")
    return {
        "task": task.name,
        "backbone": kit.stages.name,
        **kit.facts(),
        "images": len(samples),
        "miou_float": round(own, 3),
        "miou": round(100 * confusion.miou(), 3),
        "drop": round(own - 100 * confusion.miou(), 3),
    }


if __name__ == "__main__":
    main()
