"""Rules for pools: the largest, or the mean, of windows or of the whole image.

A mean that leaves out its padding divides by another number at the edges. There the image is cut into bands of rows and
of columns whose windows hold equally much; each piece is a mean of its own, and the pieces are joined.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import factors
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.geometry import Pads, ceiling, output_size, pads_of, pair
from stagekit_fixedpoint.moves import part
from stagekit_fixedpoint.program import Step, Tensor
from stagekit_fixedpoint.values import Pending, Refused, Stored, Value

UNPADDED = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Window:
    """What a pool looks at.

    Args:
        given: the padding that the node asks for.
        pads: that, with what ``ceil_mode`` adds behind.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    given: Pads = UNPADDED
    pads: Pads = UNPADDED

    @classmethod
    def of(cls, node: ir.Node, x: Tensor) -> Window:
        if pair(node, "dilations") != (1, 1):
            raise Refused("dilated pools are not computed")
        kernel, strides = pair(node, "kernel_shape"), pair(node, "strides")
        given = pads_of(node, x.shape[1:], kernel, strides, (1, 1))
        wider = node.attributes.get_int("ceil_mode", 0)
        return cls(kernel, strides, given, ceiling(x.shape[1:], kernel, strides, given) if wider else given)

    def outputs(self, x: Tensor) -> tuple[int, int]:
        return output_size(x.shape[1:], self.kernel, self.strides, self.pads)


@dataclass(frozen=True, slots=True)
class Band:
    """Neighbouring places along one axis whose windows hold equally much of the image.

    Args:
        start: where the first window begins in the image; each further one a stride behind.
        seen: what a window holds of the image.
        counted: by how much its mean is divided.
    """

    start: int
    seen: int
    counted: int
    places: int = 1


def bands(size: int, kernel: int, stride: int, places: int, pads: tuple[int, int], counts_padding: bool) -> list[Band]:
    """All places along an axis of an image."""
    found: list[Band] = []
    for place in range(places):
        begin = place * stride - pads[0]
        start, end = max(begin, 0), min(begin + kernel, size)
        counted = min(begin + kernel, size + pads[1]) - begin if counts_padding else end - start
        last = found[-1] if found else None
        if last is not None and replace(last, places=1) == Band(start - last.places * stride, end - start, counted):
            found[-1] = replace(last, places=last.places + 1)
        else:
            found.append(Band(start, end - start, counted))
    return found


def max_pool(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    builder.need("max_pool")
    x = builder.stored(node)
    window = Window((x.shape[1], x.shape[2]), (1, 1)) if node.op_type == "GlobalMaxPool" else Window.of(node, x)
    out = builder.like(x, str(node.outputs[0].name), (x.shape[0], *window.outputs(x)))
    builder.emit(p.MaxPool(str(node.name), (x.name,), out.name, window.kernel, window.strides, window.pads))
    return (Stored(out),)


def average_pool(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """The mean over a window, or over the whole image."""
    builder.need("average_pool")
    x = builder.stored(node)
    if node.op_type == "AveragePool":
        window, counts = Window.of(node, x), bool(node.attributes.get_int("count_include_pad", 0))
        if window.pads == (window.given if counts else UNPADDED):
            return (_mean(builder, node, x, window, squeeze=False),)
        return (_mean_by_bands(builder, node, x, window, counts),)
    whole, keep = Window((x.shape[1], x.shape[2]) if len(x.shape) == 3 else (0, 0), (1, 1)), True
    if node.op_type == "ReduceMean":
        axes = builder.constant(node, 1)
        listed = list(node.attributes.get_ints("axes", ()) or ()) if axes is None else axes.real.tolist()
        if len(x.shape) != 3 or sorted(a % 4 for a in listed) != [2, 3]:
            raise Refused("only means over height and width are computed")
        keep = bool(node.attributes.get_int("keepdims", 1))
    return (_mean(builder, node, x, whole, squeeze=not keep),)


def _mean(builder: Builder, node: ir.Node, x: Tensor, window: Window, squeeze: bool) -> Pending:
    """A mean that divides by the same number everywhere."""
    shape = (x.shape[0], *window.outputs(x))
    name, looks = str(node.name), (window.kernel, window.strides, window.pads)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        if not squeeze:
            return p.SumPool(name, (x.name,), output, *looks, requantize)
        kept = builder.like(builder.tensors[output], f"{output}/kept", shape)
        builder.emit(p.SumPool(name, (x.name,), kept.name, *looks, requantize))
        return p.Reshape(f"{name}/dropped", (kept.name,), output, shape[:1])

    unit = np.array([x.scale / (window.kernel[0] * window.kernel[1])])
    return Pending(name, shape[:1] if squeeze else shape, finish, unit, multiplier=True)


def _mean_by_bands(builder: Builder, node: ir.Node, x: Tensor, window: Window, counts_padding: bool) -> Pending:
    builder.need("concat")
    sizes, name = window.outputs(x), str(node.name)
    rows, columns = (
        bands(size, kernel, stride, places, (before, after), counts_padding)
        for size, kernel, stride, places, before, after in zip(
            x.shape[1:], window.kernel, window.strides, sizes, window.given[:2], window.given[2:], strict=True
        )
    )
    if min(band.seen for band in (*rows, *columns)) < 1:
        raise Refused("some of its windows hold nothing but padding")

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        target, lines = builder.tensors[output], []
        for i, row in enumerate(rows):
            strip, pieces = _cut(builder, x, 2, row, window.strides[0], f"{output}/{i}"), []
            for j, column in enumerate(columns):
                own = f"{output}/{i},{j}"
                seen = _cut(builder, strip, 3, column, window.strides[1], f"{own}/seen")
                piece = builder.like(target, own, (x.shape[0], row.places, column.places))
                unit = np.array([x.scale / (row.counted * column.counted)])
                stage = replace(requantize, rescale=factors.rescale(builder.arithmetic, unit / target.scale, True))
                looks = (row.seen, column.seen), window.strides, UNPADDED
                builder.emit(p.SumPool(own, (seen.name,), piece.name, *looks, stage))
                pieces.append(piece.name)
            line = builder.like(target, f"{output}/line{i}", (x.shape[0], row.places, sizes[1]))
            builder.emit(p.Concatenate(line.name, tuple(pieces), line.name, 3))
            lines.append(line.name)
        return p.Concatenate(name, tuple(lines), output, 2)

    unit = np.array([x.scale / (window.kernel[0] * window.kernel[1])])
    return Pending(name, (x.shape[0], *sizes), finish, unit, multiplier=True)


def _cut(builder: Builder, x: Tensor, axis: int, band: Band, stride: int, name: str) -> Tensor:
    """What the windows of a band see along one axis."""
    ends = band.start, band.start + (band.places - 1) * stride + band.seen
    return x if ends == (0, x.shape[axis - 1]) else part(builder, name, x, axis, *ends, 1, name)
