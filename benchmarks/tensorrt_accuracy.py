"""mIoU of the exact files that TensorRT's builder is given, run by ONNX Runtime, Q/DQ nodes, Casts and all.

The files come out of ``stagekit compile --emit-kit``. Rows: precision, record (the calibration's name, of int8), task,
backbone, boundaries (their element types), casts, quantize_nodes, integer_macs (percent of the stages' that read a
dequantised weight), images, miou_float (torch, from the task's manifest), miou, drop, differ (percent of the frames'
pixels whose label is not that of the f32 files). mIoU in percent over the data set's test split, in the images' own
size. Half precision is rounded at every tensor, as ``stagekit_tensorrt.reference`` says. Existing rows of the JSON file
are kept, so that an interrupted run goes on where it was, and another record can follow.

    python benchmarks/tensorrt_accuracy.py --stages lite0.stages --calibration lite0.calib \\
        --task examples/landcover.task data/landcover --task examples/sea.task data/sea --json out.json
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from stagekit.graph.cost import macs, node_macs

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
    known = {(row["precision"], row["record"], row["backbone"], row["task"]) for row in rows}
    floats = Kit(stages, [task for task, _ in tasks], "f32", None)
    for precision in precisions:
        record = calibration if precision == "int8" else None
        key = (precision, record and record.stem, stages.stem)
        missing = [t for t in tasks if (*key, read_manifest(t[0], TaskManifest).name) not in known]
        if not missing:
            continue
        kit = Kit(stages, [task for task, _ in missing], precision, record)
        for task, data in missing:
            rows.append({"precision": precision, "record": record and record.stem, **measure(kit, floats, task, data)})
            click.echo(", ".join(f"{k} {v}" for k, v in rows[-1].items()), err=True)
            path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


class Kit:
    """The files of a kit, opened, and how images run through them."""

    def __init__(self, stages: Path, tasks: Sequence[Path], precision: str, record: Path | None) -> None:
        self.stages = read_manifest(stages, StagesManifest)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            emit_kit([stages, *tasks], folder, profile=f"trt-{precision}", calibration=record)
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
            "integer_macs": round(100 * sum(map(integer_macs, files)) / sum(map(macs, files)), 1),
        }


def integer_macs(graph: Graph) -> int:
    """Multiply-accumulates of products whose weight is stored in integers."""
    stored = [
        n
        for n in graph.body
        if len(n.inputs) > 1
        and (value := n.inputs[1])
        and (made := value.producer())
        and made.op_type == "DequantizeLinear"
    ]
    return sum(map(node_macs, stored))


def measure(kit: Kit, floats: Kit, path: Path, data: Path) -> dict[str, Any]:
    task, frame = read_manifest(path, TaskManifest), kit.stages.frame
    geometry = Geometry(frame.height, frame.width, task.resize or frame.resize, frame.fill)
    samples = list(Folder.open(data).samples("test"))
    confusion = Confusion(len(task.classes))
    differ = []
    for sample in samples:
        pixels, placement = geometry.apply(sample.image)
        labels = kit.labels(pixels[None], task)
        differ.append(np.mean(labels != floats.labels(pixels[None], task)))
        confusion.update(placement.labels_to_image(labels), sample.mask)
    own = next(100 * m.value for m in task.metrics if m.name == "miou" and m.split == "test")
    return {
        "task": task.name,
        "backbone": kit.stages.name,
        **kit.facts(),
        "images": len(samples),
        "miou_float": round(own, 3),
        "miou": round(100 * confusion.miou(), 3),
        "drop": round(own - 100 * confusion.miou(), 3),
        "differ": round(100 * float(np.mean(differ)), 3),
    }


if __name__ == "__main__":
    main()
