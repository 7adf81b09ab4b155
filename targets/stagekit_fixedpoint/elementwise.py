"""Rules for sums, products and clamps of stored tensors and constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import factors
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.builder import Builder, Rule
from stagekit_fixedpoint.program import Step, Tensor
from stagekit_fixedpoint.tables import TABLE_ENTRIES, tabulated
from stagekit_fixedpoint.values import Constant, Pending, Reals, Refused, Stored, Tabulated, Value

ADD_LEFT = 20
"""Bits by which devices with multipliers shift both terms of a sum to the left (TFLite's ``left_shift``)."""


def arithmetic_rule(operate: Callable[[Any, Any], Any]) -> Rule:
    """Add, Sub, Mul and Div on whatever stands on both sides."""

    def rule(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
        left, right = builder.value(node, 0), builder.value(node, 1)
        op = node.op_type
        two = isinstance(left, Stored) and isinstance(right, Stored)
        for index, side in enumerate((left, right)):
            if isinstance(side, Stored):
                builder.stored(node, index, exponents=two and op in ("Add", "Sub"))
        if isinstance(left, Constant) and isinstance(right, Constant):
            return (Constant(operate(left.real, right.real)),)
        for pending, constant in ((left, right), (right, left)):
            if isinstance(pending, Pending) and isinstance(constant, Constant):
                return (_folded(op, pending, constant, first=pending is left),)
        if isinstance(left, Pending) or isinstance(right, Pending):
            raise Refused("one of its inputs is not quantised; calibrate the graph for this profile")
        if op in ("Add", "Sub") and isinstance(left, Stored) and isinstance(right, Stored):
            return (_sum(builder, node, left.tensor, right.tensor),)
        if op == "Mul" and isinstance(left, Stored) and isinstance(right, Stored) and left.tensor != right.tensor:
            return (_product(builder, node, left.tensor, right.tensor),)
        for stored, constant in ((left, right), (right, left)):
            if isinstance(stored, Stored) and isinstance(constant, Constant) and constant.real.size > 1 and op != "Div":
                sign = -1 if op == "Sub" else 1
                if sign < 0 and stored is right:
                    raise Refused("a constant less a tensor is not computed")
                return (_with_constant(builder, node, stored.tensor, constant, sign),)
        return (tabulated(left, right, operate, op),)

    return rule


def _folded(op: str, value: Pending, constant: Constant, first: bool) -> Pending:
    """A constant behind an accumulator: a bias, or a change of its unit."""
    real = constant.real.astype(np.float64)
    flat = real.reshape(-1)
    scalar = bool(np.all(flat == flat[0]))
    per_channel = (
        flat.size
        == value.shape[value.axis - (value.axis > 0)]
        == real.shape[value.axis if value.axis < 0 else -3 if real.ndim >= 3 else 0]
        if real.ndim
        else False
    )
    if (value.low, value.high) != (-inf, inf):
        raise Refused("it follows a clamp without a quantisation between them")
    if op in ("Add", "Sub") and first and value.bias is not None and (per_channel or scalar):
        return replace(value, bias=value.bias + (flat[:1] if scalar else flat) * (-1 if op == "Sub" else 1))
    if op == "Add" and value.bias is not None and (per_channel or scalar):
        return replace(value, bias=value.bias + (flat[:1] if scalar else flat))
    if op in ("Mul", "Div") and scalar and (first or op == "Mul"):
        factor = float(1 / flat[0] if op == "Div" else flat[0])
        bias = None if value.bias is None else value.bias * factor
        if factor > 0:
            return replace(value, unit=value.unit * factor, bias=bias, multiplier=True)
    raise Refused("this constant cannot be folded into the operation before it; quantise the tensor between them")


def _sum(builder: Builder, node: ir.Node, left: Tensor, right: Tensor) -> Pending:
    builder.need("add")
    if len(left.shape) != len(right.shape):
        raise Refused(f"the shapes {left.shape} and {right.shape} are not added: one has more axes")
    if node.op_type == "Sub":
        return _pending_sum(builder, str(node.name), (left, right), (left.scales, -right.scales), "")
    return _pending_sum(builder, str(node.name), (left, right), (left.scales, right.scales), "")


def _pending_sum(
    builder: Builder, name: str, terms: tuple[Tensor, ...], scales: tuple[Reals, ...], constant: str
) -> Pending:
    """Power-of-two devices align both terms to the finer scale; the others do as TFLite does.

    Args:
        scales: of the terms, one or one for each channel; negative ones subtract.
    """
    shifts = builder.arithmetic.style == "shift"
    sizes = [np.abs(s) for s in scales]
    ends = [float(end) for s in sizes for end in (s.min(), s.max())]
    unit = min(ends) if shifts else 2 * max(ends) / 2.0**ADD_LEFT
    left = 0 if shifts else ADD_LEFT
    plain = [factors.rescale(builder.arithmetic, s / (unit * 2.0**left)) for s in sizes]
    rescales = tuple(
        r if s[0] > 0 else replace(r, multiplier=tuple(-m for m in r.multiplier))
        for r, s in zip(plain, scales, strict=True)
    )
    inputs = tuple(t.name for t in terms)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        return p.Add(name, inputs, output, rescales, left, constant, requantize)

    return Pending(name, np.broadcast_shapes(*(t.shape for t in terms)), finish, np.array([unit]))


def _product(builder: Builder, node: ir.Node, left: Tensor, right: Tensor) -> Pending:
    builder.need("mul")
    shape = np.broadcast_shapes(left.shape, right.shape)
    name = str(node.name)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        return p.Multiply(name, (left.name, right.name), output, "", requantize)

    return Pending(name, shape, finish, np.array([left.scale * right.scale]))


def _with_constant(builder: Builder, node: ir.Node, x: Tensor, constant: Constant, sign: int) -> Pending:
    """A stored tensor and a constant one: quantised by the graph, or else here to the activations' width."""
    multiply = node.op_type == "Mul"
    builder.need("mul" if multiply else "add")
    stored, scale = constant.stored, constant.scale
    if stored is None or scale is None or scale.size > 1:
        stored, scale = quantised_constant(builder, constant.real)
    name = str(node.name)
    key = builder.array(f"{name}/constant", sign * stored)
    if np.broadcast_shapes((1, *x.shape), stored.shape)[1:] != x.shape:
        raise Refused(f"a constant of shape {stored.shape} does not fit {x.shape}")
    if not multiply:
        return _pending_sum(builder, name, (x,), (x.scales, scale), key)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        return p.Multiply(name, (x.name,), output, key, requantize)

    return Pending(name, x.shape, finish, np.array([x.scale * float(scale[0])]))


def quantised_constant(builder: Builder, real: Reals) -> tuple[Ints, Reals]:
    """Integers and scale for a constant operand, symmetric, on the device's grid of scales."""
    bits = builder.arithmetic.activation_bits
    largest = float(np.abs(real).max())
    scale = largest / (2 ** (bits - 1) - 1) if largest else 1.0
    if builder.arithmetic.scales == "power_of_two":
        scale = 2.0 ** np.ceil(np.log2(scale))
    return np.rint(real / scale).astype(np.int64), np.array([scale])


def prelu(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """A constant slope below zero, one or one for each channel: a table, or several steps where that were too large."""
    value, slope = builder.value(node, 0), builder.constant(node, 1)
    assert slope is not None
    if isinstance(value, Stored) and slope.real.size * 2**value.tensor.format.bits > TABLE_ENTRIES:
        return (_two_slopes(builder, node, builder.stored(node), slope.real),)
    builder.need("table")
    return (tabulated(value, slope, lambda x, s: np.where(x < 0, s * x, x), "PRelu"),)


def _two_slopes(builder: Builder, node: ir.Node, x: Tensor, slope: Reals) -> Pending:
    """What is above zero, and what is below it times the slope.

    One of the two is zero everywhere, so that their sum rounds nothing a second time.
    """
    builder.need("add")
    builder.need("mul")
    name, (stored, scale) = str(node.name), quantised_constant(builder, slope)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        out, arithmetic = builder.tensors[output], builder.arithmetic
        above, scaled, below = (
            builder.like(form, f"{output}/{side}", x.shape)
            for form, side in ((out, "above"), (out, "scaled"), (x, "below"))
        )
        key = builder.array(f"{name}/slope", stored)
        stages = (
            factors.requantize(arithmetic, x.scales, out, low=0.0),
            factors.requantize(arithmetic, x.scales, x, high=0.0),
            factors.requantize(arithmetic, x.scale * scale, out),
        )
        builder.emit(p.Convert(above.name, (x.name,), above.name, stages[0]))
        builder.emit(p.Convert(below.name, (x.name,), below.name, stages[1]))
        builder.emit(p.Multiply(scaled.name, (below.name,), scaled.name, key, stages[2]))
        both = _pending_sum(builder, name, (above, scaled), (out.scales, out.scales), "")
        whole = factors.requantize(arithmetic, both.unit, out)
        return both.finish(output, replace(whole, low=requantize.low, high=requantize.high), bias)

    return Pending(name, x.shape, finish, np.array([x.scale]))


def clip(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Relu, Clip, Min and Max with constants: folded into what is before them, or a conversion of their own."""
    low, high = _limits(builder, node)
    value = builder.value(node, 0)
    if isinstance(value, Pending):
        return (replace(value, low=max(value.low, low), high=max(min(value.high, high), low)),)
    if isinstance(value, Stored):
        x, name = builder.stored(node), str(node.name)

        def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
            return p.Convert(name, (x.name,), output, requantize)

        return (Pending(name, x.shape, finish, np.array([x.scale]), low=low, high=high),)
    if isinstance(value, Tabulated):
        return (replace(value, levels=np.clip(value.levels, low, high), factor=None),)
    raise Refused("its input is not quantised; calibrate the graph for this profile")


def _limits(builder: Builder, node: ir.Node) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, inf
    if "min" in node.attributes or "max" in node.attributes:
        return node.attributes.get_float("min", -inf) or 0.0, node.attributes.get_float("max", inf) or 0.0
    limits = [builder.constant(node, i) for i in (1, 2)]
    low, high = (d if c is None else float(c.real.reshape(())) for c, d in zip(limits, (-inf, inf), strict=True))
    return low, high
