"""Stages and tasks as graphs in memory, and running images through them in ONNX Runtime.

The order of calls, and which of them tasks share, is the runtime's own (:mod:`stagekit.runtime.program`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.build.place import Output, check_task, float_stages, head_graph, spm_graphs
from stagekit.bundle import (
    DeployedPrompt,
    DeployedStage,
    DeployedTask,
    StagesManifest,
    TaskManifest,
    check_frames,
    read_manifest,
)
from stagekit.cpu import usable_cores
from stagekit.data.geometry import Geometry, Placement
from stagekit.data.images import Pixels
from stagekit.graph import Graph
from stagekit.quant.equalise import prepared
from stagekit.quant.qdq import with_integer_edges
from stagekit.quant.stages import QuantisedStages
from stagekit.quant.unasked import ONNXRUNTIME_OPTIMISERS, ask_for_exact_products
from stagekit.runtime.program import Call, Program, Ref, call_keys, last_read, task_program

Array = np.ndarray[Any, Any]

BACKBONE = "backbone"
"""The name of the program that runs the stages without a task."""


@dataclass(frozen=True)
class Chain:
    """Graphs by the label of their calls (``stage2``, ``landcover/spm0``), and the programs over them.

    Args:
        tasks: manifests by name.
        covering: programs that between them run every stage, behind the last that any head reads too.
        boundaries: by the label of an SPM, the name of the tensor that it prompts.
        equalised: the stages' weights were equalised.
    """

    manifest: StagesManifest
    tasks: Mapping[str, TaskManifest]
    graphs: Mapping[str, Graph]
    programs: tuple[Program, ...]
    covering: tuple[Program, ...]
    boundaries: Mapping[str, str]
    equalised: bool = False

    @property
    def stages(self) -> list[tuple[str, Graph]]:
        """(name, graph) in order."""
        return [(s.name, self.graphs[s.name]) for s in self.manifest.stages]

    @property
    def adapters(self) -> dict[str, str]:
        """The fingerprints of SPMs and heads in their tasks' manifests, by the label of their calls."""
        found = {f"{n}/spm{i}": p.fingerprint for n, t in self.tasks.items() for i, p in enumerate(t.prompts)}
        return found | {f"{n}/head": t.head.fingerprint for n, t in self.tasks.items()}

    def geometry(self, task: str) -> Geometry:
        frame = self.manifest.frame
        resize = self.tasks[task].resize if task in self.tasks else None
        return Geometry(frame.height, frame.width, resize or frame.resize, frame.fill)

    def quantised(self, stages: QuantisedStages) -> Chain:
        """The same chain with Q/DQ stages, and tasks that take and give integers where boundaries are integers."""
        graphs = {name: g for (name, _), g in zip(self.stages, stages.graphs, strict=True)}
        for name, task in self.tasks.items():
            for index in range(len(task.prompts)):
                label = f"{name}/spm{index}"
                edge = stages.edges.get(self.boundaries[label])
                edges = {"feature": edge, "prompted": edge} if edge else {}
                graphs[label] = with_integer_edges(self.graphs[label], edges)
            read = {r: self._feature(r) for r in task.head.reads}
            edges = {r: stages.edges[t] for r, t in read.items() if t in stages.edges}
            graphs[f"{name}/head"] = with_integer_edges(self.graphs[f"{name}/head"], edges)
        return replace(self, graphs=graphs)

    def _feature(self, boundary: str) -> str:
        return next(s.boundary.spec.name for s in self.manifest.stages if s.boundary.name == boundary)


