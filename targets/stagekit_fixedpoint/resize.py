"""The rule for Resize: nearest by index, bilinear by integer weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from stagekit.graph.resize import COORDINATES, nearest_indices, source_positions
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.geometry import interpolation
from stagekit_fixedpoint.program import Step, Tensor
from stagekit_fixedpoint.values import Pending, Refused, Stored, Value

RESIZE_BITS = 8
"""Fraction bits of a bilinear weight in each direction."""


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
