"""Operators in torch agree with ONNX Runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from stagekit_calib.chain import OrtGraph

from stagekit.errors import GraphError
from stagekit.graph.model import from_proto
from stagekit.tune.graph_module import GraphModule


def operators_of_a_transformer() -> Any:
    """LayerNorm, attention with Split and Softmax, GELU with Erf, Gemm, Pad, Slice: each as exporters write it."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "gain": rng.normal(size=8),
        "offset": rng.normal(size=8),
        "qkv": rng.normal(size=(8, 24)) / 3,
        "fc": rng.normal(size=(8, 8)),
        "bias": rng.normal(size=8),
        "root": np.array(1.4142135),
        "one": np.array(1.0),
        "half": np.array(0.5),
    }
    integers = {"pads": [0, 1, 0, 0, 0, 0], "flat": [-1, 8], "back": [-1, 5, 8], "from": [1], "to": [5], "axis": [1]}
    n = helper.make_node
    nodes = [
        n("Pad", ["x", "pads"], ["padded"]),
        n("LayerNormalization", ["padded", "gain", "offset"], ["normal"], axis=-1, epsilon=1e-6),
        n("MatMul", ["normal", "qkv"], ["mixed"]),
        n("Split", ["mixed"], ["q", "k", "v"], axis=2, num_outputs=3),
        n("Transpose", ["k"], ["turned"], perm=[0, 2, 1]),
        n("MatMul", ["q", "turned"], ["scores"]),
        n("Softmax", ["scores"], ["shares"], axis=-1),
        n("MatMul", ["shares", "v"], ["attended"]),
        n("Reshape", ["attended", "flat"], ["rows"]),
        n("Gemm", ["rows", "fc", "bias"], ["projected"], transB=1),
        n("Reshape", ["projected", "back"], ["tokens"]),
        n("Div", ["tokens", "root"], ["scaled"]),
        n("Erf", ["scaled"], ["curved"]),
        n("Add", ["curved", "one"], ["raised"]),
        n("Mul", ["raised", "half"], ["gate"]),
        n("Mul", ["tokens", "gate"], ["active"]),
        n("Add", ["active", "padded"], ["sum"]),
        n("Slice", ["sum", "from", "to", "axis"], ["patches"]),
        n("Concat", ["patches", "sum"], ["y"], axis=1),
    ]
    constants = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]
    constants += [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in integers.items()]
    edges = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [2, 4, 8]), ("y", [2, 9, 8]))
    ]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return from_proto(onnx.shape_inference.infer_shapes(model), "test")


def test_the_operators_of_a_transformer_agree_with_onnx_runtime() -> None:
    graph = operators_of_a_transformer()
    value = np.random.default_rng(1).normal(size=(2, 4, 8)).astype(np.float32)
    (expected,), _ = OrtGraph(graph).run([value])
    (found,) = GraphModule(graph)(torch.from_numpy(value))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


