"""Q/DQ graphs: where the nodes stand, and that they compute what integer arithmetic by hand gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from stagekit.errors import GraphError
from stagekit.graph import Graph, Quantization
from stagekit.graph.cost import macs
from stagekit.partition.verify import run_graph
from stagekit.quant.error import integer_macs, sqnr
from stagekit.quant.formats import NumberFormat, dequantise
from stagekit.quant.positions import find_positions
from stagekit.quant.qdq import insert_qdq, with_integer_edges
from stagekit.quant.rounding import quantise_weight
from stagekit.quant.scheme import QuantScheme

from .graphs import build, residual, transformer, weight

U8 = QuantScheme(NumberFormat("uint8", symmetric=False), bias="int32")
S8 = QuantScheme()


def values_of(graph: Graph, x: np.ndarray) -> dict[str, Any]:  # type: ignore[type-arg]
    """All tensors of a graph by name."""
    model = graph.edit()
    model.graph.outputs[:] = [v for node in model.graph for v in node.outputs if v.shape is not None]
    return {**run_graph(Graph(model), [x]), "x": x}


def quantise_graph(graph: Graph, scheme: QuantScheme, x: np.ndarray, arriving: tuple[str, ...] = ()) -> Graph:  # type: ignore[type-arg]
    positions = find_positions(graph, arriving)
    seen = values_of(graph, x)
    fits = {t: scheme.activation.fit(seen[t].min(), seen[t].max()) for t in {*positions.sources, *arriving}}
    return insert_qdq(graph, positions, fits, scheme)


def ops(graph: Graph) -> Counter[str]:
    return Counter(n.op_type for n in graph.body)


def test_a_convolution_gives_integers_behind_its_activation() -> None:
    positions = find_positions(residual())
    assert set(positions.tensors) == {"x", "a1", "a2", "c3", "y"}
    assert positions.nodes == {"expand", "depthwise", "project", "sum"}


def test_a_residual_stream_of_floats_stays_float() -> None:
    positions = find_positions(transformer())
    assert set(positions.tensors) == {"ln", "gelu"}
    assert positions.nodes == {"fc1", "fc2"}


@pytest.mark.parametrize("moved", [False, True])
def test_what_attention_weighs_stays_float(moved: bool) -> None:
    """Queries times keys are integers, shares times values are not; a softmax over a map's channels is no attention."""
    w = {"w": weight(8, 8), "k": weight(4, 8, 1, 1)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["k1"], "keys"),
        helper.make_node("Transpose", ["k1"], ["k2"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "k2"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax"),
        *([helper.make_node("Identity", ["p"], ["shares"], "moved")] if moved else []),
        helper.make_node("MatMul", ["shares" if moved else "p", "x"], ["y"], "weigh"),
        helper.make_node("Softmax", ["m"], ["c"], "classes", axis=1),
        helper.make_node("Conv", ["c", "k"], ["z"], "guide"),
    ]
    graph = build(nodes, {"x": [1, 8, 8], "m": [1, 8, 4, 4]}, ["y", "z"], w)
    assert find_positions(graph).nodes == {"keys", "scores", "guide"}


def test_what_only_moves_values_keeps_their_scale() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w"], ["y"], "conv2"),
    ]
    graph = build(nodes, {"x": [1, 4, 8, 8]}, ["y"], {"w": weight(4, 4, 1, 1)})
    assert find_positions(graph).tensors["p"] == "c"


def test_a_view_that_nobody_reads_as_integers_is_left_alone() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Transpose", ["c"], ["t"], "turn", perm=[0, 2, 3, 1]),
        helper.make_node("Exp", ["t"], ["y"], "exp"),
    ]
    graph = build(nodes, {"x": [1, 4, 8, 8]}, ["y"], {"w": weight(4, 4, 1, 1)})
    assert "t" not in find_positions(graph).tensors


