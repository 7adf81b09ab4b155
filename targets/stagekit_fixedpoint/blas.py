"""Sums of products in float64: exact while every partial sum stays below 2**53, and as fast as BLAS is.

It shares no code with the reference interpreter's sums or, on power-of-two devices, with its rounding, and so
is the independent third opinion on a program; :func:`run` computes a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stagekit_fixedpoint import bounds, reference
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Requantize, Rescale, dtype_of
from stagekit_fixedpoint.program import Array, Program, Step

Floats = npt.NDArray[np.float64]

EXACT = 2**53
"""Integers up to here are exact in float64, in any order of summation."""


def proven(program: Program, step: Step) -> str:
    """Why float64 sums of this step are exact; empty when they need not be."""
    if isinstance(step, p.Add):
        exact = not step.constant and not step.left and all(_shifts(r) for r in step.rescales)
        return "float64 holds aligned sums of two stored values" if exact else ""
    limit = bounds.accumulator(program, step)
    if limit is None or not isinstance(step, p.Convolution | p.Linear | p.Product):
        return ""
    x = program.tensors[step.inputs[0]]
    widest = max(abs(v) for v in bounds.ends(x))
    if isinstance(step, p.Product):
        reach = limit.magnitude
    else:
        weight = np.abs(program.arrays[step.weight])
        terms = weight.reshape(len(weight), -1).sum(axis=1) if isinstance(step, p.Convolution) else weight.sum(axis=0)
        reach = int(terms.max()) * widest + int(np.abs(program.arrays[step.bias]).max())
    return f"sums stay below 2**{reach.bit_length()}, float64 is exact to 2**53" if reach < EXACT // 4 else ""


def prepare(program: Program, step: Step) -> Callable[[list[Array]], Array]:
    """The step as a function of its stored inputs, with the weights already in floats."""
    zeros = [program.tensors[n].zero_point for n in step.inputs]

    def centred(arrays: list[Array]) -> list[Floats]:
        return [x.astype(np.float64) - z if z else x.astype(np.float64) for x, z in zip(arrays, zeros, strict=True)]

    if isinstance(step, p.Convolution):
        total = _convolution(program, step)
        return lambda arrays: requantized(program, total(centred(arrays)[0]), step.requantize, 1)
    if isinstance(step, p.Linear):
        weight, bias = (program.arrays[n].astype(np.float64) for n in (step.weight, step.bias))
        return lambda arrays: requantized(program, centred(arrays)[0] @ weight + bias, step.requantize, -1)
    if isinstance(step, p.Add):
        factors = [np.array([float(f) for f in r.factors()]) for r in step.rescales]

        def add(arrays: list[Array]) -> Array:
            left, right = centred(arrays)
            return requantized(None, left * factors[0] + right * factors[1], step.requantize, -1)

        return add
    assert isinstance(step, p.Product)

    def product(arrays: list[Array]) -> Array:
        left, right = centred(arrays)
        return requantized(program, left @ right, step.requantize, program.tensors[step.output].axis)

    return product


def run(program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The program's outputs with every sum of products in float64; other steps as in the reference."""
    values: dict[str, Array] = dict(inputs)
    for step in program.steps:
        arrays = [values[name] for name in step.inputs]
        if proven(program, step):
            values[step.output] = prepare(program, step)(arrays)
        else:
            wide = {name: a.astype(np.int64) for name, a in zip(step.inputs, arrays, strict=True)}
            values[step.output] = reference.evaluate(program, step, wide)
    return {name: values[name] for name in program.outputs}


def _shifts(rescale: Rescale) -> bool:
    return (
        rescale.style != "double"
        and set(rescale.multiplier) == {1}
        and -24 <= min(rescale.shift) <= max(rescale.shift) <= 0
    )


