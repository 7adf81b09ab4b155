"""Limits for each channel, as equalised ReLU6s have them, on a device that clamps all channels alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.device import Device, load_device
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.lowering import lower, lowered

from stagekit.graph import Graph
from stagekit.quant.formats import NumberFormat
from stagekit.quant.positions import find_positions
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.scheme import QuantScheme

from .conftest import codes
from .nets import Net

LIMITS = np.array([0.5, 1.0, 1.75, 3.0, 40.0, 0.01], np.float32)
FORM = NumberFormat("int8", True, "power_of_two")


def limited() -> Graph:
    net = Net(7)
    x = net.op("Relu", net.conv("x", 4, 6))
    x = net.op("Min", x, net.weight(LIMITS.reshape(1, 6, 1, 1)), out="limited")
    net.conv(x, 6, 6, 1, out="y")
    graph = net.graph([4, 9, 7], ["y"])
    scales = {"x": FORM.fit(-3, 3), "relu1": FORM.fit(0, 9), "limited": FORM.fit(0, 3), "y": FORM.fit(-4, 4)}
    return insert_qdq(graph, find_positions(graph), scales, QuantScheme(FORM, FORM, per_channel=False))


def test_limits_are_the_exact_minimum_in_integers(dpu: Device) -> None:
    program = lowered(limited(), dpu).program
    assert [type(s).__name__ for s in program.steps] == ["Convolution"] * 4
    given = codes(program)
    values = reference.run(program, given, keep=True)
    free, held = (values[program.steps[i].output] for i in (0, 2))
    scale = program.tensors[program.steps[2].output].scale
    steps = np.clip(np.rint(LIMITS / scale), 1, 127).astype(np.int64).reshape(1, 6, 1, 1)
    assert np.array_equal(held, np.minimum(free, steps))
    assert (free > steps).any() and (free < steps).any()
    (out,) = program.outputs
    stored = {n: v.astype(np.int8) for n, v in given.items()}
    assert np.array_equal(Fast(program, 1).run(stored)[out], values[out])


def test_a_device_that_wraps_or_has_no_depthwise_unit_says_so(dpu: Device) -> None:
    wrapping = replace(dpu, arithmetic=replace(dpu.arithmetic, overflow="wrap"))
    (problem, *_) = lower(limited(), wrapping).problems
    assert problem.op == "Min" and "saturates" in problem.why
    plain = tuple(o for o in dpu.arithmetic.operators if o != "depthwise")
    (problem, *_) = lower(limited(), replace(dpu, arithmetic=replace(dpu.arithmetic, operators=plain))).problems
    assert "depthwise" in problem.why


@pytest.mark.parametrize("name", ["dpu-b4096-zcu102", "dpu-b4096-zcu104", "dpu-b4096-kv260", "dpu-b1600-ultra96"])
def test_a_profile_rounds_biases_to_the_bits_that_its_device_has(name: str) -> None:
    from stagekit.quant.scheme import scheme_of
    from stagekit.targets import load_profile

    assert scheme_of(load_profile(name)).bias_bits == load_device(name).arithmetic.bias_bits
