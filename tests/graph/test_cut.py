"""A chain of segments is the uncut graph; cuts that cannot be are explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagekit.errors import GraphError, UsageError
from stagekit.graph import Graph
from stagekit.graph.cost import macs
from stagekit.graph.cut import Candidate, balanced, candidates, cut
from stagekit.graph.shapes import inferred
from stagekit.partition.verify import run_graph

Build = Callable[..., Graph]
SOME = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def crosses_alone(graph: Graph) -> set[str]:
    """By definition: an activation without which no path leads from the input to the output."""
    edges = [(str(i.name), str(o.name)) for node in graph.body for i in node.inputs if i for o in node.outputs]
    (source,), (sink,) = ([s.name for s in specs] for specs in (graph.inputs, graph.outputs))

    def reaches(start: str, without: str, links: Iterable[tuple[str, str]]) -> bool:
        seen, stack = {without}, [start]
        while stack:
            name = stack.pop()
            if name == sink:
                return True
            if name not in seen:
                seen.add(name)
                stack += [b for a, b in links if a == name]
        return False

    if not reaches(source, "", edges):
        return set()
    return {n for n in {b for _, b in edges} - {source, sink} if not reaches(source, n, edges)}


@SOME
@given(data=st.data())
def test_candidates_are_the_tensors_without_which_no_path_leads_through(
    networks: st.SearchStrategy[Graph], data: st.DataObject
) -> None:
    graph = inferred(data.draw(networks))
    assert {c.tensor for c in candidates(graph)} == crosses_alone(graph)


@SOME
@given(data=st.data())
def test_a_chain_computes_what_the_uncut_graph_computes(
    networks: st.SearchStrategy[Graph], data: st.DataObject
) -> None:
    graph = inferred(data.draw(networks))
    places = [c.tensor for c in candidates(graph)]
    chosen = sorted(data.draw(st.sets(st.sampled_from(places), max_size=3)), key=places.index) if places else []
    segments = cut(graph, [[name] for name in chosen])
    assert len(segments) == len(chosen) + 1
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    expected = run_graph(graph, [x])
    values = [x]
    for segment in segments:
        assert len(segment.inputs) == 1
        values = list(run_graph(segment, values).values())
    np.testing.assert_allclose(values[0], expected[graph.outputs[0].name], rtol=1e-5, atol=1e-5)
    assert sum(map(macs, segments)) == sum(macs(s) for s in cut(graph, []))


@SOME
@given(data=st.data())
def test_a_cut_names_all_that_crosses_or_the_error_does(
    networks: st.SearchStrategy[Graph], data: st.DataObject
) -> None:
    graph = inferred(data.draw(networks))
    names = [str(v.name) for node in graph.body for v in node.outputs if v.name not in ("c2", graph.outputs[0].name)]
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    if name in crosses_alone(graph):
        assert len(cut(graph, [[name]])) == 2
        return
    try:
        cut(graph, [[name]])
    except GraphError as error:
        assert "also crossed by" in error.what or "lies before" in error.what
    else:
        pytest.fail("the tensor does not cross alone")


@given(
    steps=st.lists(st.integers(0, 6), min_size=3, max_size=9),
    stages=st.integers(2, 4),
    tail=st.integers(0, 5),
)
def test_balanced_cuts_make_the_largest_segment_as_small_as_it_can_be(steps: list[int], stages: int, tail: int) -> None:
    ends = np.cumsum(steps).tolist()
    total = ends[-1] + tail
    places = [Candidate(f"t{i}", end, ("batch", 7 + (i * 5) % 3)) for i, end in enumerate(ends)]
    usable = sorted({end for end in ends if 0 < end < total})

    def largest(cuts: Iterable[int]) -> int:
        borders = [0, *cuts, total]
        return max(b - a for a, b in pairwise(borders))

    if len(usable) < stages - 1:
        with pytest.raises(UsageError, match=f"{stages} stages need {stages - 1} of the tensors"):
            balanced(places, total, stages)
        return
    chosen = balanced(places, total, stages)
    found = [ends[int(name[1:])] for name in chosen]
    assert found == sorted(set(found))
    assert largest(found) == min(map(largest, combinations(usable, stages - 1)))


def test_of_places_with_nothing_costly_between_them_the_smallest_tensor_is_cut() -> None:
    places = [Candidate("wide", 5, ("batch", 64)), Candidate("narrow", 5, ("batch", 16)), Candidate("b", 5, (1, 32))]
    assert balanced(places, 10, 2) == ["narrow"]


def test_of_equal_tensors_the_one_behind_the_activation_is_cut() -> None:
    conv, act, flat = (
        Candidate(n, 5, shape) for n, shape in (("conv", (1, 8, 2)), ("act", (1, 8, 2)), ("flat", (1, 16)))
    )
    assert balanced([conv, act, flat], 10, 2) == ["act"]


def test_one_stage_is_no_cut() -> None:
    with pytest.raises(UsageError, match="at least 2 stages"):
        balanced([], 10, 1)


SKIP = """g (float[N,3] x) => (float[N,3] y)
{ a = Relu(x)  b = Exp(a)  c = Neg(b)  d = Add(c, a)  e = Tanh(d)  y = Mul(e, w) }"""


@pytest.fixture
def skip(build: Build) -> Graph:
    """A residual: ``a`` crosses beside ``b`` and beside ``c``."""
    return inferred(build(SKIP, {"w": np.ones(3, np.float32)}))


@pytest.mark.parametrize(
    ("boundaries", "words"),
    [
        ([["b"]], "the cut at b is also crossed by a"),
        ([["x"]], "no tensor is called 'x'"),
        ([["tanh"]], "no tensor is called 'tanh'"),
        ([["d"], ["a"]], "the cut at a lies before the cut ahead of it"),
        ([["a"], ["a"]], "'a' is named twice"),
        ([["a", "a"]], "'a' is named twice"),
    ],
)
def test_a_cut_that_cannot_be_is_explained(skip: Graph, boundaries: list[list[str]], words: str) -> None:
    with pytest.raises(GraphError) as raised:
        cut(skip, boundaries)
    assert words in str(raised.value)
    assert raised.value.where == "test.onnx"


def test_the_way_out_is_to_name_what_crosses(skip: Graph) -> None:
    with pytest.raises(GraphError) as raised:
        cut(skip, [["b"]])
    assert "--at b,a" in str(raised.value.remedy)
    first, second = cut(skip, [["b", "a"]])
    assert [s.name for s in first.outputs] == [s.name for s in second.inputs] == ["b", "a"]
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    between = run_graph(first, [x])
    out = run_graph(second, [between["b"], between["a"]])["y"]
    np.testing.assert_array_equal(out, run_graph(skip, [x])["y"])


def test_a_tensor_that_crosses_two_cuts_has_no_way_out_but_another_place(skip: Graph) -> None:
    with pytest.raises(GraphError) as raised:
        cut(skip, [["a"], ["b"]])
    assert "also crossed by a" in raised.value.what
    assert "--at" not in str(raised.value.remedy)


def test_a_near_name_is_offered(build: Build) -> None:
    graph = inferred(build("g (float[3] x) => (float[3] y) { layer1_out = Relu(x) \n y = Neg(layer1_out) }"))
    with pytest.raises(GraphError, match="did you mean 'layer1_out'"):
        cut(graph, [["layer1_uot"]])


def test_an_input_that_is_read_behind_the_cut_crosses_it(build: Build) -> None:
    graph = inferred(build("g (float[3] x) => (float[3] y) { a = Relu(x)  b = Neg(a)  y = Add(b, x) }"))
    assert candidates(graph) == []
    with pytest.raises(GraphError, match="also crossed by x") as raised:
        cut(graph, [["a"]])
    assert "--at" not in str(raised.value.remedy)


def test_a_second_input_that_joins_later_leaves_no_single_crossing_before_it(build: Build) -> None:
    graph = inferred(build("g (float[3] x, float[3] z) => (float[3] y) { a = Relu(x)  b = Add(a, z)  y = Neg(b) }"))
    assert [c.tensor for c in candidates(graph)] == ["b"]
    with pytest.raises(GraphError, match="also crossed by z"):
        cut(graph, [["a"]])


def test_an_output_that_is_given_early_crosses_every_later_cut(build: Build) -> None:
    graph = inferred(
        build("g (float[3] x) => (float[3] m, float[3] y) { a = Relu(x)  m = Abs(a)  b = Neg(a)  y = Exp(b) }")
    )
    assert [c.tensor for c in candidates(graph)] == ["a"]
    with pytest.raises(GraphError, match="also crossed by"):
        cut(graph, [["b"]])
    first, second = cut(graph, [["a"]])
    assert [s.name for s in second.outputs] == ["m", "y"]
    assert [s.name for s in first.outputs] == ["a"]


def test_constants_are_repeated_in_each_segment_that_needs_them(build: Build) -> None:
    text = "g (float[N,3] x) => (float[N,3] y) { k = Exp(w)  a = Add(x, k)  b = Relu(a)  y = Mul(b, k) }"
    graph = inferred(build(text, {"w": np.arange(3, dtype=np.float32)}))
    first, second = cut(graph, [["b"]])
    assert [[s.name for s in g.inputs] for g in (first, second)] == [["x"], ["b"]]
    assert "w" in first.body.initializers
    assert "w" in second.body.initializers
    assert sorted(n.op_type for n in second.body) == ["Exp", "Mul"]
    with pytest.raises(GraphError, match="'k' is constant"):
        cut(graph, [["k"]])


def test_a_tensor_that_a_branch_reads_behind_the_cut_crosses_it(build: Build) -> None:
    text = """g (float[3] x) => (float[3] y)
    { a = Relu(x)  b = Neg(a)  s = ReduceSum<keepdims = 0>(b)  c = Cast<to = 9>(s)
      y = If<then_branch = t () => (float[3] u) { u = Abs(a) },
             else_branch = e () => (float[3] v) { v = Exp(b) }>(c) }"""
    graph = inferred(build(text))
    assert [c.tensor for c in candidates(graph)] == ["a"]
    with pytest.raises(GraphError, match="the cut at b is also crossed by a"):
        cut(graph, [["b"]])
    first, second = cut(graph, [["a"]])
    x = np.array([-1, 2, 3], np.float32)
    given_ = run_graph(second, [run_graph(first, [x])["a"]])["y"]
    np.testing.assert_array_equal(given_, run_graph(graph, [x])["y"])


def test_a_random_tensor_is_no_constant(build: Build) -> None:
    text = (
        "g (float[3] x) => (float[3] y) { r = RandomNormal<shape = [3]>()  a = Add(x, r)  b = Relu(a)  y = Add(b, r) }"
    )
    with pytest.raises(GraphError, match="also crossed by r"):
        cut(inferred(build(text)), [["b"]])


def test_candidates_say_how_much_is_spent_before_them(build: Build) -> None:
    text = "g (float[N,2,4,4] x) => (float[N,2,4,4] y) { a = Conv(x, w)  b = Relu(a)  y = Conv(b, w) }"
    graph = inferred(build(text, {"w": np.ones((2, 2, 1, 1), np.float32)}))
    assert candidates(graph) == [Candidate("a", 64, ("batch", 2, 4, 4)), Candidate("b", 64, ("batch", 2, 4, 4))]


def test_segments_keep_the_names_of_their_axes(skip: Graph) -> None:
    named = Graph(skip.model, skip.source, {"x": "NC", "y": "NC", "d": "NC"})
    first, second = cut(named, [["d"]])
    assert [s.layout for s in (*first.inputs, *first.outputs, *second.inputs, *second.outputs)] == ["NC"] * 4
