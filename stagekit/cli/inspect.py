"""``stagekit inspect``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from stagekit import graph
from stagekit.build.deploy import ENGINES
from stagekit.bundle import MANIFEST, DeployManifest, GraphEntry, Manifest, StagesManifest, TaskManifest, read_manifest
from stagekit.cli.console import PATH, emit, json_option, megabytes, table
from stagekit.cli.layers import engine_record, layer_table, summary
from stagekit.errors import BundleError, UsageError
from stagekit.quant.record import CalibrationManifest
from stagekit.quant.record import load as load_record
from stagekit.store.record import SIDECAR

KINDS: dict[str, type[Manifest]] = {
    "stages": StagesManifest,
    "task": TaskManifest,
    "deploy": DeployManifest,
    "calibration": CalibrationManifest,
}


@click.command()
@click.argument("path", type=PATH, required=False)
@click.option("--schema", type=click.Choice(list(KINDS)), help="Print the JSON schema of a kind of manifest, and stop.")
@json_option
def command(path: Path | None, schema: str | None, as_json: bool) -> None:
    """Show what is in PATH: a .stages, .task, .calib or .deploy folder, one engine's folder, or an ONNX file.

    Engines that were compiled for a described device come with a table of their layers.

    \b
    Examples:
      stagekit inspect landcover.task
      stagekit inspect --schema task
    """
    if schema is not None:
        click.echo(json.dumps(KINDS[schema].model_json_schema(), indent=1))
        return
    if path is None:
        raise UsageError("give a path or --schema KIND")
    if path.suffix == ".onnx" or path.is_file():
        _show_onnx(path, as_json)
        return
    if (path / SIDECAR).is_file():
        _show_engine(path, as_json)
        return
    kind = _kind(path)
    if kind == "stages":
        from stagekit.cli.partition import describe

        stages = read_manifest(path, StagesManifest)
        emit(stages.model_dump(mode="json", by_alias=True), describe(stages, path), as_json)
    elif kind == "task":
        task = read_manifest(path, TaskManifest)
        emit(task.model_dump(mode="json", by_alias=True), _task(task, path), as_json)
    elif kind == "calibration":
        from stagekit.cli.calibrate import describe as describe_record
        from stagekit.cli.calibrate import facts

        record = load_record(path)
        emit(facts(record), describe_record(record, path), as_json)
    else:
        deployment = read_manifest(path, DeployManifest)
        reports = {s.name: engine_record(path / ENGINES / s.engine).report for s in deployment.stages}
        reports = {name: dict(report) for name, report in reports.items() if report.get("layers")}
        data = deployment.model_dump(mode="json", by_alias=True)
        text = [_deployment(deployment), *(layer_table(n, r) for n, r in reports.items()), summary([*reports.values()])]
        emit({**data, **({"reports": reports} if reports else {})}, "\n\n".join(filter(None, text)), as_json)


def _show_engine(path: Path, as_json: bool) -> None:
    record = engine_record(path)
    key = record.key
    lines = [f"{path.name[:12]}: {key.target} engine for {key.device}, {key.toolchain}, {megabytes(record.size)}"]
    lines += [f"input  {s}" for s in record.inputs] + [f"output {s}" for s in record.outputs]
    data = {"key": key.to_dict(), "report": dict(record.report), "bytes": record.size}
    emit(data, "\n".join([*lines, layer_table(path.name[:12], record.report)]).rstrip(), as_json)


def _kind(path: Path) -> str:
    try:
        kind = json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError("expected a .stages, .task, .calib or .deploy folder, or an ONNX file", where=path) from error
    if kind not in KINDS:
        raise BundleError(f"its manifest is of kind {kind!r}; known: {', '.join(KINDS)}", where=path)
    return str(kind)


def _show_onnx(path: Path, as_json: bool) -> None:
    from stagekit.graph.cost import parameters

    loaded = graph.load(path)
    ops = Counter(node.op_type for node in loaded.body)
    data: dict[str, Any] = {
        "fingerprint": loaded.fingerprint,
        "inputs": [s.to_dict() for s in loaded.inputs],
        "outputs": [s.to_dict() for s in loaded.outputs],
        "parameters": parameters(loaded),
        "nodes": dict(ops),
    }
    lines = [f"{path}: {ops.total()} nodes, {parameters(loaded) / 1e6:.2f} M parameters"]
    lines += [f"fingerprint {loaded.fingerprint}"]
    lines += [f"input  {s}" for s in loaded.inputs] + [f"output {s}" for s in loaded.outputs]
    lines.append(table(["operator", "nodes"], ops.most_common()))
    emit(data, "\n".join(lines), as_json)


def _task(task: TaskManifest, path: Path) -> str:
    size = sum(f.stat().st_size for f in path.iterdir())
    parts: list[tuple[str, GraphEntry]] = [(f"SPM at {p.boundary}", p) for p in task.prompts]
    parts.append((f"head on {', '.join(task.head.reads)}", task.head))
    rows = [(name, entry.macs / 1e6, entry.parameters / 1e3) for name, entry in parts]
    lines = [f"{task.name}: {len(task.classes)} classes for the backbone {task.backbone[:16]}, {megabytes(size)}"]
    lines.append("classes: " + ", ".join(c.name for c in task.classes))
    lines.append(table(["graph", "MMAC", "k params"], rows))
    for m in task.metrics:
        lines.append(f"{m.name} {100 * m.value:.1f} % on {m.images} images of {m.data} ({m.split})")
    return "\n".join(lines)


def _deployment(deployment: DeployManifest) -> str:
    sizes = {e.digest: e.bytes for e in deployment.engines}
    rows: list[tuple[object, ...]] = [(s.name, s.engine[:12], megabytes(sizes[s.engine])) for s in deployment.stages]
    for t in deployment.tasks:
        rows += [(f"{t.name}/spm at {p.boundary}", p.engine[:12], megabytes(sizes[p.engine])) for p in t.prompts]
        rows.append((f"{t.name}/head", t.head[:12], megabytes(sizes[t.head])))
    lines = [
        f"{deployment.name}: {deployment.target}, profile {deployment.profile.get('name')}, {deployment.toolchain}",
        f"backbone {deployment.backbone[:16]}, frames {deployment.frame.height} x {deployment.frame.width}",
        table(["graph", "engine", "size"], rows),
        f"{megabytes(sum(sizes.values()))} in {len(sizes)} engines",
    ]
    return "\n".join(lines)
