"""Logits to label maps inside the graph, against torch's bilinear resize."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stagekit.errors import GraphError
from stagekit.graph import Graph
from stagekit.graph.labels import with_labels
from stagekit.graph.shapes import bind
from stagekit.partition.verify import run_graph

Build = Callable[..., Graph]


@pytest.fixture(scope="module")
def head(build: Build) -> Graph:
    return build("g (float[N,5,H,W] x) => (float[N,5,H,W] logits) { logits = Mul(x, two) }", {"two": np.float32([2.0])})


@pytest.mark.parametrize("size", [(6, 7), (24, 28), (11, 30), (3, 5), (1, 1), (97, 89)])
@pytest.mark.parametrize("batch", [1, 3])
def test_labels_are_those_of_bilinear_logits(head: Graph, size: tuple[int, int], batch: int) -> None:
    graph = with_labels(bind(head, {"x": ("batch", 5, 6, 7)}), *size)
    assert [str(s) for s in graph.outputs] == [f"labels: uint8 [batch x {size[0]} x {size[1]}] NHW"]
    x = np.random.default_rng(0).normal(size=(batch, 5, 6, 7)).astype(np.float32)
    labels = run_graph(graph, [x])["labels"]
    logits = torch.nn.functional.interpolate(torch.from_numpy(2 * x), size, mode="bilinear", align_corners=False)
    assert labels.dtype == np.uint8
    margin = logits.topk(2, dim=1).values
    clear = (margin[:, 0] - margin[:, 1] > 1e-4).numpy()  # a tie may fall to either side
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(labels[clear], logits.argmax(1).numpy()[clear])


def test_without_a_resize_labels_are_numpys_arg_max_first_among_equals(head: Graph) -> None:
    graph = with_labels(bind(head, {"x": ("batch", 5, 6, 7)}), 6, 7)
    assert "Resize" not in {n.op_type for n in graph.body}
    x = np.random.default_rng(0).integers(0, 3, (2, 5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(run_graph(graph, [x])["labels"], x.argmax(axis=1))


def test_a_fixed_batch_stays_fixed(head: Graph) -> None:
    assert with_labels(bind(head, {"x": (4, 5, 6, 7)}), 12, 14).outputs[0].shape == (4, 12, 14)


@given(before=st.integers(1, 600), after=st.integers(1, 2048))
def test_the_factor_leads_to_the_size_although_runtimes_round_down(before: int, after: int) -> None:
    from stagekit.graph.labels import _scale

    factor = _scale(before, after)
    assert int(np.floor(np.float32(before) * factor)) == after
    assert abs(float(factor) * before / after - 1) < 1e-6


def test_sizes_whose_quotient_rounds_below_arrive_in_the_runtime(head: Graph) -> None:
    sizes = [(b, a) for b in range(1, 100) for a in range(b, 1024, 7) if int(np.float32(b) * np.float32(a / b)) < a]
    before, after = sizes[0]
    graph = with_labels(bind(head, {"x": ("batch", 5, before, 2)}), after, 2)
    assert run_graph(graph, [np.zeros((1, 5, before, 2), np.float32)])["labels"].shape == (1, after, 2)


def test_what_is_no_map_is_refused(build: Build) -> None:
    flat = build("g (float[N,5] x) => (float[N,5] y) { y = Relu(x) }")
    two = build("g (float[N,5,2,2] x) => (float[N,5,2,2] y, float[N,5,2,2] z) { y = Relu(x)  z = Abs(x) }")
    for graph in (flat, two):
        with pytest.raises(GraphError, match="expected logits"):
            with_labels(graph, 4, 4)
