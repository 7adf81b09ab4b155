"""Softmax and LayerNorm in integers, in one written version.

The exponential is I-BERT's polynomial (arXiv 2101.01321, section 3.4), the rest follows I-ViT (arXiv 2207.01405,
section 3). With I-ViT's own exponential, by shifts alone and off by up to 6 %, a trained ViT-S/14 in saturating 16-bit
arithmetic keeps 40 dB at its last unit, with the polynomial 47 dB (one example picture). Published code of both differs
in bits; what counts is what stands here.
"""

from __future__ import annotations

import numpy as np

from stagekit_fixedpoint.arithmetic import Ints, Requantize, integer_sqrt

EXP_BITS = 21
"""The exponential of 0 has about this many bits, whatever the unit of its argument."""

RECIPROCAL_BITS = 46
"""Position of the binary point in the reciprocal of the sum of exponentials."""

NORM_RECIPROCAL_BITS = 52
NORM_BITS = 16
"""Binary points of the reciprocal of a row's norm, and of the normalised values."""


def exponential(difference: Ints, unit: int) -> Ints:
    """A multiple of ``exp(difference / unit)`` for ``difference <= 0``: the multiple is the same for all.

    ``exp(-z) = 2**-q exp(-r)`` with ``z = q ln 2 + r``, and ``exp(-r) ~ 0.3585 ((1.353 - r)**2 + 0.9596)``, whose
    largest error on the interval is 0.2 %.
    """
    log2 = (unit * 1488522236 + 2**30) >> 31
    middle, rest = (unit * 1386 + 512) >> 10, (unit * unit * 983 + 512) >> 10
    whole, part = np.divmod(-difference, np.int64(log2))
    value = (middle - part) ** 2 + rest
    return np.asarray(value >> np.minimum(whole + max(0, 2 * unit.bit_length() - EXP_BITS), 62))


def softmax(x: Ints, axis: int, left: Ints, unit: int, requantize: Requantize) -> Ints:
    """Softmax over an axis, with one division for each row.

    Args:
        left: bits by which differences are shifted to the left first, for a finer exponent.
        unit: the integer that stands for 1.0 after that shift: ``round(2**left / scale)``.
        requantize: from a binary point at ``RECIPROCAL_BITS - 16`` to the stored format.
    """
    difference = (x - x.max(axis=axis, keepdims=True)) << left
    powers = exponential(difference, unit)
    reciprocal = (np.int64(1) << RECIPROCAL_BITS) // powers.sum(axis=axis, keepdims=True)
    return requantize(powers * reciprocal >> 16, axis=axis)


SOFTMAX_BITS = RECIPROCAL_BITS - 16
"""Binary point of the probabilities that are requantised."""


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
