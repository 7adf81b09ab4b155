"""A slope for each channel: tables in 8 bits, sums and products where tables were too large."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.lowering import lowered

from .conftest import codes
from .nets import Net, qdq


@pytest.mark.parametrize(
    ("device", "kinds"),
    [
        ("dpu-b4096-zcu104", ["Lookup"]),
        ("tflite-int8", ["Lookup"]),
        ("hls-16-6", ["Convert", "Convert", "Multiply", "Add"]),
    ],
)
@settings(max_examples=20)
@given(channels=st.integers(5, 40), seed=st.integers(0, 1000))
def test_each_channel_has_its_own_slope(device: str, kinds: list[str], channels: int, seed: int) -> None:
    described, net = load_device(device), Net(seed)
    slope = net.random.uniform(-0.5, 1.5, (channels, 1, 1)).astype(np.float32)
    net.op("PRelu", "x", net.weight(slope), out="y")
    program = lowered(qdq(net.graph([channels, 4, 3], ["y"]), described), described).program
    assert [type(step).__name__ for step in program.steps] == kinds
    given_codes = codes(program, seed=seed)
    x, y = program.tensors[program.inputs[0]], program.tensors[program.outputs[0]]
    found = reference.run(program, given_codes)[y.name]
    for run in (Fast(program).run, partial(blas.run, program)):
        assert np.array_equal(run(given_codes)[y.name], found)
    real = (given_codes[x.name] - x.zero_point) * x.scale
    wanted = np.where(real < 0, real * slope, real) / y.scale + y.zero_point
    if kinds == ["Lookup"]:
        assert np.array_equal(found, np.clip(np.rint(wanted), y.format.lowest, y.format.highest))
    else:  # cut off, with a slope of 16 bits; what leaves the format wraps around
        inside = (wanted > y.format.lowest + 2) & (wanted < y.format.highest - 2)
        error = np.abs(found - np.floor(wanted))[inside]
        assert error.max() <= 1 + np.abs(real).max() / y.scale * np.abs(slope).max() * 2.0**-15
