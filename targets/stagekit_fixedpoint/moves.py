"""Rules for what only moves numbers: Reshape, Transpose, Slice, Split, Concat, Pad and the like."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.program import Tensor
from stagekit_fixedpoint.values import Constant, Joined, Pending, Refused, Stored, Tabulated, Value


def identity(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    return (builder.value(node, 0),)


def constant(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    for name in ("value", "value_ints", "value_floats", "value_int", "value_float"):
        if name in node.attributes:
            held = node.attributes[name]
            array = held.as_tensor().numpy() if name == "value" else np.asarray(held.value)
            return (Constant(array.astype(np.float64 if array.dtype.kind == "f" else np.int64)),)
    raise Refused("a constant of this kind is not read")


def reshape(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Reshape, Flatten, Squeeze and Unsqueeze; the batch stays the first axis."""
    value = builder.value(node, 0)
    wanted = _wanted_shape(builder, node, value)
    if isinstance(value, Constant):
        stored = None if value.stored is None else value.stored.reshape(wanted)
        return (Constant(value.real.reshape(wanted), stored, value.scale, value.axis),)
    x = builder.stored(node, joined=True)
    if tuple(wanted[1:]) == x.shape and wanted[0] in (-1, 0, 1):
        return (Stored(x),)
    if len(wanted) == 2 and wanted[0] == -1 and wanted[1] != x.elements and x.elements % max(wanted[1], 1) == 0:
        rows = (x.elements // wanted[1], wanted[1])
        if rows == x.shape:
            return (Stored(x, joined=True),)
        out = builder.like(x, str(node.outputs[0].name), rows)
        builder.emit(p.Reshape(str(node.name), (builder.stored(node).name,), out.name, rows))
        return (Stored(out, joined=True),)
    x = builder.stored(node)
    if wanted[0] not in (-1, 0, 1):
        raise Refused(f"the shape {wanted} does not keep the batch as its first axis")
    inner = [x.shape[i - 1] if d == 0 else d for i, d in enumerate(wanted)][1:]
    if -1 in inner:
        if wanted[0] == -1:
            raise Refused(f"the shape {wanted} leaves two axes open")
        known = -int(np.prod(inner))
        inner[inner.index(-1)] = x.elements // max(known, 1)
    if int(np.prod(inner)) != x.elements:
        raise Refused(f"the shape {wanted} mixes the batch with other axes")
    out = builder.like(x, str(node.outputs[0].name), tuple(inner))
    builder.emit(p.Reshape(str(node.name), (x.name,), out.name, tuple(inner)))
    return (Stored(out),)


def _wanted_shape(builder: Builder, node: ir.Node, value: Value) -> list[int]:
    shape = _shape(value)
    if node.op_type == "Reshape":
        wanted = builder.constant(node, 1)
        assert wanted is not None
        return [int(d) for d in wanted.real]
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1) % (len(shape) + 1)
        if axis != 1:
            raise Refused("only a Flatten that keeps the batch is computed")
        return [shape[0], int(np.prod(shape[1:]))]
    given = builder.constant(node, 1)
    axes = [int(a) for a in (node.attributes.get_ints("axes", ()) or ())] if given is None else given.real.tolist()
    if node.op_type == "Squeeze":
        dropped = {a % len(shape) for a in axes}
        return [d for i, d in enumerate(shape) if i not in dropped]
    rank = len(shape) + len(axes)
    rest = iter(shape)
    return [1 if i in {a % rank for a in axes} else next(rest) for i in range(rank)]


def _shape(value: Value) -> list[int]:
    if isinstance(value, Constant):
        return list(value.real.shape)
    if isinstance(value, Stored):
        return [-1, *value.tensor.shape]
    raise Refused("its input is not quantised; calibrate the graph for this profile")