def _convolution(program: Program, step: p.Convolution) -> Callable[[Floats], Floats]:
    """Channels last inside: one matrix product a group over gathered windows, none gathered for 1x1."""
    weight = program.arrays[step.weight].astype(np.float64)
    outs, per_group, kh, kw = weight.shape
    flat = weight.reshape(outs, per_group, kh * kw)
    each = outs // step.groups
    matrices = [flat[g * each : (g + 1) * each].transpose(2, 1, 0).reshape(-1, each) for g in range(step.groups)]
    bias = program.arrays[step.bias].astype(np.float64)

    def total(x: Floats) -> Floats:
        top, left, bottom, right = step.pads
        image = np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (top, bottom), (left, right), (0, 0)))
        views = taps(image, (kh, kw), step.strides, step.dilations)
        if per_group == 1 and outs == step.groups:
            result = views[0] * flat[:, 0, 0]
            for index, tap in enumerate(views[1:], 1):
                result += tap * flat[:, 0, index]
        else:
            result = np.empty((*views[0].shape[:3], outs))
            for g, matrix in enumerate(matrices):
                parts = [t[..., g * per_group : (g + 1) * per_group] for t in views]
                columns = np.concatenate(parts, axis=-1) if len(parts) > 1 else np.ascontiguousarray(parts[0])
                product = columns.reshape(-1, columns.shape[-1]) @ matrix
                result[..., g * each : (g + 1) * each] = product.reshape(*views[0].shape[:3], each)
        result += bias
        return result.transpose(0, 3, 1, 2)

    return total


def taps(
    image: Array, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int] = (1, 1)
) -> list[Array]:
    """For each place of the kernel, what it sees of a padded image: (batch, out h, out w, channels) views."""
    (sh, sw), (dh, dw), (kh, kw) = strides, dilations, kernel
    height = (image.shape[1] - dh * (kh - 1) - 1) // sh + 1
    width = (image.shape[2] - dw * (kw - 1) - 1) // sw + 1
    return [
        image[:, i * dh : i * dh + sh * (height - 1) + 1 : sh, j * dw : j * dw + sw * (width - 1) + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]


def requantized(program: Program | None, total: Floats, stage: Requantize, axis: int) -> Array:
    """From exact float64 sums to stored integers; shifts in floats, multipliers in int64.

    Args:
        program: whose accumulator holds the sums, or ``None`` for sums that no accumulator holds (an Add's).
    """
    out = dtype_of(stage.format)
    plain = (
        program is None
        or program.accumulator_overflow == "forbid"
        or float(np.abs(total).max(initial=0)) < 2.0 ** (program.accumulator_bits - 1)
    )
    if not plain or stage.rescale.style == "double" or set(stage.rescale.multiplier) != {1}:
        wide = total.astype(np.int64)
        return stage(wide if program is None else reference.accumulated(program, wide), axis).astype(out)
    value = _rounded(total, stage.rescale, axis)
    if stage.zero_point:
        value += stage.zero_point
    if stage.overflow == "wrap":
        value -= stage.format.lowest
        value -= np.floor(value * 2.0**-stage.format.bits) * 2.0**stage.format.bits
        value += stage.format.lowest
    low, high = max(stage.low, stage.format.lowest), min(stage.high, stage.format.highest)
    return np.clip(value, low, high, out=value).astype(out)


def _rounded(total: Floats, rescale: Rescale, axis: int) -> Floats:
    """``total * 2**-shift``, rounded, in a new array."""
    factors: Any = np.ldexp(1.0, -np.asarray(rescale.shift))
    if factors.size > 1:
        shape = [1] * total.ndim
        shape[axis] = factors.size
        factors = factors.reshape(shape)
    value: Floats = total * factors
    if rescale.rounding == "half_away":
        return np.asarray(np.copysign(np.floor(np.abs(value) + 0.5), value))
    if rescale.rounding == "half_up":
        value += 0.5
    function = {"toward_zero": np.trunc, "half_even": np.rint}.get(rescale.rounding, np.floor)
    function(value, out=value)
    return value
