"""Each kind of step with random parameters, formats and roundings: the three interpreters agree on every bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import OVERFLOWS, ROUNDINGS, Format, Requantize, Rescale, quantized_multiplier
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.program import Array, Program, Step, Tensor
from stagekit_fixedpoint.transformer import NORM_BITS, SOFTMAX_BITS

from .conftest import codes

INT8, INT16 = Format(8), Format(16)
FORMATS = (INT8, Format(8, False), INT16)


@dataclass
class Case:
    """One step under construction: random choices, and the tensors and arrays it reads."""

    random: np.random.Generator
    fmt: Format
    out: Format
    zero: int

    def pick(self, *options: Any) -> Any:
        return options[self.random.integers(len(options))]

    def stage(self, shift: int = 6, style: str = "") -> Requantize:
        """A requantisation by about ``2**-shift``, in any style, rounding and overflow."""
        style = style or self.pick("shift", "single", "double")
        rounding, overflow = self.pick(*ROUNDINGS), self.pick(*OVERFLOWS)
        if style == "shift":
            factor = (1, shift)
        else:
            factor = quantized_multiplier(2.0**-shift * self.random.uniform(0.6, 1.9), 31 if style == "double" else 15)
        low = self.pick(self.out.lowest, self.zero_out)
        rescale = Rescale((factor[0],), (factor[1],), rounding, style)  # type: ignore[arg-type]  # a Style
        return Requantize(rescale, self.out, self.zero_out, low, self.out.highest, overflow)

    @property
    def zero_out(self) -> int:
        return abs(self.zero)

    def numbers(self, low: int, high: int, *shape: int) -> Array:
        return self.random.integers(low, high + 1, shape)


Made = tuple[Step, tuple[tuple[int, ...], ...], tuple[int, ...], dict[str, Array]]
"""A step from ``x`` (and ``z``) to ``y``, the shapes of what it reads and gives, and its arrays."""

IMAGE = (4, 9, 8)


def convolution(c: Case) -> Made:
    kernel, stride, dilation, groups = c.pick((1, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 1), (3, 1, 1, 4), (5, 2, 1, 2))
    bits, pads = c.pick(127, 2**15 - 130), (1, 0, 2, 1)
    arrays = {"w": c.numbers(-bits, bits, 8, 4 // groups, kernel, kernel), "b": c.numbers(-9999, 9999, 8)}
    height = (9 + 3 - dilation * (kernel - 1) - 1) // stride + 1
    width = (8 + 1 - dilation * (kernel - 1) - 1) // stride + 1
    stage = c.stage(int(c.numbers(0, 22)))
    step = p.Convolution("c", ("x",), "y", "w", "b", (stride, stride), pads, (dilation, dilation), groups, stage)
    return step, (IMAGE,), (8, height, width), arrays


def linear(c: Case) -> Made:
    bits = c.pick(127, 2**15 - 130)
    arrays = {"w": c.numbers(-bits, bits, 20, 6), "b": c.numbers(-9999, 9999, 6)}
    return p.Linear("m", ("x",), "y", "w", "b", c.stage(int(c.numbers(0, 22)))), ((5, 20),), (5, 6), arrays


def product(c: Case) -> Made:
    return p.Product("m", ("x", "z"), "y", c.stage(9)), ((2, 5, 7), (2, 7, 6)), (2, 5, 6), {}


def add(c: Case) -> Made:
    lefts = c.numbers(0, 4, 2).tolist()
    rescales = tuple(Rescale((1,), (-left,), "half_up") for left in lefts)
    if c.pick(True, False):
        step = p.Add("a", ("x", "z"), "y", rescales, 0, "", c.stage(c.pick(0, 2, 5)))
        return step, (IMAGE, IMAGE), IMAGE, {}
    step = p.Add("a", ("x",), "y", rescales, c.pick(0, 20), "k", c.stage(c.pick(3, 22)))
    return step, (IMAGE,), IMAGE, {"k": c.numbers(-100, 100, 4, 1, 1)}


def multiply(c: Case) -> Made:
    if c.pick(True, False):
        return p.Multiply("a", ("x", "z"), "y", "", c.stage()), (IMAGE, IMAGE), IMAGE, {}
    return p.Multiply("a", ("x",), "y", "k", c.stage()), (IMAGE,), IMAGE, {"k": c.numbers(-100, 100, 4, 1, 1)}


def convert(c: Case) -> Made:
    return p.Convert("a", ("x",), "y", c.stage(int(c.numbers(-2, 5)))), (IMAGE,), IMAGE, {}


def concatenate(c: Case) -> Made:
    return p.Concatenate("a", ("x", "z"), "y", 2), (IMAGE, IMAGE), (4, 18, 8), {}


def max_pool(c: Case) -> Made:
    return p.MaxPool("a", ("x",), "y", (3, 2), (2, 1), (1, 0, 1, 1)), (IMAGE,), (4, 5, 8), {}


def sum_pool(c: Case) -> Made:
    return p.SumPool("a", ("x",), "y", (3, 2), (2, 1), (1, 0, 1, 1), c.stage(3)), (IMAGE,), (4, 5, 8), {}


def resize_nearest(c: Case) -> Made:
    rows, columns = c.numbers(0, 8, 12).tolist(), c.numbers(0, 7, 10).tolist()
    return p.ResizeNearest("a", ("x",), "y", tuple(rows), tuple(columns)), (IMAGE,), (4, 12, 10), {}


def resize_bilinear(c: Case) -> Made:
    arrays = {"r": c.numbers(0, 256, 12, 9), "c": c.numbers(0, 256, 10, 8)}
    return p.ResizeBilinear("a", ("x",), "y", "r", "c", c.stage(18)), (IMAGE,), (4, 12, 10), arrays


def lookup(c: Case) -> Made:
    tables = c.pick(1, 4)
    codes_in = c.fmt.highest - c.fmt.lowest + 1
    arrays = {"t": c.numbers(c.out.lowest, c.out.highest, tables, codes_in)}
    return p.Lookup("a", ("x",), "y", "t", 1), (IMAGE,), IMAGE, arrays


def softmax(c: Case) -> Made:
    left = c.pick(0, 6, 10)
    return p.Softmax("a", ("x",), "y", 2, (left,), 70 << left, c.stage(SOFTMAX_BITS - 7)), ((5, 20),), (5, 20), {}


def layer_norm(c: Case) -> Made:
    arrays = {"g": c.numbers(-(2**15), 2**15, 20), "o": c.numbers(-(2**30), 2**30, 20)}
    left = c.pick((), tuple(c.numbers(0, 6, 20).tolist()))
    step = p.LayerNorm("a", ("x",), "y", left, "g", "o", int(c.numbers(0, 9999)), c.stage(NORM_BITS + 8))
    return step, ((5, 20),), (5, 20), arrays


def reshape(c: Case) -> Made:
    return p.Reshape("a", ("x",), "y", (9, 32)), (IMAGE,), (9, 32), {}


def transpose(c: Case) -> Made:
    return p.Transpose("a", ("x",), "y", (0, 3, 1, 2)), (IMAGE,), (8, 4, 9), {}


def cut(c: Case) -> Made:
    return p.Slice("a", ("x",), "y", 2, 1, 8, 3), (IMAGE,), (4, 3, 8), {}


def pad(c: Case) -> Made:
    return p.Pad("a", ("x",), "y", 3, 2, 1), (IMAGE,), (4, 9, 11), {}


MAKERS: dict[type[Step], Callable[[Case], Made]] = {
    p.Convolution: convolution,
    p.Linear: linear,
    p.Product: product,
    p.Add: add,
    p.Multiply: multiply,
    p.Convert: convert,
    p.Concatenate: concatenate,
    p.MaxPool: max_pool,
    p.SumPool: sum_pool,
    p.ResizeNearest: resize_nearest,
    p.ResizeBilinear: resize_bilinear,
    p.Lookup: lookup,
    p.Softmax: softmax,
    p.LayerNorm: layer_norm,
    p.Reshape: reshape,
    p.Transpose: transpose,
    p.Slice: cut,
    p.Pad: pad,
}
KEEPS_THE_FORMAT = (p.Concatenate, p.MaxPool, p.ResizeNearest, p.Reshape, p.Transpose, p.Slice, p.Pad)


def test_no_kind_of_step_is_missing() -> None:
    """All but the host's, which is no part of the arithmetic."""
    assert set(MAKERS) == set(p.STEPS.values()) - {p.Host}


