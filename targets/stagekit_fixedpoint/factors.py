"""From real factors to the integers a device multiplies and shifts by, and from real biases to integer ones."""

from __future__ import annotations

from math import floor, inf, isfinite, log2

import numpy as np

from stagekit_fixedpoint.arithmetic import (
    Format,
    Ints,
    Requantize,
    Rescale,
    is_power_of_two,
    power_of_two_shift,
    quantized_multiplier,
)
from stagekit_fixedpoint.device import Arithmetic
from stagekit_fixedpoint.program import Tensor
from stagekit_fixedpoint.values import Reals, Refused


def rescale(arithmetic: Arithmetic, factor: Reals, multiplier: bool = False) -> Rescale:
    """The device's way to multiply by ``factor`` (one or one for each channel).

    Args:
        multiplier: a power-of-two device may use one here (means, constant factors).

    Raises:
        Refused: the factor needs a multiplier and may not have one, or is outside of all reach.
    """
    factors = [float(f) for f in np.asarray(factor, np.float64).reshape(-1)]
    if not all(isfinite(f) and f != 0 for f in factors):
        raise Refused(f"the scales give the factor {factors[0]!r}: a scale is zero or infinite")
    if arithmetic.style == "shift":
        if all(is_power_of_two(f) for f in factors):
            pairs = [power_of_two_shift(f) for f in factors]
        elif multiplier:
            pairs = [quantized_multiplier(f, arithmetic.multiplier_bits) for f in factors]
        else:
            raise Refused(f"the factor {factors[0]!r} is no power of two, and the device only shifts")
    else:
        pairs = [quantized_multiplier(f, arithmetic.multiplier_bits) for f in factors]
    if any(not -32 <= shift <= 62 for _, shift in pairs):
        raise Refused(f"the scales differ by more than a shifter reaches (factor {factors[0]!r})")
    multipliers, shifts = zip(*pairs, strict=True)
    return Rescale(multipliers, shifts, arithmetic.rounding, arithmetic.style)


def requantize(
    arithmetic: Arithmetic,
    unit: Reals,
    target: Tensor,
    low: float = -inf,
    high: float = inf,
    multiplier: bool = False,
) -> Requantize:
    """From an accumulator whose 1 stands for ``unit`` to a stored tensor, with a real clamp folded in."""
    fmt = target.format
    if target.exponents and (low, high) != (-inf, inf):
        raise Refused("it clamps channels that have scales of their own")
    lowest = fmt.lowest if low == -inf else clamp(low, target)
    highest = fmt.highest if high == inf else clamp(high, target)
    factor = np.asarray(unit, np.float64) / target.scales
    return Requantize(
        rescale(arithmetic, factor, multiplier), fmt, target.zero_point, lowest, highest, arithmetic.overflow
    )


def clamp(real: float, target: Tensor) -> int:
    """A real bound as a stored integer: nearest, ties to even, inside the format."""
    return int(np.clip(np.rint(real / target.scale) + target.zero_point, target.format.lowest, target.format.highest))


def integer_bias(arithmetic: Arithmetic, bias: Reals, unit: Reals, channels: int) -> Ints:
    """Biases in units of the accumulator; on devices with few bias bits a multiple of a power of two.

    Raises:
        Refused: a bias is not a number, or too large for the accumulator.
    """
    wanted = np.broadcast_to(np.asarray(bias, np.float64) / unit, (channels,))
    if not np.isfinite(wanted).all() or np.abs(wanted).max(initial=0) >= 2.0**arithmetic.accumulator_bits:
        raise Refused("a bias is not finite or does not fit the accumulator")
    largest = float(np.abs(wanted).max(initial=0))
    shift = max(0, floor(log2(largest)) + 2 - arithmetic.bias_bits) if largest > 0 else 0
    fmt = Format(arithmetic.bias_bits)
    return np.clip(np.rint(wanted / 2.0**shift), fmt.lowest, fmt.highest).astype(np.int64) << shift
