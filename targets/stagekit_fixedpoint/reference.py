"""The reference interpreter: plain numpy on int64, step by step, the specification in executable form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stagekit_fixedpoint import host, transformer
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Format, Ints, saturate, wrap
from stagekit_fixedpoint.program import Program, Step, Tensor

Values = dict[str, Ints]


def run(program: Program, inputs: Mapping[str, Ints], keep: bool = False) -> Values:
    """The program's outputs by name, or with ``keep`` every tensor.

    Args:
        inputs: stored integers by tensor name, batch first.
    """
    values = {name: np.asarray(inputs[name], np.int64) for name in program.inputs}
    for step in program.steps:
        values[step.output] = evaluate(program, step, values)
    return values if keep else {name: values[name] for name in program.outputs}


def evaluate(program: Program, step: Step, values: Mapping[str, Ints]) -> Ints:
    """One step's output."""
    return RULES[type(step)](program, step, [values[name] for name in step.inputs])


def centred(program: Program, step: Step, arrays: list[Ints]) -> list[Ints]:
    """The inputs less their zero points."""
    return [x - program.tensors[name].zero_point for name, x in zip(step.inputs, arrays, strict=True)]


def accumulated(program: Program, total: Ints) -> Ints:
    """A finished sum as the device's accumulator holds it."""
    fmt = Format(program.accumulator_bits)
    if program.accumulator_overflow == "wrap":
        return wrap(total, fmt)
    return saturate(total, fmt) if program.accumulator_overflow == "saturate" else total


def windows(x: Ints, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]) -> Ints:
    """(batch, channels, out h, out w, kh, kw): what each output place sees of an already padded image."""
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(2, 3))
    return np.asarray(view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]])


def padded(x: Ints, pads: tuple[int, int, int, int], value: int = 0) -> Ints:
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def convolution(program: Program, step: p.Convolution, arrays: list[Ints]) -> Ints:
    weight, bias = program.arrays[step.weight], program.arrays[step.bias]
    (x,) = centred(program, step, arrays)
    seen = windows(padded(x, step.pads), (weight.shape[2], weight.shape[3]), step.strides, step.dilations)
    batch, _, height, width = seen.shape[:4]
    rows = seen.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, step.groups, -1)
    total = weight.reshape(step.groups, weight.shape[0] // step.groups, -1) @ rows.transpose(1, 2, 0)
    total = total.reshape(-1, batch, height, width).swapaxes(0, 1) + bias[:, None, None]
    return step.requantize(accumulated(program, total), axis=1)


def along(tensor: Tensor, values: tuple[int, ...]) -> Ints:
    """A number for each index along a tensor's axis of exponents, in the shape that its array takes them in."""
    shape = [1] * (len(tensor.shape) + 1)
    shape[tensor.axis if len(values) > 1 else -1] = len(values)
    return np.array(values, np.int64).reshape(shape)


def linear(program: Program, step: p.Linear, arrays: list[Ints]) -> Ints:
    (x,) = centred(program, step, arrays)
    return step.requantize(accumulated(program, x @ program.arrays[step.weight] + program.arrays[step.bias]))


def product(program: Program, step: p.Product, arrays: list[Ints]) -> Ints:
    left, right = centred(program, step, arrays)
    return step.requantize(accumulated(program, left @ right), program.tensors[step.output].axis)


def add(program: Program, step: p.Add, arrays: list[Ints]) -> Ints:
    terms = centred(program, step, arrays) + ([program.arrays[step.constant]] if step.constant else [])
    total = sum((r(x << step.left) for r, x in zip(step.rescales, terms, strict=True)), np.int64(0))
    return step.requantize(total)


def multiply(program: Program, step: p.Multiply, arrays: list[Ints]) -> Ints:
    factors = centred(program, step, arrays) + ([program.arrays[step.constant]] if step.constant else [])
    return step.requantize(factors[0] * factors[1])


def convert(program: Program, step: p.Convert, arrays: list[Ints]) -> Ints:
    return step.requantize(centred(program, step, arrays)[0])


def max_pool(program: Program, step: p.MaxPool, arrays: list[Ints]) -> Ints:
    x = padded(arrays[0], step.pads, program.tensors[step.inputs[0]].format.lowest)
    return np.asarray(windows(x, step.kernel, step.strides, (1, 1)).max(axis=(4, 5)))


def sum_pool(program: Program, step: p.SumPool, arrays: list[Ints]) -> Ints:
    x = padded(centred(program, step, arrays)[0], step.pads)
    return step.requantize(windows(x, step.kernel, step.strides, (1, 1)).sum(axis=(4, 5)))


def resize_nearest(program: Program, step: p.ResizeNearest, arrays: list[Ints]) -> Ints:
    return arrays[0][:, :, list(step.rows)][:, :, :, list(step.columns)]


def resize_bilinear(program: Program, step: p.ResizeBilinear, arrays: list[Ints]) -> Ints:
    (x,) = centred(program, step, arrays)
    return step.requantize(program.arrays[step.rows] @ x @ program.arrays[step.columns].T)


def lookup(program: Program, step: p.Lookup, arrays: list[Ints]) -> Ints:
    table, index = program.arrays[step.table], arrays[0] - program.tensors[step.inputs[0]].format.lowest
    if len(table) == 1:
        return np.asarray(table[0][index])
    rows = np.arange(len(table)).reshape([-1 if i == step.axis else 1 for i in range(index.ndim)])
    return np.asarray(table[rows, index])


def softmax(program: Program, step: p.Softmax, arrays: list[Ints]) -> Ints:
    left = along(program.tensors[step.inputs[0]], step.left)
    return transformer.softmax(arrays[0], step.axis, left, step.unit, step.requantize)


def normalize(program: Program, step: p.LayerNorm, arrays: list[Ints]) -> Ints:
    x = arrays[0] << np.array(step.left or (0,))
    return transformer.layer_norm(
        x, program.arrays[step.gain], program.arrays[step.offset], step.epsilon, step.requantize
    )


def pad(program: Program, step: p.Pad, arrays: list[Ints]) -> Ints:
    widths = [(step.before, step.after) if axis == step.axis else (0, 0) for axis in range(arrays[0].ndim)]
    return np.pad(arrays[0], widths, constant_values=program.tensors[step.inputs[0]].zero_point)


def cut(program: Program, step: p.Slice, arrays: list[Ints]) -> Ints:
    picked: list[slice] = [slice(None)] * arrays[0].ndim
    picked[step.axis] = slice(step.start, step.stop, step.stride)
    return arrays[0][tuple(picked)]


RULES: Mapping[type[Step], Callable[[Program, Any, list[Ints]], Ints]] = {
    p.Convolution: convolution,
    p.Linear: linear,
    p.Product: product,
    p.Add: add,
    p.Multiply: multiply,
    p.Convert: convert,
    p.Concatenate: lambda _, step, arrays: np.concatenate(arrays, axis=step.axis),
    p.MaxPool: max_pool,
    p.SumPool: sum_pool,
    p.ResizeNearest: resize_nearest,
    p.ResizeBilinear: resize_bilinear,
    p.Lookup: lookup,
    p.Softmax: softmax,
    p.LayerNorm: normalize,
    p.Reshape: lambda _, step, arrays: arrays[0].reshape(len(arrays[0]), *step.shape),
    p.Transpose: lambda _, step, arrays: arrays[0].transpose(step.order),
    p.Slice: cut,
    p.Pad: pad,
    p.Host: host.compute,
}
"""What each kind of step computes."""