@pytest.mark.parametrize("kind", MAKERS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(FORMATS),
    st.sampled_from(FORMATS),
    st.integers(-5, 5),
    st.sampled_from([("forbid", 62), ("wrap", 24), ("wrap", 48), ("saturate", 20)]),
)
def test_all_three_agree(
    kind: type[Step], seed: int, fmt: Format, out: Format, zero: int, accumulator: tuple[Any, int]
) -> None:
    zero = abs(zero) if not fmt.signed else zero
    same = kind in KEEPS_THE_FORMAT
    case = Case(np.random.default_rng(seed), fmt, fmt if same else out, zero)
    step, reads, gives, arrays = MAKERS[kind](case)
    tensors = {name: Tensor(name, shape, fmt, 1.0, zero) for name, shape in zip(("x", "z"), reads, strict=False)}
    tensors["y"] = Tensor("y", gives, case.out, 1.0, zero if same else case.zero_out)
    overflow, bits = accumulator
    program = Program("test", step.inputs, ("y",), tensors, (step,), arrays, bits, overflow)
    inputs = codes(program, 2, seed)
    wanted = reference.run(program, inputs)["y"]
    assert wanted.shape == (2, *gives)
    assert wanted.min() >= case.out.lowest
    assert wanted.max() <= case.out.highest
    assert np.array_equal(Fast(program).run(inputs)["y"], wanted)
    assert np.array_equal(blas.run(program, inputs)["y"], wanted)
