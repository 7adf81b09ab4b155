"""The arithmetic specification as pure functions on numpy int64; docs/fixed-point.md says the same in words.

Everything that a fixed-point device does to numbers is here: formats, roundings (named by what they do),
overflow, the accumulator, and requantisation from the accumulator to a stored format. Both interpreters and
the Verilog processing element are held against these functions.

Values must stay below 2**62 in magnitude; :mod:`stagekit_fixedpoint.bounds` proves it for a program.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import frexp, isfinite
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rounding = Literal["floor", "toward_zero", "half_up", "half_away", "half_even"]
Overflow = Literal["saturate", "wrap"]
Style = Literal["shift", "double", "single"]

ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)
STYLES: tuple[Style, ...] = get_args(Style)

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class Format:
    """An integer format: how many bits, and whether one of them is a sign (two's complement)."""

    bits: int
    signed: bool = True

    @property
    def lowest(self) -> int:
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def highest(self) -> int:
        return (1 << self.bits - self.signed) - 1

    def __str__(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.bits}"


def saturate(value: npt.ArrayLike, fmt: Format) -> Ints:
    """The nearest value that the format holds."""
    return np.clip(np.asarray(value, np.int64), fmt.lowest, fmt.highest)


def wrap(value: npt.ArrayLike, fmt: Format) -> Ints:
    """The low bits alone, as two's complement hardware without overflow logic keeps them."""
    return np.asarray((np.asarray(value, np.int64) - fmt.lowest) % 2**fmt.bits + fmt.lowest, np.int64)


def fit(value: npt.ArrayLike, fmt: Format, overflow: Overflow) -> Ints:
    """``value`` in the format, by :func:`saturate` or :func:`wrap`."""
    return saturate(value, fmt) if overflow == "saturate" else wrap(value, fmt)


def shift_right(value: npt.ArrayLike, shift: npt.ArrayLike, rounding: Rounding) -> Ints:
    """``value / 2**shift`` as an integer; a negative shift multiplies and is exact.

    ========== ============================================ ==============================
    floor      the integer below                            -2.5 -> -3, 2.5 -> 2
    toward_zero the integer nearer to zero                  -2.5 -> -2, 2.5 -> 2
    half_up    the nearest; ties to the larger              -2.5 -> -2, 2.5 -> 3 (DPU_ROUND)
    half_away  the nearest; ties away from zero             -2.5 -> -3, 2.5 -> 3
    half_even  the nearest; ties to the even                -2.5 -> -2, 2.5 -> 2 (AP_RND_CONV)
    ========== ============================================ ==============================
    """
    x, amount = np.asarray(value, np.int64), np.asarray(shift, np.int64)
    right = np.maximum(amount, 0)
    x = x << np.maximum(-amount, 0)
    half = (np.int64(1) << right) >> 1
    if rounding == "floor":
        return np.asarray(x >> right)
    if rounding == "toward_zero":
        return np.asarray(np.where(x < 0, -(-x >> right), x >> right))
    if rounding == "half_up":
        return np.asarray((x + half) >> right)
    if rounding == "half_away":
        return np.asarray(np.where(x < 0, -((-x + half) >> right), (x + half) >> right))
    quotient = x >> right
    rest = x - (quotient << right)
    up = (rest > half) | ((rest == half) & (half > 0) & (quotient & 1 == 1))
    return np.asarray(quotient + up)


def saturating_rounding_doubling_high_multiply(a: npt.ArrayLike, b: npt.ArrayLike) -> Ints:
    """gemmlowp's SRDHM on int32: the high word of ``2 a b``; ties go up; ``INT_MIN * INT_MIN`` saturates.

    Its C code adds ``1 - 2**30`` to a negative product and divides toward zero, which sends -562.5 to -562
    (ruy/apply_multiplier_test.cc), like ARM's SQRDMULH.
    """
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return np.asarray(np.minimum((product + 2**30) >> 31, INT32_MAX))


@dataclass(frozen=True, slots=True)
class Rescale:
    """Multiplication by ``multiplier / 2**shift`` in integers, one factor or one for each channel.

    Args:
        multiplier: 1 for power-of-two devices, Q31 significands for TFLite, 16-bit reciprocals in pools.
        shift: bits to the right; negative ones to the left.
        rounding: of the last division.
        style: ``shift`` and ``single`` round once: ``(x * multiplier) >> shift`` (TFLite's single rounding is
            the case of half up). ``double`` is TFLite's reference: SRDHM, then ``rounding`` by the remaining shift.
    """

    multiplier: tuple[int, ...] = (1,)
    shift: tuple[int, ...] = (0,)
    rounding: Rounding = "half_even"
    style: Style = "shift"

    def factors(self) -> list[Fraction]:
        """The exact real factors."""
        return [Fraction(m) / Fraction(2) ** s for m, s in zip(self.multiplier, self.shift, strict=True)]

    def __call__(self, value: npt.ArrayLike, axis: int = -1) -> Ints:
        """The rescaled integers; ``axis`` is that of the channels where there is a factor for each."""
        x = np.asarray(value, np.int64)
        multiplier, shift = (_along(v, x.ndim, axis) for v in (self.multiplier, self.shift))
        if self.style != "double":
            return shift_right(x * multiplier, shift, self.rounding)
        exponent = 31 - shift
        shifted = x << np.maximum(exponent, 0)
        high = saturating_rounding_doubling_high_multiply(shifted, multiplier)
        return shift_right(high, np.maximum(-exponent, 0), self.rounding)


def _along(values: tuple[int, ...], rank: int, axis: int) -> Ints:
    array = np.asarray(values, np.int64)
    if array.size == 1 or rank == 0:
        return array.reshape(())
    shape = [1] * rank
    shape[axis] = array.size
    return array.reshape(shape)


@dataclass(frozen=True, slots=True)
class Requantize:
    """From an accumulator to a stored tensor: rescale, add the zero point, fit the format, clamp.

    Args:
        low, high: the clamp of a folded ReLU, ReLU6 or Clip, in stored integers; the format's range without one.
    """

    rescale: Rescale
    format: Format
    zero_point: int
    low: int
    high: int
    overflow: Overflow = "saturate"

    def __call__(self, accumulator: npt.ArrayLike, axis: int = -1) -> Ints:
        value = self.before_overflow(accumulator, axis)
        return np.clip(fit(value, self.format, self.overflow), self.low, self.high)

    def before_overflow(self, accumulator: npt.ArrayLike, axis: int = -1) -> Ints:
        """The value that would be stored if the format had no end; what leaves it is counted as saturated."""
        return self.rescale(accumulator, axis) + self.zero_point


def is_power_of_two(value: float) -> bool:
    """Whether a scale is on the grid of a device that only shifts."""
    return isfinite(value) and value > 0 and frexp(value)[0] == 0.5


def power_of_two_shift(factor: float) -> tuple[int, int]:
    """``(1, n)`` with ``factor == 2**-n``.

    Raises:
        ValueError: it is no power of two.
    """
    if not is_power_of_two(factor):
        raise ValueError(f"{factor!r} is not a power of two")
    return 1, 1 - frexp(factor)[1]


def quantized_multiplier(factor: float, bits: int = 31) -> tuple[int, int]:
    """``(multiplier, shift)`` with ``factor ~ multiplier / 2**shift`` and ``bits`` significant bits.

    With 31 bits this is TFLite's ``QuantizeMultiplier`` (its exponent is ``31 - shift``), its two special
    cases included: a significand that rounds to 1.0, and factors too small to matter, which become zero.

    Raises:
        ValueError: not finite.
    """
    if not isfinite(factor):
        raise ValueError(f"{factor!r} is not a factor")
    if factor == 0:
        return 0, bits
    significand, exponent = frexp(abs(factor))
    multiplier = int(Fraction(significand) * 2**bits + Fraction(1, 2))
    if multiplier == 2**bits:
        multiplier, exponent = multiplier // 2, exponent + 1
    if exponent < -31:
        return 0, bits
    return (multiplier if factor > 0 else -multiplier), bits - exponent


def integer_sqrt(value: npt.ArrayLike) -> Ints:
    """``floor(sqrt(value))`` by Newton's iteration on integers (I-BERT, algorithm 4), from a power of two above.

    The first guess is at least the root, so that the iteration falls until it stops: no step count is left open.
    """
    x = np.asarray(value, np.int64)
    bits = np.zeros_like(x)
    rest = x.copy()
    for step in (32, 16, 8, 4, 2, 1):
        large = rest >> step > 0
        bits += np.where(large, step, 0)
        rest = np.where(large, rest >> step, rest)
    root = np.where(x > 0, np.int64(1) << (bits // 2 + 1), 0)
    while True:
        following = np.where(root > 0, (root + x // np.maximum(root, 1)) >> 1, 0)
        if not np.any(following < root):
            return np.asarray(root)
        root = np.minimum(root, following)


def dtype_of(fmt: Format) -> np.dtype[Any]:
    """The smallest numpy type that holds the format."""
    for size in (8, 16, 32, 64):
        if fmt.bits <= size:
            return np.dtype(f"{'int' if fmt.signed else 'uint'}{size}")
    raise ValueError(f"no integer type holds {fmt}")