def open_chain(stages: Path, tasks: Sequence[Path] = (), output: Output = "labels", equalised: bool = False) -> Chain:
    """Reads and places all graphs.

    Args:
        equalised: with the stages' weights equalised; see :mod:`stagekit.quant.equalise`.

    Raises:
        BundleError: a bundle is damaged or takes no images, or a task is for another backbone.
    """
    manifest = read_manifest(stages, StagesManifest)
    check_frames(stages, manifest)
    boundaries = {s.boundary.name: s.boundary for s in manifest.stages}
    deployed = tuple(DeployedStage(name=s.name, engine=s.fingerprint, boundary=s.boundary) for s in manifest.stages)
    graphs = {name: prepared(graph, equalised) for name, graph in float_stages(stages, manifest)}
    placed: list[DeployedTask] = []
    prompted: dict[str, str] = {}
    manifests: dict[str, TaskManifest] = {}
    for path in tasks:
        task = read_manifest(path, TaskManifest)
        check_task(path, task, manifest.backbone.id, boundaries)
        manifests[task.name] = task
        for index, (_, boundary, graph) in enumerate(spm_graphs(path, task, boundaries)):
            graphs[f"{task.name}/spm{index}"] = graph
            prompted[f"{task.name}/spm{index}"] = boundary.spec.name
        graphs[f"{task.name}/head"] = head_graph(path, task.head, boundaries, manifest.frame, output)
        placed.append(_deployed(task, manifest, output))
    programs = tuple(task_program(t, deployed) for t in placed) or (_plain(deployed),)
    reach = max((last_read(t, deployed) for t in placed), default=0)
    covering = tuple(task_program(t, deployed, whole=last_read(t, deployed) == reach) for t in placed) or programs
    return Chain(manifest, manifests, graphs, programs, covering, prompted, equalised)


Run = Callable[[Call, list[Array]], list[Array]]


def execute(chain: Chain, image: Pixels, key: str, run: Run) -> dict[str, tuple[Array, Placement]]:
    """All programs on one image, each distinct call once: results (batch of 1) with their placement, by task."""
    values: dict[str, list[Array]] = {}
    results: dict[str, tuple[Array, Placement]] = {}
    frames: dict[str, tuple[Array, Placement]] = {}
    for program in chain.programs:
        geometry = chain.geometry(program.task)
        if geometry.key() not in frames:
            pixels, placement = geometry.apply(image)
            frames[geometry.key()] = np.ascontiguousarray(pixels)[None], placement
        frame, placement = frames[geometry.key()]
        keys = call_keys(program, f"{key}:{geometry.key()}")

        def value(ref: Ref, keys: list[str] = keys, frame: Array = frame) -> Array:
            return frame if ref.call < 0 else values[keys[ref.call]][ref.output]

        for call, name in zip(program.calls, keys, strict=True):
            if name not in values:
                values[name] = run(call, [value(r) for r in call.inputs])
        results[program.task] = value(program.result), placement
    return results


class OrtGraph:
    """A graph opened in ONNX Runtime, with some of its inner tensors as further outputs."""

    def __init__(self, graph: Graph, exposed: Sequence[str] = (), optimise: bool = True) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        ask_for_exact_products(options)
        options.log_severity_level = 4
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        own = [s.name for s in graph.outputs]
        self._outputs = len(own)
        self._exposed = [n for n in exposed if n not in own]
        self.inputs = [s.name for s in graph.inputs]
        content = _exposing(graph, self._exposed).proto().SerializeToString()
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(ONNXRUNTIME_OPTIMISERS)
        )
        self._names = [*own, *self._exposed]

    def run(self, inputs: list[Array]) -> tuple[list[Array], dict[str, Array]]:
        """The graph's own outputs, and all outputs and exposed tensors by name."""
        values = self._session.run(self._names, dict(zip(self.inputs, inputs, strict=True)))
        return list(values[: self._outputs]), dict(zip(self._names, values, strict=True))


def _exposing(graph: Graph, names: Sequence[str]) -> Graph:
    if not names:
        return graph
    model = graph.edit()
    wanted = set(names)
    model.graph.outputs.extend(v for node in model.graph for v in node.outputs if v.name in wanted)
    return replace(graph, model=model)


def _deployed(task: TaskManifest, stages: StagesManifest, output: Output) -> DeployedTask:
    return DeployedTask(
        name=task.name,
        classes=task.classes,
        resize=task.resize or stages.frame.resize,
        prompts=tuple(DeployedPrompt(boundary=p.boundary, engine=p.fingerprint) for p in task.prompts),
        head=task.head.fingerprint,
        reads=task.head.reads,
        output=output,
    )


def _plain(stages: Sequence[DeployedStage]) -> Program:
    calls: list[Call] = []
    values: tuple[Ref, ...] = (Ref(-1),)
    for index, stage in enumerate(stages):
        calls.append(Call(stage.engine, values, stage.name))
        values = tuple(Ref(index, i) for i in range(len(stage.boundary.tensors)))
    return Program(BACKBONE, tuple(calls), Ref(len(calls) - 1))
