"""Multiply-accumulates and parameters, counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stagekit.graph import Graph
from stagekit.graph.cost import macs, parameters
from stagekit.graph.shapes import inferred

Build = Callable[..., Graph]


@pytest.mark.parametrize(
    ("before", "after", "call", "weight", "expected"),
    [
        ("N,3,8,8", "N,5,4,4", "Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)", (5, 3, 3, 3), 5 * 4 * 4 * 3 * 9),
        ("N,4,8,8", "N,6,8,8", "Conv<group = 2>(x, w)", (6, 2, 1, 1), 6 * 64 * 2),
        ("N,4,8,8", "N,4,6,6", "Conv<group = 4>(x, w)", (4, 1, 3, 3), 4 * 36 * 9),
        ("N,4,8,8", "N,4,4,4", "Conv<group = 4, dilations = [2, 2]>(x, w)", (4, 1, 3, 3), 4 * 16 * 9),
        ("N,4,5,5", "N,6,10,10", "ConvTranspose<strides = [2, 2]>(x, w)", (4, 6, 2, 2), 4 * 25 * 6 * 4),
        ("N,4,5,5", "N,4,10,10", "ConvTranspose<strides = [2, 2], group = 4>(x, w)", (4, 1, 2, 2), 4 * 25 * 4),
        ("N,7,6", "N,7,5", "MatMul(x, w)", (6, 5), 7 * 6 * 5),
        ("N,2,7,6", "N,2,7,5", "MatMul(x, w)", (2, 6, 5), 2 * 7 * 6 * 5),
        ("N,6", "N,5", "Gemm(x, w)", (6, 5), 6 * 5),
        ("N,6", "N,5", "Gemm<transB = 1>(x, w)", (5, 6), 6 * 5),
        ("6,4", "4,5", "Gemm<transA = 1>(x, w)", (6, 5), 4 * 6 * 5),
        ("N,6", "N,6", "Mul(x, w)", (6,), 0),
    ],
)
def test_one_operator(build: Build, before: str, after: str, call: str, weight: tuple[int, ...], expected: int) -> None:
    text = f"g (float[{before}] x) => (float[{after}] y) {{ y = {call} }}"
    graph = inferred(build(text, {"w": np.ones(weight, np.float32)}))
    assert macs(graph) == expected
    if graph.inputs[0].shape[0] == "batch":
        assert macs(graph, batch=3) == 3 * expected
    assert parameters(graph) == np.prod(weight)


def test_attention_whose_heads_were_folded_into_the_batch(build: Build) -> None:
    # 12 heads: (batch * 12, 9, 4) x (batch * 12, 4, 9), as exporters write it.
    text = """g (float[N,12,9,4] x) => (float[M,9,9] y)
    { q = Reshape(x, folded)  k = Transpose<perm = [0, 2, 1]>(q)  y = MatMul(q, k) }"""
    graph = inferred(build(text, {"folded": np.array([-1, 9, 4])}))
    assert macs(graph) == 12 * 9 * 9 * 4
    assert macs(graph, batch=2) == 2 * 12 * 9 * 9 * 4


def test_a_small_network_adds_up(build: Build) -> None:
    # LeNet's first layers, as anyone can count them.
    text = """g (float[N,1,28,28] x) => (float[N,10] y)
    { a = Conv<pads = [2, 2, 2, 2]>(x, c1, b1)  b = Relu(a)  c = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
      d = Conv(c, c2, b2)  e = Relu(d)  f = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(e)
      h = Flatten(f)  i = Gemm<transB = 1>(h, f1, b3)  j = Relu(i)  y = Gemm<transB = 1>(j, f2, b4) }"""
    sizes = {"c1": (6, 1, 5, 5), "b1": (6,), "c2": (16, 6, 5, 5), "b2": (16,)}
    sizes |= {"f1": (120, 400), "b3": (120,), "f2": (10, 120), "b4": (10,)}
    graph = inferred(build(text, {name: np.ones(shape, np.float32) for name, shape in sizes.items()}))
    assert macs(graph) == 117_600 + 240_000 + 48_000 + 1_200
    assert parameters(graph) == 156 + 2_416 + 48_120 + 1_210


def test_shapes_and_indices_are_no_parameters(build: Build) -> None:
    text = "g (float[N,4] x) => (float[N,2,2] y) { a = Mul(x, w)  y = Reshape(a, s) }"
    graph = build(text, {"w": np.ones(4, np.float32), "s": np.array([0, 2, 2])})
    assert parameters(graph) == 4
