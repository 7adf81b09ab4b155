"""The baseline: a task's stages, SPMs and head as one graph on the same target, run in alternation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from stagekit import targets
from stagekit.bench.openings import Openings
from stagekit.bench.results import BaselineRow, Figure
from stagekit.bench.statistics import ratio
from stagekit.bench.system import Array, clock
from stagekit.build.deploy import stage_graphs
from stagekit.build.engines import Builder
from stagekit.build.place import head_graph, spm_graphs
from stagekit.bundle import DeployManifest, StagesManifest, TaskManifest, read_manifest
from stagekit.data.geometry import Geometry
from stagekit.data.images import Pixels
from stagekit.errors import BundleError, UsageError
from stagekit.graph import Graph, from_proto
from stagekit.graph.shapes import inferred
from stagekit.graph.spec import TensorSpec
from stagekit.runtime.lanes import Run, direct
from stagekit.runtime.program import Program, task_program
from stagekit.session import Session
from stagekit.store import Store
from stagekit.target import HostBuffer

WARM = 3
"""Rounds after opening whose times are not kept."""

OPENINGS = 5
"""Of both: where memory comes to lie moves times, see :mod:`stagekit.bench.openings`."""

FLOATING = ("f32", "bf16", "fp16")


class Bundles:
    """The ``.stages`` and ``.task`` folders that a deployment was compiled from.

    Raises:
        BundleError: one is damaged.
        UsageError: there is no ``.stages`` folder among them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.tasks = {read_manifest(p, TaskManifest).name: p for p in paths if p.name.rstrip("/").endswith(".task")}
        stages = [p for p in paths if p.name.rstrip("/").endswith(".stages")]
        if len(stages) != 1:
            raise UsageError("give the .stages folder and the .task folders that were compiled", where="--bundle")
        self.stages = stages[0]
        self.manifest = read_manifest(self.stages, StagesManifest)

    def check(self, manifest: DeployManifest, tasks: Sequence[str]) -> None:
        """That these are what was compiled, and none of the tasks is missing.

        Raises:
            BundleError: the stages are of another backbone.
            UsageError: a task's bundle is missing.
        """
        if self.manifest.backbone.id != manifest.backbone:
            raise BundleError("these stages are not those that were compiled", where=self.stages)
        for task in tasks:
            if task not in self.tasks:
                raise UsageError(f"the bundle of task {task!r} is missing", where="--bundle")

    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of an image, by the call's label."""
        found = {stage.name: stage.macs for stage in self.manifest.stages}
        for name, path in self.tasks.items():
            task = read_manifest(path, TaskManifest)
            found |= {f"{name}/spm{i}": prompt.macs for i, prompt in enumerate(task.prompts)}
            found[f"{name}/head"] = task.head.macs
        return found


def uncut_graph(bundles: Bundles, manifest: DeployManifest, task: str, builder: Builder) -> Graph:
    """A deployed task from frames to labels as one graph.

    Raises:
        BundleError: the bundles are not those that were compiled.
        UsageError: the task is not among them, or the profile computes in integers.
    """
    bundles.check(manifest, [task])
    if builder.profile.precision not in FLOATING:
        raise UsageError("the uncut baseline is for profiles in floating point", where=manifest.name)
    deployed = next(t for t in manifest.tasks if t.name == task)
    path = bundles.tasks[task]
    made = read_manifest(path, TaskManifest)
    graphs, edges = stage_graphs(bundles.stages, bundles.manifest, builder, None)
    boundaries = {b.name: b for b in edges}
    spms = (graph for _, _, graph in spm_graphs(path, made, boundaries))
    parts = dict(graphs) | {f"{task}/spm{index}": graph for index, graph in enumerate(spms)}
    parts[f"{task}/head"] = head_graph(path, made.head, boundaries, manifest.frame, deployed.output)
    return joined(task_program(deployed, manifest.stages), parts)


