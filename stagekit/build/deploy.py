"""The straight-line driver: bundles and a profile to engines in the store and a deployment folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stagekit.build.calibrated import (
    adapter_graph,
    adapter_ranges,
    check_covered,
    check_precision,
    integer_edges,
    with_edges_of,
)
from stagekit.build.engines import Builder, BuiltEngine
from stagekit.build.fuse import fused_runs, needed_boundaries
from stagekit.build.place import Output, check_task, check_through, float_stages, head_graph, spm_graphs
from stagekit.build.plan import Form, Plan, conformed, plan_boundaries
from stagekit.bundle import (
    Boundary,
    DeployedPrompt,
    DeployedStage,
    DeployedTask,
    DeployManifest,
    EngineEntry,
    Frame,
    FusedRun,
    Placement,
    StagesManifest,
    TaskManifest,
    check_writable,
    plain_name,
    read_manifest,
    write_manifest,
    writing,
)
from stagekit.errors import BundleError, UsageError
from stagekit.graph import Graph
from stagekit.quant.equalise import prepared
from stagekit.quant.record import Calibration
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.store.record import Damage, read_record
from stagekit.versions import tool_versions

ENGINES = "engines"


@dataclass(frozen=True, slots=True)
class Layout:
    """How engines are laid out beyond one a stage.

    Args:
        adapters: builds SPMs and heads for a device of their own.
        fuse: adds an engine for each run of stages between which no task prompts or reads.
        replan: measures the forms of the boundaries again.
        int8_adapters: SPMs and heads compute in integers too, with ranges from the record.
    """

    adapters: Builder | None = None
    fuse: bool = False
    replan: bool = False
    int8_adapters: bool = False


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compilation made.

    Args:
        manifest: of the deployment; it is also what would be written where none was.
        engines: in the order of building.
    """

    manifest: DeployManifest
    engines: tuple[BuiltEngine, ...]


def compile_bundles(
    stages: Path,
    tasks: Sequence[Path],
    builder: Builder,
    destination: Path | None = None,
    output: Output = "labels",
    calibration: Calibration | None = None,
    layout: Layout = Layout(),
) -> Compiled:
    """Compiles frozen stages, then tasks; writes a deployment if it is told where.

    Args:
        calibration: makes the stages compute in integers; an int8 profile needs one.

    Raises:
        UsageError: the profile is int8 and there is no record, or the other way round.
        VerificationFailed: a task is not covered by the record, nor audited and found harmless.
        BundleError: a bundle is damaged, a task is for another backbone, or two tasks have one name.
        CompileError, StoreError, TargetUnavailable: see :class:`Builder`.
    """
    if destination is not None:
        check_writable(destination, "deploy")
    bundle = read_manifest(stages, StagesManifest)
    manifests = [(task, read_manifest(task, TaskManifest)) for task in tasks]
    boundaries = {s.boundary.name: s.boundary for s in bundle.stages}
    _check_names([m.name for _, m in manifests])
    for task, made in manifests:
        check_task(task, made, bundle.backbone.id, boundaries)
    check_precision(builder.profile, calibration)
    if calibration is not None:
        calibration.check_stages(bundle, stages)
        for task, made in manifests:
            check_covered(calibration, made, task)
    adapters = layout.adapters or builder
    ranges = adapter_ranges(calibration, layout.int8_adapters, adapters.profile)
    graphs, edges = stage_graphs(stages, bundle, builder, calibration)
    for task, made in manifests:
        check_through(task, made, {name: graph.fingerprint for name, graph in graphs})
    plan = plan_boundaries(builder, graphs, edges, adapters, layout.replan)
    engines, deployed_stages = _stages(graphs, edges, builder, plan)
    forms = {s.boundary.name: s.stored for s in deployed_stages}
    boundaries = {
        n: with_edges_of(b, {t.name: (t.dtype, t.quantization) for t in d.boundary.tensors if t.quantization})
        for (n, b), d in zip(boundaries.items(), deployed_stages, strict=True)
    }
    deployed_tasks: list[DeployedTask] = []
    for task, made in manifests:
        built, deployed = _task(task, made, boundaries, forms, bundle.frame, adapters, output, ranges)
        engines += built
        deployed_tasks.append(deployed)
    fused: list[FusedRun] = []
    if layout.fuse:
        built, fused = fused_runs(builder, graphs, plan.forms, edges, needed_boundaries(deployed_tasks))
        engines += built
    manifest = DeployManifest(
        name=plain_name(destination.name.removesuffix(".deploy")) if destination else bundle.name,
        target=builder.target.name,
        profile=builder.profile.to_dict(),
        toolchain=builder.target.toolchain(builder.profile),
        device=builder.target.device(builder.profile),
        backbone=bundle.backbone.id,
        frame=bundle.frame,
        stages=tuple(deployed_stages),
        tasks=tuple(deployed_tasks),
        engines=_entries(engines),
        plan=plan.boundaries,
        fused=tuple(fused),
        adapters=_placement(layout.adapters),
        tools=tool_versions("stagekit"),
    )
    if destination is not None:
        builder.progress(f"writing {destination}")
        with writing(destination, "deploy") as folder:
            for entry in manifest.engines:
                builder.store.export_entry(entry.digest, folder / ENGINES / entry.digest)
            write_manifest(folder, manifest)
        builder.store.register_root(destination.absolute())
    return Compiled(manifest, tuple(engines))