def test_named_nodes_stay_float() -> None:
    positions = find_positions(residual(), keep_float=["depth*"])
    assert "depthwise" not in positions.nodes
    assert "a2" in positions.tensors  # the projection reads it
    assert integer_macs(residual(), positions) / macs(residual()) == pytest.approx(1 - 9 / (4 + 9 + 4))


@pytest.mark.parametrize("scheme", [S8, U8], ids=["int8", "uint8"])
@pytest.mark.parametrize("make", [residual, transformer])
def test_the_quantised_graph_is_near_the_float_one(make: Any, scheme: QuantScheme) -> None:
    graph = make()
    shape = [2 if isinstance(d, str) else d for d in graph.inputs[0].shape]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    quantised = quantise_graph(graph, scheme, x)
    onnx.checker.check_model(quantised.proto(), full_check=True)
    given = run_graph(quantised, [x])["y"]
    if given.dtype != np.float32:
        fit = scheme.activation.fit(*(f(run_graph(graph, [x])["y"]) for f in (np.min, np.max)))
        given = dequantise(given, fit)
    assert sqnr(run_graph(graph, [x])["y"], given) > 25


def test_a_convolution_in_integers_is_exact_arithmetic() -> None:
    """One convolution with uint8 edges against int64 sums, rounding and clamping by hand."""
    w, b = weight(6, 4, 3, 3), weight(6, seed=1)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[1, 1, 1, 1])
    graph = build([node], {"x": [1, 4, 5, 5]}, ["y"], {"w": w, "b": b})
    fits = {"x": U8.activation.fit(-2, 2), "y": U8.activation.fit(-4, 3)}
    quantised = insert_qdq(graph, find_positions(graph, ["x"]), fits, U8)
    assert (quantised.inputs[0].dtype, quantised.outputs[0].dtype) == ("uint8", "uint8")
    x = np.random.default_rng(2).integers(0, 256, (1, 4, 5, 5), dtype=np.uint8)
    weights = U8.weight.fit_channels(w, 0)
    stored = quantise_weight(w, weights, U8).astype(np.int64)
    centred = np.pad(x.astype(np.int64) - fits["x"].zero_point[0], ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(centred, (3, 3), (2, 3))
    scales = np.asarray(weights.scale) * fits["x"].scale[0]
    sums = np.einsum("nchwij,ocij->nohw", windows, stored) + np.rint(b / scales)[None, :, None, None]
    real = sums * scales[None, :, None, None]
    expected = np.clip(np.rint(real / fits["y"].scale[0]) + fits["y"].zero_point[0], 0, 255)
    difference = np.abs(run_graph(quantised, [x])["y"].astype(np.int64) - expected)
    assert difference.max() <= 1  # float32 requantisation may fall on the other side of a tie
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("dead", [0.0, 1e-9])
def test_a_channel_without_weights_keeps_its_bias(dead: float) -> None:
    """On a scale as fine as such weights, biases of half a unit would run over 32 bits, and wrap around in kernels."""
    w, b = weight(6, 4, 3, 3), weight(6, seed=1)
    w[2:4] *= np.float32(dead)
    b[2:4] = -0.517, 0.517
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    graph = build([node], {"x": [1, 4, 5, 5]}, ["y"], {"w": w, "b": b})
    fits = {"x": U8.activation.fit(-200, 200), "y": U8.activation.fit(-4, 3)}
    quantised = insert_qdq(graph, find_positions(graph, ["x"]), fits, U8)
    x = np.random.default_rng(2).integers(0, 256, (1, 4, 5, 5), dtype=np.uint8)
    found = dequantise(run_graph(quantised, [x])["y"], fits["y"])[:, 2:4]
    assert np.abs(found - b[2:4].reshape(1, 2, 1, 1)).max() <= fits["y"].scale[0]


def test_weights_are_stored_as_integers_and_float_ones_are_gone() -> None:
    graph = residual()
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32)
    quantised = quantise_graph(graph, U8, x)
    kinds = {n: v.const_value.dtype.name for n, v in quantised.body.initializers.items() if v.const_value is not None}
    assert kinds["w1/quantised"] == "INT8"
    assert kinds["b1/expand/quantised"] == "INT32"
    assert not {"w1", "w2", "w3", "b1"} & set(kinds)


