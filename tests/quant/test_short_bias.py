"""Biases of few bits, weights with one scale on a grid of powers of two, and 16-bit integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from stagekit.errors import UsageError
from stagekit.graph.spec import Quantization
from stagekit.partition.verify import run_graph
from stagekit.quant.correction import with_corrected_biases
from stagekit.quant.formats import NumberFormat, dequantise, quantise
from stagekit.quant.positions import find_positions, weight_of
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.scheme import QuantScheme, scheme_of
from stagekit.quant.short_bias import on_grid, with_short_biases
from stagekit.quant.statistics import observe
from stagekit.quant.weights import weight_quantization
from stagekit.target import Profile

from .graphs import build, weight

S8, S16 = (NumberFormat(d, True, "power_of_two") for d in ("int8", "int16"))


def test_biases_share_the_least_power_of_two_for_which_all_fit() -> None:
    assert on_grid(np.array([127.0, -3.4]), 1.0, 8).tolist() == [127, -3]
    assert on_grid(np.array([200.0, -3.4]), 1.0, 8).tolist() == [200, -4]
    assert on_grid(np.array([0.75, 0.0]), 0.25, 8).tolist() == [0.75, 0]


def test_weights_are_rounded_so_that_the_mean_survives_short_biases() -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    biases = np.array([40, 3.3, -1.7, 0.9, 5.2], np.float32)
    graph = build([node], {"x": ["batch", 64, 6, 6]}, ["y"], {"w": weight(5, 64, 1, 1), "b": biases})
    scheme = QuantScheme(S8, S8, per_channel=False, bias_bits=8)
    x = (1 + np.random.default_rng(0).random((4, 64, 6, 6))).astype(np.float32)
    positions, given = find_positions(graph), {"x": Quantization((2.0**-6,), (0,))}
    seen = {"x": observe(x, 1)}
    corrected = with_corrected_biases(graph, positions, given, seen, scheme)
    short = with_short_biases(corrected, positions, given, seen, scheme)
    conv = next(iter(short.body))
    kept, bias = weight_of(conv.inputs[1]), weight_of(conv.inputs[2])
    assert kept is not None and bias is not None
    original = weight(5, 64, 1, 1)
    fitted = weight_quantization(conv, original, given["x"], scheme)
    assert np.array_equal(bias.numpy(), on_grid(bias.numpy(), 2.0**-6 * fitted.scale[0], 8)), "they are on the grid"
    again = dequantise(quantise(kept.numpy(), fitted, S8), fitted)
    assert np.array_equal(again, kept.numpy()), "and so are the weights, for the same scale"
    assert weight_quantization(conv, kept.numpy(), given["x"], scheme) == fitted
    assert np.abs(kept.numpy() - original).max() < fitted.scale[0]
    exact, found = (run_graph(g, [x])["y"].mean(axis=(0, 2, 3)) for g in (graph, short))
    rounded = np.abs(on_grid(biases, 2.0**-6 * fitted.scale[0], 8) - biases).max()
    assert np.abs(found - exact).max() < rounded / 4


def test_one_scale_keeps_channels_of_small_weights() -> None:
    """One large value alone would leave nothing of the other channels."""
    array = np.full((8, 1, 3, 3), 0.01, np.float32)
    array[0, 0, 0, 0] = 4.0
    held = S8.fit(float(array.min()), float(array.max()))
    conv = ir.node("Conv", [ir.val("x"), ir.val("w")])
    assert weight_quantization(conv, array, None, QuantScheme(S8, S8, per_channel=False)).scale[0] < held.scale[0]


def test_sixteen_bits_raise_an_older_opset_and_keep_the_function() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    graph = build([node], {"x": [1, 4, 8, 8]}, ["y"], {"w": weight(4, 4, 1, 1)}, opset=18)
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32)
    positions = find_positions(graph)
    scales = {"x": S16.fit(-8, 8), "y": S16.fit(-16, 16)}
    wide = insert_qdq(graph, positions, scales, QuantScheme(S16, S16, per_channel=False))
    assert wide.model.opset_imports[""] == 21
    stored = run_graph(wide, [x])["y"]
    assert stored.dtype == np.int16
    assert np.allclose(stored * scales["y"].scale[0], run_graph(graph, [x])["y"], atol=2e-3)


def test_a_profile_spells_out_wide_weights_headroom_and_short_biases() -> None:
    options = {"weight": "int16", "activation": "int16", "headroom": 3, "bias_bits": 8, "per_channel": False}
    scheme = scheme_of(Profile("mine", "fixedpoint", precision="int16", options=options))
    assert (scheme.weight.dtype, scheme.headroom, scheme.bias_bits) == ("int16", 3, 8)
    with pytest.raises(UsageError, match="headroom"):
        scheme_of(Profile("mine", "fixedpoint", options={"headroom": 9}))
    with pytest.raises(UsageError, match="bias_bits"):
        scheme_of(Profile("mine", "fixedpoint", options={"bias_bits": 1}))
