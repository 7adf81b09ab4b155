"""Evening out the channels of transformers: nothing changes but the ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from stagekit.graph import Graph
from stagekit.partition.verify import run_graph
from stagekit.quant.equalise import equalise
from stagekit.quant.norms import even_norms, smoothed
from stagekit.quant.positions import weight_of
from stagekit.quant.statistics import observe

from .graphs import build, weight

TOKENS, CHANNELS = 20, 16


def normed() -> Graph:
    """LayerNorm with one channel that reaches far -> two products."""
    w = {
        "gain": np.ones(CHANNELS, np.float32),
        "offset": weight(CHANNELS, seed=1),
        "w1": weight(CHANNELS, 8, seed=2),
        "w2": weight(CHANNELS, 8, seed=3),
    }
    w["gain"][3] = 12.0
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "offset"], ["ln"], "ln"),
        helper.make_node("MatMul", ["ln", "w1"], ["a"], "one"),
        helper.make_node("MatMul", ["ln", "w2"], ["b"], "two"),
        helper.make_node("Add", ["a", "b"], ["y"], "sum"),
    ]
    return build(nodes, {"x": [1, TOKENS, CHANNELS]}, ["y"], w)


def x() -> Any:
    return np.random.default_rng(4).normal(size=(1, TOKENS, CHANNELS)).astype(np.float32)


def shown(graph: Graph, name: str) -> Any:
    model = graph.edit()
    model.graph.outputs[:] = [v for node in model.graph for v in node.outputs if v.name == name]
    return run_graph(graph.with_model(model), [x()])[name]


def test_smoothing_evens_what_was_measured_and_keeps_the_function() -> None:
    graph = normed()
    before = shown(graph, "ln")
    even, changed = smoothed(graph, {"ln": observe(before, -1)})
    assert np.allclose(run_graph(even, [x()])["y"], run_graph(graph, [x()])["y"], rtol=1e-4, atol=1e-4)
    after = np.abs(shown(even, "ln")).max(axis=(0, 1))
    assert after.max() / np.median(after) < 0.5 * np.abs(before).max() / np.median(np.abs(before).max(axis=(0, 1)))
    known = changed["ln"]
    assert np.allclose(known.channel_reach, after, rtol=1e-5)
    assert np.allclose(known.channel_mean, shown(even, "ln").mean(axis=(0, 1)), rtol=1e-4, atol=1e-6)
    assert known.maximum == pytest.approx(after.max(), rel=1e-5)


def test_gains_and_offsets_alone_say_which_channel_reaches_far() -> None:
    graph = normed()
    even = even_norms(graph)
    assert np.allclose(run_graph(even, [x()])["y"], run_graph(graph, [x()])["y"], rtol=1e-4, atol=1e-4)
    before, after = (np.abs(shown(g, "ln")).max(axis=(0, 1)) for g in (graph, even))
    assert after.max() / np.median(after) < 0.5 * before.max() / np.median(before)


def test_a_norm_that_was_not_observed_or_that_something_else_reads_is_left_alone() -> None:
    graph = normed()
    assert smoothed(graph, {})[0].fingerprint == graph.fingerprint
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "offset"], ["ln"], "ln"),
        helper.make_node("MatMul", ["ln", "w"], ["a"], "one"),
        helper.make_node("Add", ["a", "ln"], ["y"], "sum"),
    ]
    w = {"gain": weight(CHANNELS), "offset": weight(CHANNELS), "w": weight(CHANNELS, CHANNELS)}
    graph = build(nodes, {"x": [1, TOKENS, CHANNELS]}, ["y"], w)
    assert smoothed(graph, {"ln": observe(x(), -1)})[1] == {}


@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
def test_layer_scale_takes_the_differences_between_output_channels(product: str) -> None:
    spread = 10.0 ** np.linspace(-1, 1, CHANNELS, dtype=np.float32)
    w = {"w": weight(CHANNELS, CHANNELS, seed=5) * spread, "b": weight(CHANNELS, seed=6), "g": weight(CHANNELS, seed=7)}
    if product == "MatMul":
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
            helper.make_node("Add", ["p", "b"], ["q"], "bias"),
        ]
        shape: list[int | str] = [1, TOKENS, CHANNELS]
    else:
        w["w"] = np.ascontiguousarray(w["w"].T)
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["q"], "product", transB=1)]
        shape = [TOKENS, CHANNELS]
    nodes.append(helper.make_node("Mul", ["q", "g"], ["y"], "scale"))
    graph = build(nodes, {"x": shape}, ["y"], w)
    even = equalise(graph)
    given = x().reshape([int(size) for size in shape])
    assert np.allclose(run_graph(even, [given])["y"], run_graph(graph, [given])["y"], rtol=1e-4, atol=1e-5)
    tensor = weight_of(next(n for n in even.body if n.name == "product").inputs[1])
    assert tensor is not None
    reach = np.abs(tensor.numpy()).max(axis=0 if product == "MatMul" else 1)
    assert np.allclose(reach, reach[0], rtol=1e-5)
