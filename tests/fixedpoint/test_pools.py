"""Means of windows against ONNX Runtime: whatever the padding, and whether it counts."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.engine import from_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.lowering import lowered
from stagekit_fixedpoint.pools import bands

from stagekit.partition.verify import run_graph

from .conftest import codes
from .nets import Net, qdq

DPU = load_device("dpu-b4096-zcu104")

pair = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=pair,
    strides=pair,
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    ceil=st.booleans(),
    counted=st.booleans(),
)
def test_means_are_those_of_onnx_runtime(
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    ceil: bool,
    counted: bool,
) -> None:
    padded = [n + a + b for n, a, b in zip(size, pads[:2], pads[2:], strict=True)]
    assume(all(k <= n and max(a, b) < k for k, n, a, b in zip(kernel, padded, pads[:2], pads[2:], strict=True)))
    net = Net(3)
    options = {"ceil_mode": int(ceil), "count_include_pad": int(counted)}
    net.op("AveragePool", "x", out="y", kernel_shape=kernel, strides=strides, pads=pads, **options)
    graph = net.graph([2, *size], ["y"])
    program = lowered(qdq(graph, DPU), DPU).program
    given_codes = codes(program)
    (x,), (y,) = program.inputs, program.outputs
    tensor = program.tensors[y]
    found = reference.run(program, given_codes)[y]
    for run in (Fast(program).run, partial(blas.run, program)):
        assert np.array_equal(run(given_codes)[y], found)
    real = run_graph(graph, [from_stored(given_codes[x], program.tensors[x], True)])["y"]
    steps = np.clip(real / tensor.scale, tensor.format.lowest, tensor.format.highest)
    assert found.shape == real.shape
    assert np.abs(found - steps).max() <= 0.5 + 128 * 2.0**-15, "half a step, and the multiplier's 16 bits"


def test_bands_hold_every_place_once() -> None:
    """Five rows, windows of three a row apart, one row of padding: the first and the last see two rows."""
    edge, inner = bands(5, 3, 1, 5, (1, 1), False), bands(5, 3, 1, 5, (1, 1), True)
    assert [(b.start, b.seen, b.counted, b.places) for b in edge] == [(0, 2, 2, 1), (0, 3, 3, 3), (3, 2, 2, 1)]
    assert [(b.start, b.seen, b.counted, b.places) for b in inner] == [(0, 2, 3, 1), (0, 3, 3, 3), (3, 2, 3, 1)]