IMAGE, ROWS = [2, 6, 9, 8], [2, 5, 4]
V = np.linspace(-1, 2, 6, dtype=np.float32)
W6 = np.random.default_rng(3).normal(size=(6, 2, 3, 3)).astype(np.float32)
NONE = np.array([], np.float32)
TO_13_5 = [NONE, NONE, np.array([2, 6, 13, 5], np.int64)]


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "constants"),
    [
        ("Abs", ROWS, {}, []),
        ("BatchNormalization", IMAGE, {"epsilon": 1e-3}, [V, V, V, np.abs(V) + 1]),
        ("ConvTranspose", IMAGE, {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0]}, [W6]),
        ("ConvTranspose", IMAGE, {"group": 3, "dilations": [2, 1]}, [W6, np.float32(V)]),
        ("DepthToSpace", [2, 8, 3, 2], {"blocksize": 2}, []),
        ("DepthToSpace", [2, 8, 3, 2], {"blocksize": 2, "mode": "CRD"}, []),
        ("Elu", ROWS, {"alpha": 0.7}, []),
        ("Expand", [2, 1, 4], {}, [np.array([3, 1], np.int64)]),
        ("Gather", ROWS, {"axis": 1}, [np.array([[0, -1], [2, 2]], np.int64)]),
        ("GlobalMaxPool", IMAGE, {}, []),
        ("HardSigmoid", ROWS, {"alpha": 0.3}, []),
        ("HardSwish", ROWS, {}, []),
        ("InstanceNormalization", IMAGE, {}, [V, V]),
        ("LeakyRelu", ROWS, {}, []),
        ("Max", ROWS, {}, [np.zeros(4, np.float32), np.full(4, 0.3, np.float32)]),
        ("Mish", ROWS, {}, []),
        ("PRelu", IMAGE, {}, [V.reshape(6, 1, 1)]),
        ("Pad", IMAGE, {"mode": "reflect"}, [np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)]),
        ("Pad", IMAGE, {"mode": "edge"}, [np.array([0, 0, 0, 1, 0, 0, 2, 1], np.int64)]),
        ("ReduceL2", ROWS, {}, [np.array([-1], np.int64)]),
        ("ReduceMax", ROWS, {"keepdims": 0}, [np.array([0, 2], np.int64)]),
        ("ReduceSum", ROWS, {}, []),
        ("Resize", IMAGE, {"mode": "linear"}, [NONE, np.array([1, 1, 2, 1.7], np.float32)]),
        ("Resize", IMAGE, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, TO_13_5),
        ("Resize", IMAGE, {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, TO_13_5),
        ("Resize", IMAGE, {"mode": "nearest"}, [NONE, np.array([1, 1, 0.5, 3], np.float32)]),
        *(
            ("Resize", IMAGE, {"nearest_mode": mode, "coordinate_transformation_mode": "asymmetric"}, TO_13_5)
            for mode in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        ),
        ("Softplus", ROWS, {}, []),
        ("SpaceToDepth", [2, 2, 4, 6], {"blocksize": 2}, []),
        ("Sum", ROWS, {}, [np.ones(4, np.float32), np.ones(1, np.float32)]),
        ("AveragePool", IMAGE, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, []),
        ("AveragePool", IMAGE, {"kernel_shape": [2, 2], "count_include_pad": 1, "pads": [1, 1, 1, 1]}, []),
        ("Clip", IMAGE, {}, [np.float32(-0.5), np.float32(0.7)]),
        ("Conv", IMAGE, {"group": 3, "pads": [0, 1, 1, 2], "strides": [2, 1]}, [np.ones((6, 2, 3, 3), np.float32)]),
        ("Conv", ROWS, {"dilations": [2], "pads": [1, 1]}, [np.ones((3, 5, 2), np.float32)]),
        ("Flatten", ROWS, {"axis": 2}, []),
        ("GlobalAveragePool", IMAGE, {}, []),
        ("Identity", ROWS, {}, []),
        ("LayerNormalization", ROWS, {"axis": -1}, [np.arange(4, dtype=np.float32)]),
        ("MaxPool", IMAGE, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, []),
        ("MaxPool", IMAGE, {"kernel_shape": [3, 2], "pads": [0, 0, 1, 1], "ceil_mode": 0}, []),
        ("Min", ROWS, {}, [np.zeros((1, 5, 1), np.float32)]),
        ("Pow", ROWS, {}, [np.float32(2)]),
        ("ReduceMean", ROWS, {"keepdims": 0}, [np.array([1], np.int64)]),
        ("ReduceMean", ROWS, {}, [np.array([-1], np.int64)]),
        ("Relu", ROWS, {}, []),
        ("Reshape", ROWS, {}, [np.array([0, 2, -1], np.int64)]),
        ("Sigmoid", ROWS, {}, []),
        ("Slice", ROWS, {}, [np.array(v, np.int64) for v in ([0, 1], [9, 4], [1, 2], [2, 1])]),
        ("Softmax", ROWS, {"axis": 1}, []),
        ("Split", ROWS, {"axis": 1}, [np.array([2, 3], np.int64)]),
        ("Squeeze", [2, 1, 3], {}, [np.array([1], np.int64)]),
        ("Sub", ROWS, {}, [np.ones(4, np.float32)]),
        ("Tanh", ROWS, {}, []),
        ("Transpose", ROWS, {}, []),
        ("Unsqueeze", ROWS, {}, [np.array([0, -1], np.int64)]),
    ],
)
def test_an_operator_agrees_with_onnx_runtime(
    operator: str, shape: list[int], attributes: dict[str, Any], constants: list[Any]
) -> None:
    results = ["y", "z"] if operator == "Split" else ["y"]
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], results, **attributes)
    held = [numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True)]
    edges = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    found = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in results]
    model = helper.make_model(
        helper.make_graph([node], "g", edges, found, held), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    graph = from_proto(onnx.shape_inference.infer_shapes(model), "test")
    value = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    expected, _ = OrtGraph(graph).run([value])
    for one, other in zip(GraphModule(graph)(torch.from_numpy(value)), expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-5)


def test_an_operator_that_is_not_known_is_named() -> None:
    edges = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Sinh", ["x"], ["y"], name="odd")], "g", edges[:1], edges[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(GraphError, match="Sinh odd cannot be simulated"):
        GraphModule(from_proto(model, "test"))
