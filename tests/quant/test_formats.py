"""Ranges on integers: against arithmetic by hand and ONNX's own QuantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from stagekit.errors import UsageError
from stagekit.graph import Quantization
from stagekit.quant import scheme
from stagekit.quant.formats import SMALLEST_SCALE, NumberFormat, dequantise, limits, quantise
from stagekit.quant.scheme import QuantScheme, scheme_of
from stagekit.target import Profile

S8 = NumberFormat("int8", symmetric=True)
U8 = NumberFormat("uint8", symmetric=False)
finite = st.floats(-1e4, 1e4, width=32)


def test_a_symmetric_range_uses_as_many_levels_below_zero_as_above() -> None:
    assert S8.fit(-2.54, 1.0) == Quantization((float(np.float32(0.02)),), (0,))
    assert (S8.low, S8.high) == (-127, 127)


@given(st.lists(finite, min_size=4, max_size=4))
def test_two_products_with_weights_of_seven_bits_fit_in_sixteen(values: list[float]) -> None:
    form = NumberFormat("int8", symmetric=True, bits=7)
    weight = np.array([values])
    stored = quantise(weight, form.fit_channels(weight, 0), form).astype(int)
    pairs = 255 * stored[0, 0::2] + 255 * stored[0, 1::2]
    assert np.abs(pairs).max() < 2**15
    assert np.abs(stored).max() == (63 if np.abs(weight).max() / 63 > SMALLEST_SCALE else 0)


def test_fewer_bits_of_an_unsigned_format_start_at_zero_too() -> None:
    form = NumberFormat("uint8", symmetric=False, bits=7)
    assert (form.low, form.high) == (0, 127)


def test_an_asymmetric_range_uses_every_level() -> None:
    fitted = U8.fit(-1.0, 4.1)
    assert fitted.scale == (pytest.approx(5.1 / 255),)
    assert fitted.zero_point == (50,)
    assert limits(U8, fitted) == (pytest.approx(-1.0), pytest.approx(4.1))


def test_a_range_always_holds_zero() -> None:
    assert U8.fit(3.0, 5.1).zero_point == (0,)
    assert U8.fit(-5.1, -3.0).zero_point == (255,)


def test_a_tensor_of_zeros_gets_a_scale_that_can_be_divided_by() -> None:
    for form in (S8, U8):
        fitted = form.fit(0.0, 0.0)
        assert fitted.scale == (1.0,)
        assert dequantise(quantise(np.zeros(3), fitted, form), fitted).tolist() == [0, 0, 0]


def test_a_power_of_two_grid_takes_the_next_larger_scale() -> None:
    form = NumberFormat("int8", symmetric=True, grid="power_of_two")
    assert form.fit(-1.27, 0).scale == (2.0**-6,)
    assert form.fit(-127 / 64, 0).scale == (2.0**-6,)


def test_channels_have_scales_of_their_own() -> None:
    weight = np.stack([np.full((2, 3), 1.27), np.full((2, 3), -0.254)])
    fitted = S8.fit_channels(weight, 0)
    assert fitted.scale == (pytest.approx(0.01), pytest.approx(0.002))
    assert quantise(weight, fitted, S8)[:, 0, 0].tolist() == [127, -127]


@given(finite, finite, st.lists(finite, min_size=1, max_size=20), st.sampled_from([S8, U8]))
def test_zero_is_exact_and_what_lies_in_range_is_off_by_half_a_step(
    a: float, b: float, values: list[float], form: NumberFormat
) -> None:
    fitted = form.fit(min(a, b), max(a, b))
    low, high = limits(form, fitted)
    x = np.clip(np.asarray([0.0, *values]), low, high)
    back = dequantise(quantise(x, fitted, form), fitted)
    assert back[0] == 0
    assert np.abs(back - x).max() <= fitted.scale[0] * 0.5 * (1 + 1e-4)


@pytest.mark.parametrize("form", [S8, U8])
def test_quantising_is_what_onnx_says_it_is(form: NumberFormat) -> None:
    fitted = form.fit(-1.0, 2.0)
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(form.dtype))
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = helper.make_graph(
        [node],
        "q",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1000])],
        [helper.make_tensor_value_info("y", dtype, [1000])],
        [
            onnx.numpy_helper.from_array(np.float32(fitted.scale[0]), "s"),
            onnx.numpy_helper.from_array(np.dtype(form.dtype).type(fitted.zero_point[0]), "z"),
        ],
    )
    expected = ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": x})[0]
    # ONNX stores -128 too; a symmetric format leaves it out, so that a sign can always be turned.
    assert np.array_equal(quantise(x, fitted, form), np.maximum(expected, form.low))


def test_a_profile_spells_out_the_scheme_and_its_silence_means_int8() -> None:
    assert scheme_of(Profile("p", "any")) == QuantScheme()
    options = {"activation": "uint8", "activation_symmetric": False, "bias": "int32", "grid": "power_of_two"}
    scheme = scheme_of(Profile("p", "any", options=options))
    assert scheme.activation == NumberFormat("uint8", False, "power_of_two")
    assert scheme.bias == "int32"
    with pytest.raises(UsageError, match="did you mean 'uint8'"):
        scheme_of(Profile("p", "any", options={"activation": "uint9"}))


@pytest.mark.parametrize(
    ("stated", "saturates", "bits"), [("8", True, None), ("7", False, 7), ("cpu", True, 7), ("cpu", False, None)]
)
def test_weights_take_seven_bits_where_asked_or_where_the_processor_saturates(
    stated: str, saturates: bool, bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheme, "adds_pairs_in_16_bits", lambda: saturates)
    profile = Profile("p", "any", options={"weight_bits": stated})
    assert scheme_of(profile).weight == NumberFormat("int8", symmetric=True, bits=bits)


def test_fewer_bits_are_for_weights_of_eight() -> None:
    with pytest.raises(UsageError, match="weight_bits = '7' is for weights of int8, not int16"):
        scheme_of(Profile("p", "any", options={"weight": "int16", "weight_bits": "7"}))
