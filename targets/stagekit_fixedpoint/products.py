"""Rules for sums of products: Conv, MatMul, Gemm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.elementwise import quantised_constant
from stagekit_fixedpoint.geometry import output_size, pads_of, pair
from stagekit_fixedpoint.program import Step, Tensor
from stagekit_fixedpoint.values import Constant, Pending, Reals, Refused, Stored, Value


def conv(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    x, weight = narrow(builder, builder.stored(node)), weights(builder, node, channel_axis=0)
    assert weight.stored is not None and weight.scale is not None
    if weight.stored.ndim != 4:
        raise Refused("only two-dimensional convolutions are computed")
    groups = node.attributes.get_int("group", 1)
    builder.need("conv")
    if groups > 1:
        builder.need("depthwise")
    kernel = (weight.stored.shape[2], weight.stored.shape[3])
    strides, dilations = pair(node, "strides"), pair(node, "dilations")
    pads = pads_of(node, x.shape[1:], kernel, strides, dilations)
    size = output_size(x.shape[1:], kernel, strides, pads, dilations)
    name, key = str(node.name), builder.array(f"{node.name}/weight", weight.stored)
    bias = builder.constant(node, 2)

    def finish(output: str, requantize: Requantize, b: Ints) -> Step:
        return p.Convolution(
            name,
            (x.name,),
            output,
            key,
            builder.array(f"{name}/bias", b),
            strides,
            pads,
            dilations,
            groups,
            requantize,
        )

    unit = x.scale * weight.scale
    real = np.zeros(1) if bias is None else bias.real
    return (Pending(name, (len(weight.stored), *size), finish, single(unit), axis=1, bias=real),)


def batch_norm(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """One that no convolution before it has taken up, as where channels were concatenated: a depthwise 1x1."""
    builder.need("depthwise")
    x, constants = narrow(builder, builder.stored(node)), [builder.constant(node, i) for i in (1, 2, 3, 4)]
    gamma, beta, mean, variance = (c.real.reshape(-1) for c in constants if c is not None)
    if len(x.shape) != 3 or len(node.outputs) > 1:
        raise Refused("only a BatchNormalization of images, with its own statistics, is computed")
    gain = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    stored, scale = quantised_constant(builder, gain)
    name, key = str(node.name), builder.array(f"{node.name}/weight", stored.reshape(-1, 1, 1, 1))

    def finish(output: str, requantize: Requantize, b: Ints) -> Step:
        keys, pads = (key, builder.array(f"{name}/bias", b)), (0, 0, 0, 0)
        return p.Convolution(name, (x.name,), output, *keys, (1, 1), pads, (1, 1), len(stored), requantize)

    return (Pending(name, x.shape, finish, x.scale * scale, axis=1, bias=beta - mean * gain),)


def matmul(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """A product with weights, or of two stored tensors."""
    if isinstance(builder.value(node, 1), Constant):
        return (_linear(builder, node, weights(builder, node, channel_axis=-1), np.zeros(1)),)
    builder.need("attention")
    left, right = builder.stored(node, 0), narrow(builder, builder.stored(node, 1))
    if len(left.shape) != len(right.shape) or left.shape[:-2] != right.shape[:-2]:
        raise Refused(f"the shapes {left.shape} and {right.shape} are not multiplied without broadcasting")
    name = str(node.name)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        return p.Product(name, (left.name, right.name), output, requantize)

    shape = (*left.shape[:-1], right.shape[-1])
    return (Pending(name, shape, finish, np.array([left.scale * right.scale]), axis=1),)


def gemm(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    attributes = node.attributes
    if (
        attributes.get_int("transA", 0)
        or attributes.get_float("alpha", 1.0) != 1
        or attributes.get_float("beta", 1.0) != 1
    ):
        raise Refused("only Gemm with alpha = beta = 1 and an untransposed input is computed")
    transposed = bool(attributes.get_int("transB", 0))
    weight = weights(builder, node, channel_axis=0 if transposed else 1)
    assert weight.stored is not None
    if transposed:
        weight = Constant(weight.real.T, weight.stored.T, weight.scale, 1)
    bias = builder.constant(node, 2)
    return (_linear(builder, node, weight, np.zeros(1) if bias is None else bias.real.reshape(-1)),)


def _linear(builder: Builder, node: ir.Node, weight: Constant, bias: Reals) -> Pending:
    builder.need("matmul")
    source = builder.value(node, 0)
    x = narrow(builder, builder.stored(node, joined=True))
    assert weight.stored is not None and weight.scale is not None
    if weight.stored.ndim != 2:
        raise Refused(f"weights of {weight.stored.ndim} dimensions are not multiplied")
    name, stored = str(node.name), weight.stored
    return Pending(
        name,
        (*x.shape[:-1], stored.shape[1]),
        partial(_finish_linear, builder, name, x.name, stored),
        single(x.scale * weight.scale),
        bias=bias,
        joined=isinstance(source, Stored) and source.joined,
        part=partial(_columns, builder, name, x.name, stored),
    )


def _finish_linear(
    builder: Builder, name: str, x: str, weight: Ints, output: str, requantize: Requantize, bias: Ints
) -> Step:
    keys = builder.array(f"{name}/weight", weight), builder.array(f"{name}/bias", bias)
    return p.Linear(name, (x,), output, *keys, requantize)


def _columns(builder: Builder, name: str, x: str, weight: Ints, whole: Pending, start: int, stop: int) -> Pending:
    """Some output channels of a product as a product of their own: query, key and value have a format each."""
    own = f"{name}/{start}"
    return replace(
        whole,
        name=own,
        shape=(*whole.shape[:-1], stop - start),
        finish=partial(_finish_linear, builder, own, x, weight[:, start:stop]),
        unit=whole.unit if whole.unit.size == 1 else single(whole.unit[start:stop]),
        bias=whole.bias if whole.bias is None or whole.bias.size == 1 else whole.bias[start:stop],
        part=None,
    )


def narrow(builder: Builder, x: Tensor) -> Tensor:
    """What the array can multiply."""
    if x.format.bits > builder.arithmetic.activation_bits:
        raise Refused(
            f"it reads {x.format}; the products of {builder.device.name} read int{builder.arithmetic.activation_bits}"
        )
    return x


def weights(builder: Builder, node: ir.Node, channel_axis: int) -> Constant:
    weight = builder.constant(node, 1)
    if weight is None or weight.stored is None or weight.scale is None:
        raise Refused("its weights are not quantised; calibrate the graph for this profile")
    a = builder.arithmetic
    largest = int(np.abs(weight.stored).max(initial=0))
    if largest > 2 ** (a.weight_bits - 1):
        raise Refused(f"its weights reach {largest}, the device's have {a.weight_bits} bits")
    if weight.scale.size > 1:
        if not a.per_channel:
            raise Refused(f"its weights have a scale for each channel; {builder.device.name} takes one for all")
        if weight.axis % weight.stored.ndim != channel_axis % weight.stored.ndim:
            raise Refused("the scales of its weights are not along the output channels")
    return weight


def single(unit: Reals) -> Reals:
    """One number where all are equal."""
    return unit[:1] if np.all(unit == unit[0]) else unit
