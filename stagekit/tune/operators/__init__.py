"""ONNX operators in torch: those that stage graphs are made of, as the ONNX specification defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stagekit.tune.operators import axes, spatial
from stagekit.tune.operators.operator import Attributes as Attributes
from stagekit.tune.operators.operator import Operator as Operator
from stagekit.tune.operators.resize import resize
from stagekit.tune.operators.rounding import dequantise as dequantise
from stagekit.tune.operators.rounding import dequantize_linear, quantize_linear
from stagekit.tune.operators.rounding import quantise as quantise


def _clip(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, low, high = (*inputs, None, None)[:3]
    return torch.clamp(x, None if low is None else float(low), None if high is None else float(high))


def _gemm(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    a, b, c = (*inputs, None)[:3]
    a = a.t() if attributes.get("transA", 0) else a
    b = b.t() if attributes.get("transB", 0) else b
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def _div(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    a, b = inputs
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


OPERATORS: Mapping[str, Operator] = {
    "Abs": lambda i, a: torch.abs(i[0]),
    "Add": lambda i, a: i[0] + i[1],
    "AveragePool": spatial.average_pool,
    "BatchNormalization": spatial.batch_normalization,
    "Cast": axes.cast,
    "Clip": _clip,
    "Concat": lambda i, a: torch.cat(list(i), a["axis"]),
    "Conv": spatial.conv,
    "ConvTranspose": spatial.conv_transpose,
    "DepthToSpace": axes.depth_to_space,
    "DequantizeLinear": dequantize_linear,
    "Div": _div,
    "Elu": lambda i, a: functional.elu(i[0], a.get("alpha", 1.0)),
    "Erf": lambda i, a: torch.erf(i[0]),
    "Exp": lambda i, a: torch.exp(i[0]),
    "Expand": axes.expand,
    "Flatten": lambda i, a: i[0].reshape(math.prod(i[0].shape[: a.get("axis", 1)]), -1),
    "Gather": axes.gather,
    "Gelu": lambda i, a: functional.gelu(i[0], approximate=a.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda i, a: i[0].mean(tuple(range(2, i[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda i, a: i[0].amax(tuple(range(2, i[0].dim())), keepdim=True),
    "HardSigmoid": lambda i, a: torch.clamp(a.get("alpha", 0.2) * i[0] + a.get("beta", 0.5), 0, 1),
    "HardSwish": lambda i, a: functional.hardswish(i[0]),
    "Identity": lambda i, a: i[0],
    "InstanceNormalization": spatial.instance_normalization,
    "LayerNormalization": spatial.layer_normalization,
    "LeakyRelu": lambda i, a: functional.leaky_relu(i[0], a.get("alpha", 0.01)),
    "Log": lambda i, a: torch.log(i[0]),
    "MatMul": lambda i, a: i[0] @ i[1],
    "Max": lambda i, a: reduce(torch.maximum, i),
    "MaxPool": spatial.max_pool,
    "Min": lambda i, a: reduce(torch.minimum, i),
    "Mish": lambda i, a: functional.mish(i[0]),
    "Mul": lambda i, a: i[0] * i[1],
    "Neg": lambda i, a: -i[0],
    "PRelu": lambda i, a: torch.where(i[0] < 0, i[0] * i[1], i[0]),
    "Pad": spatial.pad,
    "Pow": lambda i, a: i[0] ** i[1],
    "QuantizeLinear": quantize_linear,
    "Reciprocal": lambda i, a: 1 / i[0],
    "ReduceL2": axes.reduction(lambda x, over, keep: torch.linalg.vector_norm(x, 2, over, keep)),
    "ReduceMax": axes.reduction(torch.amax),
    "ReduceMean": axes.reduction(torch.mean),
    "ReduceSum": axes.reduction(torch.sum),
    "Relu": lambda i, a: torch.relu(i[0]),
    "Reshape": axes.reshape,
    "Resize": resize,
    "Shape": axes.shape,
    "Sigmoid": lambda i, a: torch.sigmoid(i[0]),
    "Slice": axes.cut_slice,
    "Softmax": lambda i, a: torch.softmax(i[0], a.get("axis", -1)),
    "Softplus": lambda i, a: functional.softplus(i[0]),
    "SpaceToDepth": axes.space_to_depth,
    "Split": axes.split,
    "Sqrt": lambda i, a: torch.sqrt(i[0]),
    "Squeeze": axes.squeeze,
    "Sub": lambda i, a: i[0] - i[1],
    "Sum": lambda i, a: sum(i[1:], i[0]),
    "Tanh": lambda i, a: torch.tanh(i[0]),
    "Transpose": lambda i, a: i[0].permute(a["perm"]) if "perm" in a else i[0].permute(*range(i[0].dim())[::-1]),
    "Unsqueeze": axes.unsqueeze,
}
"""By ONNX's name; of the standard domain."""
