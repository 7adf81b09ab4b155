"""Transposed convolutions and blocks of pixels against ONNX Runtime, to the bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.engine import from_stored, to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.layers import layers_of
from stagekit_fixedpoint.lowering import lowered, macs
from stagekit_fixedpoint.program import Array, Program

from stagekit.graph import Graph
from stagekit.graph.cost import macs as graph_macs
from stagekit.graph.shapes import inferred
from stagekit.partition.verify import run_graph

from .nets import Net, inputs, qdq

DPU = load_device("dpu-b4096-zcu104")
CHANNELS, HEIGHT, WIDTH = 4, 5, 6
RANDOM = np.random.default_rng(0)


def on_grid(highest: int, unit: float, *shape: int) -> Array:
    """Whole multiples of a power of two, the largest of them among them, so that no scale rounds any."""
    values = RANDOM.integers(-highest, highest + 1, shape)
    values.flat[0] = highest
    return (values * unit).astype(np.float32)


def transposed(groups: int = 1, kernel: tuple[int, int] = (4, 4), **attributes: Any) -> Graph:
    net, outs = Net(0), 6
    weight = net.weight(on_grid(127, 2.0**-6, CHANNELS, outs // groups, *kernel))
    bias = net.weight(on_grid(63, 2.0**-4, outs))
    net.op("ConvTranspose", "x", weight, bias, out="y", group=groups, **attributes)
    return net.graph([CHANNELS, HEIGHT, WIDTH], ["y"])


def stored_exactly(graph: Graph, program: Program) -> tuple[Array, Array]:
    """Stored inputs, and what the float model gives for them, in stored integers by the written arithmetic.

    Sums of products of integers are exact in float32 here; dividing by a power of two and rounding half up is all
    that a DPU does then.
    """
    x, y = program.tensors[program.inputs[0]], program.tensors[program.outputs[0]]
    stored = RANDOM.integers(-128, 128, (2, *x.shape))
    real = run_graph(graph, [(stored * x.scale).astype(np.float32)])["y"].astype(np.float64)
    return stored, np.clip(np.floor(real / y.scale + 0.5), -128, 127)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from([1, 2]),
)
def test_any_transposed_convolution_is_that_of_onnx_runtime(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    extra: tuple[int, int],
    groups: int,
) -> None:
    extra = (extra[0] % strides[0], extra[1] % strides[1])  # as ONNX asks
    graph = transposed(
        groups, kernel, strides=strides, dilations=dilations, pads=pads, output_padding=extra, kernel_shape=kernel
    )
    spec = graph.outputs[0].shape
    if any(isinstance(d, int) and d < 1 for d in spec[1:]):
        return
    program = lowered(qdq(graph, DPU), DPU).program
    stored, wanted = stored_exactly(graph, program)
    given_codes = {program.inputs[0]: stored}
    for run in (partial(reference.run, program), Fast(program).run, partial(blas.run, program)):
        found = run(given_codes)
        assert np.array_equal(found[program.outputs[0]], wanted)


@pytest.mark.parametrize(
    "attributes",
    [
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
        {"output_shape": [9, 12], "strides": [2, 2]},
        {"auto_pad": "VALID", "strides": [2, 1]},
    ],
)
def test_the_place_of_the_output_is_that_of_onnx_runtime(attributes: dict[str, Any]) -> None:
    graph = transposed(kernel=(3, 4), **attributes)
    program = lowered(qdq(graph, DPU), DPU).program
    stored, wanted = stored_exactly(graph, program)
    assert np.array_equal(reference.run(program, {"x": stored})[program.outputs[0]], wanted)


def test_what_the_device_multiplies_is_what_the_graph_counts() -> None:
    """A kernel as wide as its stride: no products with zeros, and the whole kernel in the device's memory once."""
    graph = transposed(kernel=(2, 2), strides=[2, 2])
    program = lowered(qdq(graph, DPU), DPU).program
    (layer,) = layers_of(program)
    assert macs(program) == layer.macs == graph_macs(inferred(graph))
    assert layer.weight_bytes == CHANNELS * 6 * 2 * 2


def test_a_scale_for_each_channel_follows_its_places() -> None:
    device = load_device("tflite-int8")
    graph = transposed(kernel=(3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    program = lowered(qdq(graph, device), device).program
    sample = inputs(graph, 2, 1)["x"]
    real = run_graph(graph, [sample])["y"]
    (x,), (y,) = program.inputs, program.outputs
    stored = to_stored(sample, program.tensors[x])
    found = reference.run(program, {x: stored.astype(np.int64)})[y]
    error = from_stored(found, program.tensors[y], True) - real
    assert 10 * np.log10((real**2).mean() / (error**2).mean()) > 35
    assert np.array_equal(Fast(program).run({x: stored})[y], found)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks_are_those_of_onnx_runtime(mode: str) -> None:
    net = Net(0)
    net.op("DepthToSpace", "x", out="y", blocksize=3, mode=mode)
    check_moves(net.graph([18, 4, 5], ["y"]))


def test_blocks_become_channels_as_in_onnx_runtime() -> None:
    net = Net(0)
    net.op("SpaceToDepth", "x", out="y", blocksize=2)
    check_moves(net.graph([3, 4, 6], ["y"]))


def check_moves(graph: Graph) -> None:
    program = lowered(qdq(graph, DPU), DPU).program
    stored = RANDOM.integers(-128, 128, (2, *program.tensors["x"].shape))
    wanted = run_graph(graph, [stored.astype(np.float32)])["y"]
    for run in (partial(reference.run, program), Fast(program).run):
        assert np.array_equal(run({"x": stored})[program.outputs[0]], wanted)
