"""Map graphs over tokens, against numpy's reshape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stagekit.errors import GraphError
from stagekit.graph import Graph
from stagekit.graph.shapes import bind
from stagekit.graph.tokens import TokenGrid, over_tokens
from stagekit.partition.verify import run_graph

Build = Callable[..., Graph]
Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)

SPM = """g (float[N,3,H,W] feature, float[N,2,h,w] semantic) => (float[N,3,H,W] prompted, float[N,3,H,W] semantic_out)
{ a = Conv<pads = [1, 1, 1, 1]>(feature, w)  m = ReduceMean<keepdims = 1>(semantic, axes)
  prompted = Add(a, m)  semantic_out = Softmax<axis = 1>(a) }"""


@pytest.fixture
def spm(build: Build) -> Graph:
    weights = {"w": RNG.normal(size=(3, 3, 3, 3)).astype(np.float32), "axes": np.array([1, 2, 3])}
    return bind(build(SPM, weights), {"feature": ("batch", 3, 4, 5), "semantic": ("batch", 2, 8, 9)})


def to_map(tokens: Array, prefix: int) -> Array:
    return tokens[:, prefix:].reshape(len(tokens), 4, 5, 3).transpose(0, 3, 1, 2).copy()


def to_tokens(prefix: Array, values: Array) -> Array:
    return np.concatenate([prefix, values.reshape(*values.shape[:2], -1).transpose(0, 2, 1)], axis=1)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_grid_goes_through_the_map_graph_and_the_prefix_passes_by(spm: Graph, prefix: int, batch: int) -> None:
    graph = over_tokens(spm, {"feature": TokenGrid(4, 5, prefix)}, {"prompted": "feature"})
    assert [str(s) for s in (*graph.inputs, *graph.outputs)] == [
        f"feature: float32 [batch x {20 + prefix} x 3] NTC",
        "semantic: float32 [batch x 2 x 8 x 9]",
        f"prompted: float32 [batch x {20 + prefix} x 3] NTC",
        "semantic_out: float32 [batch x 3 x 4 x 5]",
    ]
    tokens = RNG.normal(size=(batch, 20 + prefix, 3)).astype(np.float32)
    semantic = RNG.random((batch, 2, 8, 9), np.float32)
    found = run_graph(graph, [tokens, semantic])
    expected = run_graph(spm, [to_map(tokens, prefix), semantic])
    np.testing.assert_allclose(found["prompted"], to_tokens(tokens[:, :prefix], expected["prompted"]), rtol=1e-5)
    np.testing.assert_allclose(found["semantic_out"], expected["semantic_out"], rtol=1e-5)


def test_a_head_reads_several_token_boundaries_and_gives_a_map(build: Build) -> None:
    text = "g (float[N,3,H,W] a, float[N,3,H,W] b) => (float[N,6,H,W] logits) { logits = Concat<axis = 1>(a, b) }"
    head = bind(build(text), {"a": ("batch", 3, 4, 5), "b": ("batch", 3, 4, 5)})
    grid = TokenGrid(4, 5, 1)
    graph = over_tokens(head, {"a": grid, "b": grid}, {})
    one, two = RNG.normal(size=(2, 2, 21, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        run_graph(graph, [one, two])["logits"], np.concatenate([to_map(one, 1), to_map(two, 1)], axis=1)
    )
    assert len([n for n in graph.body if n.op_type == "Slice"]) == 2  # nothing takes the prefixes


def test_half_precision_and_a_fixed_batch_stay(build: Build) -> None:
    text = "g (float16[N,3,H,W] x) => (float16[N,3,H,W] y) { y = Relu(x) }"
    graph = over_tokens(bind(build(text), {"x": (2, 3, 4, 5)}), {"x": TokenGrid(4, 5, 1)}, {"y": "x"})
    assert [(s.dtype, s.shape) for s in (*graph.inputs, *graph.outputs)] == [("float16", (2, 21, 3))] * 2


def test_what_is_no_map_at_the_edge_is_refused(spm: Graph) -> None:
    with pytest.raises(GraphError, match="'image'"):
        over_tokens(spm, {"image": TokenGrid(4, 5, 1)}, {})
    with pytest.raises(GraphError, match="'a'"):
        over_tokens(spm, {"feature": TokenGrid(4, 5, 1)}, {"a": "feature"})


def test_the_map_graph_stays_as_it_was(spm: Graph) -> None:
    before = Graph(spm.model).fingerprint
    over_tokens(spm, {"feature": TokenGrid(4, 5, 1)}, {"prompted": "feature"})
    assert Graph(spm.model).fingerprint == before
