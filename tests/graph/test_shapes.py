"""Shapes: the batch stays open behind everything that exporters write, all else becomes a number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from stagekit.errors import GraphError
from stagekit.graph import Graph, from_proto, load
from stagekit.graph.shapes import BATCH, bind, inferred

Build = Callable[..., Graph]


def shapes(graph: Graph) -> dict[str, tuple[int | str | None, ...] | None]:
    return {
        str(v.name): None if v.shape is None else tuple(d if isinstance(d, int) else d.value for d in v.shape)
        for node in graph.body
        for v in node.outputs
    }


ATTENTION = """g (float[N,T,6] x) => (float[N,T,6] y)
{ shape = Shape(x)  n = Gather(shape, zero)  t = Gather(shape, one)
  n1 = Unsqueeze(n, front)  t1 = Unsqueeze(t, front)
  wanted = Concat<axis = 0>(n1, t1, heads)
  split = Reshape(x, wanted)
  q = Transpose<perm = [0, 2, 1, 3]>(split)
  k = Transpose<perm = [0, 2, 3, 1]>(split)
  scores = MatMul(q, k)
  soft = Softmax<axis = -1>(scores)
  mixed = MatMul(soft, q)
  back = Transpose<perm = [0, 2, 1, 3]>(mixed)
  joined = Concat<axis = 0>(n1, t1, all)
  y = Reshape(back, joined) }"""
NUMBERS = {
    "zero": np.array(0),
    "one": np.array(1),
    "front": np.array([0]),
    "heads": np.array([2, 3]),
    "all": np.array([-1]),
}


def test_the_batch_survives_an_attention_that_computes_its_shapes(build: Build) -> None:
    found = shapes(bind(build(ATTENTION, NUMBERS), {"x": (BATCH, 5, 6)}))
    assert found["split"] == ("batch", 5, 2, 3)
    assert found["scores"] == ("batch", 2, 5, 5)
    assert found["y"] == ("batch", 5, 6)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Flatten<axis = 1>(x)", ("batch", 60)),
        ("y = Flatten<axis = 2>(x)", ("batch*3", 20)),
        ("y = Reshape(x, joined)", ("batch*3", 4, 5)),
        ("y = Reshape(x, kept)", ("batch", 12, 5)),
        ("y = Transpose<perm = [1, 0, 2, 3]>(x)", (3, "batch", 4, 5)),
        ("y = ReduceMean<keepdims = 0>(x, front)", (3, 4, 5)),
        ("y = Concat<axis = 0>(x, x)", ("batch*2", 3, 4, 5)),
        ("y = GlobalAveragePool(x)", ("batch", 3, 1, 1)),
    ],
)
def test_the_batch_is_followed_through(build: Build, body: str, expected: tuple[int | str, ...]) -> None:
    rank = ",".join("abcd"[: len(expected)])
    graph = build(
        f"g (float[N,3,4,5] x) => (float[{rank}] y) {{ {body} }}",
        {"joined": np.array([-1, 4, 5]), "kept": np.array([0, 12, 5]), "front": np.array([0])},
    )
    assert shapes(bind(graph, {"x": (BATCH, 3, 4, 5)}))["y"] == expected


def test_shapes_computed_by_old_operators_are_followed(build: Build) -> None:
    text = """g (float[N,8,1,1] x) => (float[a,b] y)
    { s = Shape(x)  s32 = Cast<to = 6>(s)  n = Slice<axes = [0], starts = [0], ends = [1]>(s32)
      wanted32 = Concat<axis = 0>(n, rest)  wanted = Cast<to = 7>(wanted32)  y = Reshape(x, wanted) }"""
    graph = build(text, {"rest": np.array([8], np.int32)}, opset=9)
    assert shapes(bind(graph, {"x": (BATCH, 8, 1, 1)}))["y"] == ("batch", 8)


def test_a_shape_joined_along_the_last_axis_is_followed(build: Build) -> None:
    body = """{ s = Shape(x)  s32 = Cast<to = 6>(s)  n = Slice(s32, from, to, from)
      long = Cast<to = 7>(n)  more = Cast<to = 7>(rest)
      wanted = Concat<axis = -1>(long, more)  flat = Reshape(x, wanted)  y = MatMul(flat, w) }"""
    numbers = {"from": np.array([0]), "to": np.array([1]), "rest": np.array([8], np.int32)}
    graph = build(
        f"g (float[N,8,1,1] x) => (float[N,2] y) {body}", numbers | {"w": np.ones((8, 2), np.float32)}, opset=11
    )
    found = shapes(bind(graph, {"x": (BATCH, 8, 1, 1)}))
    assert (found["flat"], found["y"]) == ((BATCH, 8), (BATCH, 2))


def test_sizes_that_an_exporter_wrote_give_way(build: Build) -> None:
    text = "g (float[N,3,H,W] x) => (float[N,3,14,14] y) { a = Relu(x)  y = Neg(a) }"
    assert shapes(bind(build(text), {"x": (BATCH, 3, 7, 9)})) == dict.fromkeys("ay", ("batch", 3, 7, 9))


def test_a_bound_graph_is_another_one_and_the_old_one_stays(build: Build) -> None:
    graph = build("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    before = graph.fingerprint
    bound = bind(graph, {"x": (BATCH, 3, 7, 9)})
    assert bound.inputs[0].shape == ("batch", 3, 7, 9)
    assert Graph(graph.model).fingerprint == before
    assert bound.fingerprint != before


def test_several_inputs_share_one_batch(build: Build) -> None:
    text = "g (float[N,3,H,W] x, float[M,4,H,W] z) => (float[N,7,H,W] y) { y = Concat<axis = 1>(x, z) }"
    graph = build(text)
    found = shapes(bind(graph, {"x": (BATCH, 3, 5, 6), "z": (BATCH, 4, 5, 6)}))
    assert found["y"] == ("batch", 7, 5, 6)


def test_a_fixed_batch_stays_fixed(build: Build) -> None:
    graph = build("g (float[4,3] x) => (float[4,3] y) { y = Relu(x) }")
    assert shapes(inferred(graph))["y"] == (4, 3)


def test_only_the_first_open_dimension_of_an_input_is_a_batch(build: Build) -> None:
    graph = inferred(build("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }"))
    assert graph.inputs[0].shape == ("batch", 3, "H", "W")


def test_weights_in_external_files_may_be_shapes(build: Build, tmp_path: Path) -> None:
    graph = build("g (float[N,3,4] x) => (float[N,12] y) { y = Reshape(x, wanted) }", {"wanted": np.array([0, 12])})
    path = tmp_path / "m.onnx"
    onnx.save_model(graph.proto(), path, save_as_external_data=True, size_threshold=0, location="m.data")
    assert shapes(inferred(load(path)))["y"] == ("batch", 12)


def test_an_unknown_input_is_named(build: Build) -> None:
    graph = build("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    with pytest.raises(GraphError, match="no input 'image', only x"):
        bind(graph, {"image": (1, 3)})


@pytest.mark.parametrize("shape", [("batch", 4), ("batch", 3, 1), ("batch",)])
def test_a_shape_that_the_input_cannot_take(build: Build, shape: tuple[int | str, ...]) -> None:
    graph = build("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    with pytest.raises(GraphError, match="cannot take the shape"):
        bind(graph, {"x": shape})


def test_shapes_that_do_not_fit_together_are_an_error(build: Build) -> None:
    text = "g (float[N,C] x) => (float[N,5] y) { a = Relu(x)  y = MatMul(a, w) }"
    graph = build(text, {"w": np.ones((4, 5), np.float32)})
    assert shapes(bind(graph, {"x": (BATCH, 4)}))["y"] == ("batch", 5)
    with pytest.raises(GraphError, match=r"do not fit together.*MatMul"):
        bind(graph, {"x": (BATCH, 3)})


def test_an_input_of_unknown_rank_is_named(build: Build) -> None:
    proto = build("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }").proto()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(GraphError, match="shape of tensor 'x' is not known"):
        bind(from_proto(proto, "test"), {"x": (BATCH, 3)})
