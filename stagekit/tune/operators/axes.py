"""Operators that move elements, count them or reduce along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from stagekit.errors import GraphError
from stagekit.tune.operators.operator import Attributes, Operator, integers

_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.BOOL: torch.bool,
}


def reshape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, shape = inputs[0], integers(inputs[1])
    if not attributes.get("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    result: Tensor = x.reshape(shape)
    return result


def shape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    return torch.tensor(list(inputs[0].shape)[attributes.get("start", 0) : attributes.get("end")])


def expand(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    # Both ways: where the shape says 1, the input's own size stays.
    result: Tensor = inputs[0] * torch.ones(integers(inputs[1]), dtype=inputs[0].dtype, device=inputs[0].device)
    return result


def gather(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, indices = inputs
    axis = attributes.get("axis", 0) % x.dim()
    chosen = indices.flatten().long().to(x.device) % x.shape[axis]
    picked: Tensor = x.index_select(axis, chosen)
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def cut_slice(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    result: Tensor = x
    chosen = range(len(starts)) if axes is None else integers(axes)
    for position, axis in enumerate(chosen):
        step = 1 if steps is None else integers(steps)[position]
        if step < 1:
            raise GraphError("a Slice that runs backwards is not simulated")
        index = [slice(None)] * x.dim()
        index[axis] = slice(integers(starts)[position], integers(ends)[position], step)
        result = result[tuple(index)]
    return result


def split(inputs: Sequence[Any], attributes: Attributes) -> Sequence[Tensor]:
    x, axis = inputs[0], attributes.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return torch.split(x, integers(inputs[1]), axis)
    return torch.split(x, -(-x.shape[axis] // attributes["num_outputs"]), axis)


def cast(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    wanted = ir.DataType(attributes["to"])
    if wanted not in _DTYPES:
        raise GraphError(f"a Cast to {wanted.name} is not simulated")
    result: Tensor = inputs[0].to(_DTYPES[wanted])
    return result


def squeeze(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    result: Tensor = inputs[0].squeeze(tuple(integers(inputs[1]))) if len(inputs) > 1 else inputs[0].squeeze()
    return result


def unsqueeze(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    result: Tensor = inputs[0]
    rank = result.dim() + len(inputs[1])
    for axis in sorted(a % rank for a in integers(inputs[1])):
        result = result.unsqueeze(axis)
    return result


def depth_to_space(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    n, c, h, w = inputs[0].shape
    block = attributes["blocksize"]
    if attributes.get("mode", "DCR") == "DCR":
        parts = inputs[0].reshape(n, block, block, -1, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = inputs[0].reshape(n, -1, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    result: Tensor = parts.reshape(n, c // block**2, h * block, w * block)
    return result


def space_to_depth(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    n, c, h, w = inputs[0].shape
    block = attributes["blocksize"]
    parts = inputs[0].reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    result: Tensor = parts.reshape(n, c * block**2, h // block, w // block)
    return result


def reduction(reduce: Callable[..., Tensor]) -> Operator:
    """An operator that reduces along axes, given as an input or, by older opsets, as an attribute."""

    def operator(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        given = integers(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else attributes.get("axes")
        if not given and attributes.get("noop_with_empty_axes", 0):
            result: Tensor = inputs[0]
            return result
        axes = tuple(given or range(inputs[0].dim()))
        return reduce(inputs[0], axes, bool(attributes.get("keepdims", 1)))

    return operator
