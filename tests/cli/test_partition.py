"""``partition`` on files that are no models, or not the right ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty file"), (b"PK\x03\x04 no model", "cannot be decoded"), (b"\x08\x07", "empty graph")],
)
def test_files_that_are_no_models_are_named(stagekit: Run, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    done = stagekit("partition", tmp_path / "model.onnx", "--stages", "2", "-o", tmp_path / "m.stages")
    assert done.code == 4
    assert "model.onnx" in done.err
    assert message in done.err
    assert not (tmp_path / "m.stages").exists()


def test_a_truncated_model_is_named(zoo: Any, stagekit: Run, tmp_path: Path) -> None:
    whole = (zoo.stages / "stem.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    done = stagekit("partition", tmp_path / "cut.onnx", "--stages", "2", "-o", tmp_path / "m.stages")
    assert done.code == 4
    assert "cut.onnx" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "m.stages").exists()


def test_an_unknown_operator_and_a_wrong_number_of_channels_are_named(stagekit: Run, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def model(op: str, channels: int) -> bytes:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 8, 8])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", channels, 8, 8])
        graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], name="odd")], "g", [x], [y])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()

    (tmp_path / "op.onnx").write_bytes(model("Frobnicate", 3))
    done = stagekit("partition", tmp_path / "op.onnx", "--stages", "2", "-o", tmp_path / "m.stages")
    assert done.code == 4
    assert "Frobnicate" in done.err
    assert "odd" in done.err
    (tmp_path / "grey.onnx").write_bytes(model("Relu", 1))
    done = stagekit(
        "partition",
        tmp_path / "grey.onnx",
        "--at",
        "y",
        "--mean",
        "1,1,1",
        "--std",
        "1,1,1",
        "-o",
        tmp_path / "m.stages",
    )
    assert done.code == 4
    assert "3" in done.err
    assert not (tmp_path / "m.stages").exists()


def test_missing_weights_and_unknown_backbones_are_named(stagekit: Run, tmp_path: Path) -> None:
    done = stagekit("partition", "lite0", "--weights", tmp_path / "absent.pth", "-o", tmp_path / "l.stages")
    assert done.code == 4
    assert "absent.pth" in done.err
    done = stagekit("partition", "resnet51", "-o", tmp_path / "r.stages")
    assert done.code == 2
    assert "resnet50" in done.err
