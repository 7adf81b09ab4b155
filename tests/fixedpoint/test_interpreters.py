"""The reference, the fast and the float64 interpreter agree on every bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagekit_fixedpoint import blas, reference, self_test
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import OVERFLOWS, ROUNDINGS, Format, Requantize, Rescale
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.program import Program, Step, Tensor

from .conftest import codes

CASES = [
    (net, device)
    for device in ("dpu-b4096-zcu104", "tflite-int8", "hls-16-6", "nvdla-512")
    for net in ("residual", "pyramid", "transformer", "stem")
    if not (device.startswith("nvdla") and net in ("pyramid", "transformer"))
]


@pytest.mark.parametrize(("net", "device"), CASES)
def test_all_three_agree_on_whole_nets(programs: Callable[[str, str], Program], net: str, device: str) -> None:
    program = programs(net, device)
    fast = Fast(program)
    for seed in range(3):
        given_codes = codes(program, 2, seed)
        wanted = reference.run(program, given_codes)
        for found in (fast.run(given_codes), blas.run(program, given_codes)):
            assert all(np.array_equal(found[name], wanted[name]) for name in program.outputs)


def test_convolutions_of_a_dpu_run_in_kernels_and_say_why(programs: Callable[[str, str], Program]) -> None:
    choices = Fast(programs("residual", "dpu-b4096-zcu104")).choices
    convolutions = [c for c in choices if c.operator == "Convolution"]
    assert {c.path for c in convolutions} == {"kernel"}
    assert all("float32 requantises exactly" in c.why for c in convolutions)
    slow = Fast(programs("residual", "tflite-int8")).choices
    assert all("multiplier" in c.why for c in slow if c.operator == "Convolution")


def test_this_processor_passes_the_self_test() -> None:
    assert self_test.self_test() == ""


def test_a_processor_that_fails_is_not_used(programs: Callable[[str, str], Program], monkeypatch: Any) -> None:
    monkeypatch.setattr(self_test, "self_test", lambda: "a 3x3 kernel")
    program = programs("residual", "dpu-b4096-zcu104")
    fast = Fast(program)
    assert "kernel" not in {c.path for c in fast.choices}
    inputs = codes(program)
    wanted = reference.run(program, inputs)
    assert all(np.array_equal(fast.run(inputs)[n], wanted[n]) for n in program.outputs)


stages = st.builds(
    lambda rounding, overflow, shift, zero, clamp, bits: (rounding, overflow, shift, zero, clamp, bits),
    st.sampled_from(ROUNDINGS),
    st.sampled_from(OVERFLOWS),
    st.integers(0, 14),
    st.integers(-20, 20),
    st.booleans(),
    st.sampled_from([(8, True), (8, False), (16, True)]),
)


def requantize(drawn: tuple[Any, ...], multiplier: int = 1) -> Requantize:
    rounding, overflow, shift, zero, clamp, (bits, signed) = drawn
    fmt = Format(bits, signed)
    zero = zero if signed else abs(zero)
    return Requantize(
        Rescale((multiplier,), (shift,), rounding), fmt, zero, zero if clamp else fmt.lowest, fmt.highest, overflow
    )


def agree(program: Program, inputs: dict[str, Any]) -> None:
    wanted = reference.run(program, inputs)["y"]
    assert np.array_equal(Fast(program).run(inputs)["y"], wanted)
    assert np.array_equal(blas.run(program, inputs)["y"], wanted)


def single(
    step: Step, shapes: dict[str, tuple[int, ...]], stage: Requantize, arrays: dict[str, Any], zero: int
) -> Program:
    formats = {"y": stage.format}
    tensors = {n: Tensor(n, s, formats.get(n, Format(8)), 1.0, 0 if n == "y" else zero) for n, s in shapes.items()}
    tensors["y"] = replace(tensors["y"], zero_point=stage.zero_point)
    names = tuple(n for n in shapes if n != "y")
    return Program("test", names, ("y",), tensors, (step,), arrays)


@settings(max_examples=60, deadline=None)
@given(
    stages,
    st.sampled_from([(1, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 1), (3, 1, 1, 4), (5, 2, 1, 2)]),
    st.integers(-5, 5),
    st.integers(0, 2**31),
)
def test_any_convolution_agrees(drawn: Any, window: tuple[int, ...], zero: int, seed: int) -> None:
    kernel, stride, dilation, groups = window
    random, stage = np.random.default_rng(seed), requantize(drawn)
    weight = random.integers(-128, 128, (8, 4 if groups == 1 else 4 // groups, kernel, kernel))
    bias = random.integers(-5000, 5000, 8)
    step = p.Convolution(
        "c", ("x",), "y", "w", "b", (stride, stride), (1, 0, 2, 1), (dilation, dilation), groups, stage
    )
    height, width = (
        (9 + 3 - dilation * (kernel - 1) - 1) // stride + 1,
        (8 + 1 - dilation * (kernel - 1) - 1) // stride + 1,
    )
    program = single(step, {"x": (4, 9, 8), "y": (8, height, width)}, stage, {"w": weight, "b": bias}, zero)
    agree(program, codes(program, 2, seed))


@settings(max_examples=30, deadline=None)
@given(stages, st.integers(-5, 5), st.integers(0, 2**31), st.booleans())
def test_any_matrix_product_agrees(drawn: Any, zero: int, seed: int, rows: bool) -> None:
    random, stage = np.random.default_rng(seed), requantize(drawn)
    arrays = {"w": random.integers(-128, 128, (20, 6)), "b": random.integers(-5000, 5000, 6)}
    shapes = {"x": (5, 20), "y": (5, 6)} if rows else {"x": (20,), "y": (6,)}
    program = single(p.Linear("m", ("x",), "y", "w", "b", stage), shapes, stage, arrays, zero)
    agree(program, codes(program, 3, seed))


@settings(max_examples=40, deadline=None)
@given(stages, st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(-5, 5), st.integers(0, 2**31))
def test_any_sum_agrees(drawn: Any, lefts: tuple[int, int], zero: int, seed: int) -> None:
    rounding, overflow, shift, *rest = drawn
    stage = requantize((rounding, overflow, shift % 6, *rest))
    rescales = tuple(Rescale((1,), (-left,), rounding) for left in lefts)
    step = p.Add("a", ("x", "z"), "y", rescales, 0, "", stage)
    shape = (3, 16, 16)
    program = single(step, {"x": shape, "z": shape, "y": shape}, stage, {}, zero)
    agree(program, codes(program, 2, seed))


def test_the_half_up_trick_holds_on_every_code_and_shift() -> None:
    """All ties of a 1x1 product of one input, for every shift: 256 inputs, 255 weights."""
    weights = np.arange(-127, 128).reshape(-1, 1, 1, 1)
    for shift in range(15):
        stage = Requantize(Rescale((1,), (shift,), "half_up"), Format(8), 0, -128, 127)
        step = p.Convolution("c", ("x",), "y", "w", "b", (1, 1), (0, 0, 0, 0), (1, 1), 1, stage)
        arrays = {"w": weights, "b": np.zeros(255, np.int64)}
        program = single(step, {"x": (1, 16, 16), "y": (255, 16, 16)}, stage, arrays, 0)
        agree(program, {"x": np.arange(-128, 128).reshape(1, 1, 16, 16)})
