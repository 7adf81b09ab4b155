"""Manifests: what is written is read back, what does not fit is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagekit.bundle import (
    MANIFEST,
    BackboneFacts,
    Boundary,
    ClassEntry,
    Frame,
    GraphEntry,
    HeadEntry,
    Manifest,
    Metric,
    PromptEntry,
    StageEntry,
    StagesManifest,
    TaskManifest,
    plain_name,
    read_manifest,
    write_manifest,
)
from stagekit.errors import BundleError
from stagekit.graph.spec import Quantization, TensorSpec

ENTRY = {"fingerprint": "0123456789abcdef" * 4, "macs": 10, "parameters": 3}


def boundary(name: str) -> Boundary:
    scale = Quantization((0.5, 0.25), (3, -3), axis=1)
    mask = TensorSpec("mask", "uint8", ("batch", "batch*4", 2), quantization=scale)
    return Boundary(name=name, tensors=(TensorSpec(name, "float32", ("batch", 8, 4, 6), "NCHW"), mask), grid=(4, 6))


STAGES = StagesManifest(
    name="tiny",
    backbone=BackboneFacts(
        id="ab" * 32,
        architecture={"name": "tiny", "revision": 1},
        weights="seed 0",
        preprocessing={"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.5)},
    ),
    frame=Frame(spec=TensorSpec("frames", "uint8", ("batch", 8, 12, 3), "NHWC"), height=8, width=12, resize="crop"),
    stages=tuple(
        StageEntry(name=n, boundary=boundary(n), graph=f"{n}.onnx", **ENTRY)
        for n in ("stem", "stage1")
    ),
    uncut=GraphEntry(graph="uncut.onnx", **ENTRY),
    weight_file="weights.bin",
    export_error=1e-7,
    tools={"onnx": "1.0"},
)  # fmt: skip
TASK = TaskManifest(
    name="land",
    backbone="ab" * 32,
    classes=(ClassEntry(name="Wald / forêt", color=(1, 2, 255)), ClassEntry(name="eau", color=(0, 0, 0))),
    prior=(0.25, 0.75),
    prompts=(PromptEntry(boundary="stem", graph="spm0.onnx", **ENTRY),),
    head=HeadEntry(reads=("stage1",), graph="head.onnx", **ENTRY),
    weight_file="weights.bin",
    metrics=(Metric(name="mIoU", value=0.5, data="tiles", split="test", images=9, per_class={"eau": None}),),
    provenance={"recipe": {"epochs": 3}, "by": ["é", 1.5, None]},
)


@pytest.mark.parametrize("manifest", [STAGES, TASK], ids=["stages", "task"])
def test_what_is_written_is_read_back(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path, type(manifest)) == manifest
    assert [p.name for p in tmp_path.iterdir()] == [MANIFEST]
    data = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    assert data["schema"] == 1


def refused(folder: Path, data: object, *words: str, kind: type[Manifest] = StagesManifest) -> None:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError) as raised:
        read_manifest(folder, kind)
    assert raised.value.exit_code == 4
    for word in words:
        assert word in str(raised.value)


@pytest.fixture
def data() -> dict[str, Any]:
    return copy.deepcopy(STAGES.model_dump(mode="json", by_alias=True))


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        read_manifest(tmp_path / "gone.stages", StagesManifest)
    with pytest.raises(BundleError, match=r"expected a .stages folder"):
        read_manifest(tmp_path, StagesManifest)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=r"expected a .stages folder"):
        read_manifest(tmp_path / "file", StagesManifest)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"PK\3\4", b"nul"])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path, content, "not JSON")


@pytest.mark.parametrize("content", [[], 3, None, {}, "stages"])
def test_what_is_no_manifest(tmp_path: Path, content: object) -> None:
    refused(tmp_path, content, "expected a bundle of kind 'stages'")


def test_another_kind_of_bundle(tmp_path: Path) -> None:
    write_manifest(tmp_path, TASK)
    with pytest.raises(BundleError, match="kind 'stages', found 'task'"):
        read_manifest(tmp_path, StagesManifest)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_an_unknown_schema(tmp_path: Path, data: dict[str, Any], schema: object) -> None:
    refused(tmp_path, {**data, "schema": schema, "later": True}, "this version of stagekit reads schema 1")


def _at(data: dict[str, Any], path: str) -> tuple[Any, Any]:
    *parents, last = [int(k) if k.isdigit() else k for k in path.split(".")]
    for key in parents:
        data = data[key]
    return data, last


@pytest.mark.parametrize(
    "path",
    ["extra", "backbone.extra", "stages.0.extra", "stages.1.boundary.extra", "frame.spec.extra", "uncut.extra"],
)
def test_an_unknown_key_is_named_wherever_it_is(tmp_path: Path, data: dict[str, Any], path: str) -> None:
    holder, key = _at(data, path)
    holder[key] = 1
    refused(tmp_path, data, path)


@pytest.mark.parametrize("path", ["backbone", "frame.spec.dtype", "stages.0.graph", "uncut.fingerprint", "weight_file"])
def test_a_missing_key_is_named(tmp_path: Path, data: dict[str, Any], path: str) -> None:
    holder, key = _at(data, path)
    del holder[key]
    refused(tmp_path, data, path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backbone.id", "ab"),
        ("backbone.id", "AB" * 32),
        ("frame.height", 0),
        ("frame.fill", 256),
        ("frame.resize", "squash"),
        ("frame.spec.dtype", "float128"),
        ("frame.spec.layout", "NNNN"),
        ("frame.spec.shape", ["batch", -1, 2, 3]),
        ("stages", []),
        ("stages.1.name", "stem"),
        ("stages.1.boundary.name", "stem"),
        ("stages.0.macs", -1),
        ("stages.0.boundary.feature", 2),
        ("stages.0.boundary.tensors", []),
        ("name", "a/b"),
    ],
)
def test_a_value_that_makes_no_sense(tmp_path: Path, data: dict[str, Any], path: str, value: object) -> None:
    holder, key = _at(data, path)
    holder[key] = value
    refused(tmp_path, data)


@pytest.mark.parametrize("field", ["stages.0.graph", "uncut.graph", "weight_file"])
@pytest.mark.parametrize(
    "name", ["../x.onnx", "/etc/passwd", "a/b.onnx", "..", ".", "", "a\\b", "x\0y", ".hidden", "a..b", "-x", "ü.onnx"]
)
def test_files_lie_in_the_bundles_own_folder(tmp_path: Path, data: dict[str, Any], field: str, name: str) -> None:
    holder, key = _at(data, field)
    holder[key] = name
    refused(tmp_path, data, field)


def test_a_task_has_a_prior_for_each_class(tmp_path: Path) -> None:
    data = TASK.model_dump(mode="json", by_alias=True)
    refused(tmp_path, {**data, "prior": [1.0]}, "2 classes need as many priors, found 1", kind=TaskManifest)


@pytest.mark.parametrize("count", [0, 256])
def test_a_task_has_1_to_255_classes(tmp_path: Path, count: int) -> None:
    data = TASK.model_dump(mode="json", by_alias=True)
    data |= {"classes": [{"name": "c", "color": [0, 0, 0]}] * count, "prior": [0.5] * count}
    refused(tmp_path, data, "classes", kind=TaskManifest)


def test_a_boundary_knows_its_width() -> None:
    assert boundary("stem").channels == 8
    assert Boundary(name="t", tensors=(TensorSpec("t", "float32", ("batch", 5, 12), "NTC"),)).channels == 12
    with pytest.raises(ValueError, match="no channel axis"):
        _ = Boundary(name="t", tensors=(TensorSpec("t", "float32", ("batch", 5)),)).channels


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("resnet50", "resnet50"),
        ("my model (2)", "my-model-2"),
        ("a/b\\c", "a-b-c"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("-x.", "x"),
    ],
)
def test_a_plain_name_stays_near(text: str, plain: str) -> None:
    assert plain_name(text) == plain


@given(text=st.text(max_size=300))
def test_every_text_has_a_plain_name_that_manifests_take(text: str) -> None:
    assert TASK.model_copy(update={"name": plain_name(text)}) == TaskManifest.model_validate(
        {**TASK.model_dump(by_alias=True), "name": plain_name(text)}
    )
