"""Rounding a weight so that its kernels keep their sums.

Neighbouring pixels are alike, so that what a kernel makes of them depends on the sum of its taps first of all. Rounding
each tap to nearest moves that sum by up to half a step a tap: in a depthwise convolution that finds edges, whose taps
are large and cancel, by more than the whole answer. Bias correction mends that at the mean of the inputs alone. So the
taps that are nearest to halfway are rounded the other way until the sum is within half a step of its own (Guo et al.
2022, "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", the flips of its kernels).
"""

from __future__ import annotations

import numpy as np

from stagekit.graph.spec import DTYPES, Quantization
from stagekit.quant.formats import Array, quantise, steps
from stagekit.quant.scheme import QuantScheme


def quantise_weight(weight: Array, quantization: Quantization, scheme: QuantScheme) -> Array:
    """Stored integers of a product's weight; those with spatial taps keep their kernels' sums, unless told not to.

    Args:
        weight: (out, in, ...) with taps, if any, from its third axis on.
    """
    form = scheme.weight
    stored = quantise(weight, quantization, form)
    taps = int(np.prod(weight.shape[2:]))
    if taps == 1 or not scheme.keep_sums:
        return stored
    kernels = stored.reshape(-1, taps).astype(np.int64)
    errors = kernels - steps(weight, quantization).reshape(-1, taps)
    total = errors.sum(axis=1, keepdims=True)
    way = -np.sign(total)
    room = np.where(way > 0, kernels < form.high, kernels > form.low)
    gain = np.where(room, -way * errors, -1.0)  # of those rounded the wrong way, the largest errors cost least to turn
    rank = np.argsort(np.argsort(-gain, axis=1, kind="stable"), axis=1)
    turned = (rank < np.rint(np.abs(total))) & (gain > 0)
    summed: Array = (kernels + way * turned).reshape(weight.shape).astype(DTYPES[form.dtype])
    return summed