def joined(program: Program, graphs: Mapping[str, Graph]) -> Graph:
    """A program's calls as one graph: each takes what its references say.

    Args:
        graphs: by the label of their call.
    """
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    outputs: list[list[str]] = []
    opsets: list[onnx.OperatorSetIdProto] = []
    frames = graphs[program.calls[0].label].inputs[0]
    for call in program.calls:
        graph = graphs[call.label]
        proto = graph.proto()
        opsets = opsets or list(proto.opset_import)
        given = ["frames" if r.call < 0 else outputs[r.call][r.output] for r in call.inputs]
        renamed = dict(zip([s.name for s in graph.inputs], given, strict=True))

        def name(old: str, renamed: Mapping[str, str] = renamed, label: str = call.label) -> str:
            return renamed.get(old, f"{label}/{old}") if old else ""

        for tensor in proto.graph.initializer:
            tensor.name = name(tensor.name)
            weights.append(tensor)
        for node in proto.graph.node:
            node.name = name(node.name)
            node.input[:] = [name(i) for i in node.input]
            node.output[:] = [name(o) for o in node.output]
            nodes.append(node)
        outputs.append([name(o.name) for o in proto.graph.output])
    result = graphs[program.calls[-1].label].outputs[program.result.output]
    kinds = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}
    gives = helper.make_tensor_value_info(
        outputs[program.result.call][program.result.output], kinds[result.dtype], list(result.shape)
    )
    takes = helper.make_tensor_value_info("frames", kinds[frames.dtype], list(frames.shape))
    whole = helper.make_graph(nodes, program.task, [takes], [gives], weights)
    model = helper.make_model(whole, opset_imports=opsets, ir_version=10)
    return inferred(from_proto(model, f"{program.task}, uncut"))


def compare(
    openings: Openings, bundles: Bundles, task: str, images: Sequence[Pixels], rounds: int, store: Store
) -> BaselineRow:
    """The task through the session and as one graph, in turn; from image to labels in its own size.

    Both are opened anew a few times; the interval of the ratio is over openings.

    Raises:
        CompileError, EngineError, UsageError, BundleError: the uncut graph cannot be made or run.
    """
    manifest = openings.session.manifest
    profile = targets.parse_profile(manifest.profile, str(manifest.profile.get("name", "")), str(openings.session.path))
    builder = Builder(targets.get(manifest.target), profile, store)
    built = builder.build(f"{task}/uncut", uncut_graph(bundles, manifest, task, builder))
    spec = manifest.frame.spec.bind(batch=1)
    times: tuple[list[float], list[float]] = ([], [])
    begun: list[int] = []
    same = size = 0
    for part in np.array_split(np.arange(rounds), min(OPENINGS, rounds)):
        openings.renew(lambda session: session.run(images[0], [task]), 0.0)
        session, engine = openings.session, builder.target.load(built.blob, profile)
        both = partial(_staged, session, task), partial(_uncut, direct(engine), spec, session.geometry(task))
        begun.append(len(times[0]))
        try:
            for number in (*range(-WARM, 0), *part.tolist()):
                labels = _in_turn(both, images[number % len(images)], number, times)
                same += int(np.count_nonzero(labels[0] == labels[1]))
                size += labels[0].size
        finally:
            engine.close()
    value, low, high = ratio(*times, begun)
    return BaselineRow(
        task=task,
        staged=tuple(times[0]),
        uncut=tuple(times[1]),
        ratio=Figure(value=value, unit="", low=low, high=high),
        agreement=Figure(value=same / size, unit=""),
        uncut_bytes=built.bytes,
    )


def _staged(session: Session, task: str, image: Pixels) -> Array:
    return session.run(image, [task])[task]


def _uncut(run: Run, spec: TensorSpec, geometry: Geometry, image: Pixels) -> Array:
    pixels, placement = geometry.apply(image)
    return placement.labels_to_image(run([HostBuffer(spec, pixels[None])], 1)[0].to_host()[0])


def _in_turn(
    both: tuple[Callable[[Pixels], Array], ...], image: Pixels, number: int, times: tuple[list[float], ...]
) -> tuple[Array, ...]:
    """Labels of both; which goes first alternates by the number, and of negative ones no time is kept."""
    labels: dict[int, Array] = {}
    for which in (0, 1) if number % 2 else (1, 0):
        begun = clock()
        labels[which] = both[which](image)
        if number >= 0:
            times[which].append(clock() - begun)
    return labels[0], labels[1]
