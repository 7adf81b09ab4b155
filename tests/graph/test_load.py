"""Files come from strangers: what is no usable model is a GraphError, whatever is wrong with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from stagekit.errors import GraphError
from stagekit.graph import Graph, load

Proto = Callable[..., onnx.ModelProto]
TEXT = "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w)  y = Add(a, b) }"
W, B = np.arange(16, dtype=np.float32).reshape(4, 4), np.ones(4, np.float32)


@pytest.fixture
def model(proto: Proto) -> onnx.ModelProto:
    return proto(TEXT, {"w": W, "b": B})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def refused(path: Path, *words: str) -> GraphError:
    with pytest.raises(GraphError) as raised:
        use(load(path))
    assert raised.value.exit_code == 4
    assert raised.value.where == str(path)
    for word in words:
        assert word in str(raised.value)
    return raised.value


def use(graph: Graph) -> None:
    """All that reads a graph without running it."""
    assert len(graph.fingerprint) == 64
    graph.proto()


def test_a_good_file_is_read(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(model, path)
    graph = load(path)
    use(graph)
    assert [str(s) for s in graph.inputs] == ["x: float32 [N x 4]"]
    assert graph.weight_bytes == W.nbytes + B.nbytes


def test_a_dimension_below_zero_is_an_open_one(model: onnx.ModelProto, path: Path) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, path)
    graph = load(path)
    use(graph)
    assert [s.shape for s in (*graph.inputs, *graph.outputs)] == [("x_0", 4), ("y_0", 4)]


@pytest.mark.parametrize(("opset", "version", "word"), [(999, 8, "opset 999"), (-1, 8, "opset -1"), (18, 99, "99 of")])
def test_versions_that_nobody_knows(model: onnx.ModelProto, path: Path, opset: int, version: int, word: str) -> None:
    model.opset_import[0].version, model.ir_version = opset, version
    path.write_bytes(model.SerializeToString())
    refused(path, word)


def test_a_file_from_before_weights_stood_apart_is_a_valid_model_again(model: onnx.ModelProto, path: Path) -> None:
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in model.graph.initializer
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    onnx.checker.check_model(load(path).proto())


def test_nodes_of_one_name_are_told_apart(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, path)
    assert [node.name for node in load(path).body] == ["same", "add_1"]


def test_missing_file(path: Path) -> None:
    refused(path, "no such file")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "found a folder")


def test_empty_file(path: Path) -> None:
    path.touch()
    refused(path, "empty file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(model: onnx.ModelProto, path: Path) -> None:
    onnx.save(model, path)
    path.chmod(0)
    refused(path, "cannot be read")


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\3\4" + bytes(50), b"\xff" * 64])
def test_other_kinds_of_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path)


def test_a_file_cut_short_anywhere(model: onnx.ModelProto, path: Path) -> None:
    content = model.SerializeToString()
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        try:
            graph = load(path)
        except GraphError as error:
            assert error.exit_code == 4
        else:  # all that is lost lies behind what a model needs
            onnx.save(model, path)
            assert graph.fingerprint == load(path).fingerprint


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_a_few_wrong_bytes_is_a_graph_or_an_error(
    model: onnx.ModelProto, path: Path, data: st.DataObject
) -> None:
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        use(load(path))
    except GraphError as error:
        assert error.exit_code == 4


def test_a_name_that_is_not_utf8(model: onnx.ModelProto, path: Path) -> None:
    content = model.SerializeToString()
    path.write_bytes(content.replace(b"MatMul", b"Mat\xff\xfel"))
    refused(path)


def test_an_unknown_operator_is_named(model: onnx.ModelProto, path: Path) -> None:
    model.graph.node[0].op_type, model.graph.node[0].name = "MatMull", "first"
    onnx.save(model, path)
    refused(path, "'first'", "MatMull")


def test_unknown_domains_are_named_and_counted(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        node.domain = "acme"
    onnx.save(model, path)
    refused(path, "acme::MatMul", "1 more")


def test_an_operator_newer_than_the_opset_is_unknown(proto: Proto, path: Path) -> None:
    onnx.save(proto("g (float[2] x) => (float[2] y) { y = Mish(x) }", opset=17), path)
    refused(path, "Mish")
    onnx.save(proto("g (float[2] x) => (float[2] y) { y = Mish(x) }", opset=18), path)
    use(load(path))


def test_an_unknown_operator_in_a_branch_is_found(proto: Proto, path: Path) -> None:
    text = """g (bool c, float[3] x) => (float[3] y) { y = If<then_branch = t () => (float[3] u) { u = Foo(x) },
              else_branch = e () => (float[3] v) { v = Relu(x) }>(c) }"""
    onnx.save(proto(text), path)
    refused(path, "Foo")


def test_no_opset(model: onnx.ModelProto, path: Path) -> None:
    del model.opset_import[:]
    onnx.save(model, path)
    refused(path, "opset")


def test_no_nodes(path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph([], "g", [value], [value])), path)
    refused(path, "empty graph")


def test_a_tensor_that_nothing_makes(
    model: onnx.ModelProto, path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model.graph.node[1].input[1] = "bias"
    onnx.save(model, path)
    with caplog.at_level(logging.WARNING):
        refused(path, "'bias'", "nothing makes")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_an_output_that_nothing_makes(model: onnx.ModelProto, path: Path) -> None:
    model.graph.output[0].name = "z"
    onnx.save(model, path)
    refused(path, "'z'")


def test_a_tensor_that_two_nodes_make(model: onnx.ModelProto, path: Path) -> None:
    model.graph.node[0].output[0] = "y"
    onnx.save(model, path)
    refused(path)


def test_a_cycle(model: onnx.ModelProto, path: Path) -> None:
    model.graph.node[0].input[0] = "y"
    onnx.save(model, path)
    refused(path, "cycle")


@pytest.mark.parametrize("dims", [[5, 4], [4, 4, 2], [-1, 4], [2**40, 2**20]])
def test_a_weight_that_does_not_fill_its_shape(model: onnx.ModelProto, path: Path, dims: list[int]) -> None:
    model.graph.initializer[0].dims[:] = dims
    onnx.save(model, path)
    refused(path, "'w'")


def test_a_constant_that_does_not_fill_its_shape(model: onnx.ModelProto, path: Path) -> None:
    weight = model.graph.initializer.pop()
    weight.dims[:] = [9]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["b"], value=weight))
    onnx.save(model, path)
    refused(path, "damaged")


def test_an_edge_of_a_type_that_no_device_takes(proto: Proto, path: Path) -> None:
    onnx.save(proto("g (string[N] x) => (string[N] y) { y = Identity(x) }"), path)
    refused_edges = load(path)
    with pytest.raises(GraphError, match="STRING"):
        assert refused_edges.inputs


def test_local_functions_are_written_out(path: Path) -> None:
    call = helper.make_node("Twice", ["x"], ["y"], domain="local")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    function = helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([call], "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=imports), path)
    assert [n.op_type for n in load(path).body] == ["Add"]


def test_weights_listed_as_inputs_are_no_inputs(model: onnx.ModelProto, path: Path) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    onnx.save(model, path)
    assert [s.name for s in load(path).inputs] == ["x"]


def test_nodes_may_come_in_any_order(model: onnx.ModelProto, path: Path) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    graph = load(path)
    graph.edit()
    assert [n.op_type for n in graph.body] == ["MatMul", "Add"]
