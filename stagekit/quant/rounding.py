"""Rounding a weight so that its kernels keep their sums.

Neighbouring pixels are alike, so that what a kernel makes of them depends on the sum of its taps first of all. Rounding
each tap to nearest moves that sum by up to half a step a tap: in a depthwise convolution that finds edges, whose taps
are large and cancel, by more than the whole answer. Bias correction mends that at the mean of the inputs alone. So the
taps that are nearest to halfway are rounded the other way until the sum is within half a step of its own (Guo et al.
2022, "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", the flips of its kernels).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import gcd
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.graph.spec import Quantization
from stagekit.quant.formats import Array, NumberFormat, quantise, steps
from stagekit.quant.scheme import QuantScheme


def quantise_weight(
    weight: Array, quantization: Quantization, scheme: QuantScheme, apart: Sequence[int] = (1, 1)
) -> Array:
    """Stored integers of a product's weight; those with spatial taps keep their kernels' sums, unless told not to.

    Args:
        weight: (out, in, ...) with taps, if any, from its third axis on.
        apart: see :func:`taps_apart`.
    """
    stored, exact = quantise(weight, quantization, scheme.weight), steps(weight, quantization)
    if weight.ndim < 3 or not scheme.keep_sums:
        return stored
    for place in product(*map(range, apart)):
        seen: Any = (..., *(slice(start, None, step) for start, step in zip(place, apart, strict=True)))
        stored[seen] = _with_sums(stored[seen], exact[seen], scheme.weight)
    return stored


def taps_apart(node: ir.Node) -> tuple[int, ...]:
    """How far apart, in each direction, the taps of a kernel lie that one output is the sum of.

    Next to each other, but for a transposed convolution, whose output places take turns in using the taps.
    """
    if node.op_type != "ConvTranspose":
        return 1, 1
    strides = node.attributes.get_ints("strides", ()) or (1, 1)
    dilations = node.attributes.get_ints("dilations", ()) or [1] * len(strides)
    return tuple(int(s) // gcd(int(s), int(d)) for s, d in zip(strides, dilations, strict=True))


def _with_sums(stored: Array, exact: Array, form: NumberFormat) -> Array:
    """Integers of kernels of which some are turned to their other neighbour.

    Args:
        exact: the weights in units of their scale.
    """
    taps = int(np.prod(stored.shape[2:]))
    if taps < 2:
        return stored
    kernels = stored.reshape(-1, taps).astype(np.int64)
    errors = kernels - exact.reshape(-1, taps)
    total = errors.sum(axis=1, keepdims=True)
    way = -np.sign(total)
    room = np.where(way > 0, kernels < form.high, kernels > form.low)
    gain = np.where(room, -way * errors, -1.0)  # of those rounded the wrong way, the largest errors cost least to turn
    rank = np.argsort(np.argsort(-gain, axis=1, kind="stable"), axis=1)
    turned = (rank < np.rint(np.abs(total))) & (gain > 0)
    summed: Array = (kernels + way * turned).reshape(stored.shape).astype(stored.dtype)
    return summed
