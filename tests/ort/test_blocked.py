"""Maps that cross edges in groups of channels, and the reorders that are spared."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from stagekit_onnxruntime.blocked import blocked_form, group_size
from stagekit_onnxruntime.target import OnnxRuntimeTarget

from stagekit.graph import Graph, TensorSpec
from stagekit.target import HostBuffer
from stagekit.targets import load_profile

Array = np.ndarray[Any, np.dtype[np.float32]]
TARGET, PROFILE = OnnxRuntimeTarget(), load_profile("ort-f32")
SIZE = group_size()

pytestmark = pytest.mark.skipif(SIZE == 0, reason="ONNX Runtime has no blocked kernels for this processor")


class Net:
    """A graph put together node by node, from x (1, channels, 9, 11)."""

    def __init__(self, channels: int) -> None:
        self._random = np.random.default_rng(channels)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._channels = {"x": channels}

    def conv(self, source: str, channels: int, to: str) -> Net:
        weight = self._random.standard_normal((channels, self._channels[source], 3, 3)).astype(np.float32) / 9
        self._weights.append(numpy_helper.from_array(weight, f"{to}/w"))
        return self.add("Conv", [source, f"{to}/w"], {to: channels}, pads=[1, 1, 1, 1])

    def add(self, op: str, sources: list[str], to: dict[str, int], **attributes: Any) -> Net:
        self._nodes.append(helper.make_node(op, sources, list(to), name=f"{op}/{next(iter(to))}", **attributes))
        self._channels |= to
        return self

    def graph(self, *outputs: str) -> Graph:
        edges = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, self._channels[n], 9, 11]) for n in ("x", *outputs)
        ]
        body = helper.make_graph(self._nodes, "g", edges[:1], edges[1:], self._weights)
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        made = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
        return Graph(made, "g.onnx", dict.fromkeys(("x", *outputs), "NCHW"))


def built(graph: Graph, folder: Path, blocked: tuple[str, ...]) -> tuple[Counter[str], list[Array]]:
    """The engine's operators, and what it gives for noise, in the plain form."""
    inputs, outputs = ([form(spec, blocked) for spec in edges] for edges in (graph.inputs, graph.outputs))
    folder.mkdir()
    engine = TARGET.load(TARGET.compile(graph, inputs, outputs, PROFILE, folder, lambda text: None), PROFILE)
    frame = np.random.default_rng(0).standard_normal(graph.inputs[0].concrete()).astype(np.float32)
    given = engine.lane().run([HostBuffer(inputs[0], stored(frame, inputs[0]))], 1)
    engine.close()
    operators = Counter(node.op_type for node in onnx.load(folder / "engine.onnx").graph.node)
    plain = [as_plain(b.to_host(), b.spec, own) for b, own in zip(given, graph.outputs, strict=True)]
    return operators, plain


def form(spec: TensorSpec, blocked: tuple[str, ...]) -> TensorSpec:
    return spec.blocked(SIZE) if spec.name in blocked else spec


def stored(array: Array, spec: TensorSpec) -> Array:
    if spec.layout == "NCHW":
        return array
    batch, groups, height, width, size = spec.concrete()
    filled = np.zeros((batch, groups * size, height, width), np.float32)
    filled[:, : array.shape[1]] = array
    return np.ascontiguousarray(filled.reshape(batch, groups, size, height, width).transpose(0, 1, 3, 4, 2))


def as_plain(array: Array, spec: TensorSpec, own: TensorSpec) -> Array:
    if spec.layout == "NCHW":
        return array
    batch, groups, height, width, size = spec.concrete()
    whole = array.transpose(0, 1, 4, 2, 3).reshape(batch, groups * size, height, width)
    return whole[:, : own.concrete()[1]]


def test_a_map_that_comes_and_goes_in_groups_is_never_reordered(tmp_path: Path) -> None:
    graph = Net(40).conv("x", 24, "h").add("Relu", ["h"], {"r": 24}).conv("r", 40, "y").graph("y")
    plain, wanted = built(graph, tmp_path / "plain", ())
    blocked, found = built(graph, tmp_path / "blocked", ("x", "y"))
    assert (plain["ReorderInput"], plain["ReorderOutput"]) == (1, 1)
    assert blocked["ReorderInput"] == blocked["ReorderOutput"] == 0
    assert np.array_equal(found[0], wanted[0])


