"""Every thing that TensorRT refuses or takes wrongly is found before, with its node and the way out."""

from __future__ import annotations

import numpy as np
import pytest
from stagekit_tensorrt.config import BuildConfig
from stagekit_tensorrt.lint import lint, refuse
from stagekit_tensorrt.typed import Plan, plan

from stagekit.errors import CompileError
from stagekit.graph import Graph
from stagekit.target import Unsupported

from . import nets
from .conftest import MakeProfile

BARE = BuildConfig("auto", (), {})


def findings(graph: Graph) -> list[Unsupported]:
    """Of the graph as it is, but for its batch."""
    return [f for f in lint(Plan(graph, BARE)) if f.op != "input"]


def only(graph: Graph) -> tuple[str, str]:
    (found,) = findings(graph)
    return found.node, found.why


@pytest.mark.parametrize("make", [nets.conv, nets.stem, nets.attention, nets.labels, nets.quantised])
@pytest.mark.parametrize("precision", ["f32", "fp16", "bf16"])
@pytest.mark.parametrize("batch", [(1,), (1, 4)])
def test_sound_graphs_have_no_findings(
    profile: MakeProfile, make: type[Graph], precision: str, batch: tuple[int, ...]
) -> None:
    graph = make()
    assert lint(plan(graph, graph.inputs, graph.outputs, profile(precision, batch))) == []


def test_a_zero_point_other_than_zero_is_found() -> None:
    nodes = {(f.node, f.why) for f in findings(nets.quantised(zero=3))}
    assert nodes == {
        (n, "its zero point is 3; TensorRT takes 0: quantise symmetrically") for n in ("real_node", "y_node")
    }


def test_unsigned_quantisation_is_found() -> None:
    found = findings(nets.quantised(stored=np.uint8))
    assert {f.node for f in found} == {"real_node", "y_node"}
    assert all("it stores uint8; TensorRT takes int8" in f.why for f in found)


def test_a_quantised_bias_is_found() -> None:
    node, why = only(nets.quantised(bias=True))
    assert node == "c_node"
    assert "its bias is quantised (by 'bias_node')" in why
    assert "QuantizeBias=False" in why


def test_weight_scales_along_the_wrong_axis_are_found() -> None:
    node, why = only(nets.quantised(axis=1))
    assert node == "c_node"
    assert "run along axis 1" in why


def test_an_activation_with_a_scale_for_each_channel_is_found() -> None:
    found = findings(nets.quantised(activation_scales=8))
    assert {f.node for f in found} == {"real_node", "y_node"}
    assert all("one scale a channel" in f.why for f in found)


def test_an_input_without_a_range_is_found() -> None:
    (found,) = lint(Plan(nets.conv(), BARE))
    assert (found.node, found.op) == ("x", "input")
    assert "batch" in found.why


def test_a_size_other_than_the_batch_is_found(profile: MakeProfile) -> None:
    graph = nets.graph(
        [nets.node("Relu", ["x"], "y")],
        {"x": (nets.FLOAT, ["batch", 3, "height", 8])},
        {"y": (nets.FLOAT, ["batch", 3, "height", 8])},
        infer=False,
    )
    found = lint(plan(graph, graph.inputs, graph.outputs, profile(batch=(1, 2))))
    assert [f.why for f in found if "height" in f.why and "bind them first" in f.why]


def test_an_operator_that_the_parser_lacks_is_found() -> None:
    graph = nets.graph(
        [nets.node("Det", ["x"], "y")], {"x": (nets.FLOAT, ["batch", 3, 3])}, {"y": (nets.FLOAT, ["batch"])}
    )
    assert only(graph)[1].startswith("TensorRT's parser has no Det")


def test_a_contributed_operator_is_found() -> None:
    gelu = nets.node("FusedGelu", ["x"], "y", domain="com.microsoft")
    graph = nets.graph([gelu], {"x": (nets.FLOAT, [1, 3])}, {"y": (nets.FLOAT, [1, 3])}, infer=False)
    assert "no operators of com.microsoft" in only(graph)[1]


def test_double_precision_is_found() -> None:
    from onnx import TensorProto

    graph = nets.graph(
        [nets.node("Relu", ["x"], "y")], {"x": (TensorProto.DOUBLE, [1, 3])}, {"y": (TensorProto.DOUBLE, [1, 3])},
        infer=False,
    )  # fmt: skip
    assert "is double, which TensorRT lacks" in lint_types(graph)[0]


def lint_types(graph: Graph) -> list[str]:
    from stagekit_tensorrt.lint import _of_node

    return [why for node in graph.body for why in _of_node(node, graph)]


def test_inputs_of_different_types_are_found() -> None:
    graph = nets.graph(
        [nets.node("Cast", ["x"], "half", to=nets.HALF), nets.node("Add", ["x", "half"], "y")],
        {"x": (nets.FLOAT, [1, 3])},
        {"y": (nets.FLOAT, [1, 3])},
        infer=False,
    )
    model = graph.edit()
    import onnx_ir as ir

    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    node, why = only(graph.with_model(model))
    assert node == "y_node"
    assert "'x' float, 'half' float16" in why


def test_bytes_that_are_computed_on_are_found() -> None:
    node, why = only(nets.stem())
    assert node == "t_node"
    assert "'frames' is uint8" in why


def test_findings_stop_a_build_with_all_nodes_named() -> None:
    with pytest.raises(CompileError, match=r"real_node \(DequantizeLinear\).*y_node \(QuantizeLinear\)"):
        refuse(Plan(nets.quantised(zero=3), BARE))
