"""Simplified, bound and idle-free graphs compute what they did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxsim
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagekit.graph import Graph, from_proto
from stagekit.graph.idle import without_idle_nodes
from stagekit.graph.shapes import bind, inferred
from stagekit.graph.simplify import LARGE, simplify
from stagekit.partition.verify import run_graph

Build = Callable[..., Graph]
RNG = np.random.default_rng(0)


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.body)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_simplified_graph_computes_the_same(networks: st.SearchStrategy[Graph], data: st.DataObject) -> None:
    graph = inferred(data.draw(networks))
    simple = simplify(graph)
    assert simple.inputs == graph.inputs
    assert [s.name for s in simple.outputs] == [s.name for s in graph.outputs]
    x = RNG.normal(size=(2, 4, 5, 6)).astype(np.float32)
    (expected,), (found,) = (list(run_graph(g, [x]).values()) for g in (graph, simple))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


BN = """g (float[N,3,6,6] x) => (float[N,4,6,6] y)
{ a = Conv<pads = [1, 1, 1, 1]>(x, w)  b = BatchNormalization(a, s, o, m, v)  y = Relu(b) }"""
STATISTICS = {
    "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    **{k: RNG.uniform(0.5, 2, 4).astype(np.float32) for k in "somv"},
}


def test_batch_norm_is_merged_into_the_convolution(build: Build) -> None:
    graph = inferred(build(BN, STATISTICS))
    simple = simplify(graph)
    assert ops(simple) == {"Conv": 1, "Relu": 1}
    assert all(node.name for node in simple.body)
    x = RNG.normal(size=(3, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run_graph(simple, [x])["y"], run_graph(graph, [x])["y"], rtol=1e-4, atol=1e-5)


def test_shapes_are_known_and_the_batch_stays_open(build: Build) -> None:
    simple = simplify(inferred(build(BN, STATISTICS)))
    assert [s.shape for s in (*simple.inputs, *simple.outputs)] == [("batch", 3, 6, 6), ("batch", 4, 6, 6)]


def test_large_matrices_stay_as_they_are_and_are_not_copied(build: Build) -> None:
    side = int(LARGE**0.5)
    w = RNG.normal(size=(side, side)).astype(np.float32)
    bias = RNG.normal(size=side).astype(np.float32)
    ends = f"g (float[N,{side}] x) => (float[N,{side}] y)"
    text = ends + "{ i = Identity(x)  a = MatMul(i, w)  b = Add(a, c)  y = MatMul(b, w) }"
    graph = inferred(build(text, {"w": w, "c": bias}))
    simple = simplify(graph)
    assert [s.name for s in simple.inputs] == ["x"]
    assert simple.body.initializers["w"].const_value is graph.body.initializers["w"].const_value
    assert "Identity" not in ops(simple)
    x = RNG.normal(size=(2, side)).astype(np.float32)
    np.testing.assert_allclose(run_graph(simple, [x])["y"], (x @ w + bias) @ w, rtol=1e-3, atol=1e-2)


def test_a_large_matrix_that_an_old_file_lists_among_its_inputs(build: Build) -> None:
    side = int(LARGE**0.5)
    proto = build(
        f"g (float[N,{side}] x) => (float[N,{side}] y) {{ y = MatMul(x, w) }}",
        {"w": np.eye(side, dtype=np.float32)},
    ).proto()
    proto.ir_version = 3
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [side, side]))
    simple = simplify(inferred(from_proto(proto, "old")))
    assert [s.name for s in simple.inputs] == ["x"]


def test_outputs_inside_the_graph_keep_their_names(build: Build) -> None:
    text = BN.replace("=> (", "=> (float[N,4,6,6] a, ")
    simple = simplify(inferred(build(text, STATISTICS)))
    assert [s.name for s in simple.outputs] == ["a", "y"]
    assert ops(simple)["BatchNormalization"] + ops(simple)["Conv"] >= 2  # what is asked for is not folded away


def test_a_folding_that_contradicts_the_known_shapes_is_not_taken(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As onnxsim does to some pooled shapes of old opsets: a computed shape becomes a wrong constant.
    graph = inferred(build("g (float[N,6] x) => (float[N,a,b] y) { y = Reshape(x, s) }", {"s": np.array([0, 2, 3])}))
    true_simplify = onnxsim.simplify

    def wrong(proto: onnx.ModelProto, skip_constant_folding: bool = False) -> tuple[onnx.ModelProto, bool]:
        simple, ok = true_simplify(proto)
        if not skip_constant_folding:
            simple.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([0, 3, 2]), "s"))
        return simple, ok

    monkeypatch.setattr(onnxsim, "simplify", wrong)
    assert simplify(graph).outputs[0].shape == ("batch", 2, 3)


def resize(inputs: str, attributes: str = "", target: str = "4,4") -> str:
    return (
        f"g (float[N,2,4,4] x) => (float[N,2,{target}] y) "
        f'{{ a = Relu(x)  b = Resize<mode = "linear"{attributes}>(a{inputs})  y = Neg(b) }}'
    )


ONES, UP = np.array([1, 1, 1, 1], np.float32), np.array([1, 1, 2, 2], np.float32)
NEARLY = np.array([1, 1, 1.2, 1.2], np.float32)  # rounds down to the same size, yet samples move


ROI = np.array([0, 0, 0.2, 0.2, 1, 1, 0.8, 0.8], np.float32)
CORNERS, CROP = (f', coordinate_transformation_mode = "{mode}"' for mode in ("align_corners", "tf_crop_and_resize"))


@pytest.mark.parametrize(
    ("text", "weights", "idle"),
    [
        (resize(", , s"), {"s": ONES}, True),
        (resize(", , s", CORNERS), {"s": ONES}, True),
        (resize(", , , z", ", axes = [2, 3]"), {"z": np.array([4, 4])}, True),
        (resize(", , , z"), {"z": np.array([1, 2, 4, 4])}, False),  # fixes the batch
        (resize(", , s", target="8,8"), {"s": UP}, False),
        (resize(", , s"), {"s": NEARLY}, False),
        (resize(", r, s", CROP), {"s": ONES, "r": ROI}, False),
    ],
)
def test_resizes_that_keep_the_size_go_and_no_others(
    build: Build, text: str, weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], idle: bool
) -> None:
    graph = inferred(build(text, weights))
    lean = without_idle_nodes(graph)
    assert ops(lean)["Resize"] == (0 if idle else 1)
    x = RNG.normal(size=(1, 2, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(run_graph(lean, [x])["y"], run_graph(graph, [x])["y"])


def test_a_resize_to_the_size_of_another_tensor_takes_its_size_computation_with_it(build: Build) -> None:
    text = """g (float[N,2,4,4] x, float[N,2,H,W] z) => (float[N,2,4,4] y)
    { s = Shape(x)  hw = Slice(s, two, four)  nc_ = Shape(z)  nc = Slice(nc_, zero, two)  all = Concat<axis = 0>(nc, hw)
      r = Resize<mode = "linear">(z, , , all)  y = Add(x, r) }"""
    graph = build(text, {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4])})
    same = without_idle_nodes(bind(graph, {"x": ("batch", 2, 4, 4), "z": ("batch", 2, 4, 4)}))
    assert ops(same) == {"Add": 1}
    other = without_idle_nodes(bind(graph, {"x": ("batch", 2, 4, 4), "z": ("batch", 2, 2, 2)}))
    assert ops(other)["Resize"] == 1


def test_identities_go_and_the_names_at_the_edges_stay(build: Build) -> None:
    text = """g (float[N,3] x) => (float[N,3] y, float[N,3] z, float[N,3] copy, float[N,3] k)
    { a = Identity(x)  b = Relu(a)  c = Identity(b)  y = Identity(c)  z = Identity(y)
      copy = Identity(x)  k = Abs(c) }"""
    graph = inferred(build(text))
    lean = without_idle_nodes(graph)
    assert [s.name for s in (*lean.inputs, *lean.outputs)] == ["x", "y", "z", "copy", "k"]
    assert ops(lean) == {"Relu": 1, "Abs": 1, "Identity": 2}  # two outputs of one tensor, and an input given back
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    expected = run_graph(graph, [x])
    for name, found in run_graph(lean, [x]).items():
        np.testing.assert_array_equal(found, expected[name])
    assert ops(graph)["Identity"] == 5
