"""Small graphs, one for each kind of thing that a backbone, an adapter or a head asks of a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stagekit.graph import Graph, from_proto

OPSET = 17
Array = np.ndarray[Any, Any]
FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


class Net:
    """Collects nodes and weights; every method returns the name of what it made."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.weight((self.random.standard_normal(shape) * scale).astype(np.float32))

    def op(self, op: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        name = to or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self, x: str, channels: tuple[int, int], kernel: int = 3, dilation: int = 1, to: str = "", **more: Any
    ) -> str:
        fan_in = channels[0] * kernel * kernel
        weights = self.normal(channels[1], channels[0], kernel, kernel, scale=fan_in**-0.5)
        bias = self.normal(channels[1], scale=0.1)
        pad = dilation * (kernel // 2)
        return self.op("Conv", x, weights, bias, to=to, pads=[pad] * 4, dilations=[dilation] * 2, **more)

    def graph(self, inputs: dict[str, tuple[Any, ...]], outputs: dict[str, tuple[Any, ...]]) -> Graph:
        """``{name: (type, layout, shape after the batch)}`` for each edge."""
        values = [
            [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, (kind, _, shape) in edges.items()]
            for edges in (inputs, outputs)
        ]
        body = helper.make_graph(self.nodes, "conformance", values[0], values[1], self.weights)
        proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        layouts = {name: layout for name, (_, layout, _) in {**inputs, **outputs}.items()}
        return replace(from_proto(proto, "conformance graph"), layouts=layouts)


def conv() -> Graph:
    net = Net(1)
    net.op("Relu", net.conv("x", (16, 32)), to="y")
    return net.graph({"x": (FLOAT, "NCHW", [16, 24, 20])}, {"y": (FLOAT, "NCHW", [32, 24, 20])})


def residual() -> Graph:
    """Two bottlenecks, the second one halving the map."""
    net, x, size = Net(2), "x", 32
    for stride, to in ((1, ""), (2, "y")):
        inner = net.op("Relu", net.conv(x, (size, 16), 1))
        inner = net.op("Relu", net.conv(inner, (16, 16), 3, strides=[stride] * 2))
        inner = net.conv(inner, (16, 64), 1)
        x = net.op("Relu", net.op("Add", inner, net.conv(x, (size, 64), 1, strides=[stride] * 2)), to=to)
        size = 64
    return net.graph({"x": (FLOAT, "NCHW", [32, 16, 16])}, {"y": (FLOAT, "NCHW", [64, 8, 8])})


def attention() -> Graph:
    """A transformer unit's first half on 17 tokens of 32 channels, 4 heads."""
    net = Net(3)
    normed = net.op("LayerNormalization", "x", net.normal(32), net.normal(32), axis=-1)
    split = net.weight(np.array([0, 17, 4, 8]))
    query, key, value = (
        net.op(
            "Transpose", net.op("Reshape", net.op("MatMul", normed, net.normal(32, 32, scale=0.2)), split), perm=perm
        )
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = net.op("Mul", net.op("MatMul", query, key), net.weight(np.float32(8**-0.5)))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    joined = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.weight(np.array([0, 17, 32])))
    net.op("Add", "x", net.op("MatMul", joined, net.normal(32, 32, scale=0.2)), to="y")
    return net.graph({"x": (FLOAT, "NTC", [17, 32])}, {"y": (FLOAT, "NTC", [17, 32])})


def spm() -> Graph:
    """A semantic-aware prompt matcher with 5 classes before a stage of half the map's size."""
    net, channels, width, classes = Net(4), 24, 16, 5

    def pyramid(x: str) -> str:
        parts = [f"{x}_{i}" for i in range(4)]
        net.nodes.append(helper.make_node("Split", [x], parts, name=f"{x}_split", axis=1))
        dilated = [net.conv(part, (width // 4, width // 4), 3, 2**i) for i, part in enumerate(parts)]
        return net.conv(net.op("Concat", *dilated, axis=1), (width, width), 1)

    scales = net.weight(np.array([1, 1, 0.5, 0.5], np.float32))
    resized = net.op("Resize", "before", "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    joined = net.op("Concat", "feature", resized, axis=1)
    logits = net.conv(pyramid(net.conv(joined, (channels + classes, width), 1)), (width, classes), 1)
    semantic = net.op("Softmax", logits, to="semantic", axis=1)
    joined = net.op("Concat", "feature", semantic, axis=1)
    matched = net.conv(pyramid(net.conv(joined, (channels + classes, width), 1)), (width, channels), 1)
    net.op("Add", "feature", net.op("Mul", "feature", matched), to="prompted")
    return net.graph(
        {"feature": (FLOAT, "NCHW", [channels, 12, 12]), "before": (FLOAT, "NCHW", [classes, 24, 24])},
        {"prompted": (FLOAT, "NCHW", [channels, 12, 12]), "semantic": (FLOAT, "NCHW", [classes, 12, 12])},
    )


def resize() -> Graph:
    net = Net(5)
    scales = net.weight(np.array([1, 1, 2, 3], np.float32))
    net.op("Resize", "x", "", scales, to="y", mode="linear", coordinate_transformation_mode="half_pixel")
    return net.graph({"x": (FLOAT, "NCHW", [6, 8, 10])}, {"y": (FLOAT, "NCHW", [6, 16, 30])})


def softmax() -> Graph:
    net = Net(6)
    net.op("Softmax", net.op("Mul", "x", net.weight(np.float32(3))), to="y", axis=1)
    return net.graph({"x": (FLOAT, "NCHW", [7, 9, 9])}, {"y": (FLOAT, "NCHW", [7, 9, 9])})


def labels() -> Graph:
    """A head that ends in a label map."""
    net = Net(7)
    index = net.op("ArgMax", net.conv("x", (16, 6), 1), axis=1, keepdims=0)
    net.nodes.append(helper.make_node("Cast", [index], ["labels"], name="labels", to=UINT8))
    return net.graph({"x": (FLOAT, "NCHW", [16, 24, 24])}, {"labels": (UINT8, "NHW", [24, 24])})


def stem() -> Graph:
    """Frames as a camera gives them: channels last, bytes; normalised inside, padding after that."""
    net = Net(8)
    x = net.op("Transpose", "frames", perm=[0, 3, 1, 2])
    net.nodes.append(helper.make_node("Cast", [x], ["floats"], name="floats", to=FLOAT))
    x = net.op("Sub", "floats", net.weight(np.array([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1)))
    x = net.op("Mul", x, net.weight(np.array([0.0171, 0.0175, 0.0174], np.float32).reshape(1, 3, 1, 1)))
    net.op("Relu", net.conv(x, (3, 16), 3, strides=[2, 2]), to="y")
    return net.graph({"frames": (UINT8, "NHWC", [32, 40, 3])}, {"y": (FLOAT, "NCHW", [16, 16, 20])})


GRAPHS: Mapping[str, Callable[[], Graph]] = {
    build.__name__: build for build in (conv, residual, attention, spm, resize, softmax, labels, stem)
}


@dataclass(frozen=True)
class Sample:
    """Inputs for a graph and what plain ONNX Runtime makes of them."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def sample(graph: Graph, batch: int, seed: int = 0) -> Sample:
    """Seeded inputs, and the outputs of an ordinary ONNX Runtime session with its default options."""
    import onnxruntime

    random = np.random.default_rng(seed)
    inputs = []
    for spec in graph.inputs:
        shape = spec.bind(batch=batch).concrete()
        whole = random.integers(0, 256, shape).astype(np.uint8)
        inputs.append(whole if spec.dtype == "uint8" else random.standard_normal(shape).astype(np.float32))
    session = onnxruntime.InferenceSession(graph.proto().SerializeToString(), providers=["CPUExecutionProvider"])
    named = {spec.name: array for spec, array in zip(graph.inputs, inputs, strict=True)}
    return Sample(tuple(inputs), tuple(session.run(None, named)))