def test_int8_for_tensorrt_has_zero_points_of_zero_and_float_biases() -> None:
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32)
    quantised = quantise_graph(residual(), S8, x)
    kinds = {n: v.const_value for n, v in quantised.body.initializers.items()}
    assert all(not np.any(v.numpy()) for n, v in kinds.items() if v is not None and n.endswith("/zero"))
    assert kinds["b1"] is not None
    assert kinds["b1"].dtype.name == "FLOAT"


def test_one_quantisation_serves_all_readers_of_a_tensor() -> None:
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32)
    counted = ops(quantise_graph(residual(), S8, x))
    assert counted["QuantizeLinear"] == 5  # x, a1, a2, c3, y
    assert counted["DequantizeLinear"] == 4 + 3  # all but y, and three weights


def test_a_float_reader_goes_on_reading_floats() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Conv", ["c", "w"], ["d"], "conv2"),
        helper.make_node("Exp", ["c"], ["e"], "exp"),
    ]
    graph = build(nodes, {"x": [1, 4, 8, 8]}, ["d", "e"], {"w": weight(4, 4, 1, 1)})
    quantised = quantise_graph(graph, S8, np.ones((1, 4, 8, 8), np.float32))
    reader = next(n for n in quantised.body if n.op_type == "Exp")
    assert reader.inputs[0] is not None
    assert reader.inputs[0].name == "c"


def test_stages_hand_integers_on_without_rounding_twice() -> None:
    """Q in one stage, DQ in the next: the chain is the uncut Q/DQ graph, bit for bit."""
    first = build(
        [helper.make_node("Conv", ["x", "w"], ["c"], "a")], {"x": [1, 4, 8, 8]}, ["c"], {"w": weight(4, 4, 1, 1)}
    )
    second = build(
        [helper.make_node("Conv", ["c", "v"], ["y"], "b")],
        {"c": [1, 4, 8, 8]},
        ["y"],
        {"v": weight(4, 4, 1, 1, seed=9)},
    )
    whole = build(
        [helper.make_node("Conv", ["x", "w"], ["c"], "a"), helper.make_node("Conv", ["c", "v"], ["y"], "b")],
        {"x": [1, 4, 8, 8]},
        ["y"],
        {"w": weight(4, 4, 1, 1), "v": weight(4, 4, 1, 1, seed=9)},
    )
    fits = {name: S8.activation.fit(-2.0, 2.0) for name in ("x", "c", "y")}
    x = np.random.default_rng(3).normal(size=(1, 4, 8, 8)).astype(np.float32)
    one = insert_qdq(first, find_positions(first), fits, S8)
    two = insert_qdq(second, find_positions(second, ["c"]), fits, S8)
    expected = run_graph(insert_qdq(whole, find_positions(whole), fits, S8), [x])["y"]
    assert np.array_equal(run_graph(two, [run_graph(one, [x])["c"]])["y"], expected)


def test_a_float_adapter_that_adds_nothing_returns_the_integers_it_got() -> None:
    node = helper.make_node("Identity", ["feature"], ["prompted"], "same")
    graph = build([node], {"feature": ["batch", 4, 3, 3]}, ["prompted"], {})
    edge = ("uint8", Quantization((0.037,), (13,)))
    wrapped = with_integer_edges(graph, {"feature": edge, "prompted": edge})
    x = np.arange(36, dtype=np.uint8).reshape(1, 4, 3, 3) * 7
    assert np.array_equal(run_graph(wrapped, [x])["prompted"], x)


def test_an_old_opset_is_refused_by_name() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    graph = build([node], {"x": [1, 4, 8, 8]}, ["y"], {"w": weight(4, 4, 1, 1)}, opset=11)
    with pytest.raises(GraphError, match="opset is 11"):
        insert_qdq(graph, find_positions(graph), {}, S8)
