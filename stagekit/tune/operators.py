"""ONNX operators in torch: those that stage graphs are made of, as the ONNX specification defines them.

Integers travel as floats that hold whole numbers, so that gradients pass. Rounding and clamping are
straight-through (Bengio et al. 2013; Jacob et al. 2018, section 3): backwards, rounding is the identity, and a
value beyond the last level has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from stagekit.errors import GraphError

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Attributes], Any]
"""(inputs, attributes) to an output, or to a sequence of them; an input left out is None."""

LEVELS = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767)}
"""What QuantizeLinear saturates to, by the type of its zero point."""

_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
}


class _Quantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: float, low: int, high: int) -> Tensor:
        stored = torch.round(x / scale).add_(zero)
        ctx.scale = scale
        ctx.save_for_backward((stored >= low) & (stored <= high))
        return stored.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside / ctx.scale, None, None, None, None


def quantise(x: Tensor, scale: float, zero: float, low: int, high: int) -> Tensor:
    """``clamp(round(x / scale) + zero, low, high)``; the gradient passes where nothing is clamped."""
    stored: Tensor = _Quantise.apply(x, scale, zero, low, high)  # type: ignore[no-untyped-call]
    return stored


def dequantise(stored: Tensor, scale: float, zero: float) -> Tensor:
    """``(stored - zero) * scale``."""
    return (stored - zero) * scale


def _quantize_linear(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, scale, zero = inputs
    if scale.numel() != 1:
        raise GraphError("activations with a scale for each channel are not simulated", where="QuantizeLinear")
    return quantise(x, float(scale), float(zero), *LEVELS[zero.dtype])


def _dequantize_linear(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    stored, scale, zero = inputs
    if scale.numel() == 1:
        return dequantise(stored.float(), float(scale), float(zero))
    shape = [1] * stored.dim()
    shape[attributes.get("axis", 1)] = -1
    result: Tensor = (stored.float() - zero.float().view(shape)) * scale.view(shape)
    return result


def _conv(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, weight, bias = (*inputs, None)[:3]
    rank = weight.dim() - 2
    x, padding = _padded(x, attributes, rank, 0.0)
    strides, dilations = attributes.get("strides", (1,) * rank), attributes.get("dilations", (1,) * rank)
    convolve: Any = {1: functional.conv1d, 2: functional.conv2d}[rank]
    result: Tensor = convolve(x, weight, bias, strides, padding, dilations, attributes.get("group", 1))
    return result


def _max_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel = tuple(attributes["kernel_shape"])
    x, padding = _padded(inputs[0], attributes, len(kernel), float("-inf"))
    strides = attributes.get("strides", (1,) * len(kernel))
    dilations = attributes.get("dilations", (1,) * len(kernel))
    return functional.max_pool2d(x, kernel, strides, padding, dilations, bool(attributes.get("ceil_mode", 0)))


def _average_pool(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    kernel = tuple(attributes["kernel_shape"])
    _, padding = _padded(inputs[0], attributes, len(kernel), None)
    strides = attributes.get("strides", (1,) * len(kernel))
    counted, ceil = bool(attributes.get("count_include_pad", 0)), bool(attributes.get("ceil_mode", 0))
    return functional.avg_pool2d(inputs[0], kernel, strides, padding, ceil, counted)


def _padded(x: Tensor, attributes: Attributes, rank: int, fill: float | None) -> tuple[Tensor, tuple[int, ...]]:
    """The input, padded by ``fill`` where its two sides differ, and what is left for the operator to pad."""
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise GraphError(f"auto_pad {attributes['auto_pad']} is not simulated; expected explicit pads")
    pads = attributes.get("pads", (0,) * (2 * rank))
    before, after = tuple(pads[:rank]), tuple(pads[rank:])
    if before == after:
        return x, before
    if fill is None:
        raise GraphError("a pooling with uneven pads is not simulated")
    return functional.pad(x, _torch_pads(before, after), value=fill), (0,) * rank


def _torch_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """From the last axis to the first, as torch has it."""
    return [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]


def _pad(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, pads, fill, axes = (*inputs, None, None)[:4]
    if attributes.get("mode", "constant") != "constant" or axes is not None:
        raise GraphError("only Pad with a constant on all axes is simulated")
    given = _integers(pads)
    value = 0.0 if fill is None else float(fill)
    return functional.pad(x, _torch_pads(given[: x.dim()], given[x.dim() :]), value=value)


def _gemm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    a, b, c = (*inputs, None)[:3]
    a = a.t() if attributes.get("transA", 0) else a
    b = b.t() if attributes.get("transB", 0) else b
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def _clip(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, low, high = (*inputs, None, None)[:3]
    return torch.clamp(x, None if low is None else float(low), None if high is None else float(high))


def _reshape(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, shape = inputs[0], _integers(inputs[1])
    if not attributes.get("allowzero", 0):
        shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    result: Tensor = x.reshape(shape)
    return result


def _slice(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    result: Tensor = x
    chosen = range(len(starts)) if axes is None else _integers(axes)
    for position, axis in enumerate(chosen):
        step = 1 if steps is None else _integers(steps)[position]
        if step < 1:
            raise GraphError("a Slice that runs backwards is not simulated")
        index = [slice(None)] * x.dim()
        index[axis] = slice(_integers(starts)[position], _integers(ends)[position], step)
        result = result[tuple(index)]
    return result


def _split(inputs: Sequence[Any], attributes: Attributes) -> Sequence[Tensor]:
    x, axis = inputs[0], attributes.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return torch.split(x, _integers(inputs[1]), axis)
    return torch.split(x, -(-x.shape[axis] // attributes["num_outputs"]), axis)


def _reduce_mean(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    axes = _integers(inputs[1]) if len(inputs) > 1 else list(attributes.get("axes", range(inputs[0].dim())))
    result: Tensor = inputs[0].mean(axes, keepdim=bool(attributes.get("keepdims", 1)))
    return result


def _layer_normalization(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, gain, offset = (*inputs, None)[:3]
    axis = attributes.get("axis", -1)
    return functional.layer_norm(x, x.shape[axis:], gain, offset, attributes.get("epsilon", 1e-5))


def _cast(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    wanted = ir.DataType(attributes["to"])
    if wanted not in _DTYPES:
        raise GraphError(f"a Cast to {wanted.name} is not simulated")
    result: Tensor = inputs[0].to(_DTYPES[wanted])
    return result


def _squeeze(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    result: Tensor = inputs[0].squeeze(tuple(_integers(inputs[1]))) if len(inputs) > 1 else inputs[0].squeeze()
    return result


def _unsqueeze(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    result: Tensor = inputs[0]
    rank = result.dim() + len(inputs[1])
    for axis in sorted(a % rank for a in _integers(inputs[1])):
        result = result.unsqueeze(axis)
    return result


def _integers(tensor: Tensor) -> list[int]:
    return [int(v) for v in tensor.flatten().tolist()]


OPERATORS: Mapping[str, Operator] = {
    "Add": lambda i, a: i[0] + i[1],
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda i, a: torch.cat(list(i), a["axis"]),
    "Conv": _conv,
    "DequantizeLinear": _dequantize_linear,
    "Div": lambda i, a: i[0] / i[1],
    "Erf": lambda i, a: torch.erf(i[0]),
    "Flatten": lambda i, a: i[0].reshape(math.prod(i[0].shape[: a.get("axis", 1)]), -1),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda i, a: i[0].mean(tuple(range(2, i[0].dim())), keepdim=True),
    "Identity": lambda i, a: i[0],
    "LayerNormalization": _layer_normalization,
    "MatMul": lambda i, a: i[0] @ i[1],
    "MaxPool": _max_pool,
    "Min": lambda i, a: torch.minimum(i[0], i[1]),
    "Mul": lambda i, a: i[0] * i[1],
    "Pad": _pad,
    "Pow": lambda i, a: i[0] ** i[1],
    "QuantizeLinear": _quantize_linear,
    "ReduceMean": _reduce_mean,
    "Relu": lambda i, a: torch.relu(i[0]),
    "Reshape": _reshape,
    "Sigmoid": lambda i, a: torch.sigmoid(i[0]),
    "Slice": _slice,
    "Softmax": lambda i, a: torch.softmax(i[0], a.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda i, a: torch.sqrt(i[0]),
    "Squeeze": _squeeze,
    "Sub": lambda i, a: i[0] - i[1],
    "Tanh": lambda i, a: torch.tanh(i[0]),
    "Transpose": lambda i, a: i[0].permute(a["perm"]) if "perm" in a else i[0].permute(*range(i[0].dim())[::-1]),
    "Unsqueeze": _unsqueeze,
}
"""By ONNX's name; of the standard domain."""
