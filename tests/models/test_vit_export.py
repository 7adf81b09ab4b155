"""Exported segments of a Vision Transformer, in ONNX Runtime."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone
from stagekit.models.registry import build
from stagekit.models.vit import ViT

TINY = ViT("tiny", width=16, depth=2, heads=4, patch=4, grid=5, cuts=("unit1",), size=(20, 20), layer_scale=True)


class Segment(nn.Module):
    def __init__(self, backbone: Backbone, index: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone.segment(self.index, x)


def export(module: nn.Module, example: Tensor, path: Path, *, dynamo: bool) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = {"x": {0: torch.export.Dim("batch")}}
            torch.onnx.export(
                module.eval(),
                (example,),
                path,
                input_names=["x"],
                dynamic_shapes=batch,
                opset_version=18,
                verbose=False,
            )
        else:
            torch.onnx.export(
                module.eval(), (example,), path, input_names=["x"], dynamic_axes={"x": {0: "batch"}}, dynamo=False,
                opset_version=17,
            )  # fmt: skip
    return onnx.load(path)


@pytest.mark.parametrize("dynamo", [True, False])
def test_segments_run_at_any_batch_and_hold_no_resize(tmp_path: Path, dynamo: bool) -> None:
    backbone = build(TINY, size=(12, 24))
    frames = torch.randint(0, 256, (3, 12, 24, 3), dtype=torch.uint8)
    features = backbone(frames)

    for index, x in enumerate([frames, features[0]]):
        model = export(Segment(backbone, index), x[:2], tmp_path / f"{index}.onnx", dynamo=dynamo)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

        assert not {node.op_type for node in model.graph.node} & {"Resize", "Expand", "Attention"}
        assert {opset.domain for opset in model.opset_import} == {""}
        for batch in (1, 3):
            (found,) = session.run(None, {"x": x[:batch].numpy()})
            np.testing.assert_allclose(found, features[index][:batch].numpy(), atol=1e-5)


def test_exporting_another_size_asks_for_it_to_be_prepared(tmp_path: Path) -> None:
    backbone = build(TINY)
    example = torch.zeros(1, 12, 24, 3, dtype=torch.uint8)

    with pytest.raises(UsageError, match=r"backbone\.prepare\(12, 24\)"):
        export(Segment(backbone, 0), example, tmp_path / "stem.onnx", dynamo=False)

    backbone.prepare(12, 24)
    export(Segment(backbone, 0), example, tmp_path / "stem.onnx", dynamo=False)
