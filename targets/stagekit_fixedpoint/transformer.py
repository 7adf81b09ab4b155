"""Softmax and LayerNorm in integers: one written version of I-ViT's formulas (arXiv 2207.01405, section 3).

Its PyTorch code and its integer ports differ in bits; what counts here is what these functions say.
"""

from __future__ import annotations

import numpy as np

from stagekit_fixedpoint.arithmetic import Ints, Requantize, integer_sqrt

EXP_GUARD = 8
"""Bits below the exponential's unit that are kept when it is shifted down."""

RECIPROCAL_BITS = 46
"""Position of the binary point in the reciprocal of the sum of exponentials."""

NORM_RECIPROCAL_BITS = 52
NORM_BITS = 16
"""Binary points of the reciprocal of a row's norm, and of the normalised values."""


def shift_exp(difference: Ints, unit: int) -> Ints:
    """``unit * 2**EXP_GUARD * exp(difference / unit)`` for ``difference <= 0``, by shifts and one division.

    ``log2(e)`` is taken as 1.0111 in binary (1 + 1/2 - 1/16), and ``2**-f`` as ``1 - f / 2`` for ``0 <= f < 1``.
    """
    exponent = difference + (difference >> 1) - (difference >> 4)
    whole, part = np.divmod(-exponent, np.int64(unit))
    return np.asarray(((unit - (part >> 1)) << EXP_GUARD) >> np.minimum(whole, 62))


def shiftmax(x: Ints, axis: int, left: int, unit: int, requantize: Requantize) -> Ints:
    """I-ViT's Shiftmax over an axis.

    Args:
        left: bits by which differences are shifted to the left first, for a finer exponent.
        unit: the integer that stands for 1.0 after that shift: ``round(2**left / scale)``.
        requantize: from a binary point at ``RECIPROCAL_BITS - 16`` to the stored format.
    """
    difference = (x - x.max(axis=axis, keepdims=True)) << left
    exponential = shift_exp(difference, unit)
    reciprocal = (np.int64(1) << RECIPROCAL_BITS) // exponential.sum(axis=axis, keepdims=True)
    return requantize(exponential * reciprocal >> 16, axis=axis)


SOFTMAX_BITS = RECIPROCAL_BITS - 16
"""Binary point of the probabilities that Shiftmax requantises."""


def layer_norm(x: Ints, gain: Ints, offset: Ints, epsilon: int, requantize: Requantize) -> Ints:
    """LayerNorm over the last axis of length C.

    ``d = C x - sum(x)`` holds the centred values without rounding a mean. Their norm ``s = isqrt(sum d^2 +
    epsilon)`` is inverted once a row; ``t = d / s`` (binary point 16) is at most 1, and ``gain`` carries
    ``gamma sqrt(C)``.
    """
    centred = x * x.shape[-1] - x.sum(axis=-1, keepdims=True)
    norm = integer_sqrt((centred * centred).sum(axis=-1, keepdims=True) + epsilon)
    reciprocal = (np.int64(1) << NORM_RECIPROCAL_BITS) // np.maximum(norm, 1)
    normal = centred * reciprocal >> (NORM_RECIPROCAL_BITS - NORM_BITS)
    return requantize(normal * gain + offset)
