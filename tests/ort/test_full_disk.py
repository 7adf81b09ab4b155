"""ONNX Runtime says "Protobuf serialization failed" of a disk that is full; the user reads of the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import onnx
import pytest

from stagekit import targets
from stagekit.graph import from_proto
from stagekit.target import silent

FULL = Path("/dev/full")
"""Linux's file on a disk that is always full."""


@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_no_refusal_of_the_graph(tmp_path: Path) -> None:
    (tmp_path / "engine.onnx").symlink_to(FULL)
    text = '<ir_version: 8, opset_import: ["": 18]> g (float[1, 4] x) => (float[1, 4] y) { y = Tanh(x) }'
    graph = from_proto(onnx.parser.parse_model(text), "g.onnx")
    target, profile = targets.get("onnxruntime"), targets.load_profile("ort-f32")
    with pytest.raises(OSError, match="No space left") as caught:
        target.compile(graph, graph.inputs, graph.outputs, profile, tmp_path, silent)
    assert caught.value.errno == errno.ENOSPC  # which the store takes for a full store
