"""Whether this processor's 8-bit kernels do what :mod:`stagekit_fixedpoint.kernels` proves of exact ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale
from stagekit_fixedpoint.program import Array, Program, Step, Tensor
from stagekit_fixedpoint.segments import Segment


@cache
def self_test() -> str:
    """Runs this processor's kernels against the specification once a process; returns what failed, or nothing.

    Dense 1x1 and 3x3, strided, grouped and depthwise convolutions and a matrix product, on extreme values (where
    16-bit intermediate sums would saturate) and on random ones with many ties.
    """
    random = np.random.default_rng(0)
    for rounding in ("half_up", "half_even", "floor"):
        for outs, ins, kernel, groups in ((16, 64, 1, 1), (24, 40, 3, 1), (32, 1, 3, 32), (8, 4, 3, 2), (5, 300, 0, 1)):
            for extreme in (True, False):
                program = _probe(random, rounding, outs, ins, kernel, groups, extreme)
                x = program.tensors["x"]
                shape = (2, *x.shape)
                codes = random.choice([-128, 127], shape) if extreme else random.integers(-128, 128, shape)
                wanted = reference.run(program, {"x": codes})["y"]
                found = Segment(program, program.steps, ("y",), 1).run({"x": codes.astype(np.int8)})["y"]
                if not np.array_equal(found, wanted):
                    return f"a {kernel}x{kernel} kernel with {groups} groups, {rounding}"
    return ""


def _probe(
    random: np.random.Generator, rounding: Any, outs: int, ins: int, kernel: int, groups: int, extreme: bool
) -> Program:
    int8 = Format(8)
    terms = ins * max(kernel, 1) ** 2
    shift = min(int(np.ceil(np.log2(terms))) + 6, 14) if extreme else 5
    stage = Requantize(Rescale((1,), (shift,), rounding), int8, 0, -128, 127)
    draw = (
        (lambda shape: random.choice([-128, 127], shape)) if extreme else (lambda shape: random.integers(-9, 10, shape))
    )
    bias: Array = random.integers(-(2**shift), 2**shift, outs)
    step: Step
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    if kernel:
        weight = draw((outs, ins, kernel, kernel))
        step = p.Convolution("probe", ("x",), "y", "w", "b", (1, 1), (0, 0, 0, 0), (1, 1), groups, stage)
        shapes = (ins * groups, 9, 8), (outs, 10 - kernel, 9 - kernel)
    else:
        weight = draw((ins, outs))
        step = p.Linear("probe", ("x",), "y", "w", "b", stage)
        shapes = (7, ins), (7, outs)
    tensors = {n: Tensor(n, s, int8, 1.0) for n, s in zip(("x", "y"), shapes, strict=True)}
    return Program("probe", ("x",), ("y",), tensors, (step,), {"w": np.asarray(weight), "b": bias})
