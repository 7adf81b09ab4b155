"""Files of old opsets compute the same in a newer one, under the same names; what cannot be converted stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stagekit.graph import Graph
from stagekit.graph.opset import MODERN, modernised
from stagekit.partition.verify import run_graph

Build = Callable[..., Graph]

CONV = "a = Conv<pads = [1, 1, 1, 1]>(x, w)"
OLD = {
    9: f'{{ {CONV}  b = Clip<min = -0.5, max = 6.0>(a)  y = Upsample<mode = "nearest">(b, s) }}',
    11: f"{{ {CONV}  b = Unsqueeze<axes = [0]>(a)  y = Squeeze<axes = [0]>(b) }}",
    12: f"{{ {CONV}  b, c = Split<axis = 1>(a)  y = ReduceSum<axes = [2], keepdims = 1>(b) }}",
}


@pytest.mark.parametrize("opset", OLD)
def test_an_old_graph_computes_the_same(opset: int, build: Build) -> None:
    weights = {
        "w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
        "s": np.array([1, 1, 2, 2], np.float32),
    }
    used = {name: value for name, value in weights.items() if f", {name})" in OLD[opset]}
    graph = build(f"g (float[1,3,6,8] x) => (float[a,b,c,d] y) {OLD[opset]}", used, opset=opset)
    new = modernised(graph)
    assert new.model.opset_imports[""] == MODERN
    assert {"a", "b"} <= {str(v.name) for node in new.body for v in node.outputs}
    image = np.random.default_rng(1).normal(size=(1, 3, 6, 8)).astype(np.float32)
    np.testing.assert_array_equal(run_graph(new, [image])["y"], run_graph(graph, [image])["y"])


def test_a_modern_graph_stays_as_it_is(build: Build) -> None:
    graph = build("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset=21)
    assert modernised(graph) is graph


def test_a_graph_that_cannot_be_converted_stays_as_it_is(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no adapter")

    graph = build("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset=11)
    monkeypatch.setattr("stagekit.graph.opset.version_converter.convert_version", fail)
    assert modernised(graph) is graph