def compile_into(
    deployment: Path,
    tasks: Sequence[Path],
    builder: Builder,
    output: Output = "labels",
    calibration: Calibration | None = None,
    adapters: Builder | None = None,
    int8_adapters: bool = False,
) -> Compiled:
    """Adds tasks to a deployment (or replaces those of the same name); its stage engines are not touched.

    Args:
        calibration: the record that an int8 deployment was made with, to see that it covers the tasks.
        adapters: builds SPMs and heads, where the deployment has a device of their own.
        int8_adapters: the tasks' SPMs and heads compute in integers too, with ranges from the record.

    Raises:
        UsageError: the builder's profile is not the deployment's.
        VerificationFailed: a task is not covered by the record, nor audited and found harmless.
        BundleError, CompileError, StoreError, TargetUnavailable: as :func:`compile_bundles`.
    """
    manifest = read_manifest(deployment, DeployManifest)
    if builder.profile.to_dict() != manifest.profile:
        raise UsageError("a deployment keeps the profile that it was made with", where=deployment)
    if (adapters.profile.to_dict() if adapters else None) != (manifest.adapters and manifest.adapters.profile):
        raise UsageError("a deployment keeps the device for adapters that it was made with", where=deployment)
    forms = {s.boundary.name: s.stored for s in manifest.stages}
    boundaries = {s.boundary.name: s.boundary for s in manifest.stages}
    read = [(task, read_manifest(task, TaskManifest)) for task in tasks]
    _check_names([m.name for _, m in read])
    for task, found in read:
        check_task(task, found, manifest.backbone, boundaries)
        check_through(task, found, _stage_fingerprints(deployment, manifest))
    check_precision(builder.profile, calibration)
    if calibration is not None:
        for task, found in read:
            check_covered(calibration, found, task)
    ranges = adapter_ranges(calibration, int8_adapters, (adapters or builder).profile)
    engines: list[BuiltEngine] = []
    deployed = {t.name: t for t in manifest.tasks}
    for task, found in read:
        built, added = _task(task, found, boundaries, forms, manifest.frame, adapters or builder, output, ranges)
        engines += built
        deployed[added.name] = added
    known = {e.digest: e for e in (*manifest.engines, *_entries(engines))}
    needed = _needed(manifest.stages, deployed.values()) | {run.engine for run in manifest.fused}
    updated = manifest.model_copy(
        update={"tasks": tuple(deployed.values()), "engines": tuple(known[d] for d in known if d in needed)}
    )
    for entry in updated.engines:
        if not (deployment / ENGINES / entry.digest).is_dir():
            builder.store.export_entry(entry.digest, deployment / ENGINES / entry.digest)
    write_manifest(deployment, updated)
    for folder in (deployment / ENGINES).iterdir():
        if folder.name not in needed:
            shutil.rmtree(folder)
    return Compiled(updated, tuple(engines))


def _stage_fingerprints(deployment: Path, manifest: DeployManifest) -> dict[str, str]:
    """Of the graphs that a deployment's stage engines were compiled from, by name; a damaged engine has none."""
    records = {stage.name: read_record(deployment / ENGINES / stage.engine) for stage in manifest.stages}
    return {name: record.key.graph for name, record in records.items() if not isinstance(record, Damage)}


