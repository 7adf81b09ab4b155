"""What TensorRT engines cost to build: seconds and bytes of every graph of a backbone and one task.

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
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from stagekit import target as targets
from stagekit.build.deploy import compile_bundles
from stagekit.build.engines import Builder
from stagekit.build.kit import Collector, WantedEngine
from stagekit.quant.record import load
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
                for wanted in graphs(stages, task, calibration, profile):
                    key = (stages.stem, wanted.name, precision, capability)
                    if verify and key in known:
                        found = build(wanted, profile)
                        known[key]["again"] = found["sha256"] == known[key]["sha256"]
                    elif key not in known:
                        found = min(
                            (build(wanted, profile) for _ in range(repeat)), key=lambda row: row["processor_seconds"]
                        )
                        known[key] = {**dict(zip(KEY, key, strict=True)), **found}
                    else:
                        continue
                    click.echo(", ".join(f"{k} {v}" for k, v in known[key].items() if k != "sha256"), err=True)
                    path.write_text(json.dumps({"rows": list(known.values())}, indent=1) + "\n")


def graphs(stages: Path, task: Path, calibration: Path, profile: Profile) -> list[WantedEngine]:
    """All graphs that compiling the two would build."""
    record = load(calibration) if profile.precision == "int8" else None
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(targets.get(profile.target), profile, Store(Path(folder)), silent)
        compile_bundles(stages, [task], collector, None, "labels", record)
    return collector.wanted


def build(wanted: WantedEngine, profile: Profile) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(targets.get(profile.target), profile, Store(Path(folder)))
        begun = time.process_time()
        made = builder.build(wanted.name, wanted.graph, wanted.inputs, wanted.outputs)
        here = time.process_time() - begun
        blob = builder.store.get(builder.key(wanted.graph, wanted.inputs, wanted.outputs))
        assert blob is not None, "it was built just now"
        return {
            "builder": f"{blob.metadata['builder']} {blob.metadata['version']}",
            "builder_seconds": round(blob.report["seconds"], 4),
            "seconds": round(made.seconds, 4),
            "processor_seconds": round(here + blob.report["processor_seconds"], 4),
            "bytes": blob.metadata["bytes"][0],
            "sha256": blob.metadata["sha256"][0],
        }


if __name__ == "__main__":
    main()
