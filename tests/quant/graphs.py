"""Small float graphs for quantisation tests, with seeded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stagekit.graph import Graph, from_proto
from stagekit.graph.shapes import inferred

Array = np.ndarray[Any, Any]
FLOAT = onnx.TensorProto.FLOAT


def build(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: list[str],
    weights: dict[str, Array],
    opset: int = 18,
) -> Graph:
    """A graph with shapes on all its tensors."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return inferred(from_proto(model, "test.onnx"))


def weight(*shape: int, seed: int = 0, scale: float = 0.3) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def residual() -> Graph:
    """conv -> clip -> depthwise -> clip -> conv, plus the input: a MobileNet block with stride 1."""
    w = {
        "w1": weight(12, 4, 1, 1),
        "b1": weight(12, seed=1),
        "w2": weight(12, 1, 3, 3, seed=2),
        "b2": weight(12, seed=3),
        "w3": weight(4, 12, 1, 1, seed=4),
        "b3": weight(4, seed=5),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "expand"),
        helper.make_node("Clip", ["c1", "zero", "six"], ["a1"], "clip1"),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["c2"], "depthwise", group=12, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c2", "zero", "six"], ["a2"], "clip2"),
        helper.make_node("Conv", ["a2", "w3", "b3"], ["c3"], "project"),
        helper.make_node("Add", ["x", "c3"], ["y"], "sum"),
    ]
    return build(nodes, {"x": ["batch", 4, 8, 8]}, ["y"], w)


def transformer() -> Graph:
    """LayerNorm -> MatMul -> bias -> GELU-like -> MatMul -> residual: half a transformer block."""
    w = {
        "g": np.ones(8, np.float32),
        "n": np.zeros(8, np.float32),
        "w1": weight(8, 16),
        "b1": weight(16, seed=1),
        "w2": weight(16, 8, seed=2),
        "b2": weight(8, seed=3),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g", "n"], ["ln"], "norm", axis=-1),
        helper.make_node("MatMul", ["ln", "w1"], ["m1"], "fc1"),
        helper.make_node("Add", ["m1", "b1"], ["h"], "bias1"),
        helper.make_node("Erf", ["h"], ["e"], "erf"),
        helper.make_node("Mul", ["h", "e"], ["gelu"], "gelu"),
        helper.make_node("MatMul", ["gelu", "w2"], ["m2"], "fc2"),
        helper.make_node("Add", ["m2", "b2"], ["o"], "bias2"),
        helper.make_node("Add", ["x", "o"], ["y"], "residual"),
    ]
    return build(nodes, {"x": ["batch", 5, 8]}, ["y"], w)
