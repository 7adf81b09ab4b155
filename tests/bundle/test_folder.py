"""Bundles as folders: whole or not at all, and proven when they are read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from stagekit.bundle import MANIFEST, GraphEntry, read_graph, writing
from stagekit.errors import BundleError, StagekitError, UsageError
from stagekit.graph import from_proto
from stagekit.graph.weights import save_together

BUNDLE = json.dumps({"schema": 1, "kind": "task"})


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_new_bundle_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.task"
    with writing(target, "task") as folder:
        (folder / MANIFEST).write_text(BUNDLE)
        assert not target.exists()
    assert contents(tmp_path) == {f"deep/x.task/{MANIFEST}": BUNDLE}
    assert target.stat().st_mode & 0o777 == 0o755


def test_an_old_bundle_is_replaced_whole_and_not_before_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.task"
    for name in ("old", "new"):
        with writing(target, "task") as folder:
            (folder / MANIFEST).write_text(BUNDLE)
            (folder / name).write_text(name)
            assert (target / "old").exists() == (name == "new")
    assert contents(tmp_path) == {f"x.task/{MANIFEST}": BUNDLE, "x.task/new": "new"}


@pytest.mark.parametrize(
    "error", [UsageError("no"), ValueError("no"), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("before", [True, False])
def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path: Path, error: BaseException, before: bool) -> None:
    target = tmp_path / "x.task"
    if before:
        target.mkdir()
        (target / MANIFEST).write_text(BUNDLE)
    old = contents(tmp_path)
    with pytest.raises(type(error)), writing(target, "task") as folder:
        (folder / "half").write_text("half")
        raise error
    assert contents(tmp_path) == old
    assert [p.name for p in tmp_path.iterdir()] == (["x.task"] if before else [])


def test_a_full_disk_is_a_failure_and_no_bad_artefact(tmp_path: Path) -> None:
    with pytest.raises(StagekitError, match="No space left") as raised, writing(tmp_path / "x.task", "task"):
        raise OSError(28, "No space left on device")
    assert raised.value.exit_code == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "not json", '{"name": "a web app", "icons": []}'])
def test_a_folder_that_is_no_bundle_is_not_overwritten(tmp_path: Path, manifest: str | None) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "photo").write_text("precious")
    if manifest:
        (target / MANIFEST).write_text(manifest)
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="will not be overwritten"), writing(target, "task"):
        pytest.fail("the block ran")
    assert contents(tmp_path) == before


def test_a_bundle_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "lite0.stages"
    target.mkdir()
    (target / MANIFEST).write_text(json.dumps({"schema": 1, "kind": "stages"}))
    (target / "weights.bin").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="of kind 'stages', not 'deploy'"), writing(target, "deploy"):
        pytest.fail("the block ran")
    assert contents(tmp_path) == before


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.task").write_text("precious")
    with pytest.raises(BundleError, match="will not be overwritten"), writing(tmp_path / "x.task", "task"):
        pytest.fail("the block ran")


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "x.task").mkdir()
    with writing(tmp_path / "x.task", "task") as folder:
        (folder / "a").write_text("a")
    assert contents(tmp_path) == {"x.task/a": "a"}


def test_a_read_only_place_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", denied)
    with (
        pytest.raises(StagekitError, match="cannot write there: Permission denied"),
        writing(tmp_path / "x.task", "task"),
    ):
        pytest.fail("the block ran")


def test_a_place_below_a_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StagekitError, match="cannot write there"), writing(tmp_path / "file" / "x.task", "task"):
        pytest.fail("the block ran")


def test_a_replacement_that_fails_puts_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.task"
    target.mkdir()
    (target / MANIFEST).write_text(BUNDLE)
    true_rename = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if self.name.startswith(".x.task.") and (self / "new").exists():
            raise OSError(5, "Input/output error")
        return true_rename(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StagekitError, match="Input/output error"), writing(target, "task") as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path) == {f"x.task/{MANIFEST}": BUNDLE}


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, GraphEntry]:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,20] x) => (float[N,20] y) { y = MatMul(x, w) }'
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    graph = from_proto(proto, "test")
    save_together({"g.onnx": graph}, tmp_path, "weights.bin")
    return tmp_path, GraphEntry(graph="g.onnx", fingerprint=graph.fingerprint, macs=400, parameters=400)


def test_a_graph_is_read_if_it_is_the_one_that_the_manifest_names(bundle: tuple[Path, GraphEntry]) -> None:
    folder, entry = bundle
    assert read_graph(folder, entry).fingerprint == entry.fingerprint


@pytest.mark.parametrize("byte", [0, 777, 1599])
def test_one_flipped_bit_of_a_weight_is_found(bundle: tuple[Path, GraphEntry], byte: int) -> None:
    folder, entry = bundle
    content = bytearray((folder / "weights.bin").read_bytes())
    content[byte] ^= 1
    (folder / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"g.onnx are not what the manifest says: fingerprint"):
        read_graph(folder, entry)


@pytest.mark.parametrize("file", ["g.onnx", "weights.bin"])
def test_a_missing_or_truncated_file_is_named(bundle: tuple[Path, GraphEntry], file: str) -> None:
    folder, entry = bundle
    content = (folder / file).read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        (folder / file).write_bytes(damaged)
        with pytest.raises(BundleError, match=r"g\.onnx") as raised:
            read_graph(folder, entry)
        assert raised.value.remedy is not None
    (folder / file).unlink()
    with pytest.raises(BundleError, match=r"g\.onnx"):
        read_graph(folder, entry)
