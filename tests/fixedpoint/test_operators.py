"""The operators of segmentation backbones one by one: what the target says of each, and how near the integers come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.device import Device, load_device
from stagekit_fixedpoint.engine import from_stored, to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.lowering import lower, lowered

from stagekit.graph import Graph
from stagekit.partition.verify import run_graph

from .nets import Net, inputs, qdq

CHANNELS, HEIGHT, WIDTH = 8, 13, 10

Maker = Callable[[Net], str]


def op(name: str, **attributes: Any) -> Maker:
    """One operator on the input alone."""
    return lambda net: net.op(name, "x", out="y", **attributes)


def pads(mode: str) -> Maker:
    return lambda net: net.op("Pad", "x", ints(net, 0, 0, 1, 1, 0, 0, 2, 1), out="y", mode=mode)


def resize(mode: str) -> Maker:
    return lambda net: net.op("Resize", "x", "", floats(net, 1, 1, 2, 2), out="y", mode=mode)


def ints(net: Net, *values: int) -> str:
    return net.weight(np.array(values))


def floats(net: Net, *values: float) -> str:
    return net.weight(np.array(values, np.float32))


def normalised(net: Net) -> str:
    gamma, beta, mean, variance = (
        net.weight(net.random.uniform(0.5, 1.5, CHANNELS).astype(np.float32)) for _ in "gbmv"
    )
    return net.op("BatchNormalization", "x", gamma, beta, mean, variance, out="y")


def excited(net: Net) -> str:
    """Squeeze and excitation."""
    squeezed = net.op("Relu", net.conv(net.op("GlobalAveragePool", "x"), CHANNELS, 4, 1))
    return net.op("Mul", "x", net.op("HardSigmoid", net.conv(squeezed, 4, CHANNELS, 1)), out="y")


def shuffled(net: Net) -> str:
    parted = net.op("Reshape", "x", ints(net, -1, 2, CHANNELS // 2, HEIGHT, WIDTH))
    turned = net.op("Transpose", parted, perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", turned, ints(net, -1, CHANNELS, HEIGHT, WIDTH), out="y")


def two(name: str) -> Maker:
    """An operator on two features of the same shape."""
    return lambda net: net.op(name, net.conv("x", CHANNELS, 4), net.conv("x", CHANNELS, 4), out="y")


def window(name: str, **attributes: Any) -> Maker:
    return op(name, kernel_shape=[3, 3], strides=[2, 2], **attributes)


COMPUTED: dict[str, Maker] = {
    "convolution": lambda net: net.conv("x", CHANNELS, 6, out="y"),
    "depthwise convolution": lambda net: net.conv("x", CHANNELS, CHANNELS, group=CHANNELS, out="y"),
    "transposed convolution": lambda net: net.op(
        "ConvTranspose", "x", net.normal(CHANNELS, 6, 4, 4, scale=0.2), out="y", strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "batch normalisation": normalised,
    "relu": op("Relu"),
    "leaky relu": op("LeakyRelu"),
    "prelu, one slope": lambda net: net.op("PRelu", "x", floats(net, 0.2), out="y"),
    "prelu by channel": lambda net: net.op("PRelu", "x", net.normal(CHANNELS, 1, 1), out="y"),
    "elu": op("Elu"),
    "selu": op("Selu"),
    "mish": op("Mish"),
    "silu": lambda net: net.op("Mul", "x", net.op("Sigmoid", "x"), out="y"),
    "hard sigmoid": op("HardSigmoid"),
    "hard swish": op("HardSwish"),
    "squeeze and excitation": excited,
    "product with a map": lambda net: net.op("Mul", "x", net.op("Sigmoid", net.conv("x", CHANNELS, 1)), out="y"),
    "sum": two("Add"),
    "difference": two("Sub"),
    "sum with a mean": lambda net: net.op("Add", "x", net.op("GlobalAveragePool", "x"), out="y"),
    "concatenation": lambda net: net.op("Concat", "x", net.conv("x", CHANNELS, 4), axis=1, out="y"),
    "slice": lambda net: net.op("Slice", "x", ints(net, 2), ints(net, 6), ints(net, 1), out="y"),
    "channel shuffle": shuffled,
    "blocks to pixels": op("DepthToSpace", blocksize=2),
    "padding with zeros": pads("constant"),
    "max pool": window("MaxPool", pads=[1, 1, 1, 1]),
    "max pool, ceil": window("MaxPool", ceil_mode=1),
    "average pool": window("AveragePool"),
    "average pool with its padding": window("AveragePool", pads=[1, 1, 1, 1], count_include_pad=1),
    "average pool without its padding": window("AveragePool", pads=[1, 1, 1, 1]),
    "average pool, ceil and pads": window("AveragePool", pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
    "global average pool": op("GlobalAveragePool"),
    "mean over height and width": lambda net: net.op("ReduceMean", "x", ints(net, 2, 3), out="y", keepdims=0),
    "global max pool": op("GlobalMaxPool"),
    "resize, nearest": resize("nearest"),
    "resize, bilinear": resize("linear"),
    "softmax": op("Softmax", axis=1),
}

REFUSED: dict[str, tuple[Maker, str]] = {
    "average pool, dilated": (window("AveragePool", dilations=[2, 2]), "dilated"),
    "quotient": (two("Div"), "joins two tensors"),
    "padding by reflection": (pads("reflect"), "only padding with zeros"),
    "resize, cubic": (resize("cubic"), "'cubic'"),
    "instance normalisation": (
        lambda net: net.op("InstanceNormalization", "x", net.normal(CHANNELS), net.normal(CHANNELS), out="y"),
        "no rule",
    ),
}


def graph_of(make: Maker) -> Graph:
    net = Net(7)
    make(net)
    return net.graph([CHANNELS, HEIGHT, WIDTH], ["y"])


@pytest.mark.parametrize(("device", "least_db"), [("dpu-b4096-zcu104", 30), ("tflite-int8", 33), ("hls-16-6", 50)])
@pytest.mark.parametrize("name", COMPUTED)
def test_integers_come_near_onnx_runtime(name: str, device: str, least_db: float) -> None:
    described = load_device(device)
    graph = graph_of(COMPUTED[name])
    program = lowered(qdq(graph, described), described).program
    sample = inputs(graph, 2, 1)["x"]
    real = run_graph(graph, [sample])["y"]
    (x,), (y,) = program.inputs, program.outputs
    stored = to_stored(sample, program.tensors[x]).astype(np.int64)
    found = reference.run(program, {x: stored})[y]
    for run in (Fast(program).run, partial(blas.run, program)):
        assert np.array_equal(run({x: stored})[y], found)
    error = from_stored(found, program.tensors[y], True) - real
    assert 10 * np.log10((real**2).mean() / (error**2).mean()) > least_db


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_named_with_its_reason(name: str, dpu: Device) -> None:
    make, why = REFUSED[name]
    (problem,) = lower(qdq(graph_of(make), dpu), dpu).problems
    assert problem.node == "y"
    assert why in problem.why
