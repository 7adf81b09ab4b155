"""Rules for QuantizeLinear and DequantizeLinear: where integers get their meaning."""

from __future__ import annotations

from math import isfinite, log2
from typing import Any

import numpy as np
import onnx_ir as ir

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
    scale, zero_point, fmt = _parameters(builder, node)
    name = str(node.outputs[0].name)
    if str(source.name) in builder.float_inputs and str(source.name) not in builder.values:
        _check(builder, scale, zero_point, fmt)
        shape = builder.float_inputs[str(source.name)]
        tensor = builder.new_tensor(str(source.name), shape, fmt, scale, zero_point)
        builder.inputs.append(tensor.name)
        builder.values[str(source.name)] = Stored(tensor)
        return (Stored(tensor),)
    value = builder.value(node, 0)
    if isinstance(value, Constant):
        codes = np.rint(value.real / scale) + zero_point
        stored = np.clip(codes, fmt.lowest, fmt.highest).astype(np.int64) - zero_point
        return (Constant(stored * scale, stored, np.array([scale])),)
    _check(builder, scale, zero_point, fmt)
    return (store(builder, value, name, fmt, scale, zero_point),)


def dequantize(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Gives integers their scale; for what QuantizeLinear stored nothing is left to do."""
    value = builder.value(node, 0)
    if isinstance(value, Constant):
        return (value if value.stored is not None else _weights(builder, node, value),)
    if not isinstance(value, Stored):
        raise Refused("it reads something that is not stored as integers")
    scale, zero_point, _ = _parameters(builder, node)
    have = value.tensor
    if have.name in builder.inputs and (have.scale, have.zero_point) == (1.0, 0):
        _check(builder, scale, zero_point, have.format)
        builder.tensors[have.name] = Tensor(have.name, have.shape, have.format, scale, zero_point)
        return (Stored(builder.tensors[have.name]),)
    if (scale, zero_point) != (have.scale, have.zero_point):
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


def _parameters(builder: Builder, node: ir.Node) -> tuple[float, int, Format]:
    scale, zero = builder.constant(node, 1), builder.constant(node, 2)
    assert scale is not None
    if scale.real.size != 1:
        raise Refused("activations with a scale for each channel are not stored by any profile")
    kind = "UINT8"
    if zero is not None:
        value = node.inputs[2]
        kind = _type_name(value, node)
    elif node.attributes.get_int("output_dtype", 0):
        kind = ir.DataType(node.attributes.get_int("output_dtype", 0)).name
    if kind not in TYPES:
        raise Refused(f"integers of type {kind} are not stored by any profile")
    return float(scale.real.reshape(())), 0 if zero is None else int(zero.real.reshape(())), TYPES[kind]


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


def _check(builder: Builder, scale: float, zero_point: int, fmt: Format) -> None:
    """Raises Refused unless the device stores activations in this form."""
    a = builder.arithmetic
    _check_scale(builder, scale, "")
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
