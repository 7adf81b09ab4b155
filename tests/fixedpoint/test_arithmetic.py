"""The arithmetic specification against published tables and exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor, isqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stagekit_fixedpoint.arithmetic import (
    INT32_MAX,
    INT32_MIN,
    ROUNDINGS,
    Format,
    Requantize,
    Rescale,
    Rounding,
    integer_sqrt,
    is_power_of_two,
    power_of_two_shift,
    quantized_multiplier,
    saturate,
    saturating_rounding_doubling_high_multiply,
    shift_right,
    wrap,
)
from stagekit_fixedpoint.transformer import NORM_BITS, SOFTMAX_BITS, exponential, layer_norm, softmax


def rounded(value: Fraction, rounding: Rounding) -> int:
    """The roundings again, on rational numbers."""
    below, tie = floor(value), value - floor(value) == Fraction(1, 2)
    nearest = below if value - below < Fraction(1, 2) else below + 1
    return {
        "floor": below,
        "toward_zero": below if value >= 0 else ceil(value),
        "half_up": nearest,
        "half_away": below if tie and value < 0 else nearest,
        "half_even": below + below % 2 if tie else nearest,
    }[rounding]


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("floor", [-3, -2, -2, -1, -1, 0, 0, 1, 1, 2]),
        ("toward_zero", [-2, -2, -1, -1, 0, 0, 0, 1, 1, 2]),
        ("half_up", [-2, -2, -1, -1, 0, 0, 1, 1, 2, 3]),  # Vitis AI's DPU_ROUND: -2.5 -> -2, -1.5 -> -1
        ("half_away", [-3, -2, -2, -1, -1, 0, 1, 1, 2, 3]),
        ("half_even", [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2]),  # Xilinx AP_RND_CONV
    ],
)
def test_halves_round_as_the_name_says(rounding: Rounding, expected: list[int]) -> None:
    halves = [-5, -4, -3, -2, -1, 0, 1, 2, 3, 5]
    assert shift_right(halves, 1, rounding).tolist() == expected


@given(st.integers(-(2**61), 2**61), st.integers(-5, 40), st.sampled_from(ROUNDINGS))
def test_a_shift_equals_the_rounded_quotient(value: int, shift: int, rounding: Rounding) -> None:
    value = value >> max(-shift, 0)
    assert int(shift_right(value, shift, rounding)) == rounded(Fraction(value) / Fraction(2) ** shift, rounding)


@given(st.integers(-(2**62), 2**62), st.integers(1, 48), st.booleans())
def test_saturating_is_nearest_and_wrapping_is_congruent(value: int, bits: int, signed: bool) -> None:
    fmt = Format(bits, signed)
    assert int(saturate(value, fmt)) == max(fmt.lowest, min(fmt.highest, value))
    wrapped = int(wrap(value, fmt))
    assert fmt.lowest <= wrapped <= fmt.highest
    assert (wrapped - value) % 2**bits == 0


RUY = [  # ruy/apply_multiplier_test.cc: x, multiplier, exponent, expected
    *[(1000, m, 0, e) for m, e in ((INT32_MAX, 1000), (2**30, 500), (2**29, 250), (2**30 + 2**29, 750))],
    *[(1000, m, 0, e) for m, e in ((2**30 + 2**28, 625), (2**30 + 2**27, 563), (2**30 + 2**26, 531))],
    *[(-1000, m, 0, e) for m, e in ((INT32_MAX, -1000), (2**30, -500), (2**29, -250), (2**30 + 2**29, -750))],
    *[(-1000, m, 0, e) for m, e in ((2**30 + 2**28, -625), (2**30 + 2**27, -562), (2**30 + 2**26, -531))],
    *[(1000, INT32_MAX, -n, e) for n, e in enumerate((500, 250, 125, 62, 31, 16), 1) if n != 4],
    *[(-1000, INT32_MAX, -n, e) for n, e in enumerate((-500, -250, -125, -62, -31, -16), 1)],
    *[(s * 1000, INT32_MAX, n, s * 1000 * 2**n) for n in (1, 2, 3) for s in (1, -1)],
]


@pytest.mark.parametrize(("x", "multiplier", "exponent", "expected"), RUY)
def test_double_rounding_gives_ruys_published_values(x: int, multiplier: int, exponent: int, expected: int) -> None:
    """ruy shifts half up; 1000 / 16 = 62.5 stands as 62 in its table because its newer kernels round once."""
    rescale = Rescale((multiplier,), (31 - exponent,), "half_up", "double")
    assert int(rescale(x)) == expected


TFLITE = [  # tensorflow/lite/kernels/internal/quantization_util_test.cc: factor, significand, exponent
    (0.25, 1073741824, -1),
    (0.50 - 5e-9, 2147483627, -1),
    (0.50 - 1e-10, 1073741824, 0),
    (0.50, 1073741824, 0),
    (0.75, 1610612736, 0),
    (1 - 1e-9, 2147483646, 0),
    (1 + 1e-11, 1073741824, 1),
    (1.25, 1342177280, 1),
    (1.75, 1879048192, 1),
    (2 - 1e-9, 2147483647, 1),
    (2 - 1e-11, 1073741824, 2),
    (2.0, 1073741824, 2),
    (2.0**-31, 1073741824, -30),
    (2.0**-32, 1073741824, -31),
    (0.99 * 2.0**-32, 0, 0),
    (2.0**-33, 0, 0),
    (-4.0, -1073741824, 3),
    (0.125, 1073741824, -2),
]


@pytest.mark.parametrize(("factor", "significand", "exponent"), TFLITE)
def test_multipliers_are_tflites(factor: float, significand: int, exponent: int) -> None:
    assert quantized_multiplier(factor) == (significand, 31 - exponent)


@pytest.mark.parametrize("style", ["double", "single"])
@pytest.mark.parametrize(
    ("x", "factor", "expected"),
    [
        (0, 0.1, 0),
        (1, 0.0, 0),
        (10000, 0.00097656, 10),
        (10000, -0.00097656, -10),
        (-10000, 0.00097656, -10),
        (-10000, -0.00097656, 10),
        (INT32_MIN, 0.00001, -21475),
        (INT32_MIN, -0.00001, 21475),
        (INT32_MAX, 0.00001, 21475),
        (INT32_MAX, -0.00001, -21475),
    ],
)
def test_both_tflite_roundings_give_its_published_products(style: str, x: int, factor: float, expected: int) -> None:
    multiplier, shift = quantized_multiplier(factor)
    rounding: Rounding = "half_away" if style == "double" else "half_up"
    assert int(Rescale((multiplier,), (shift,), rounding, style)(x)) == expected  # type: ignore[arg-type]


@given(st.integers(INT32_MIN, INT32_MAX), st.integers(INT32_MIN, INT32_MAX))
def test_the_doubling_high_product_is_gemmlowps(a: int, b: int) -> None:
    product = a * b
    nudge = 2**30 if product >= 0 else 1 - 2**30
    quotient = abs(product + nudge) // 2**31 * (1 if product + nudge >= 0 else -1)  # C divides toward zero
    expected = INT32_MAX if a == b == INT32_MIN else quotient
    assert int(saturating_rounding_doubling_high_multiply(a, b)) == expected


@given(st.integers(INT32_MIN, INT32_MAX), st.integers(2**30, INT32_MAX), st.integers(-31, 0))
def test_the_two_tflite_roundings_differ_by_one_at_most(x: int, multiplier: int, exponent: int) -> None:
    double = int(Rescale((multiplier,), (31 - exponent,), "half_away", "double")(x))
    single = int(Rescale((multiplier,), (31 - exponent,), "half_up", "single")(x))
    assert single == rounded(Fraction(x * multiplier) / 2 ** (31 - exponent), "half_up")
    assert abs(double - single) <= 1


@given(st.floats(2**-30, 2**20, allow_nan=False))
def test_a_multiplier_has_31_significant_bits(factor: float) -> None:
    multiplier, shift = quantized_multiplier(factor)
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier) / Fraction(2) ** shift - Fraction(factor)) <= Fraction(factor) / 2**31


@given(st.integers(-40, 40))
def test_powers_of_two_become_shifts(exponent: int) -> None:
    assert power_of_two_shift(2.0**exponent) == (1, -exponent)
    assert not is_power_of_two(2.0**exponent * 1.5)
    with pytest.raises(ValueError, match="not a power of two"):
        power_of_two_shift(3.0 * 2.0**exponent)


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_the_integer_root_is_the_floor_of_the_root(values: list[int]) -> None:
    edges = [v * v for v in (1, 2, 3, 2**16, 2**31 - 1)] + [v * v - 1 for v in (2, 3, 2**16, 2**31 - 1)]
    assert integer_sqrt(values + edges).tolist() == [isqrt(v) for v in values + edges]


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3),
    st.lists(st.integers(0, 20), min_size=3, max_size=3),
    st.sampled_from(ROUNDINGS),
    st.integers(-10, 10),
)
def test_requantising_rounds_offsets_fits_and_clamps(acc: list[int], shifts: list[int], r: Rounding, zero: int) -> None:
    int8 = Format(8)
    stage = Requantize(Rescale((1, 1, 1), tuple(shifts), r), int8, zero, max(zero, -128), 100)
    expected = [rounded(Fraction(a, 2**s), r) + zero for a, s in zip(acc, shifts, strict=True)]
    assert stage(acc, axis=0).tolist() == [max(zero, min(100, max(-128, min(127, e)))) for e in expected]
    wrapping = Requantize(stage.rescale, int8, zero, -128, 127, "wrap")
    assert wrapping(np.array([acc]), axis=1)[0].tolist() == [(e + 128) % 256 - 128 for e in expected]


@pytest.mark.parametrize("unit", [2, 100, 4096, 8191, 2**16, 2**24])
def test_the_integer_exponential_is_within_its_error(unit: int) -> None:
    """I-BERT's polynomial: 0.3 % with its rounded constants, and the units' own coarseness."""
    steps = np.unique(np.linspace(0, -6 * unit, 500).astype(np.int64))
    found = exponential(steps, unit).astype(float)
    exact = np.exp(steps / unit)
    assert np.abs(found / found[-1] - exact).max() < 0.004 + 1.0 / unit


@given(st.lists(st.integers(-128, 127), min_size=2, max_size=40), st.integers(-6, 0))
def test_softmax_is_near_the_real_one(values: list[int], exponent: int) -> None:
    scale, x = 2.0**exponent, np.array([values])
    left = max(0, 12 + exponent)
    stage = Requantize(Rescale((1,), (SOFTMAX_BITS - 15,), "half_even"), Format(16), 0, -(2**15), 2**15 - 1)
    found = softmax(x, 1, left, round(2.0**left / scale), stage) / 2.0**15
    real = np.exp((x - x.max()) * scale)
    assert np.abs(found - real / real.sum()).max() < 0.004


@given(st.lists(st.integers(-32768, 32767), min_size=4, max_size=64))
def test_layer_norm_is_near_the_real_one(values: list[int]) -> None:
    x, count = np.array([values]), len(values)
    epsilon = count**3
    stage = Requantize(Rescale((1,), (NORM_BITS + 5,), "half_even"), Format(16), 0, -(2**15), 2**15 - 1)
    gain = np.full(count, round(count**0.5 * 2**15), np.int64)
    found = layer_norm(x, gain, np.zeros(1, np.int64), epsilon, stage) / 2.0**10
    real = (x - x.mean()) / np.sqrt(x.var() + 1)
    root = np.floor(np.sqrt(count**3 * (x.var() + 1)))  # a whole number, which is coarse where the values are alike
    assert np.abs(found - real).max() < 0.004 + (0.004 + 1 / root) * np.abs(real).max()
