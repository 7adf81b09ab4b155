"""Operators that look around: convolutions, poolings, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from stagekit.errors import GraphError
from stagekit.tune.operators.operator import Attributes, integers


def conv(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    rank = weight.dim() - 2
    x, padding = _padded(x, attributes, rank, 0.0)
    strides, dilations = attributes.get("strides", (1,) * rank), attributes.get("dilations", (1,) * rank)
    convolve: Any = {1: functional.conv1d, 2: functional.conv2d}[rank]
    result: Tensor = convolve(x, weight, bias, strides, padding, dilations, attributes.get("group", 1))
    return result


def conv_transpose(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    rank = weight.dim() - 2
    if rank != 2 or "output_shape" in attributes:
        raise GraphError("only a ConvTranspose of images, without output_shape, is simulated")
    before, after = _pads(attributes, rank)
    strides, dilations = attributes.get("strides", (1,) * rank), attributes.get("dilations", (1,) * rank)
    surplus = attributes.get("output_padding", (0,) * rank)
    groups = attributes.get("group", 1)
    whole = functional.conv_transpose2d(x, weight, bias, strides, 0, tuple(surplus), groups, tuple(dilations))
    return functional.pad(whole, [-p for p in _torch_pads(before, after)])


def max_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel = tuple(attributes["kernel_shape"])
    x, padding = _padded(inputs[0], attributes, len(kernel), float("-inf"))
    strides = attributes.get("strides", (1,) * len(kernel))
    dilations = attributes.get("dilations", (1,) * len(kernel))
    return functional.max_pool2d(x, kernel, strides, padding, dilations, bool(attributes.get("ceil_mode", 0)))


def average_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel = tuple(attributes["kernel_shape"])
    _, padding = _padded(inputs[0], attributes, len(kernel), None)
    strides = attributes.get("strides", (1,) * len(kernel))
    counted, ceil = bool(attributes.get("count_include_pad", 0)), bool(attributes.get("ceil_mode", 0))
    return functional.avg_pool2d(inputs[0], kernel, strides, padding, ceil, counted)


def pad(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, pads, fill, axes = (*inputs, None, None)[:4]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(attributes.get("mode", "constant"))
    if mode is None or axes is not None:
        raise GraphError("only Pad by a constant, an edge or a reflection, on all axes, is simulated")
    given = integers(pads)
    sides = _torch_pads(given[: x.dim()], given[x.dim() :])
    if mode == "constant":
        return functional.pad(x, sides, value=0.0 if fill is None else float(fill))
    if any(sides[4:]):
        raise GraphError(f"a Pad by {mode} of batch or channels is not simulated")
    return functional.pad(x, sides[:4], mode)


def batch_normalization(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, gain, offset, mean, variance = inputs
    return functional.batch_norm(x, mean, variance, gain, offset, eps=attributes.get("epsilon", 1e-5))


def instance_normalization(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, gain, offset = inputs
    return functional.instance_norm(x, weight=gain, bias=offset, eps=attributes.get("epsilon", 1e-5))


def layer_normalization(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, gain, offset = (*inputs, None)[:3]
    axis = attributes.get("axis", -1)
    return functional.layer_norm(x, x.shape[axis:], gain, offset, attributes.get("epsilon", 1e-5))


def _pads(attributes: Attributes, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise GraphError(f"auto_pad {attributes['auto_pad']} is not simulated; expected explicit pads")
    pads = attributes.get("pads", (0,) * (2 * rank))
    return tuple(pads[:rank]), tuple(pads[rank:])


def _padded(x: Tensor, attributes: Attributes, rank: int, fill: float | None) -> tuple[Tensor, tuple[int, ...]]:
    """The input, padded by ``fill`` where its two sides differ, and what is left for the operator to pad."""
    before, after = _pads(attributes, rank)
    if before == after:
        return x, before
    if fill is None:
        raise GraphError("a pooling with uneven pads is not simulated")
    return functional.pad(x, _torch_pads(before, after), value=fill), (0,) * rank


def _torch_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """From the last axis to the first, as torch has it."""
    return [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
