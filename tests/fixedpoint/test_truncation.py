"""16 bits that truncate and wrap, on 8-bit kernels: the same integers as the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.program import Array, Program, Step, Tensor

from .conftest import codes

INT16 = Format(16)


def stage(shift: int, low: int = INT16.lowest) -> Requantize:
    return Requantize(Rescale((1,), (shift,), "floor"), INT16, 0, low, INT16.highest, "wrap")


def program_of(step: Step, shapes: dict[str, tuple[int, ...]], arrays: dict[str, Array], bits: int = 48) -> Program:
    tensors = {name: Tensor(name, shape, INT16, 1.0) for name, shape in shapes.items()}
    return Program("test", step.inputs, ("y",), tensors, (step,), arrays, bits, "wrap")


def path(program: Program) -> str:
    """How the fast interpreter computes the step, after it gave what the other two give."""
    fast, inputs = Fast(program), codes(program, 2)
    wanted = reference.run(program, inputs)["y"]
    assert np.array_equal(fast.run(inputs)["y"], wanted)
    assert np.array_equal(blas.run(program, inputs)["y"], wanted)
    return fast.choices[0].path


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 32),
    st.sampled_from([(1, 1, 1), (1, 2, 1), (3, 2, 1), (3, 1, 2), (5, 2, 1)]),
    st.sampled_from([127, 2**15 - 129]),
    st.sampled_from([INT16.lowest, 0]),
    st.integers(0, 2**31),
)
def test_convolutions(shift: int, window: tuple[int, int, int], reach: int, low: int, seed: int) -> None:
    (kernel, stride, dilation), random = window, np.random.default_rng(seed)
    weight = random.integers(-reach - 1, reach + 1, (8, 4, kernel, kernel))
    weight[0] = random.choice([-reach - 1, reach], weight[0].shape)
    arrays = {"w": weight, "b": random.integers(-(2**40), 2**40, 8)}
    step = p.Convolution(
        "c", ("x",), "y", "w", "b", (stride, stride), (1, 0, 2, 1), (dilation, dilation), 1, stage(shift, low)
    )
    height, width = ((side + 3 - dilation * (kernel - 1) - 1) // stride + 1 for side in (9, 6))
    assert path(program_of(step, {"x": (4, 9, 8), "y": (8, height, width)}, arrays)) == "bytes"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 32), st.integers(0, 2**31))
def test_matrix_products(shift: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = {"w": random.integers(-(2**15), 2**15 - 128, (300, 6)), "b": random.integers(-(2**40), 2**40, 6)}
    step = p.Linear("m", ("x",), "y", "w", "b", stage(shift))
    assert path(program_of(step, {"x": (5, 300), "y": (5, 6)}, arrays)) == "bytes"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 31), st.tuples(st.integers(0, 14), st.integers(0, 14)), st.sampled_from([INT16.lowest, 0]))
def test_sums(shift: int, lefts: tuple[int, int], low: int) -> None:
    rescales = tuple(Rescale((1,), (-left,), "floor") for left in lefts)
    step = p.Add("a", ("x", "z"), "y", rescales, 0, "", stage(shift, low))
    shape = (3, 8, 8)
    assert path(program_of(step, {"x": shape, "z": shape, "y": shape}, {})) == "bytes"


@pytest.mark.parametrize("shift", [16, 17])
def test_the_most_terms_at_their_extremes(shift: int) -> None:
    """All inputs and weights at the ends whose partial sums are largest in magnitude."""
    for weight in (-(2**15), 2**15 - 129):
        arrays = {"w": np.full((2**15, 1), weight), "b": np.zeros(1, np.int64)}
        step = p.Linear("m", ("x",), "y", "w", "b", stage(shift))
        program = program_of(step, {"x": (2**15,), "y": (1,)}, arrays)
        for value in (INT16.lowest, INT16.highest, -1, 255, 127):
            x = np.full((1, 2**15), value)
            assert np.array_equal(Fast(program).run({"x": x})["y"], reference.run(program, {"x": x})["y"])


def test_what_does_not_only_truncate_and_wrap_goes_another_way() -> None:
    arrays = {"w": np.full((8, 3), 5), "b": np.zeros(3, np.int64)}
    step = p.Linear("m", ("x",), "y", "w", "b", stage(10))
    shapes: dict[str, tuple[int, ...]] = {"x": (8,), "y": (3,)}
    assert path(program_of(step, shapes, arrays)) == "bytes"
    assert path(program_of(step, shapes, arrays, bits=24)) != "bytes"  # the sum wraps before it is shifted
    rounded = replace(step.requantize, rescale=Rescale((1,), (10,), "half_up"))
    saturated = replace(step.requantize, overflow="saturate")
    for other in (rounded, saturated):
        assert path(program_of(replace(step, requantize=other), shapes, arrays)) != "bytes"
    wide = {**arrays, "w": np.full((8, 3), 2**15 - 1)}
    assert path(program_of(step, shapes, wide)) != "bytes"
