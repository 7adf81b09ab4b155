"""``stagekit inspect``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagekit.cli.console import PATH, emit, json_option, megabytes, table
from stagekit.cli.layers import engine_record, layer_table, summary
from stagekit.errors import BundleError, UsageError

if TYPE_CHECKING:
    from stagekit.bundle import DeployManifest, GraphEntry, Manifest, TaskManifest

KINDS = ("stages", "task", "deploy", "calibration")


@click.command()
@click.argument("path", type=PATH, required=False)
@click.option("--schema", type=click.Choice(KINDS), help="Print the JSON schema of a kind of manifest, and stop.")
@click.option("--data", type=PATH, help="Images to run through a .deploy: fills saturation and SQNR of its layers.")
@click.option("--stages", type=PATH, help="With --data: the .stages that it was compiled from, the float model.")
@click.option("--calibration", type=PATH, help="With --data: the .calib that it was compiled with.")
@click.option("--limit", type=click.IntRange(1), default=4, show_default=True, help="With --data: images at most.")
@json_option
def command(
    path: Path | None,
    schema: str | None,
    data: Path | None,
    stages: Path | None,
    calibration: Path | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what is in PATH: a .stages, .task, .calib or .deploy folder, one engine's folder, or an ONNX file.

    Engines that were compiled for a described device come with a table of their layers.

    \b
    Examples:
      stagekit inspect landcover.task
      stagekit inspect lite0.deploy --data tiles/ \\
        --stages lite0.stages --calibration lite0.calib
      stagekit inspect --schema task
    """
    from stagekit.build.deploy import ENGINES
    from stagekit.bundle import DeployManifest, StagesManifest, TaskManifest, read_manifest
    from stagekit.store.record import SIDECAR

    if schema is not None:
        click.echo(json.dumps(_manifest(schema).model_json_schema(), indent=1))
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
    if data is not None and (kind != "deploy" or stages is None):
        raise UsageError("--data goes with a .deploy folder and the --stages that it was compiled from")
    if kind == "stages":
        from stagekit.cli.partition import describe

        bundle = read_manifest(path, StagesManifest)
        emit(bundle.model_dump(mode="json", by_alias=True), describe(bundle, path), as_json)
    elif kind == "task":
        task = read_manifest(path, TaskManifest)
        emit(task.model_dump(mode="json", by_alias=True), _task(task, path), as_json)
    elif kind == "calibration":
        from stagekit.cli.calibration_text import describe as describe_record
        from stagekit.cli.calibration_text import facts
        from stagekit.quant.record import load as load_record

        record = load_record(path)
        emit(facts(record), describe_record(record, path), as_json)
    else:
        deployment = read_manifest(path, DeployManifest)
        given = {s.name: engine_record(path / ENGINES / s.engine).report for s in deployment.stages}
        reports = {name: dict(report) for name, report in given.items() if report.get("layers")}
        if data is not None and stages is not None:
            from stagekit.cli.observe import observe, with_observed

            reports = with_observed(reports, observe(path, deployment, stages, calibration, data, limit))
        shown = deployment.model_dump(mode="json", by_alias=True)
        text = [_deployment(deployment), *(layer_table(n, r) for n, r in reports.items()), summary([*reports.values()])]
        emit({**shown, **({"reports": reports} if reports else {})}, "\n\n".join(filter(None, text)), as_json)


def _manifest(kind: str) -> type[Manifest]:
    from stagekit.bundle import DeployManifest, StagesManifest, TaskManifest
    from stagekit.quant.record import CalibrationManifest

    kinds: tuple[type[Manifest], ...] = (StagesManifest, TaskManifest, DeployManifest, CalibrationManifest)
    return dict(zip(KINDS, kinds, strict=True))[kind]


def _show_engine(path: Path, as_json: bool) -> None:
    record = engine_record(path)
    key = record.key
    lines = [f"{path.name[:12]}: {key.target} engine for {key.device}, {key.toolchain}, {megabytes(record.size)}"]
    lines += [f"input  {s}" for s in record.inputs] + [f"output {s}" for s in record.outputs]
    data = {"key": key.to_dict(), "report": dict(record.report), "bytes": record.size}
    emit(data, "\n".join([*lines, layer_table(path.name[:12], record.report)]).rstrip(), as_json)


def _kind(path: Path) -> str:
    from stagekit.bundle import MANIFEST

    if not path.exists():
        raise BundleError("no such file or folder", where=path)
    try:
        kind = json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("kind")
    except ValueError as error:
        raise BundleError(f"the manifest is not JSON: {error}", where=path / MANIFEST) from error
    except (OSError, AttributeError) as error:
        raise BundleError("expected a .stages, .task, .calib or .deploy folder, or an ONNX file", where=path) from error
    if kind not in KINDS:
        raise BundleError(f"its manifest is of kind {kind!r}; known: {', '.join(KINDS)}", where=path)
    return str(kind)


def _show_onnx(path: Path, as_json: bool) -> None:
    from stagekit import graph
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
    if task.through is not None:
        lines.append(f"runs on integer stages alone, those of the record {task.through.record}")
        lines += [
            f"  {profile}: {', '.join(f'{stage} {digest[:12]}' for stage, digest in stages.items())}"
            for profile, stages in task.through.stages.items()
        ]
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
