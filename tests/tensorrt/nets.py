"""Small graphs for the target's tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from stagekit.graph import Graph, from_proto
from stagekit.graph.shapes import inferred

FLOAT, HALF, INT8, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8
Array = np.ndarray[Any, Any]


def node(op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> NodeProto:
    """A node named after its first output."""
    return helper.make_node(op, inputs, outputs, name=f"{outputs[0]}_node", **attributes)


def graph(
    nodes: Sequence[NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, tuple[int, list[int | str]]],
    weights: dict[str, Array] | None = None,
    opset: int = 19,
    infer: bool = True,
) -> Graph:
    """A graph from its parts, with shapes inferred."""
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, *t) for n, t in inputs.items()],
        [helper.make_tensor_value_info(n, *t) for n, t in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    found = from_proto(model, "net.onnx")
    return inferred(found) if infer else found


def conv(channels: int = 8, scale: float = 0.1) -> Graph:
    """Convolution and ReLU."""
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32) * scale
    return graph(
        [node("Conv", ["x", "w", "b"], "c", pads=[1] * 4), node("Relu", ["c"], "y")],
        {"x": (FLOAT, ["batch", channels, 12, 12])},
        {"y": (FLOAT, ["batch", channels, 12, 12])},
        {"w": weight, "b": np.zeros(channels, np.float32)},
    )


def stem() -> Graph:
    """Camera frames, channels last, normalised inside; then a convolution."""
    weight = np.random.default_rng(1).standard_normal((8, 3, 3, 3)).astype(np.float32) * 0.2
    return graph(
        [
            node("Transpose", ["frames"], "t", perm=[0, 3, 1, 2]),
            node("Cast", ["t"], "f", to=FLOAT),
            node("Sub", ["f", "mean"], "s"),
            node("Mul", ["s", "std"], "n"),
            node("Conv", ["n", "w"], "y", strides=[2, 2], pads=[1] * 4),
        ],
        {"frames": (UINT8, ["batch", 16, 16, 3])},
        {"y": (FLOAT, ["batch", 8, 8, 8])},
        {
            "mean": np.array([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1),
            "std": np.array([0.0171, 0.0175, 0.0174], np.float32).reshape(1, 3, 1, 1),
            "w": weight,
        },
    )


def attention() -> Graph:
    """LayerNormalization written out, a product, softmax and a product."""
    width = 16
    weight = np.random.default_rng(2).standard_normal((width, width)).astype(np.float32) * 0.3
    return graph(
        [
            node("ReduceMean", ["x"], "mean", axes=[-1]),
            node("Sub", ["x", "mean"], "centred"),
            node("Pow", ["centred", "two"], "squares"),
            node("ReduceMean", ["squares"], "variance", axes=[-1]),
            node("Add", ["variance", "eps"], "safe"),
            node("Sqrt", ["safe"], "deviation"),
            node("Div", ["centred", "deviation"], "normal"),
            node("Mul", ["normal", "gamma"], "scaled"),
            node("MatMul", ["scaled", "w"], "keys"),
            node("Softmax", ["keys"], "weights", axis=-1),
            node("MatMul", ["weights", "w"], "mixed"),
            node("Add", ["mixed", "x"], "y"),
        ],
        {"x": (FLOAT, ["batch", 9, width])},
        {"y": (FLOAT, ["batch", 9, width])},
        {
            "two": np.float32(2),
            "eps": np.float32(1e-6),
            "gamma": np.full(width, 1.1, np.float32),
            "w": weight,
        },
        opset=17,
    )


def labels() -> Graph:
    """A head that ends in a label map."""
    weight = np.random.default_rng(3).standard_normal((5, 8, 1, 1)).astype(np.float32)
    return graph(
        [
            node("Conv", ["x", "w"], "logits"),
            node("ArgMax", ["logits"], "index", axis=1, keepdims=0),
            node("Cast", ["index"], "labels", to=UINT8),
        ],
        {"x": (FLOAT, ["batch", 8, 6, 6])},
        {"labels": (UINT8, ["batch", 6, 6])},
        {"w": weight},
    )


def quantised(
    zero: int = 0,
    stored: type[np.generic] = np.int8,
    bias: bool = False,
    axis: int = 0,
    activation_scales: int = 1,
) -> Graph:
    """An int8 input through DQ, a convolution with Q/DQ weights and a Q to an int8 output, or a broken variant."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(stored))
    weights: dict[str, Array] = {
        "s": np.float32(0.05) if activation_scales == 1 else np.full(activation_scales, 0.05, np.float32),
        "z": np.full(() if activation_scales == 1 else activation_scales, zero, stored),
        "w": np.random.default_rng(4).integers(-100, 100, (8, 8, 3, 3)).astype(np.int8),
        "ws": np.full(8, 0.01, np.float32),
        "wz": np.zeros(8, np.int8),
        "b": np.arange(8, dtype=np.int32) if bias else np.zeros(8, np.float32),
        "bs": np.full(8, 0.0005, np.float32),
        "bz": np.zeros(8, np.int32),
    }
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], "real"),
        node("DequantizeLinear", ["w", "ws", "wz"], "weight", axis=axis),
        *([node("DequantizeLinear", ["b", "bs", "bz"], "bias", axis=0)] if bias else []),
        node("Conv", ["real", "weight", "bias" if bias else "b"], "c", pads=[1] * 4),
        node("QuantizeLinear", ["c", "s", "z"], "y"),
    ]
    used = {name for made in nodes for name in made.input}
    return graph(
        nodes,
        {"x": (kind, ["batch", 8, 12, 12])},
        {"y": (kind, ["batch", 8, 12, 12])},
        {name: array for name, array in weights.items() if name in used},
    )
