"""What TensorRT engines cost to build: seconds and bytes of every graph of a backbone and one task.

Beside them ``whole``, the task with all its stages as one graph, which is what another task would cost without stages;
and of SPMs and heads ``... (shared)``, with weights as inputs, and ``... (known structure)``, the same with other
weights while the shared plan lies in the store.

Rows: model, graph, precision, compute_capability, builder, builder_seconds (the vendor's builder alone), seconds (with
planning, another process, the store), processor_seconds (likewise; what else the machine does counts little there),
bytes, sha256; the quickest of several builds. Existing rows of the JSON file are kept, so that an interrupted run goes
on where it was. ``--verify`` builds everything once more, in processes of its own, and adds ``again``: whether the
bytes were the same.

    python benchmarks/tensorrt_builds.py --case lite0.stages landcover.task lite0.calib --json out.json
    python benchmarks/tensorrt_builds.py --case lite0.stages landcover.task lite0.calib --json out.json --verify
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
from stagekit_calib.chain import open_chain

from stagekit import targets
from stagekit.bench.uncut import joined
from stagekit.build.deploy import compile_bundles
from stagekit.build.engines import Builder, WantedEngine
from stagekit.build.kit import Collector
from stagekit.graph import Graph
from stagekit.quant.record import load
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.store import Store
from stagekit.target import Profile, silent

PATH = click.Path(path_type=Path)
KEY = ("model", "graph", "precision", "compute_capability")


@click.command()
@click.option("--case", "cases", type=(PATH, PATH, PATH), multiple=True, required=True, help="STAGES TASK CALIB")
@click.option("--precision", "precisions", multiple=True, default=["f32", "fp16", "int8"], show_default=True)
@click.option("--capability", "capabilities", multiple=True, default=["89"], show_default=True)
@click.option("--repeat", default=3, show_default=True, help="Builds of each graph.")
@click.option("--verify", is_flag=True, help="Build once more and compare the bytes.")
@click.option("--json", "path", type=PATH, required=True, help="Rows are read from here and written here.")
def main(
    cases: tuple[tuple[Path, Path, Path], ...],
    precisions: tuple[str, ...],
    capabilities: tuple[str, ...],
    repeat: int,
    verify: bool,
    path: Path,
) -> None:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {tuple(row[k] for k in KEY): row for row in rows}
    for stages, task, calibration in cases:
        for precision in precisions:
            for capability in capabilities:
                options = {"builder": "tensorrt-rtx", "compute_capability": capability}
                profile = Profile(f"trt-{precision}", "tensorrt", "GPU", precision, (1,), options)
                for wanted, own in everything(stages, task, calibration, profile):
                    key = (stages.stem, wanted.name, precision, capability)
                    if verify and key in known:
                        found = build(wanted, own)
                        known[key]["again"] = found["sha256"] == known[key]["sha256"]
                    elif key not in known:
                        found = min(
                            (build(wanted, own) for _ in range(repeat)), key=lambda row: row["processor_seconds"]
                        )
                        known[key] = {**dict(zip(KEY, key, strict=True)), **found}
                    else:
                        continue
                    click.echo(", ".join(f"{k} {v}" for k, v in known[key].items() if k != "sha256"), err=True)
                    path.write_text(json.dumps({"rows": list(known.values())}, indent=1) + "\n")


def everything(stages: Path, task: Path, calibration: Path, profile: Profile) -> Iterator[tuple[WantedEngine, Profile]]:
    """All graphs that compiling the two would build, the task as one graph, and SPMs and head with shared plans."""
    record = load(calibration) if profile.precision == "int8" else None
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(targets.get(profile.target), profile, Store(Path(folder)), silent)
        compile_bundles(stages, [task], collector, None, "labels", record)
    yield from ((wanted, profile) for wanted in collector.wanted)
    chain = open_chain(stages, [task])
    if record is not None:
        chain = chain.quantised(quantise_stages(chain.stages, record, scheme_of(profile)))
    whole = joined(chain.programs[0], chain.graphs)
    yield WantedEngine("whole", whole, whole.inputs, whole.outputs), profile
    shared = replace(profile, options={**profile.options, "shared": True})
    for wanted in [w for w in collector.wanted if "/" in w.name]:
        yield replace(wanted, name=f"{wanted.name} (shared)"), shared
        yield replace(wanted, name=f"{wanted.name} (known structure)", graph=tuned_otherwise(wanted.graph)), shared


def tuned_otherwise(graph: Graph) -> Graph:
    """The graph with other weights."""
    model = graph.edit()
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT and len(value.const_value.shape) > 1:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.01), name=value.name)
    return graph.with_model(model)


def build(wanted: WantedEngine, profile: Profile) -> dict[str, Any]:
    if wanted.name.endswith("(shared)"):
        os.environ["STAGEKIT_STORE"] = tempfile.mkdtemp()  # where shared plans lie
    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(targets.get(profile.target), profile, Store(Path(folder)))
        begun = time.process_time()
        made = builder.build(wanted.name, wanted.graph, wanted.inputs, wanted.outputs)
        here = time.process_time() - begun
        blob = made.blob
        return {
            "builder": f"{blob.metadata['builder']} {blob.metadata['version']}",
            "builder_seconds": round(blob.report["seconds"], 4),
            "seconds": round(made.seconds, 4),
            "processor_seconds": round(here + blob.report["processor_seconds"], 4),
            "bytes": sum(blob.metadata["bytes"]),
            "sha256": blob.metadata["sha256"][0],
        }


if __name__ == "__main__":
    main()
