"""Positions for devices without float units: what is stored, what is folded, what is wide."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stagekit.graph import Graph, from_proto
from stagekit.partition.verify import run_graph
from stagekit.quant.formats import NumberFormat
from stagekit.quant.positions import find_positions
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import chain_positions
from stagekit.quant.stored import stored_positions, wide_tensors

from .graphs import residual

CHANNELS = 8


def block(name: str) -> Graph:
    """LayerNorm, attention over one head, LayerScale, residual sum, GELU by its parts; reads ``x``."""
    random = np.random.default_rng(len(name))
    weights: list[onnx.TensorProto] = []

    def weight(*shape: int) -> str:
        weights.append(numpy_helper.from_array(random.normal(0, 0.4, shape).astype(np.float32), f"w{len(weights)}"))
        return f"w{len(weights) - 1}"

    def number(value: float) -> str:
        weights.append(numpy_helper.from_array(np.float32(value), f"w{len(weights)}"))
        return f"w{len(weights) - 1}"

    nodes = [
        helper.make_node("LayerNormalization", ["x", weight(CHANNELS), weight(CHANNELS)], ["ln"], "ln"),
        helper.make_node("MatMul", ["ln", weight(CHANNELS, 3 * CHANNELS)], ["qkv"], "qkv"),
        helper.make_node("Add", ["qkv", weight(3 * CHANNELS)], ["qkv_b"], "qkv_b"),
        helper.make_node("Split", ["qkv_b"], ["q", "k", "v"], "split", axis=-1, num_outputs=3),
        helper.make_node("Transpose", ["k"], ["kt"], "kt", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["share"], "share"),
        helper.make_node("MatMul", ["share", "v"], ["mixed"], "mixed"),
        helper.make_node("MatMul", ["mixed", weight(CHANNELS, CHANNELS)], ["proj"], "proj"),
        helper.make_node("Add", ["proj", weight(CHANNELS)], ["proj_b"], "proj_b"),
        helper.make_node("Mul", ["proj_b", weight(CHANNELS)], ["scaled"], "scaled"),
        helper.make_node("Add", ["x", "scaled"], ["sum"], "sum"),
        helper.make_node("Div", ["sum", number(1.5)], ["half"], "half"),
        helper.make_node("Erf", ["half"], ["erf"], "erf"),
        helper.make_node("Mul", ["sum", "erf"], [name], "gelu"),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 5, CHANNELS])
    y = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 5, CHANNELS])
    proto = helper.make_model(
        helper.make_graph(nodes, "block", [x], [y], weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    return from_proto(onnx.shape_inference.infer_shapes(proto), "block")


def test_everything_that_is_written_to_memory_is_stored_and_nothing_else() -> None:
    """Not the bare products before their bias, nor the terms of an expression that becomes a table."""
    positions = stored_positions(block("y"), ["x"])
    own = {t for t, source in positions.tensors.items() if t == source}
    assert own == {"x", "ln", "q", "k", "v", "scores", "share", "mixed", "proj_b", "scaled", "sum", "y"}
    assert positions.tensors["kt"] == "k"
    assert positions.integer_inputs == {"x"}


def test_softmax_and_the_residual_stream_over_boundaries_are_wide() -> None:
    first, second = block("y"), block("z")
    chain = [("one", first), ("two", second)]
    wide = [p.wide for p in chain_positions(chain, integer_only=True)]
    assert {"x", "sum", "scaled", "proj_b"} <= wide[0]
    assert not wide[0] & {"ln", "q", "k", "v", "mixed"}
    assert "z" in wide[1]  # what heads read


def test_a_convolutional_net_has_nothing_wide_and_the_positions_of_other_targets() -> None:
    graph = residual()
    stored = stored_positions(graph)
    assert wide_tensors([(graph, stored)]) == [frozenset()]
    assert set(stored.sources) >= set(find_positions(graph).sources)


def test_a_wide_stream_is_stored_in_sixteen_bits_and_loses_less() -> None:
    graph = block("y")
    (positions,) = chain_positions([("one", graph)], integer_only=True)
    x = np.random.default_rng(3).normal(0, 1, (1, 5, CHANNELS)).astype(np.float32)
    x[0, 0, 0] = 60.0  # one massive activation
    model = graph.edit()
    model.graph.outputs[:] = [v for node in model.graph for v in node.outputs]
    seen = {**run_graph(Graph(model), [x]), "x": x}
    narrow = NumberFormat("int8", True)
    errors = []
    for wide in (None, NumberFormat("int16", True)):
        scheme = QuantScheme(narrow, NumberFormat("int16", True), integer_only=True, wide=wide)
        fits = {t: scheme.form(t, positions).fit(seen[t].min(), seen[t].max()) for t in positions.sources}
        quantised = insert_qdq(graph, positions, fits, scheme)
        types = {str(v.name).removesuffix("/q"): str(v.dtype) for n in quantised.body for v in n.outputs}
        assert types["sum"] == ("INT8" if wide is None else "INT16")
        assert types["ln"] == "INT8"
        found = run_graph(quantised, [x])["y"].astype(np.float64) * fits["y"].scale[0]
        errors.append(np.abs(found - seen["y"]).mean())
    assert errors[1] < errors[0] / 4
