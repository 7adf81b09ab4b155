"""ResNets in the forms that published device figures belong to: as float ONNX graphs with seeded weights, or as layers.

``v1`` has the stride in the first 1x1 convolution of a stage (Caffe, 3.86 GMAC for ResNet-50 at 224), ``v1.5`` in
the 3x3 (4.09 GMAC), and ``last`` strides in the *last* unit of a stage (TensorFlow-Slim; ResNet-101: 7.2 GMAC).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stagekit.graph import Graph, from_proto
from stagekit_fixedpoint.layers import Layer

Variant = Literal["v1", "v1.5", "last"]

SIZE, CLASSES = 224, 1000
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet(depth: int, variant: Variant) -> Graph:
    """A ResNet with BatchNorm folded, its input ``x`` (batch, 3, 224, 224) float32, output ``logits``."""
    net = _Net()
    x = net.relu(net.conv("x", 3, 64, 7, 2))
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, units in enumerate(DEPTHS[depth]):
        width = 64 * 2**stage
        for unit in range(units):
            if variant == "last":
                stride = 2 if stage < 3 and unit == units - 1 else 1
            else:
                stride = 2 if stage > 0 and unit == 0 else 1
            x = net.bottleneck(x, channels, width, stride, variant)
            channels = 4 * width
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    weight = net.weight(CLASSES, channels, gain=1.0)
    net.node("Gemm", [x, weight, net.bias(CLASSES)], out="logits", transB=1)
    return net.graph(f"resnet{depth} {variant}")


def resnet_layers(depth: int, variant: Variant) -> list[Layer]:
    """The layers of :func:`resnet` in 8 bits, without making its weights."""
    made: list[Layer] = []

    def conv(x: str, ins: int, outs: int, kernel: int, stride: int, side: int) -> tuple[str, int]:
        out, after = f"t{len(made)}", -(-side // stride)
        weights = ins * outs * kernel**2
        made.append(
            Layer(out, (x,), out, (ins * side**2,), outs * after**2, weights, after, after, ins, outs, (kernel, kernel))
        )
        return out, after

    def elementwise(inputs: tuple[str, ...], before: int, after: int) -> str:
        out = f"t{len(made)}"
        made.append(Layer(out, inputs, out, (before,) * len(inputs), after))
        return out

    x, side = conv("x", 3, 64, 7, 2, SIZE)
    x, side = elementwise((x,), 64 * side**2, 64 * (side // 2) ** 2), side // 2
    channels = 64
    for stage, units in enumerate(DEPTHS[depth]):
        width = 64 * 2**stage
        for unit in range(units):
            last = stage < 3 and unit == units - 1
            stride = 2 if (last if variant == "last" else stage > 0 and unit == 0) else 1
            first, middle = (stride, 1) if variant == "v1" else (1, stride)
            inner, inside = conv(x, channels, width, 1, first, side)
            inner, inside = conv(inner, width, width, 3, middle, inside)
            inner, inside = conv(inner, width, 4 * width, 1, 1, inside)
            if channels != 4 * width:
                x, side = conv(x, channels, 4 * width, 1, stride, side)
            elif stride > 1:
                x, side = elementwise((x,), channels * side**2, channels * inside**2), inside
            channels = 4 * width
            x = elementwise((inner, x), channels * side**2, channels * side**2)
    x = elementwise((x,), channels * side**2, channels)
    made.append(
        Layer("logits", (x,), "logits", (channels,), CLASSES, channels * CLASSES, 1, 1, channels, CLASSES, (1, 1))
    )
    return made


class _Net:
    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], out: str = "", **attributes: Any) -> str:
        name = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int, gain: float = 2.0) -> str:
        scale = np.float32((gain / np.prod(shape[1:])) ** 0.5)
        return self._store(self.random.standard_normal(shape, np.float32) * scale)

    def bias(self, count: int) -> str:
        return self._store(self.random.standard_normal(count, np.float32) * np.float32(0.1))

    def _store(self, array: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, ins: int, outs: int, kernel: int, stride: int = 1, gain: float = 2.0) -> str:
        inputs = [x, self.weight(outs, ins, kernel, kernel, gain=gain), self.bias(outs)]
        return self.node("Conv", inputs, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def bottleneck(self, x: str, ins: int, width: int, stride: int, variant: Variant) -> str:
        outs = 4 * width
        first, middle = (stride, 1) if variant == "v1" else (1, stride)
        inner = self.relu(self.conv(x, ins, width, 1, first))
        inner = self.conv(self.relu(self.conv(inner, width, width, 3, middle)), width, outs, 1, gain=0.3)
        if ins != outs:
            x = self.conv(x, ins, outs, 1, stride, gain=1.0)
        elif stride > 1:
            x = self.node("MaxPool", [x], kernel_shape=[1, 1], strides=[stride] * 2)
        return self.relu(self.node("Add", [inner, x]))

    def graph(self, source: str) -> Graph:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
        y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
        body = helper.make_graph(self.nodes, "resnet", [x], [y], self.weights)
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return from_proto(onnx.shape_inference.infer_shapes(model), source)
