"""Rules for images: pools and Resize."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from stagekit.graph.resize import COORDINATES, nearest_indices, source_positions
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.geometry import Pads, ceiling, interpolation, output_size, pads_of, pair
from stagekit_fixedpoint.program import Step, Tensor
from stagekit_fixedpoint.values import Pending, Refused, Stored, Value

RESIZE_BITS = 8
"""Fraction bits of a bilinear weight in each direction."""


def max_pool(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    builder.need("max_pool")
    x = builder.stored(node)
    if node.op_type == "GlobalMaxPool":
        kernel, strides, pads = (x.shape[1], x.shape[2]), (1, 1), (0, 0, 0, 0)
    else:
        kernel, strides, pads = _window(node, x)
    if pair(node, "dilations") != (1, 1):
        raise Refused("dilated pools are not computed")
    size = output_size(x.shape[1:], kernel, strides, pads)
    out = builder.like(x, str(node.outputs[0].name), (x.shape[0], *size))
    builder.emit(p.MaxPool(str(node.name), (x.name,), out.name, kernel, strides, pads))
    return (Stored(out),)


def average_pool(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """The mean over a window that counts its padding, or over the whole image."""
    x = builder.stored(node)
    if node.op_type == "AveragePool":
        kernel, strides, pads = _window(node, x)
        if any(pads) and not _counts_padding(node):
            raise Refused("means that leave out the padding differ from place to place")
        return (_mean(builder, node, x, kernel, strides, pads, squeeze=False),)
    whole = (x.shape[1], x.shape[2]) if len(x.shape) == 3 else (0, 0)
    keep = True
    if node.op_type == "ReduceMean":
        axes = builder.constant(node, 1)
        listed = list(node.attributes.get_ints("axes", ()) or ()) if axes is None else axes.real.tolist()
        if len(x.shape) != 3 or sorted(a % 4 for a in listed) != [2, 3]:
            raise Refused("only means over height and width are computed")
        keep = bool(node.attributes.get_int("keepdims", 1))
    return (_mean(builder, node, x, whole, (1, 1), (0, 0, 0, 0), squeeze=not keep),)


def _counts_padding(node: ir.Node) -> bool:
    """Whether a mean divides by the same number everywhere; what ``ceil_mode`` adds behind is never counted."""
    counted = bool(node.attributes.get_int("count_include_pad", 0))
    return counted and not node.attributes.get_int("ceil_mode", 0)


def _mean(
    builder: Builder,
    node: ir.Node,
    x: Tensor,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: Pads,
    squeeze: bool,
) -> Pending:
    builder.need("average_pool")
    shape = (x.shape[0], *output_size(x.shape[1:], kernel, strides, pads))
    name = str(node.name)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        if not squeeze:
            return p.SumPool(name, (x.name,), output, kernel, strides, pads, requantize)
        kept = builder.like(builder.tensors[output], f"{output}/kept", shape)
        builder.emit(p.SumPool(name, (x.name,), kept.name, kernel, strides, pads, requantize))
        return p.Reshape(f"{name}/dropped", (kept.name,), output, shape[:1])

    unit = np.array([x.scale / (kernel[0] * kernel[1])])
    return Pending(name, shape[:1] if squeeze else shape, finish, unit, multiplier=True)


def _window(node: ir.Node, x: Tensor) -> tuple[tuple[int, int], tuple[int, int], Pads]:
    kernel, strides = pair(node, "kernel_shape"), pair(node, "strides")
    pads = pads_of(node, x.shape[1:], kernel, strides, (1, 1))
    if node.attributes.get_int("ceil_mode", 0):
        pads = ceiling(x.shape[1:], kernel, strides, pads)
    return kernel, strides, pads


def resize(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Nearest by index; bilinear with integer weights of :data:`RESIZE_BITS` fraction bits in each direction."""
    x = builder.stored(node)
    mode = node.attributes.get_string("mode", "nearest")
    coordinates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") or ""
    if coordinates not in COORDINATES:
        raise Refused(f"the coordinates {coordinates!r} are not computed")
    target, scales = _target(builder, node, x)
    positions = [source_positions(coordinates, s, t, f) for s, t, f in zip(x.shape[1:], target, scales, strict=True)]
    name, shape = str(node.name), (x.shape[0], *target)
    if mode == "nearest":
        builder.need("resize_nearest")
        rule = node.attributes.get_string("nearest_mode", "round_prefer_floor") or ""
        rows, columns = (nearest_indices(v, rule, s) for v, s in zip(positions, x.shape[1:], strict=True))
        out = builder.like(x, str(node.outputs[0].name), shape)
        builder.emit(p.ResizeNearest(name, (x.name,), out.name, rows, columns))
        return (Stored(out),)
    if mode != "linear":
        raise Refused(f"the mode {mode!r} is not computed")
    builder.need("resize_bilinear")
    keys = [
        builder.array(f"{name}/{side}", interpolation(v, s, RESIZE_BITS))
        for side, v, s in zip(("rows", "columns"), positions, x.shape[1:], strict=True)
    ]

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        return p.ResizeBilinear(name, (x.name,), output, keys[0], keys[1], requantize)

    return (Pending(name, shape, finish, np.array([x.scale / 4.0**RESIZE_BITS])),)


def _target(builder: Builder, node: ir.Node, x: Tensor) -> tuple[tuple[int, int], tuple[float, float]]:
    """The output's height and width, and the factors that coordinates are computed with."""
    if len(x.shape) != 3:
        raise Refused("only images are resized")
    sizes, scales = builder.constant(node, 3), builder.constant(node, 2)
    if sizes is not None and sizes.real.size:
        target = int(sizes.real[-2]), int(sizes.real[-1])
        return target, (target[0] / x.shape[1], target[1] / x.shape[2])
    if scales is None or scales.real.size < 2:
        raise Refused("its size must be a constant")
    factors = float(scales.real[-2]), float(scales.real[-1])
    return (int(x.shape[1] * factors[0]), int(x.shape[2] * factors[1])), factors
