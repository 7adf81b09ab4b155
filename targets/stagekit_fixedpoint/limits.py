"""An upper limit for each channel, which equalised ReLU6s have, on devices that clamp all channels alike.

``min(x, c) = c - relu(c - x)``: two depthwise convolutions with the weight -1 and the bias ``c``, in integers exact
where all three tensors have one scale and the format saturates. A limit beyond the format limits nothing.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import factors
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.program import Tensor
from stagekit_fixedpoint.values import Constant, Pending, Reals, Refused, Value


def minimum(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Min of a convolution behind a Relu and a constant for each channel."""
    sides = [builder.value(node, i) for i in range(len(node.inputs))]
    pending = next((s for s in sides if isinstance(s, Pending)), None)
    constant = next((s for s in sides if isinstance(s, Constant)), None)
    if len(sides) != 2 or pending is None or constant is None:
        raise Refused("only the minimum of a sum of products and a constant for each channel is computed")
    real, channels = constant.real.astype(np.float64), pending.shape[0]
    if real.size == 1:
        return (replace(pending, high=min(pending.high, float(real.reshape(())))),)
    if len(pending.shape) != 3 or real.shape[-3:] != (channels, 1, 1) or real.size != channels:
        raise Refused(f"limits of the shape {real.shape} are not one for each channel of {pending.shape}")
    if pending.low < 0 or pending.limits is not None or not (real > 0).all():
        raise Refused("limits for each channel are computed behind a Relu alone, and must be positive")
    if builder.arithmetic.overflow != "saturate":
        raise Refused("its limits need a format that saturates; calibrate without equalisation for this profile")
    builder.need("depthwise")
    return (replace(pending, limits=real.reshape(-1)),)


def emit_limits(builder: Builder, name: str, x: Tensor, out: Tensor, limits: Reals) -> None:
    """Emits the two steps from ``x`` to ``out``, which have one format and scale and are not negative."""
    if out.zero_point or not out.format.signed:
        raise Refused("limits for each channel need signed integers with the zero point 0", name)
    steps = np.clip(np.rint(limits / out.scale), 1, out.format.highest).astype(np.int64)
    over = builder.like(out, f"{out.name}/below", out.shape)
    weight = builder.array(f"{name}/minus", np.full((len(steps), 1, 1, 1), -1))
    bias = builder.array(f"{name}/limits", steps)
    for step, source, target, low in ((f"{name}/over", x, over, 0.0), (f"{name}/limit", over, out, -inf)):
        stage = factors.requantize(builder.arithmetic, np.array([out.scale]), target, low=low)
        groups, window = len(steps), ((1, 1), (0, 0, 0, 0), (1, 1))
        builder.emit(p.Convolution(step, (source.name,), target.name, weight, bias, *window, groups, stage))
