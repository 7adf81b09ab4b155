"""A task on its backbone as one graph, and others' quantisers on it: what ``calibration_cost.py`` compares with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper
from stagekit_calib.chain import Chain

from stagekit.graph import Graph, from_proto
from stagekit.graph.shapes import inferred

Run = Callable[[Any], Any]


def joined(chain: Chain) -> Graph:
    """The first program of a chain as a single graph, from frames to labels."""
    (program, *_) = chain.programs
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    outputs: list[list[str]] = []
    for call in program.calls:
        proto = chain.graphs[call.label].proto().graph
        names = [s.name for s in chain.graphs[call.label].inputs]
        given = ["frames" if r.call < 0 else outputs[r.call][r.output] for r in call.inputs]
        renamed = dict(zip(names, given, strict=True))

        def name(old: str, renamed: dict[str, str] = renamed, label: str = call.label) -> str:
            return renamed.get(old, f"{label}/{old}") if old else ""

        for tensor in proto.initializer:
            tensor.name = name(tensor.name)
            weights.append(tensor)
        for node in proto.node:
            node.name = name(node.name)
            node.input[:] = [name(i) for i in node.input]
            node.output[:] = [name(o) for o in node.output]
            nodes.append(node)
        outputs.append([name(o.name) for o in proto.output])
    frame = chain.manifest.frame.spec
    head = chain.graphs[program.calls[-1].label].outputs[0]
    result = helper.make_tensor_value_info(outputs[-1][0], onnx.TensorProto.UINT8, list(head.shape))
    taken = helper.make_tensor_value_info("frames", onnx.TensorProto.UINT8, list(frame.shape))
    graph = helper.make_graph(nodes, "whole", [taken], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return inferred(from_proto(model, "whole.onnx"))


def ort_quantised(whole: Path, frames: Sequence[Any], folder: Path) -> Run:
    """``quantize_static`` as its documentation has it: pre-processed, everything else by default."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self._frames = iter(frames)

        def get_next(self) -> dict[str, Any] | None:
            frame = next(self._frames, None)
            return None if frame is None else {"frames": frame}

    prepared, quantised = folder / "prepared.onnx", folder / "ort.onnx"
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(quantised), Reader())
    session = onnxruntime.InferenceSession(str(quantised), providers=["CPUExecutionProvider"])
    return lambda frame: session.run(None, {"frames": frame})[0]


def nncf_quantised(whole: Path, frames: Sequence[Any], folder: Path) -> Run:
    """``nncf.quantize`` with its defaults on the OpenVINO model.

    Raises:
        ImportError: nncf is not installed.
    """
    import nncf
    import openvino
    from stagekit_openvino.core import shared_core

    core = shared_core(openvino)
    model = core.read_model(str(whole))
    model.reshape([1, *frames[0].shape[1:]])
    quantised = nncf.quantize(model, nncf.Dataset(list(frames)), subset_size=len(frames))
    compiled = core.compile_model(quantised, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda frame: compiled(frame)[0]
