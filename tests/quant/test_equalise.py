"""Equalisation changes ranges, never the function; correction takes off the mean error of rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from stagekit.graph.spec import Quantization
from stagekit.partition.verify import run_graph
from stagekit.quant.correction import with_corrected_biases
from stagekit.quant.equalise import equalise
from stagekit.quant.error import sqnr
from stagekit.quant.formats import NumberFormat, dequantise, quantise
from stagekit.quant.positions import find_positions, weight_of
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.statistics import observe
from stagekit.quant.weights import weight_quantization

from .graphs import build, residual, transformer, weight

PER_TENSOR = QuantScheme(NumberFormat("int8", True), per_channel=False)


def uneven(activation: str) -> Any:
    """conv -> activation -> depthwise -> conv whose channels differ by three orders of magnitude."""
    spread = 10.0 ** np.linspace(-1.5, 1.5, 12, dtype=np.float32)
    w = {
        "w1": weight(12, 4, 1, 1) * spread[:, None, None, None],
        "b1": weight(12, seed=1) * spread,
        "w2": weight(12, 1, 3, 3, seed=2) / spread[:, None, None, None],
        "w3": weight(4, 12, 1, 1, seed=4),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    between = {"Clip": ["c1", "zero", "six"], "Relu": ["c1"], "Identity": ["c1"]}[activation]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "one"),
        helper.make_node(activation, between, ["a1"], "between"),
        helper.make_node("Conv", ["a1", "w2"], ["c2"], "depthwise", group=12, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c2", "w3"], ["y"], "two"),
    ]
    return build(nodes, {"x": [1, 4, 8, 8]}, ["y"], w)


def ranges(graph: Any, node: str) -> Any:
    tensor = weight_of(next(n for n in graph.body if n.name == node).inputs[1])
    assert tensor is not None
    return np.abs(tensor.numpy()).reshape(tensor.shape[0], -1).max(axis=1)


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
def test_the_function_stays_the_same(activation: str) -> None:
    graph = uneven(activation)
    x = 3 * np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    expected = run_graph(graph, [x])["y"]
    assert np.allclose(run_graph(equalise(graph), [x])["y"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    if activation == "Clip":
        assert (run_graph(residual(), [x])["y"] != 0).any()
        assert np.allclose(
            run_graph(equalise(residual()), [x])["y"], run_graph(residual(), [x])["y"], rtol=1e-4, atol=1e-4
        )


def test_a_layer_norm_is_equalised_with_the_products_that_read_it() -> None:
    graph = transformer()
    model = graph.edit()
    gain = 10.0 ** np.linspace(-1, 1, 8, dtype=np.float32)
    model.graph.initializers["g"].const_value = ir.tensor(gain, name="g")
    graph = graph.with_model(model)
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    even = equalise(graph)
    assert np.allclose(run_graph(even, [x])["y"], run_graph(graph, [x])["y"], rtol=1e-4, atol=1e-5)
    norm = next(n for n in even.body if n.op_type == "LayerNormalization")
    given = weight_of(norm.inputs[1])
    assert given is not None
    assert np.ptp(np.log(given.numpy())) < 0.7 * np.ptp(np.log(gain))


def test_channel_ranges_come_closer() -> None:
    graph = uneven("Relu")
    before, after = (ranges(g, "one") for g in (graph, equalise(graph)))
    assert after.max() / after.min() < 0.1 * before.max() / before.min()


def test_a_weight_with_one_scale_loses_less() -> None:
    graph = uneven("Relu")
    x = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)

    def noise(of: Any) -> float:
        positions = find_positions(of)
        model = of.edit()
        model.graph.outputs.extend(v for n in model.graph for v in n.outputs if not v.is_graph_output())
        seen = {**run_graph(of.with_model(model), [x]), "x": x}
        fits = {t: PER_TENSOR.activation.fit(seen[t].min(), seen[t].max()) for t in positions.sources}
        given = run_graph(insert_qdq(of, positions, fits, PER_TENSOR), [x])["y"]
        return sqnr(seen["y"], given.astype(np.float32) * fits["y"].scale[0])

    assert noise(equalise(graph)) > noise(graph) + 3


def test_corrected_biases_take_off_the_mean_error() -> None:
    """Rounding weights to a coarse grid shifts the mean of each channel; correction brings it back."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    graph = build([node], {"x": ["batch", 8, 6, 6]}, ["y"], {"w": weight(5, 8, 1, 1), "b": weight(5, seed=1)})
    coarse = QuantScheme(weight=NumberFormat("int8", True, "power_of_two"), per_channel=False)
    coarse = QuantScheme(NumberFormat("int16", True), coarse.weight, per_channel=False)
    x = (2 + np.random.default_rng(0).normal(size=(4, 8, 6, 6))).astype(np.float32)
    positions = find_positions(graph)
    given = {"x": Quantization((2.0**-8,), (0,))}
    corrected = with_corrected_biases(graph, positions, given, {"x": observe(x, 1)}, coarse)
    conv = next(iter(graph.body))
    w = weight_of(conv.inputs[1])
    assert w is not None
    fitted = weight_quantization(conv, w.numpy(), given["x"], coarse)
    rounded = dequantise(quantise(w.numpy(), fitted, coarse.weight), fitted)
    exact = run_graph(graph, [x])["y"].mean(axis=(0, 2, 3))
    bias = weight_of(next(iter(corrected.body)).inputs[2])
    assert bias is not None
    mean = np.einsum("oi,nihw->o", rounded[:, :, 0, 0], x) / (4 * 36) + bias.numpy()
    assert np.allclose(mean, exact, atol=1e-5)
