"""Small float graphs and their Q/DQ forms, for the tests of the fixed-point target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from stagekit_fixedpoint.dense import quantise
from stagekit_fixedpoint.device import Device

from stagekit.graph import Graph, from_proto
from stagekit.quant.scheme import scheme_of
from stagekit.targets import load_profile

Array = np.ndarray[Any, Any]


class Net:
    """Collects nodes and weights; every method returns the name of what it made."""

    def __init__(self, seed: int, opset: int = 21) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.weight((self.random.standard_normal(shape) * scale).astype(np.float32))

    def op(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, x: str, ins: int, outs: int, kernel: int = 3, group: int = 1, out: str = "", **more: Any) -> str:
        dilation = more.get("dilations", [1, 1])[0]
        weights = self.normal(outs, ins // group, kernel, kernel, scale=(ins // group * kernel * kernel) ** -0.5)
        pads = [dilation * (kernel // 2)] * 4
        return self.op("Conv", x, weights, self.normal(outs, scale=0.1), out=out, group=group, pads=pads, **more)

    def graph(self, shape: list[int], outputs: list[str], kind: int = TensorProto.FLOAT) -> Graph:
        """A graph of one input ``x``; the outputs' shapes are inferred."""
        x = helper.make_tensor_value_info("x", kind, ["batch", *shape])
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        body = helper.make_graph(self.nodes, "net", [x], ends, self.weights)
        proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return from_proto(onnx.shape_inference.infer_shapes(proto), "test net")


def residual() -> Graph:
    """Convolutions of all kinds, sums, pools."""
    net = Net(1)
    x = net.op("Relu", net.conv("x", 8, 16, 3, strides=[2, 2]))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    side = net.op("Clip", net.conv(x, 16, 16, 3, group=16), net.weight(np.float32(0)), net.weight(np.float32(0.7)))
    deep = net.conv(side, 16, 16, 3, group=4, dilations=[2, 2])
    x = net.op("Relu", net.op("Add", x, deep))
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Flatten", net.op("GlobalAveragePool", net.conv(x, 16, 12, 1)))
    net.op("Gemm", x, net.normal(5, 12, scale=0.3), net.normal(5), transB=1, out="y")
    return net.graph([8, 32, 24], ["y"])


def pyramid() -> Graph:
    """Resizes, concatenation, products, tables."""
    net = Net(2)
    a = net.conv("x", 6, 8)
    b = net.op("HardSwish", net.conv(a, 8, 8, strides=[2, 2]))
    scales = net.weight(np.array([1, 1, 2, 2], np.float32))
    up = net.op("Resize", b, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    near = net.op(
        "Resize", b, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    joined = net.op("Concat", a, up, near, axis=1)
    gate = net.op("Sigmoid", net.conv(joined, 24, 8, 1))
    net.op("Mul", a, gate, out="y")
    return net.graph([6, 12, 16], ["y"])


def transformer(tokens: int = 17, width: int = 32, heads: int = 4) -> Graph:
    """A transformer unit with LayerScale and GELU."""
    net, size = Net(3), width // heads
    split = net.weight(np.array([-1, tokens, heads, size]))
    normed = net.op("LayerNormalization", "x", net.normal(width), net.normal(width), axis=-1)

    def linear(x: str, ins: int, outs: int) -> str:
        return net.op("Add", net.op("MatMul", x, net.normal(ins, outs, scale=ins**-0.5)), net.normal(outs, scale=0.1))

    query, key, value = (
        net.op("Transpose", net.op("Reshape", linear(normed, width, width), split), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = net.op("MatMul", net.op("Mul", query, net.weight(np.float32(size**-0.5))), key)
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    flat = net.weight(np.array([-1, tokens, width]))
    joined = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), flat)
    scaled = net.op("Mul", linear(joined, width, width), net.normal(width, scale=0.5))
    x = net.op("Add", "x", scaled)
    normed = net.op("LayerNormalization", x, net.normal(width), net.normal(width), axis=-1)
    hidden = net.op("Gelu", linear(normed, width, 2 * width))
    net.op("Add", x, linear(hidden, 2 * width, width), out="y")
    return net.graph([tokens, width], ["y"])


def stem() -> Graph:
    """Frames of bytes, channels last, normalised by channel."""
    net = Net(4)
    x = net.op("Cast", net.op("Transpose", "x", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    x = net.op("Sub", x, net.weight(np.array([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1)))
    x = net.op("Mul", x, net.weight(np.array([0.0171, 0.0175, 0.0174], np.float32).reshape(1, 3, 1, 1)))
    net.op("Relu", net.conv(x, 3, 8, 3, strides=[2, 2]), out="y")
    return net.graph([16, 20, 3], ["y"], TensorProto.UINT8)


NETS: Mapping[str, Callable[[], Graph]] = {b.__name__: b for b in (residual, pyramid, transformer, stem)}


def inputs(graph: Graph, batch: int, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs for a float graph."""
    random, spec = np.random.default_rng(seed), graph.inputs[0]
    shape = spec.bind(batch=batch).concrete()
    if spec.dtype == "uint8":
        return {spec.name: random.integers(0, 256, shape).astype(np.uint8)}
    return {spec.name: random.standard_normal(shape).astype(np.float32)}


def qdq(graph: Graph, device: Device) -> Graph:
    """The graph with Q/DQ for a shipped device, calibrated on two inputs."""
    return quantise(graph, [inputs(graph, 2, seed) for seed in (1, 2)], scheme_of(load_profile(device.name)))
