"""Keys without what they have in common: the same function, smaller scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from stagekit.graph import Graph
from stagekit.partition.verify import run_graph
from stagekit.quant.centre import centre_keys

from .nets import Net

TOKENS, WIDTH, HEADS = 9, 16, 2
SIZE = WIDTH // HEADS

Array = np.ndarray[Any, Any]


def attention(split: bool = True, over_channels: bool = False, split_axis: int = -1) -> Graph:
    """Attention whose LayerNorm has a large offset; ``over_channels`` multiplies channels with channels."""
    net = Net(11)
    offset = net.weight((net.random.standard_normal(WIDTH) * 3).astype(np.float32))
    normed = net.op("LayerNormalization", "x", net.normal(WIDTH), offset, axis=-1)
    shape = net.weight(np.array([-1, TOKENS, HEADS, SIZE]))

    def linear(outs: int) -> str:
        product = net.op("MatMul", normed, net.normal(WIDTH, outs, scale=0.3))
        return net.op("Add", product, net.normal(outs))

    if split:
        net.op("Split", linear(3 * WIDTH), out="query", axis=split_axis, num_outputs=3)
        net.nodes[-1].output.extend(["key", "value"])
        parts = ["query", "key", "value"]
    else:
        parts = [linear(WIDTH) for _ in range(3)]
    tokens, channels = [0, 2, 1, 3], [0, 2, 3, 1]
    orders = [channels, tokens, channels] if over_channels else [tokens, channels, tokens]
    query, key, value = (
        net.op("Transpose", net.op("Reshape", part, shape), perm=perm) for part, perm in zip(parts, orders, strict=True)
    )
    scores = net.op("MatMul", query, key, out="scores")
    net.op("MatMul", net.op("Softmax", scores, axis=-1), value, out="y")
    return net.graph([TOKENS, WIDTH], ["y", "scores"])


def centred(graph: Graph) -> Graph:
    model = graph.edit()
    centre_keys(model.graph)
    return graph.with_model(model)


def results(graph: Graph) -> Mapping[str, Array]:
    return run_graph(graph, [np.random.default_rng(0).standard_normal((3, TOKENS, WIDTH)).astype(np.float32)])


@pytest.mark.parametrize("split", [True, False])
def test_the_function_stays_and_scores_shrink(split: bool) -> None:
    graph = attention(split)
    before, after = results(graph), results(centred(graph))
    assert np.abs(before["y"] - after["y"]).max() < 1e-4 * np.abs(before["y"]).max()
    assert np.abs(after["scores"]).max() < 0.7 * np.abs(before["scores"]).max()


def test_scores_of_channels_with_channels_are_left_alone() -> None:
    """Softmax over channels sees what is added to one channel of all tokens."""
    graph = attention(over_channels=True)
    before, after = results(graph), results(centred(graph))
    assert np.array_equal(before["scores"], after["scores"])
