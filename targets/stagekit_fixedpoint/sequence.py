"""Rules for transformers: Softmax and LayerNormalization in integers."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.program import Step
from stagekit_fixedpoint.transformer import NORM_BITS, SOFTMAX_BITS
from stagekit_fixedpoint.values import Pending, Refused, Value

EXP_UNIT_BITS = 12
"""1.0 in the exponent is at least ``2**12`` integers: differences are shifted to the left until it is."""

GAIN_BITS = 15
"""Largest magnitude of the integers that stand for LayerNorm's gamma."""


def softmax(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    builder.need("softmax")
    x = builder.stored(node, exponents=True)
    axis = node.attributes.get_int("axis", -1) % (len(x.shape) + 1)
    if axis == 0:
        raise Refused("a softmax over the batch is not computed")
    if x.exponents and axis == x.axis % (len(x.shape) + 1):
        raise Refused("what it adds up has a scale for each index")
    left = max(0, EXP_UNIT_BITS + ceil(log2(x.scale)))
    unit = round(2.0**left / x.scale)
    if unit < 2:
        raise Refused(f"the scale {x.scale!r} is too coarse for an exponential; quantise its input more finely")
    name, lefts = str(node.name), tuple(left + e for e in x.exponents or (0,))

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        return p.Softmax(name, (x.name,), output, axis, lefts, unit, requantize)

    return (Pending(name, x.shape, finish, np.array([2.0**-SOFTMAX_BITS])),)


def layer_norm(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Gain and offset are integers in a common unit of ``2**-GAIN_BITS`` of the largest gain, a power of two."""
    builder.need("layer_norm")
    x = builder.stored(node, exponents=True)
    if x.exponents and x.axis != -1:
        raise Refused("the scales of its input are not along its channels")
    if node.attributes.get_int("axis", -1) not in (-1, len(x.shape)) or len(node.outputs) > 1:
        raise Refused("only a LayerNorm over the last axis is computed")
    gamma, beta = builder.constant(node, 1), builder.constant(node, 2)
    assert gamma is not None
    count = x.shape[-1]
    real = gamma.real.reshape(-1) * count**0.5
    step = 2.0 ** (ceil(log2(float(np.abs(real).max()) or 1.0)) - GAIN_BITS)
    unit = step * 2.0**-NORM_BITS
    gain = np.rint(real / step).astype(np.int64)
    offset = np.zeros(1) if beta is None else np.rint(beta.real.reshape(-1) / unit)
    if np.abs(offset).max() >= 2.0**48:
        raise Refused("its beta is too large beside its gamma")
    name = str(node.name)
    keys = builder.array(f"{name}/gain", gain), builder.array(f"{name}/offset", offset.astype(np.int64))
    # Of d = C x - sum(x), the sum of squares is C^3 var / scale^2.
    epsilon = round((node.attributes.get_float("epsilon", 1e-5) or 0.0) * count**3 / x.scale**2)

    def finish(output: str, requantize: Requantize, bias: Ints) -> Step:
        return p.LayerNorm(name, (x.name,), output, x.exponents, keys[0], keys[1], min(epsilon, 2**60), requantize)

    return (Pending(name, x.shape, finish, np.array([unit])),)
