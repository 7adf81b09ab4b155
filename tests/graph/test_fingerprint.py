"""A fingerprint says what a graph computes: spelling does not count, everything else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagekit.graph import Graph, from_proto, load

W = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3)
TEXT = """g (float[N,4,8,8] x) => (float[N,4,8,8] y)
{ a = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w)
  b = Relu(a)
  c = Sub(b, x)
  y = LeakyRelu<alpha = 0.3>(c) }"""

Build = Callable[..., Graph]
Proto = Callable[..., onnx.ModelProto]


@pytest.fixture
def model(proto: Proto) -> onnx.ModelProto:
    return proto(TEXT, {"w": W})


def fingerprint(model: onnx.ModelProto) -> str:
    return from_proto(model, "test").fingerprint


def test_it_is_64_hex_digits_and_the_same_each_time(model: onnx.ModelProto) -> None:
    assert len(fingerprint(model)) == 64
    assert int(fingerprint(model), 16)
    assert fingerprint(model) == fingerprint(model)


def rename_inside(model: onnx.ModelProto) -> None:
    names = {"a": "zz/conv", "b": "0", "c": "c'", "w": "weight"}
    for node in model.graph.node:
        node.name = f"node of {node.op_type}"
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    model.graph.initializer[0].name = names["w"]


def reverse_nodes(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def reverse_attributes(model: onnx.ModelProto) -> None:
    attributes = list(model.graph.node[0].attribute)[::-1]
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend(attributes)


def say_much(model: onnx.ModelProto) -> None:
    model.producer_name, model.producer_version, model.doc_string, model.domain = "someone", "9", "hello", "here"
    model.graph.name = model.graph.doc_string = "other"
    model.graph.node[1].doc_string = "a node"
    model.metadata_props.add(key="k", value="v")
    model.ir_version = 9


def constant_node(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer.pop()
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["w"], value=weight))


def typed_data(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.float_data.extend(np.frombuffer(weight.raw_data, np.float32))
    weight.ClearField("raw_data")


def listed_as_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, W.shape))


def longhand_domain(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.domain = "ai.onnx"
    model.opset_import[0].domain = "ai.onnx"


def empty_optional_input(model: onnx.ModelProto) -> None:
    model.graph.node[0].input.append("")


def dead_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Exp", ["a"], ["unused"]))


@pytest.mark.parametrize(
    "respell",
    [
        rename_inside,
        reverse_nodes,
        reverse_attributes,
        say_much,
        constant_node,
        typed_data,
        listed_as_input,
        longhand_domain,
        empty_optional_input,
        dead_node,
    ],
)
def test_spelling_does_not_count(model: onnx.ModelProto, respell: Callable[[onnx.ModelProto], None]) -> None:
    before = fingerprint(model)
    respell(model)
    assert fingerprint(model) == before


def test_where_weights_are_stored_does_not_count(model: onnx.ModelProto, tmp_path: Path) -> None:
    before = fingerprint(model)
    onnx.save_model(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
        convert_attribute=True,
    )
    assert (tmp_path / "m.data").stat().st_size >= W.nbytes
    assert load(tmp_path / "m.onnx").fingerprint == before


def attribute(model: onnx.ModelProto) -> None:
    model.graph.node[-1].attribute[0].f = np.nextafter(np.float32(0.3), np.float32(1))


def attribute_list(model: onnx.ModelProto) -> None:
    pads = next(a for a in model.graph.node[0].attribute if a.name == "pads")
    pads.ints[:] = [2, 1, 0, 1]


def further_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("strides", [1, 1]))


def operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Abs"


def opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 17


def order_of_inputs(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[:] = ["x", "b"]


def wiring(model: onnx.ModelProto) -> None:
    model.graph.node[2].input[:] = ["a", "x"]


def input_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if n == "x" else n for n in node.input]


def output_name(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "z"


def input_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9


def batch_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def weight_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = onnx.TensorProto.INT32


def weight_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2, 2, 3, 3]


@pytest.mark.parametrize(
    "change",
    [
        attribute,
        attribute_list,
        further_attribute,
        operator,
        opset,
        order_of_inputs,
        wiring,
        input_name,
        output_name,
        input_shape,
        batch_size,
        input_type,
        weight_type,
        weight_shape,
    ],
)
def test_what_is_computed_counts(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], None]) -> None:
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) != before


@given(bit=st.integers(0, 8 * W.nbytes - 1))
def test_each_bit_of_a_weight_counts(proto: Proto, bit: int) -> None:
    model = proto(TEXT, {"w": W})
    before = fingerprint(model)
    content = bytearray(model.graph.initializer[0].raw_data)
    content[bit // 8] ^= 1 << bit % 8
    model.graph.initializer[0].raw_data = bytes(content)
    assert fingerprint(model) != before


def test_equal_weights_under_two_names_are_one_tensor(build: Build) -> None:
    text = "g (float[3] x) => (float[3] y) {{ a = Add(x, u) \n y = Mul(a, {}) }}"
    ones = np.ones(3, np.float32)
    twice = build(text.format("v"), {"u": ones, "v": ones.copy()})
    once = build(text.format("u"), {"u": ones})
    assert twice.fingerprint == once.fingerprint
    assert twice.tensor_hashes["u"] == twice.tensor_hashes["v"]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(-8, 7).astype(ml_dtypes.int4),
        np.arange(5).astype(ml_dtypes.bfloat16),
        np.arange(6).astype(ml_dtypes.float8_e4m3fn),
        np.array([True, False, True]),
        np.zeros((0, 3), np.float32),
        np.array(7, np.int64),
    ],
    ids=lambda a: str(a.dtype),
)
def test_weights_of_every_type_count(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    def hashed(values: object) -> str:
        value = ir.Value(name="w", const_value=ir.tensor(np.asarray(values)))
        node = ir.node("Shape", [value])
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([array.ndim])
        graph = ir.Graph([], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 21}, name="g")
        saved = ir.from_proto(ir.to_proto(ir.Model(graph, ir_version=10)))
        assert Graph(saved).fingerprint == Graph(ir.Model(graph, ir_version=10)).fingerprint
        return Graph(saved).fingerprint

    before = hashed(array)
    assert before == hashed(array.copy())
    if array.size:
        other = array.copy()
        other.flat[-1] = ~other.flat[-1] if array.dtype == bool else array.dtype.type(1)
        assert hashed(other) != before


def test_strings_count_to_their_last_zero(build: Build) -> None:
    def hashed(text: bytes) -> str:
        value = ir.Value(name="w", const_value=ir.StringTensor([b"a", text], shape=ir.Shape([2]), name="w"))
        node = ir.node("Size", [value])
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([])
        graph = ir.Graph([], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 21}, name="g")
        return Graph(ir.Model(graph, ir_version=10)).fingerprint

    assert hashed(b"b") == hashed(b"b")
    assert len({hashed(b"b"), hashed(b"c"), hashed(b"b\0"), hashed(b"\xff")}) == 4


IF = """g (bool c, float[3] x) => (float[3] y)
{{ k = Neg(x)
   y = If<then_branch = t () => (float[3] u) {{ u = {then}({read}) }},
          else_branch = e () => (float[3] v) {{ v = Relu(x) }}>(c) }}"""


def test_what_a_branch_computes_and_reads_counts(build: Build) -> None:
    prints = {
        (then, read): build(IF.format(then=then, read=read)).fingerprint for then in ("Abs", "Neg") for read in "kx"
    }
    assert len(set(prints.values())) == 4
    renamed = IF.replace("[3] u)", "[3] inner)").replace("{{ u =", "{{ inner =").format(then="Abs", read="k")
    assert build(renamed).fingerprint == prints["Abs", "k"]


def test_an_inner_loop_is_not_taken_for_the_outer_one(build: Build) -> None:
    text = """g (int64 n, bool c, int64 s) => (int64 y)
    {{ y = Loop<body = o (int64 i, bool ci, int64 a) => (bool ci2, int64 r)
       {{ ci2 = Identity(ci)
          r = Loop<body = p (int64 j, bool cj, int64 b) => (bool cj2, int64 q)
              {{ cj2 = Identity(cj)
                 q = Add(b, {which}) }}>(n, ci, a) }}>(n, c, s) }}"""
    assert build(text.format(which="i")).fingerprint != build(text.format(which="j")).fingerprint


def test_a_graph_that_no_pass_has_named_is_hashed_by_what_it_computes() -> None:
    x = ir.val("x", ir.DataType.FLOAT, ir.Shape([2]))

    def chain(*ops: str) -> str:
        value, nodes = x, []
        for op in ops:
            nodes.append(ir.node(op, [value]))
            value = nodes[-1].outputs[0]
        value.type, value.shape = x.type, x.shape
        graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 18}, name="g")
        value.name = "y"
        print_ = Graph(ir.Model(graph, ir_version=8)).fingerprint
        graph.remove(nodes)
        graph.inputs.clear()
        return print_

    assert len({chain("Relu", "Abs", "Neg"), chain("Abs", "Relu", "Neg"), chain("Relu", "Neg", "Abs")}) == 3


def test_tensor_hashes_tell_which_tensors_two_graphs_share(build: Build) -> None:
    one = build("g (float[3] x) => (float[3] y) { a = Relu(x) \n y = Neg(a) }")
    other = build("g (float[3] x) => (float[3] y) { y = Exp(b) \n b = Relu(x) }")
    assert one.tensor_hashes["a"] == other.tensor_hashes["b"]
    assert one.tensor_hashes["y"] != other.tensor_hashes["y"]