def stage_graphs(
    stages: Path, bundle: StagesManifest, builder: Builder, calibration: Calibration | None
) -> tuple[list[tuple[str, Graph]], list[Boundary]]:
    """The stages' graphs as they are compiled, and the boundaries between them."""
    boundaries = [s.boundary for s in bundle.stages]
    graphs = float_stages(stages, bundle)
    if calibration is not None:
        builder.progress("quantising the stages")
        graphs = [(name, prepared(graph, calibration.equalised)) for name, graph in graphs]
        quantised = quantise_stages(graphs, calibration, scheme_of(builder.profile))
        graphs = [(name, graph) for (name, _), graph in zip(graphs, quantised.graphs, strict=True)]
        boundaries = [with_edges_of(b, quantised.edges) for b in boundaries]
    return graphs, boundaries


def _stages(
    graphs: Sequence[tuple[str, Graph]], boundaries: Sequence[Boundary], builder: Builder, plan: Plan
) -> tuple[list[BuiltEngine], list[DeployedStage]]:
    engines: list[BuiltEngine] = []
    deployed: list[DeployedStage] = []
    taken: Form = graphs[0][1].inputs
    for (name, graph), boundary, form in zip(graphs, boundaries, plan.forms, strict=True):
        inputs = tuple(t.renamed(s.name) for t, s in zip(taken, graph.inputs, strict=True))
        built = builder.build(name, graph, inputs, form)
        # What was built a moment ago to be measured was not there before.
        engines.append(replace(built, cached=built.cached and built.digest not in plan.built))
        tensors = tuple(
            replace(s, layout=s.layout or t.layout, quantization=t.quantization)
            for s, t in zip(graph.outputs, boundary.tensors, strict=True)
        )
        plain = boundary.model_copy(update={"tensors": tensors})
        stored = form if form != tuple(graph.outputs) else ()
        deployed.append(DeployedStage(name=name, engine=built.digest, boundary=plain, stored=stored))
        taken = form
    return engines, deployed


def _task(
    task: Path,
    manifest: TaskManifest,
    boundaries: dict[str, Boundary],
    forms: Mapping[str, Form],
    frame: Frame,
    builder: Builder,
    output: Output,
    ranges: Calibration | None,
) -> tuple[list[BuiltEngine], DeployedTask]:
    def build(name: str, graph: Graph, crossing: Mapping[str, str]) -> BuiltEngine:
        """Builds an adapter; ``crossing`` names the boundary whose form each of its edges takes."""
        wanted = {edge: forms[b][boundaries[b].feature] for edge, b in crossing.items() if forms.get(b)}
        return builder.build(name, graph, conformed(graph.inputs, wanted), conformed(graph.outputs, wanted))

    engines: list[BuiltEngine] = []
    prompts: list[DeployedPrompt] = []
    for index, (entry, boundary, graph) in enumerate(spm_graphs(task, manifest, boundaries)):
        edges = integer_edges(boundary, "feature", "prompted")
        graph = adapter_graph(graph, entry, edges, ranges, builder.profile)
        crossing = {"feature": entry.boundary, "prompted": entry.boundary}
        engines.append(build(f"{manifest.name}/spm{index}", graph, crossing))
        prompts.append(DeployedPrompt(boundary=entry.boundary, engine=engines[-1].digest))
    head = head_graph(task, manifest.head, boundaries, frame, output)
    edges = {n: e for name in manifest.head.reads for n, e in integer_edges(boundaries[name], name).items()}
    head = adapter_graph(head, manifest.head, edges, ranges, builder.profile)
    engines.append(build(f"{manifest.name}/head", head, {name: name for name in manifest.head.reads}))
    deployed = DeployedTask(
        name=manifest.name,
        classes=manifest.classes,
        resize=manifest.resize or frame.resize,
        prompts=tuple(prompts),
        head=engines[-1].digest,
        reads=manifest.head.reads,
        output=output,
        metrics=manifest.metrics,
    )
    return engines, deployed


def _placement(builder: Builder | None) -> Placement | None:
    if builder is None:
        return None
    return Placement(
        target=builder.target.name,
        profile=builder.profile.to_dict(),
        toolchain=builder.target.toolchain(builder.profile),
        device=builder.target.device(builder.profile),
    )


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise BundleError(f"two tasks are called {twice[0]!r}; a deployment tells them apart by name")


def _entries(engines: Sequence[BuiltEngine]) -> tuple[EngineEntry, ...]:
    return tuple({e.digest: EngineEntry(digest=e.digest, bytes=e.bytes) for e in engines}.values())


def _needed(stages: Sequence[DeployedStage], tasks: Iterable[DeployedTask]) -> set[str]:
    needed = {s.engine for s in stages}
    for task in tasks:
        needed |= {task.head, *(p.engine for p in task.prompts)}
    return needed
