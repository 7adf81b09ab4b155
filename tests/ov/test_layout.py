"""Maps that enter and leave channels last: a pooling that changes nothing stands beside their transpose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from stagekit.graph import Graph
from stagekit.graph.edges import with_edges
from stagekit.target import HostBuffer
from stagekit.targets import load_profile

pytest.importorskip("openvino")

from stagekit_openvino.layout import with_free_transposes
from stagekit_openvino.target import OpenVinoTarget

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def conv() -> Graph:
    """A convolution from x (1, 8, 9, 11) to y (1, 16, 9, 11)."""
    weight = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], name="conv")
    takes = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 9, 11))]
    gives = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 16, 9, 11))]
    body = helper.make_graph([node], "g", takes, gives, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    made = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    return Graph(made, "g.onnx", {"x": "NCHW", "y": "NCHW"})


def edged(dtype: str, layout: str) -> Graph:
    graph = conv()
    (output,) = graph.outputs
    form = replace(output.transposed(layout) if layout != output.layout else output, dtype=dtype)
    return with_edges(graph, graph.inputs, [form])


@pytest.mark.parametrize(
    ("dtype", "layout", "added"), [("float32", "NHWC", 1), ("float32", "NCHW", 0), ("bfloat16", "NHWC", 1)]
)
def test_only_what_leaves_channels_last_is_pooled(dtype: str, layout: str, added: int) -> None:
    before = edged(dtype, layout)
    after = with_free_transposes(before)
    assert sum("Pool" in node.op_type for node in after.model.graph) == added
    assert after.outputs == before.outputs


def engine_output(folder: Path, frame: Array, name: str, dtype: str) -> Array:
    """As float32, whatever the output's type."""
    target, profile, graph = OpenVinoTarget(), load_profile(name), conv()
    (output,) = graph.outputs
    form = replace(output.transposed("NHWC"), dtype=dtype)
    folder.mkdir()
    blob = target.compile(graph, graph.inputs, [form], profile, folder, lambda text: None)
    engine = target.load(blob, profile)
    (given,) = engine.lane().run([HostBuffer(graph.inputs[0], frame)], 1)
    result = given.to_host().copy()
    engine.close()
    return result if dtype == "float32" else (result.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("ov-f32", "float32", 1e-4), ("ov-f32", "bfloat16", 2**-7), ("ov-bf16", "bfloat16", 0.1)],
)
def test_an_engine_gives_the_same_numbers_and_keeps_nan(
    name: str, dtype: str, tolerance: float, tmp_path: Path
) -> None:
    if refused := OpenVinoTarget().refusal(load_profile(name)):
        pytest.skip(refused)
    frame = np.random.default_rng(1).standard_normal((1, 8, 9, 11)).astype(np.float32)
    conv().save(tmp_path / "g.onnx")
    (want,) = InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"]).run(None, {"x": frame})
    clean = engine_output(tmp_path / "clean", frame, name, dtype)
    np.testing.assert_allclose(clean, want.transpose(0, 2, 3, 1), rtol=tolerance, atol=tolerance)
    frame[0, 0, 0, 0] = np.nan
    broken = engine_output(tmp_path / "broken", frame, name, dtype)
    assert np.isnan(broken[0, 0, 0]).all()
    np.testing.assert_array_equal(broken[0, -1, -1], clean[0, -1, -1])


def dequantised(weights_too: bool) -> Graph:
    """The convolution of integers x; its weights are floats, or integers as well."""
    model = onnx.ModelProto()
    model.CopyFrom(ir.serde.serialize_model(conv().model))
    weight = numpy_helper.to_array(model.graph.initializer[0])
    del model.graph.initializer[:], model.graph.input[:]
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(v, t), n) for n, v, t in (("s", 0.02, np.float32), ("z", 128, np.uint8))]
    )
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 8, 9, 11)))
    nodes = [helper.make_node("DequantizeLinear", ["x", "s", "z"], ["floats"], name="dq")]
    model.graph.node[0].input[:] = ["floats", "w"]
    if weights_too:
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.rint(weight * 30).astype(np.int8), "wq"),
                numpy_helper.from_array(np.array(1 / 30, np.float32), "ws"),
            ]
        )
        nodes.append(helper.make_node("DequantizeLinear", ["wq", "ws"], ["w"], name="w/dq"))
    else:
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return Graph(ir.serde.deserialize_model(model), "g.onnx", {"x": "NCHW", "y": "NCHW"})


@pytest.mark.parametrize("weights_too", [False, True])
def test_integers_that_enter_to_be_floats_are_pooled(weights_too: bool, tmp_path: Path) -> None:
    graph = dequantised(weights_too)
    before = with_edges(graph, [graph.inputs[0].transposed("NHWC")], graph.outputs)
    after = with_free_transposes(before)
    assert sum("Pool" in node.op_type for node in after.model.graph) == (not weights_too)
    frame = np.random.default_rng(1).integers(0, 256, (1, 9, 11, 8), dtype=np.uint8)
    given = []
    for name, made in (("before", before), ("after", after)):
        made.save(tmp_path / f"{name}.onnx")
        session = InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        given.append(session.run(None, {"x": frame})[0])
    np.testing.assert_array_equal(given[0], given[1])
