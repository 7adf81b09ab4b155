"""Integers in torch: they travel as floats that hold whole numbers, so that gradients pass.

Rounding and clamping are straight-through (Bengio et al. 2013; Jacob et al. 2018, section 3): backwards, rounding is
the identity, and a value beyond the last level has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stagekit.errors import GraphError
from stagekit.tune.operators.operator import Attributes

LEVELS = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767)}
"""What QuantizeLinear saturates to, by the type of its zero point."""


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


def quantize_linear(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, scale, zero = inputs
    if scale.numel() != 1:
        raise GraphError("activations with a scale for each channel are not simulated", where="QuantizeLinear")
    return quantise(x, float(scale), float(zero), *LEVELS[zero.dtype])


def dequantize_linear(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    stored, scale, zero = inputs
    if scale.numel() == 1:
        return dequantise(stored.float(), float(scale), float(zero))
    shape = [1] * stored.dim()
    shape[attributes.get("axis", 1)] = -1
    result: Tensor = (stored.float() - zero.float().view(shape)) * scale.view(shape)
    return result