@pytest.mark.parametrize("blocked", [(), ("x",), ("y",), ("x", "y"), ("x", "y", "z")])
def test_what_is_read_in_both_forms_is_right_in_both(tmp_path: Path, blocked: tuple[str, ...]) -> None:
    net = Net(8).conv("x", 12, "h").add("Softmax", ["h"], {"s": 12}, axis=1).add("Mul", ["h", "s"], {"y": 12})
    graph = net.conv("h", 4, "z").graph("y", "z", "h")
    _, wanted = built(graph, tmp_path / "plain", ())
    _, found = built(graph, tmp_path / "blocked", blocked)
    assert all(map(np.array_equal, found, wanted))


def test_maps_are_split_and_multiplied_in_groups(tmp_path: Path) -> None:
    """As in an SPM: branches over parts of the channels, and a product with the feature that came in."""
    net = Net(2 * SIZE).conv("x", 2 * SIZE, "h").add("Split", ["h"], {"a": SIZE, "b": SIZE}, axis=1, num_outputs=2)
    net = net.conv("a", SIZE, "c").conv("b", SIZE, "d").add("Concat", ["c", "d"], {"e": 2 * SIZE}, axis=1)
    graph = net.conv("e", 2 * SIZE, "f").add("Mul", ["x", "f"], {"y": 2 * SIZE}).graph("y")
    operators, found = built(graph, tmp_path / "blocked", ("x", "y"))
    assert operators["ReorderInput"] == operators["ReorderOutput"] == 0
    session = onnxruntime.InferenceSession(graph.proto().SerializeToString(), providers=["CPUExecutionProvider"])
    frame = np.random.default_rng(0).standard_normal(graph.inputs[0].concrete()).astype(np.float32)
    (wanted,) = session.run(None, {"x": frame})
    assert np.allclose(found[0], wanted, atol=1e-5)


def test_parts_that_cut_a_group_are_split_outside(tmp_path: Path) -> None:
    half = SIZE // 2
    net = Net(SIZE).conv("x", SIZE, "h").add("Split", ["h"], {"a": half, "b": half}, axis=1, num_outputs=2)
    graph = net.conv("a", SIZE, "c").conv("b", SIZE, "d").add("Add", ["c", "d"], {"y": SIZE}).graph("y")
    _, wanted = built(graph, tmp_path / "plain", ())
    operators, found = built(graph, tmp_path / "blocked", ("x", "y"))
    assert operators["ReorderOutput"] == 1
    assert np.array_equal(found[0], wanted[0])


def test_only_maps_of_floats_in_fours_are_offered_in_groups() -> None:
    spec = TensorSpec("x", "float32", ("batch", 24, 7, 9), "NCHW")
    offered = blocked_form(spec)
    assert offered is not None
    assert offered.shape == ("batch", -(-24 // SIZE), 7, 9, SIZE)
    assert TARGET.boundaries(spec, PROFILE) == [spec, offered]
    for other in (
        replace(spec, shape=("batch", 6, 7, 9)),
        replace(spec, shape=("batch", 24, "height", 9)),
        replace(spec, dtype="uint8"),
        replace(spec, shape=("batch", 24, 7), layout="NTC"),
    ):
        assert TARGET.boundaries(other, PROFILE) == [other]


def test_a_group_is_as_large_as_onnxruntime_makes_it(tmp_path: Path) -> None:
    """Told by the bias of a convolution to a single channel, which the optimiser fills up to a group."""
    weights = [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in (("w", (1, 1, 3, 3)), ("b", (1,)))]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in ("x", "y")]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", edges[:1], edges[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = onnx.load(tmp_path / "optimised.onnx").graph.initializer
    assert [w.dims[0] for w in made if len(w.dims) == 1] == [SIZE]
