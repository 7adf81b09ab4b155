"""fp16 and bf16 graphs: valid ONNX, the same function, sensitive parts in f32, edges as they were."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from stagekit_tensorrt import reference
from stagekit_tensorrt.halves import in_half

from stagekit.errors import CompileError
from stagekit.graph import Graph

from . import nets

NETS = {"conv": nets.conv, "stem": nets.stem, "attention": nets.attention, "labels": nets.labels}
TOLERANCE = {"fp16": 4e-3, "bf16": 3e-2}


def types(graph: Graph) -> dict[str, str]:
    """The element type that each node computes in, by its name."""
    found = {}
    for node in graph.body:
        dtypes = [v.dtype for v in node.inputs if v is not None and v.dtype is not None and v.dtype.is_floating_point()]
        if node.op_type != "Cast" and dtypes:
            found[str(node.name).removesuffix("_node")] = dtypes[0].name
    return found


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_a_half_graph_is_valid_and_computes_the_same(name: str, precision: str) -> None:
    graph = NETS[name]()
    half = in_half(graph, precision)
    onnx.checker.check_model(half.proto(), full_check=True)
    inputs = reference.sample(graph.inputs, 2)
    (wanted,), (found,) = reference.run(graph, inputs).values(), reference.run(half, inputs).values()
    if wanted.dtype == np.uint8:
        assert np.mean(found == wanted) > 0.97
    else:
        assert np.abs(found - wanted).max() <= TOLERANCE[precision] * np.abs(wanted).max()


@pytest.mark.parametrize("name", NETS)
def test_the_edges_keep_names_and_types(name: str) -> None:
    graph = NETS[name]()
    half = in_half(graph, "fp16")
    assert (half.inputs, half.outputs) == (graph.inputs, graph.outputs)


def test_converting_leaves_the_graph_as_it_was() -> None:
    graph = nets.attention()
    before = graph.proto().SerializeToString()
    in_half(graph, "fp16")
    assert graph.proto().SerializeToString() == before


def test_products_are_in_half_and_normalisation_and_softmax_in_single() -> None:
    assert types(in_half(nets.attention(), "fp16")) == {
        **dict.fromkeys(["mean", "centred", "squares", "variance", "safe", "deviation", "normal", "weights"], "FLOAT"),
        **dict.fromkeys(["scaled", "keys", "mixed", "y"], "FLOAT16"),
    }


def test_a_frame_is_normalised_in_single() -> None:
    assert types(in_half(nets.stem(), "bf16")) == {"s": "FLOAT", "n": "FLOAT", "y": "BFLOAT16"}


def test_weights_are_stored_in_half_so_no_cast_reads_one() -> None:
    half = in_half(nets.conv(), "fp16")
    assert {v.dtype for v in half.body.initializers.values()} == {ir.DataType.FLOAT16}
    assert [n.op_type for n in half.body] == ["Cast", "Conv", "Relu", "Cast"]


def test_a_half_edge_needs_no_cast() -> None:
    from dataclasses import replace

    from stagekit.graph import with_edges

    graph = nets.conv()
    halved = with_edges(
        graph, [replace(s, dtype="float16") for s in graph.inputs], [replace(s, dtype="float16") for s in graph.outputs]
    )
    converted = in_half(halved, "fp16")
    inner = [n for n in converted.body if n.op_type == "Cast" and n.inputs[0].dtype != n.outputs[0].dtype]  # type: ignore[union-attr]
    assert inner == []


def test_a_weight_beyond_the_range_of_fp16_is_an_error_that_names_it() -> None:
    with pytest.raises(CompileError, match=r"weight 'w' of node 'c_node' holds .*65504") as caught:
        in_half(nets.conv(scale=1e6), "fp16")
    assert "bf16" in str(caught.value)
    in_half(nets.conv(scale=1e6), "bf16")


def test_a_mask_of_minus_infinity_becomes_the_lowest_half() -> None:
    mask = np.array([0, -np.inf, -3e38], np.float32)
    graph = nets.graph(
        [nets.node("Add", ["x", "mask"], "y")],
        {"x": (nets.FLOAT, ["batch", 3])},
        {"y": (nets.FLOAT, ["batch", 3])},
        {"mask": mask},
    )
    (constant,) = in_half(graph, "fp16").body.initializers.values()
    assert constant.const_value is not None
    assert constant.const_value.numpy().tolist() == [0, -65504, -65504]


def test_q_and_dq_take_their_scales_in_half() -> None:
    half = in_half(nets.quantised(), "fp16")
    onnx.checker.check_model(half.proto(), full_check=True)
    assert types(half)["c"] == "FLOAT16"
    inputs = reference.sample(half.inputs, 1)
    (wanted,), (found,) = reference.run(nets.quantised(), inputs).values(), reference.run(half, inputs).values()
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1