def transpose(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    value = builder.value(node, 0)
    if isinstance(value, Constant):
        order = list(node.attributes.get_ints("perm", ()) or reversed(range(value.real.ndim)))
        stored = None if value.stored is None else value.stored.transpose(order)
        axis = order.index(value.axis) if value.stored is not None else 0
        return (Constant(value.real.transpose(order), stored, value.scale, axis),)
    x = value.source if isinstance(value, Tabulated) else builder.stored(node)
    order = [int(a) for a in node.attributes.get_ints("perm", ()) or reversed(range(len(x.shape) + 1))]
    if order[0] != 0:
        raise Refused(f"the order {order} does not keep the batch as its first axis")
    out = builder.like(x, str(node.outputs[0].name), tuple(x.shape[a - 1] for a in order[1:]))
    builder.emit(p.Transpose(str(node.name), (x.name,), out.name, tuple(order)))
    if isinstance(value, Tabulated):
        return (Tabulated(out, value.levels, order.index(value.axis), value.factor),)
    return (Stored(out),)


def slice_(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    x = builder.stored(node)
    starts, ends, axes, steps = (builder.constant(node, i) for i in (1, 2, 3, 4))
    assert starts is not None and ends is not None
    listed = list(range(starts.real.size)) if axes is None else axes.real.tolist()
    for place, axis in enumerate(listed):
        stride = 1 if steps is None else int(steps.real[place])
        axis = int(axis) % (len(x.shape) + 1)
        if axis == 0 or stride < 1:
            raise Refused("slices of the batch, and backward ones, are not computed")
        start, stop, _ = slice(int(starts.real[place]), int(ends.real[place])).indices(x.shape[axis - 1])
        x = part(builder, str(node.name), x, axis, start, stop, stride, str(node.outputs[0].name))
    return (Stored(x),)


def split(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    value = builder.value(node, 0)
    cut = value.part if isinstance(value, Pending) else None
    shape = value.shape if isinstance(value, Pending) and cut is not None else builder.stored(node).shape
    axis = node.attributes.get_int("axis", 0) % (len(shape) + 1)
    if axis == 0:
        raise Refused("a batch is not split")
    sizes, whole = builder.constant(node, 1), shape[axis - 1]
    parts = len(node.outputs)
    each = -(-whole // parts)
    lengths = [min(each, whole - each * i) for i in range(parts)] if sizes is None else sizes.real.tolist()
    edges = np.cumsum([0, *lengths]).tolist()
    if isinstance(value, Pending) and cut is not None:
        if axis != len(shape):
            raise Refused("a product that is not stored is split along its output channels alone")
        return tuple(cut(value, start, stop) for start, stop in pairwise(edges))
    x = builder.stored(node)
    return tuple(
        Stored(part(builder, str(node.name), x, axis, edges[i], edges[i + 1], 1, str(v.name)))
        for i, v in enumerate(node.outputs)
    )


def gather(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """One index of an axis, which is dropped, as in picking the class token or one of query, key and value."""
    x, index = builder.stored(node), builder.constant(node, 1)
    assert index is not None
    axis = node.attributes.get_int("axis", 0) % (len(x.shape) + 1)
    if axis == 0 or index.real.size != 1 or index.real.ndim:
        raise Refused("only the gathering of a single index behind the batch is computed")
    at = int(index.real) % x.shape[axis - 1]
    picked = part(builder, str(node.name), x, axis, at, at + 1, 1, f"{node.outputs[0].name}/slice")
    shape = picked.shape[: axis - 1] + picked.shape[axis:]
    out = builder.like(picked, str(node.outputs[0].name), shape)
    builder.emit(p.Reshape(str(node.name), (picked.name,), out.name, shape))
    return (Stored(out),)


def part(builder: Builder, step: str, x: Tensor, axis: int, start: int, stop: int, stride: int, name: str) -> Tensor:
    """Part of a tensor along one axis, which counts the batch; the step is called ``step``, what it gives ``name``."""
    shape = list(x.shape)
    shape[axis - 1] = len(range(start, stop, stride))
    out = builder.like(x, name, tuple(shape))
    builder.emit(p.Slice(step, (x.name,), out.name, axis, start, stop, stride))
    return out


def concat(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Parts in one format are joined at once; others wait for the QuantizeLinear behind."""
    builder.need("concat")
    parts = tuple(builder.stored(node, i) for i in range(len(node.inputs)))
    axis = node.attributes.get_int("axis", 1) % (len(parts[0].shape) + 1)
    if axis == 0:
        raise Refused("batches are not joined")
    shape = list(parts[0].shape)
    shape[axis - 1] = sum(t.shape[axis - 1] for t in parts)
    name = str(node.name)
    if len({(t.format, t.scale, t.zero_point) for t in parts}) > 1:
        return (Joined(name, parts, tuple(shape), axis),)
    out = builder.like(parts[0], str(node.outputs[0].name), tuple(shape))
    builder.emit(p.Concatenate(name, tuple(t.name for t in parts), out.name, axis))
    return (Stored(out),)


def pad(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Zeros around a tensor."""
    x = builder.stored(node)
    pads, value = builder.constant(node, 1), builder.constant(node, 2)
    assert pads is not None
    if node.attributes.get_string("mode", "constant") != "constant" or (value is not None and value.real.any()):
        raise Refused("only padding with zeros is computed")
    widths = pads.real.reshape(2, -1).astype(int)
    if widths.shape[1] != len(x.shape) + 1 or widths[:, 0].any() or widths.min() < 0:
        raise Refused("only padding behind the batch is computed")
    for axis in np.flatnonzero(widths.any(axis=0)).tolist():
        shape = list(x.shape)
        shape[axis - 1] += int(widths[:, axis].sum())
        out = builder.like(x, str(node.outputs[0].name), tuple(shape))
        builder.emit(p.Pad(str(node.name), (x.name,), out.name, axis, int(widths[0, axis]), int(widths[1, axis])))
        x = out
    return (Stored(x),)
