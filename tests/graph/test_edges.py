"""A graph with converted edges computes the same function of the same tensors, stored otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stagekit.errors import UsageError
from stagekit.graph import Graph, TensorSpec, from_proto, with_edges

Array = np.ndarray[Any, Any]


def graph(shape: tuple[int, int, int] = (3, 4, 5), layouts: bool = True) -> Graph:
    """y = relu(conv1x1(x)) + x and z, which is also read inside; x is read twice."""
    channels = shape[0]
    weight = np.random.default_rng(0).standard_normal((channels, channels, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["z"]),
        helper.make_node("Add", ["z", "x"], ["y"]),
    ]
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *shape]) for n in "xyz"}
    body = helper.make_graph(
        nodes, "g", [values["x"]], [values["y"], values["z"]], [numpy_helper.from_array(weight, "w")]
    )
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return replace(from_proto(proto, "g"), layouts=dict.fromkeys("xyz", "NCHW") if layouts else {})


def run(g: Graph, x: Array) -> list[Array]:
    """ONNX's own reference implementation: slow and independent of every runtime."""
    proto = g.proto()
    onnx.checker.check_model(proto, full_check=True)
    return list(ReferenceEvaluator(proto).run(None, {"x": x}))


def stored(array: Array, spec: TensorSpec) -> Array:
    return array.transpose(["NCHW".index(axis) for axis in spec.layout])


def form(spec: TensorSpec, layout: str, dtype: str = "float32") -> TensorSpec:
    return replace(spec.transposed(layout), dtype=dtype)


LAYOUTS = st.sampled_from(["NCHW", "NHWC", "NWHC", "CHWN"])


@settings(max_examples=30, deadline=None)
@given(LAYOUTS, LAYOUTS, LAYOUTS, st.sampled_from([(3, 4, 5), (4, 4, 4)]))
def test_any_order_of_axes_gives_the_same_function(x: str, y: str, z: str, shape: tuple[int, int, int]) -> None:
    plain = graph(shape)
    inputs = [form(plain.inputs[0], x)]
    outputs = [form(spec, layout) for spec, layout in zip(plain.outputs, (y, z), strict=True)]
    converted = with_edges(plain, inputs, outputs)
    data = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)
    wanted, found = run(plain, data), run(converted, stored(data, inputs[0]))
    for want, have, spec in zip(wanted, found, outputs, strict=True):
        np.testing.assert_allclose(have, stored(want, spec), rtol=1e-6, atol=1e-6)


def test_the_result_has_the_edges_asked_for() -> None:
    plain = graph()
    inputs = [form(plain.inputs[0], "NHWC", "bfloat16")]
    outputs = [form(plain.outputs[0], "NHWC", "float16"), plain.outputs[1]]
    converted = with_edges(plain, inputs, outputs)
    assert list(converted.inputs) == inputs
    assert list(converted.outputs) == outputs


def test_types_are_cast_and_computed_in_the_graphs_own() -> None:
    plain = graph()
    converted = with_edges(plain, [replace(plain.inputs[0], dtype="float16")], plain.outputs)
    data = np.random.default_rng(1).standard_normal((1, 3, 4, 5)).astype(np.float16)
    for want, have in zip(run(plain, data.astype(np.float32)), run(converted, data), strict=True):
        assert have.dtype == np.float32
        np.testing.assert_array_equal(want, have)


def test_a_cast_at_an_output_comes_after_the_transpose() -> None:
    plain = graph()
    outputs = [form(plain.outputs[0], "NHWC", "float16"), plain.outputs[1]]
    ops = [node.op_type for node in with_edges(plain, plain.inputs, outputs).body]
    assert ops[-2:] == ["Transpose", "Cast"]


def test_edges_that_are_right_already_change_nothing() -> None:
    plain = graph()
    assert with_edges(plain, plain.inputs, plain.outputs).fingerprint == plain.fingerprint


def test_the_graph_itself_is_left_alone() -> None:
    plain = graph()
    before = plain.fingerprint, plain.proto().SerializeToString()
    with_edges(plain, [form(plain.inputs[0], "NHWC")], [form(s, "NHWC") for s in plain.outputs])
    assert (Graph(plain.model).fingerprint, plain.proto().SerializeToString()) == before


def test_converting_there_and_back_gives_the_same_function() -> None:
    plain = graph()
    there = with_edges(plain, [form(plain.inputs[0], "NHWC")], [form(s, "NHWC") for s in plain.outputs])
    back = with_edges(there, plain.inputs, plain.outputs)
    data = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(np.float32)
    for want, have in zip(run(plain, data), run(back, data), strict=True):
        np.testing.assert_array_equal(want, have)


def test_weights_listed_among_the_inputs_are_passed_over() -> None:
    """ONNX files older than IR version 4 list every weight as an input, in any place."""
    proto = graph().proto()
    weight = helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3, 1, 1])
    x = onnx.ValueInfoProto.FromString(proto.graph.input[0].SerializeToString())
    del proto.graph.input[:]
    proto.graph.input.extend([weight, x])
    old = replace(from_proto(proto, "old"), layouts=dict.fromkeys("xyz", "NCHW"))
    converted = with_edges(old, [form(old.inputs[0], "NHWC")], old.outputs)
    data = np.random.default_rng(1).standard_normal((1, 3, 4, 5)).astype(np.float32)
    wanted = run(graph(), data)
    found = run(converted, stored(data, converted.inputs[0]))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6, atol=1e-6)


def test_without_layouts_the_shape_tells_the_order() -> None:
    plain = graph(layouts=False)
    spec = TensorSpec("x", "float32", ("batch", 4, 5, 3), "NHWC")
    converted = with_edges(plain, [spec], plain.outputs)
    assert next(node.op_type for node in converted.body) == "Transpose"


def test_without_layouts_a_cube_is_an_error_not_a_guess() -> None:
    plain = graph((4, 4, 4), layouts=False)
    spec = TensorSpec("x", "float32", ("batch", 4, 4, 4), "NHWC")
    with pytest.raises(UsageError, match="does not tell whether"):
        with_edges(plain, [spec], plain.outputs)


def test_a_shape_that_is_no_reordering_is_refused() -> None:
    plain = graph()
    with pytest.raises(UsageError, match="does not fit"):
        with_edges(plain, [TensorSpec("x", "float32", ("batch", 4, 6, 3), "NHWC")], plain.outputs)
    with pytest.raises(UsageError, match="does not fit"):
        with_edges(plain, [TensorSpec("x", "float32", ("batch", 60), "NC")], plain.outputs)


def test_the_number_of_edges_must_agree() -> None:
    plain = graph()
    with pytest.raises(UsageError, match="number of edges"):
        with_edges(plain, plain.inputs, plain.outputs[:1])
