"""Rules for QuantizeLinear and DequantizeLinear: where integers get their meaning."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, log2
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.quant.exponents import LARGEST_EXPONENT
from stagekit_fixedpoint.arithmetic import Format, is_power_of_two
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.program import Tensor
from stagekit_fixedpoint.storing import store
from stagekit_fixedpoint.values import Constant, Refused, Stored, Value

TYPES = {"INT8": Format(8), "UINT8": Format(8, False), "INT16": Format(16), "UINT16": Format(16, False)}


def quantize(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Stores what comes in; a float input of the graph becomes an input of the program."""
    source = node.inputs[0]
    assert source is not None
    form = _form(builder, node)
    name = str(node.outputs[0].name)
    if str(source.name) in builder.float_inputs and str(source.name) not in builder.values:
        _check(builder, form)
        tensor = builder.like(form, str(source.name), builder.float_inputs[str(source.name)])
        builder.inputs.append(tensor.name)
        builder.values[str(source.name)] = Stored(tensor)
        return (Stored(tensor),)
    value = builder.value(node, 0)
    if isinstance(value, Constant):
        codes = np.rint(value.real / form.scale) + form.zero_point
        stored = np.clip(codes, form.format.lowest, form.format.highest).astype(np.int64) - form.zero_point
        return (Constant(stored * form.scale, stored, np.array([form.scale])),)
    _check(builder, form)
    return (store(builder, value, name, form),)


def dequantize(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Gives integers their scale; for what QuantizeLinear stored nothing is left to do."""
    value = builder.value(node, 0)
    if isinstance(value, Constant):
        return (value if value.stored is not None else _weights(builder, node, value),)
    if not isinstance(value, Stored):
        raise Refused("it reads something that is not stored as integers")
    form, have = replace(_form(builder, node), format=value.tensor.format), value.tensor
    if have.name in builder.inputs and (have.scale, have.zero_point) == (1.0, 0):
        _check(builder, form)
        builder.tensors[have.name] = replace(form, name=have.name, shape=have.shape)
        return (Stored(builder.tensors[have.name]),)
    if form.form != have.form:
        raise Refused("its scale or zero point is not that of the QuantizeLinear before it")
    return (value,)


def _weights(builder: Builder, node: ir.Node, value: Constant) -> Constant:
    scale = builder.constant(node, 1)
    zero = builder.constant(node, 2)
    assert scale is not None
    factors = np.asarray(scale.real, np.float64).reshape(-1)
    for factor in factors:
        _check_scale(builder, float(factor), str(node.inputs[0].name if node.inputs[0] else ""))
    axis = node.attributes.get_int("axis", 1) if factors.size > 1 else 0
    shape = [-1 if i == axis % value.real.ndim else 1 for i in range(value.real.ndim)] if factors.size > 1 else []
    offsets = np.zeros(1, np.int64) if zero is None else zero.real.reshape(-1)
    stored = value.real - (offsets.reshape(shape) if shape and offsets.size > 1 else offsets.reshape(-1)[0])
    real = stored * (factors.reshape(shape) if shape else factors[0])
    return Constant(real, stored.astype(np.int64), factors, axis)


def _form(builder: Builder, node: ir.Node) -> Tensor:
    """What the node's integers stand for, as a tensor without name and shape."""
    scale, zero = builder.constant(node, 1), builder.constant(node, 2)
    assert scale is not None
    real = np.asarray(scale.real, np.float64).reshape(-1)
    kind = "UINT8"
    if zero is not None:
        value = node.inputs[2]
        kind = _type_name(value, node)
    elif node.attributes.get_int("output_dtype", 0):
        kind = ir.DataType(node.attributes.get_int("output_dtype", 0)).name
    if kind not in TYPES:
        raise Refused(f"integers of type {kind} are not stored by any profile")
    zeros = np.zeros(1, np.int64) if zero is None else zero.real.reshape(-1)
    form = Tensor("", (), TYPES[kind], float(real.min()), int(zeros[0]))
    if real.size == 1:
        return form
    if not builder.arithmetic.channel_exponents or zeros.any():
        raise Refused(f"{builder.device.name} has one scale for all channels of an activation, and this one has more")
    for factor in real:
        _check_scale(builder, float(factor), "")
    exponents = tuple(int(e) for e in np.log2(real / form.scale))
    if max(exponents) > LARGEST_EXPONENT:
        raise Refused(f"the scales of its channels differ by 2**{max(exponents)}; the most is 2**{LARGEST_EXPONENT}")
    axis = node.attributes.get_int("axis", 1)
    rank = len(node.inputs[0].shape or ()) if node.inputs[0] is not None else 0
    return replace(form, exponents=exponents, axis=-1 if axis in (-1, rank - 1) else axis)


def _type_name(value: Any, node: ir.Node) -> str:
    for candidate in (value, node.inputs[0] if node.op_type == "DequantizeLinear" else None):
        if candidate is not None and candidate.const_value is not None:
            return str(candidate.const_value.dtype.name)
        if candidate is not None and candidate.dtype is not None:
            return str(candidate.dtype.name)
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant":
        return str(producer.attributes["value"].as_tensor().dtype.name)
    return "UNKNOWN"


def _check(builder: Builder, form: Tensor) -> None:
    """Raises Refused unless the device stores activations in this form."""
    a, fmt, zero_point = builder.arithmetic, form.format, form.zero_point
    _check_scale(builder, form.scale, "")
    if not a.allows(fmt):
        kinds = f"int{a.activation_bits}" + (f" or uint{a.activation_bits}" if a.unsigned_activations else "")
        kinds += f" or int{a.wide_bits}" if a.wide_bits else ""
        raise Refused(f"it stores {fmt}; {builder.device.name} stores {kinds}")
    if zero_point and not a.zero_points:
        raise Refused(f"it has the zero point {zero_point}; {builder.device.name} knows only 0")


def _check_scale(builder: Builder, scale: float, tensor: str) -> None:
    of = f" of {tensor!r}" if tensor else ""
    if not isfinite(scale) or scale <= 0:
        raise Refused(f"the scale{of} is {scale!r}; a scale must be positive and finite")
    if builder.arithmetic.scales == "power_of_two" and not is_power_of_two(scale):
        near = 2.0 ** round(log2(scale))
        raise Refused(f"the scale{of} is {scale!r}, which is no power of two (the nearest is {near!r})")
