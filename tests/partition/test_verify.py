"""``verify`` finds what was changed after a bundle was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from stagekit.bundle import StagesManifest, read_manifest, write_manifest
from stagekit.errors import BundleError, GraphError
from stagekit.graph import load
from stagekit.partition.verify import run_file, verify

Bundle = Callable[..., Path]


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of this test's own."""
    return Path(shutil.copytree(bundle("cnn"), tmp_path / "cnn.stages"))


def with_wrong_stage(folder: Path) -> None:
    """A stage that computes something else, and a manifest that vouches for it."""
    facts = read_manifest(folder, StagesManifest)
    stage = facts.stages[2]
    model = onnx.load(folder / stage.graph, load_external_data=False)
    last = model.graph.node[-1]
    name, last.output[0] = last.output[0], "before"
    two = onnx.numpy_helper.from_array(np.array(1.001, np.float32), "factor")
    model.graph.initializer.append(two)
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [name]))
    (folder / stage.graph).write_bytes(model.SerializeToString())
    changed = stage.model_copy(update={"fingerprint": load(folder / stage.graph).fingerprint})
    write_manifest(folder, facts.model_copy(update={"stages": (*facts.stages[:2], changed, *facts.stages[3:])}))


def test_a_good_bundle_is_equal_at_every_boundary(copy: Path, stagekit: Callable[..., Any]) -> None:
    said: list[str] = []
    errors = verify(copy, progress=said.append)
    assert all(e.ok for e in errors)
    assert [e.boundary for e in errors] == [s.boundary.name for s in read_manifest(copy, StagesManifest).stages]
    assert len(said) == len(errors) + 1
    assert stagekit("verify", copy).code == 0


def test_it_runs_on_frames_that_are_given(copy: Path) -> None:
    frame = read_manifest(copy, StagesManifest).frame
    frames = np.zeros((2, frame.height, frame.width, 3), np.uint8)
    assert all(e.ok for e in verify(copy, frames, progress=lambda _: None))


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_bit_of_a_weight_is_found(copy: Path, stagekit: Callable[..., Any], place: float) -> None:
    path = copy / "weights.bin"
    content = bytearray(path.read_bytes())
    index = int(place * len(content))
    while not content[index]:  # not in the padding between two weights
        index -= 1
    content[index] ^= 4
    path.write_bytes(content)
    with pytest.raises(BundleError, match="fingerprint"):
        verify(copy, progress=lambda _: None)
    assert stagekit("verify", copy).code == 4


def test_a_stage_that_computes_something_else_is_found_where_it_shows_first(
    copy: Path, stagekit: Callable[..., Any]
) -> None:
    with_wrong_stage(copy)
    errors = verify(copy, progress=lambda _: None)
    assert [e.ok for e in errors][:3] == [True, True, False]
    assert errors[2].relative == pytest.approx(1e-3, rel=0.05)
    result = stagekit("verify", copy, "--json")
    assert result.code == 5
    assert "VerificationFailed" in result.out + result.err


def test_a_stage_of_another_bundle_is_found(copy: Path, bundle: Bundle) -> None:
    other = bundle("cnn", seed=1)
    shutil.copy(other / "stage1.onnx", copy / "stage1.onnx")
    with pytest.raises(BundleError, match=r"stage1\.onnx"):
        verify(copy, progress=lambda _: None)


def test_a_stage_without_its_boundary_is_named(copy: Path) -> None:
    facts = read_manifest(copy, StagesManifest)
    stage = facts.stages[0]
    tensors = (stage.boundary.tensors[0].renamed("elsewhere"),)
    changed = stage.model_copy(update={"boundary": stage.boundary.model_copy(update={"tensors": tensors})})
    write_manifest(copy, facts.model_copy(update={"stages": (changed, *facts.stages[1:])}))
    with pytest.raises(BundleError, match=r"stem.*elsewhere"):
        verify(copy, progress=lambda _: None)


def test_what_the_runtime_refuses_is_a_graph_error(copy: Path) -> None:
    frame = read_manifest(copy, StagesManifest).frame
    with pytest.raises(GraphError, match="ONNX Runtime cannot run it"):
        run_file(copy / "stem.onnx", [np.zeros((1, frame.height, frame.width, 4), np.uint8)])
