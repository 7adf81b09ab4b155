"""Weights as inputs: graphs that differ in their weights alone share one plan.

SPMs and heads of most tasks have one structure. A plan without their weights is built for the first of them and found
in the store for all that follow; each engine is a copy of it beside its own weights, which lie on the device for as
long as the engine is open. The kernel of a convolution may be an input: ``IConvolutionLayer.set_input``,
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Graph/Layers.html#iconvolutionlayer
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.fingerprint import in_order
from stagekit.store import EngineKey, Store
from stagekit.target import EngineBlob, Progress
from stagekit_tensorrt import sidecar
from stagekit_tensorrt.typed import Plan

Array = np.ndarray[Any, Any]

READERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "PRelu"})
"""Operators whose constants are what a task has learned; those of others (sizes, limits) are structure."""

WEIGHTS = "weights.npz"


def without_weights(graph: Graph) -> tuple[Graph, dict[str, Array]]:
    """The graph with an input in place of each floating-point constant that :data:`READERS` alone read, and these.

    The inputs are called ``weight0``, ``weight1``, ... in the order in which the graph's nodes read them, whatever the
    constants were called.
    """
    model = graph.edit()
    body = model.graph
    weights: dict[str, Array] = {}
    for node in in_order(body):
        for value in node.inputs:
            if value is None or value.const_value is None or not value.is_initializer():
                continue
            if value.dtype is None or not value.dtype.is_floating_point():
                continue
            if any(user.op_type not in READERS for user, _ in value.uses()):
                continue
            del body.initializers[str(value.name)]
            value.name = f"weight{len(weights)}"
            weights[value.name] = value.const_value.numpy()
            value.shape, value.type = ir.Shape(value.const_value.shape.numpy()), ir.TensorType(value.dtype)
            value.const_value = None
            body.inputs.append(value)
    return graph.with_model(model), weights


def compile_shared(
    planned: Plan, key: EngineKey, workdir: Path, progress: Progress, build: Callable[[Plan, Path], EngineBlob]
) -> EngineBlob:
    """An engine from the plan that all graphs of this structure share; where that is missing it is built first.

    Args:
        key: the engine's own; the shared plan is stored under the same one with the graph without weights.
        build: builds a plan into a folder.
    """
    structure, weights = without_weights(planned.graph)
    if not weights:
        return build(planned, workdir)
    plan_key = replace(key, graph=structure.fingerprint, inputs=structure.inputs, outputs=structure.outputs)
    stored = Store.default().get_or_build(
        plan_key, lambda folder: build(Plan(structure, planned.config), folder), progress
    )
    shutil.copyfile(stored.blob.root / sidecar.PLAN, workdir / sidecar.PLAN)
    # As bytes: numpy's files know no bf16, and an address is all that TensorRT takes.
    flat = {name: np.ascontiguousarray(array).reshape(-1).view(np.uint8) for name, array in weights.items()}
    np.savez(workdir / WEIGHTS, **flat)  # type: ignore[arg-type]  # the stub takes names for its own options
    content = (workdir / WEIGHTS).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    known = stored.blob.metadata
    facts = {"bytes": [*known["bytes"], len(content)], "sha256": [*known["sha256"], digest]}
    report = {**stored.blob.report, "plan": plan_key.digest, "plan_was_there": stored.cached}
    if stored.cached:
        report |= {"seconds": 0.0, "processor_seconds": 0.0}
    return EngineBlob(workdir, (sidecar.PLAN, WEIGHTS), key.inputs, key.outputs, {**known, **facts}, report)


def read_weights(blob: EngineBlob) -> dict[str, Array]:
    """The bytes of an engine's weights by the names of its plan's inputs; none where the plan holds them."""
    if WEIGHTS not in blob.files:
        return {}
    with np.load(blob.root / WEIGHTS) as file:
        return {name: file[name] for name in file.files}
