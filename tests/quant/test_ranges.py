"""Calibration methods against ONNX Runtime's calibrators and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from stagekit.errors import UsageError
from stagekit.quant.formats import NumberFormat, dequantise, quantise
from stagekit.quant.ranges import METHODS, parse_method, quantization_of
from stagekit.quant.statistics import observe

S8 = NumberFormat("int8", symmetric=True)
U8 = NumberFormat("uint8", symmetric=False)


def outliers() -> np.ndarray:  # type: ignore[type-arg]
    """A bell with a few values far out."""
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    x[:5] = [30, -25, 28, 40, -38]
    return x.reshape(1, 1, -1)


def error(x: np.ndarray, form: NumberFormat, method: str) -> float:  # type: ignore[type-arg]
    fitted = quantization_of(observe(x, 1), form, method)
    return float(np.mean((x - dequantise(quantise(x, fitted, form), fitted)) ** 2))


def test_percentile_cuts_where_onnx_runtime_does() -> None:
    from onnxruntime.quantization.calibrate import HistogramCollector

    x = outliers()
    collector = HistogramCollector("percentile", False, 8192, 128, 99.9, "same")
    collector.collect_value({"x": x})
    low, high, *_ = collector.compute_percentile()["x"]
    function, parameter = parse_method("percentile:99.9")
    ours = function(observe(x, 1), U8, parameter)
    assert ours == (pytest.approx(float(low), abs=0.03), pytest.approx(float(high), abs=0.03))


@pytest.mark.parametrize("form", [S8, U8])
def test_mse_errs_least_of_all_methods(form: NumberFormat) -> None:
    x = outliers()
    errors = {method: error(x, form, method) for method in METHODS}
    assert min(errors, key=lambda m: errors[m]) == "mse"
    assert errors["mse"] < 0.9 * errors["minmax"]


def test_mse_finds_what_a_brute_search_finds() -> None:
    x = outliers()
    reach = np.linspace(0.5, 40, 400)

    def of(r: float) -> float:
        fitted = S8.fit(-r, r)
        return float(np.mean((x - dequantise(quantise(x, fitted, S8), fitted)) ** 2))

    assert error(x, S8, "mse") == pytest.approx(min(of(r) for r in reach), rel=0.05)


def test_entropy_keeps_what_a_relu_gives() -> None:
    """Half the values are exactly zero; that must not draw the threshold towards zero."""
    x = np.maximum(np.random.default_rng(0).normal(size=(1, 1, 200_000)), 0).astype(np.float32)
    seen = observe(x, 1)
    low, high = parse_method("entropy")[0](seen, U8, 0)
    assert low == 0
    assert seen.share_outside(low, high) < 0.01


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("value", [0.0, 2.5, -1e-20])
def test_a_constant_tensor_survives_every_method(method: str, value: float) -> None:
    x = np.full((1, 3, 4), value, np.float32)
    for form in (S8, U8):
        fitted = quantization_of(observe(x, 1), form, method)
        back = dequantise(quantise(x, fitted, form), fitted)
        assert np.allclose(back, x, atol=0.02 * abs(value) + 1e-12)


def test_on_a_power_of_two_grid_the_finer_scale_wins_where_it_errs_less() -> None:
    form = NumberFormat("int8", symmetric=True, grid="power_of_two")
    x = np.random.default_rng(0).normal(size=(1, 1, 10_000)).astype(np.float32)
    x[0, 0, 0] = 4.2  # one value beyond 127 / 32
    assert quantization_of(observe(x, 1), form, "minmax").scale == (2.0**-5,)
    assert form.fit(0, 4.2).scale == (2.0**-4,)


@pytest.mark.parametrize("text", ["percentil", "minmax:3", "percentile:20", "percentile:x"])
def test_a_wrong_method_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_method(text)
