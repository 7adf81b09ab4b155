"""What is known of a tensor's values: extremes, a histogram of fixed size, and a few facts by channel.

The histogram spans ``[-2**exponent, 2**exponent)`` in equal bins. When a value falls outside, the span doubles
and neighbouring bins merge, which is exact: the histogram of several images does not depend on their order,
and the sum of two runs is what one run over both would have given. Memory does not grow with the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 8192
"""Enough for 32 bins to an int8 step of the widest range, and 64 KiB."""

BLOCK = 65536
"""Values counted at a time: what lies in between stays in the cache, which takes a third of the time."""

SMALLEST_EXPONENT = -60

MOMENTUM = 0.9
"""Of the moving average: the weight of what came before, for each frame."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one tensor over some frames.

    Args:
        minimum, maximum: exact.
        average_minimum, average_maximum: exponential moving averages of each frame's extremes, in order.
        frames: how many were seen.
        exponent: the histogram spans [-2**exponent, 2**exponent).
        counts: int64 (BINS,).
        channel_mean: float64 (channels,): mean value along the channel axis.
        channel_reach: float64 (channels,): largest magnitude.
    """

    minimum: float
    maximum: float
    average_minimum: float
    average_maximum: float
    frames: int
    exponent: int
    counts: Array
    channel_mean: Array
    channel_reach: Array

    def merge(self, later: Statistics) -> Statistics:
        """Both together; ``later`` comes after in the moving average."""
        exponent = max(self.exponent, later.exponent)
        kept = MOMENTUM**later.frames
        share = self.frames / (self.frames + later.frames)
        return Statistics(
            min(self.minimum, later.minimum),
            max(self.maximum, later.maximum),
            kept * self.average_minimum + (1 - kept) * later.average_minimum,
            kept * self.average_maximum + (1 - kept) * later.average_maximum,
            self.frames + later.frames,
            exponent,
            _widened(self, exponent) + _widened(later, exponent),
            share * self.channel_mean + (1 - share) * later.channel_mean,
            np.maximum(self.channel_reach, later.channel_reach),
        )

    def centres(self) -> Array:
        """The middle of each bin, float64 (BINS,)."""
        return (np.arange(BINS) + 0.5 - BINS / 2) * (2.0 ** (self.exponent + 1) / BINS)

    def share_outside(self, low: float, high: float) -> float:
        """The share of values beyond [low, high], up to the width of a bin."""
        width = 2.0 ** (self.exponent + 1) / BINS
        centres = self.centres()
        outside = self.counts[(centres + width / 2 < low) | (centres - width / 2 > high)].sum()
        return float(outside / max(int(self.counts.sum()), 1))


def observe(values: Array, channel_axis: int) -> Statistics:
    """Statistics of one frame's tensor; its values must be finite.

    Args:
        channel_axis: the axis that ``channel_mean`` and ``channel_reach`` keep.
    """
    others = tuple(a for a in range(values.ndim) if a != channel_axis % max(values.ndim, 1))
    lows, highs = np.atleast_1d(values.min(axis=others)), np.atleast_1d(values.max(axis=others))
    low, high = float(lows.min()), float(highs.max())
    reach = max(-low, high)
    exponent = max(frexp(reach)[1], SMALLEST_EXPONENT) if reach else SMALLEST_EXPONENT
    # Frames share channels, not sums: float64 keeps the mean independent of how numpy splits the sum.
    mean = np.atleast_1d(values.mean(axis=others, dtype=np.float64))
    reaches = np.maximum(highs, -lows).astype(np.float64)
    return Statistics(low, high, low, high, 1, exponent, _histogram(values, exponent), mean, reaches)


def _histogram(values: Array, exponent: int) -> Array:
    counts = np.zeros(BINS + 1, np.int64)
    flat, factor = values.reshape(-1), np.float32(BINS / 2.0 ** (exponent + 1))
    for start in range(0, flat.size, BLOCK):
        stored = flat[start : start + BLOCK] * factor
        np.floor(stored, out=stored)  # before the offset, in which float32 would lose small values below zero
        stored += BINS // 2
        counts += np.bincount(stored.astype(np.int64), minlength=BINS + 1)
    counts[BINS - 1] += counts[BINS]  # float32 rounds the last value below the end up to it
    return counts[:BINS]


def _widened(statistics: Statistics, exponent: int) -> Array:
    counts = statistics.counts
    for _ in range(min(exponent - statistics.exponent, BINS.bit_length())):
        halved = counts.reshape(-1, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[BINS // 4 : 3 * BINS // 4] = halved
    return counts
