"""What a target cannot build is said before building, with the node and the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from stagekit import targets
from stagekit.errors import CompileError, StagekitError, TargetUnavailable, UsageError
from stagekit.graph import Graph, TensorSpec, from_proto
from stagekit.target import EngineBlob, Profile, silent

from .conftest import Bench
from .graphs import GRAPHS


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_in_the_suite_is_called_unsupported(bench: Bench, name: str) -> None:
    assert bench.target.supports(GRAPHS[name](), bench.profile) == []


def one_node(op: str, kind: int, opset: int = 22, **attributes: object) -> Graph:
    values = [helper.make_tensor_value_info(name, kind, ["batch", 4, 4]) for name in ("x", "y")]
    node = helper.make_node(op, ["x"], ["y"], name="the_node", **attributes)
    body = helper.make_graph([node], "one", values[:1], values[1:])
    return from_proto(helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), "one.onnx")


def test_onnxruntime_names_a_node_without_a_kernel_and_the_type_it_lacks(tmp_path: Path) -> None:
    target, profile = targets.get("onnxruntime"), targets.load_profile("ort-f32")
    graph = one_node("Sin", TensorProto.BFLOAT16)
    (found,) = target.supports(graph, profile)
    assert (found.node, found.op) == ("the_node", "Sin")
    assert "tensor(bfloat16)" in found.why
    with pytest.raises(CompileError, match="Sin") as caught:
        target.compile(graph, graph.inputs, graph.outputs, profile, tmp_path, silent)
    assert caught.value.where == "one.onnx"
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnx_defines_by_others_is_supported() -> None:
    target, profile = targets.get("onnxruntime"), targets.load_profile("ort-f32")
    graph = one_node("Shrink", TensorProto.FLOAT, lambd=0.5)
    assert target.supports(graph, profile) == []


def test_onnxruntime_says_why_it_has_no_bf16(tmp_path: Path) -> None:
    target = targets.get("onnxruntime")
    with pytest.raises(UsageError, match="bf16"):
        targets.parse_profile({"target": "onnxruntime", "precision": "bf16"}, "mine", "mine.toml")
    profile = Profile("mine", "onnxruntime", precision="bf16")
    graph = GRAPHS["conv"]()
    (refusal,) = target.supports(graph, profile)
    assert "no bf16 kernels" in refusal.why
    with pytest.raises(UsageError, match="no bf16 kernels"):
        target.compile(graph, graph.inputs, graph.outputs, profile, tmp_path, silent)


def test_openvino_names_a_node_that_it_cannot_convert(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    target, profile = targets.get("openvino"), targets.load_profile("ov-f32")
    values = [helper.make_tensor_value_info("x", 1, ["batch", 4, 4]), helper.make_tensor_value_info("y", 1, ["batch"])]
    body = helper.make_graph([helper.make_node("Det", ["x"], ["y"], name="the_node")], "one", values[:1], values[1:])
    proto: onnx.ModelProto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    graph = from_proto(proto, "one.onnx")
    (found,) = target.supports(graph, profile)
    assert (found.node, found.op) == ("the_node", "Det")
    with pytest.raises(CompileError, match="Det"):
        target.compile(graph, graph.inputs, graph.outputs, profile, tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["GPU.7", "HETERO:NPU.9,CPU", "TOASTER"])
def test_a_device_that_is_not_here_is_named_with_those_that_are(device: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    target = targets.get("openvino")
    profile = replace(targets.load_profile("ov-f32"), device=device)
    graph = GRAPHS["conv"]()
    with pytest.raises(TargetUnavailable, match=r"no device .*finds .*CPU"):
        target.compile(graph, graph.inputs, graph.outputs, profile, tmp_path, silent)


def test_the_device_key_needs_no_device() -> None:
    target = targets.get("openvino")
    profile = targets.load_profile("ov-f32")
    assert target.device(replace(profile, device="GPU.1")) == "GPU.1"
    assert target.device(profile).startswith("CPU ")
    assert target.device(replace(profile, device="HETERO:GPU,CPU")).startswith("HETERO:GPU,CPU ")


def test_a_form_that_is_no_reordering_is_refused(bench: Bench, tmp_path: Path) -> None:
    graph = GRAPHS["conv"]()
    wrong = TensorSpec("x", "float32", ("batch", 16, 24, 21), "NCHW")
    with pytest.raises(StagekitError, match="does not fit"):
        bench.target.compile(graph, [wrong], graph.outputs, bench.profile, tmp_path, silent)


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": -2}])
def test_a_thread_count_below_one_is_refused(
    bench: Bench, compiled: Callable[[str], tuple[Graph, EngineBlob]], options: dict[str, int]
) -> None:
    with pytest.raises(UsageError, match="threads must be at least 1"):
        bench.target.load(compiled("conv")[1], replace(bench.profile, options=options))
