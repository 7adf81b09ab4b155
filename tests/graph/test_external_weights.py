"""Weights beside a model: wherever they point, only complete ones in the model's own folder are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stagekit.errors import GraphError
from stagekit.graph import load
from stagekit.graph.shapes import inferred
from stagekit.graph.simplify import simplify
from stagekit.partition.verify import run_graph

W = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes ``folder/m.onnx`` whose weight ``w`` says what is given, and ``folder/w.bin`` that holds it."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def save(constant: bool = False, **entries: str) -> Path:
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=W.shape)
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "w.bin", **entries}.items():
            if value is not None:
                weight.external_data.add(key=key, value=value)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8]) for name in "xy"]
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        if constant:
            nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [] if constant else [weight])
        path = folder / "m.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
        (folder / "w.bin").write_bytes(bytes(64) + W.tobytes())
        return path

    return save


def refused(path: Path, *words: str) -> None:
    with pytest.raises(GraphError) as raised:
        load(path)
    assert raised.value.exit_code == 4
    assert raised.value.where == str(path)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("constant", [False, True])
def test_a_weight_in_the_folder_is_read(save: Save, constant: bool) -> None:
    graph = load(save(constant, offset="64", length="256"))
    x = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(run_graph(graph, [x])["y"], W, rtol=1e-6)


def test_what_is_made_of_such_a_graph_does_not_need_its_folder(save: Save, tmp_path: Path) -> None:
    graph = load(save(offset="64", length="256"))
    before = graph.fingerprint
    graph.save(tmp_path / "copy.onnx")
    assert load(tmp_path / "copy.onnx").fingerprint == before
    x = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(run_graph(simplify(inferred(graph)), [x])["y"], W, rtol=1e-6)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../secret.bin", "sub/../../secret.bin", "a/../w.bin", "w.bin/.."]
)
def test_a_path_that_could_leave_the_folder(save: Save, tmp_path: Path, location: str, constant: bool) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(512))
    refused(save(constant, location=location, offset="0", length="256"), "outside the model's folder", location)


def test_a_symlink_that_leaves_the_folder(save: Save, tmp_path: Path) -> None:
    path = save(location="link.bin", offset="0", length="256")
    (tmp_path / "secret.bin").write_bytes(bytes(512))
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    refused(path, "outside the model's folder", "link.bin")


def test_a_symlinked_folder_that_leaves_the_folder(save: Save, tmp_path: Path) -> None:
    path = save(location="sub/secret.bin", offset="0", length="256")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.bin").write_bytes(bytes(512))
    (path.parent / "sub").symlink_to(tmp_path / "elsewhere")
    refused(path, "outside the model's folder")


def test_a_symlink_inside_the_folder_is_fine(save: Save) -> None:
    path = save(location="link.bin", offset="64", length="256")
    (path.parent / "link.bin").symlink_to("w.bin")
    assert load(path).fingerprint == load(save(offset="64", length="256")).fingerprint


def test_a_hard_link(save: Save, tmp_path: Path) -> None:
    path = save(offset="64", length="256")
    os.link(path.parent / "w.bin", tmp_path / "secret.bin")
    refused(path, "hard link", "cp w.bin")


def test_a_missing_file(save: Save) -> None:
    refused(save(location="gone.bin", length="256"), "gone.bin", "missing")


def test_a_folder_in_place_of_the_file(save: Save) -> None:
    path = save(location="sub", length="256")
    (path.parent / "sub").mkdir()
    refused(path, "sub", "missing")


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "128", "length": "256"},
        {"offset": "128", "length": None},
        {"offset": str(2**62), "length": "256"},
        {"offset": "64", "length": str(2**62)},
        {"offset": "64", "length": "255"},
        {"offset": "64", "length": "0"},
    ],
    ids=str,
)
def test_bytes_that_the_file_does_not_have(save: Save, entries: dict[str, str]) -> None:
    refused(save(**entries), "'w'", "w.bin", "truncated or damaged")


@pytest.mark.parametrize(
    "entries",
    [{"offset": "-8"}, {"length": "-256"}, {"offset": "many"}, {"length": "1e3"}, {"offset": "0x40"}],
    ids=str,
)
def test_numbers_that_are_no_places_in_a_file(save: Save, entries: dict[str, str]) -> None:
    refused(save(**entries))


def test_a_truncated_weight_file(save: Save) -> None:
    path = save(offset="64", length="256")
    os.truncate(path.parent / "w.bin", 319)
    refused(path, "truncated", "319")


def test_a_message_that_was_never_a_file_has_no_folder(save: Save) -> None:
    from stagekit.graph import from_proto

    with pytest.raises(GraphError, match="outside"):
        from_proto(onnx.load(save(offset="64", length="256"), load_external_data=False), "message")
