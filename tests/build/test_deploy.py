"""Compile once, never again: keys, look-ups, deployments and what tasks add to them."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from stagekit_onnxruntime import OnnxRuntimeTarget

from stagekit.build.compile import LOCK, compile, resolve_profile
from stagekit.build.deploy import compile_bundles, compile_into
from stagekit.build.engines import Builder
from stagekit.bundle import MANIFEST, DeployManifest, StagesManifest, read_graph, read_manifest
from stagekit.errors import BundleError, CompileError, UsageError
from stagekit.graph import Graph
from stagekit.session import Session
from stagekit.store import Store
from stagekit.store.lock import held
from stagekit.target import Unsupported
from stagekit.targets import get, load_profile


def built(result: Any) -> list[str]:
    return [e.graph for e in result.engines if not e.cached]


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files; the marks of last use do not count."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "used"
    }


def test_the_second_compilation_builds_nothing(zoo: Any, store: Path) -> None:
    first = compile([zoo.stages, zoo.tasks["land"]], profile="ort-f32")
    before = contents(store / "objects")
    second = compile([zoo.stages, zoo.tasks["land"]], profile="ort-f32")
    assert built(first) == ["stem", "stage1", "stage2", "land/spm0", "land/spm1", "land/head"]
    assert built(second) == []
    assert [e.digest for e in first.engines] == [e.digest for e in second.engines]
    assert contents(store / "objects") == before


def test_another_task_compiles_its_own_graphs_and_touches_no_stage(zoo: Any, store: Path, tmp_path: Path) -> None:
    first = compile([zoo.stages, zoo.tasks["land"], zoo.tasks["sea"]], profile="ort-f32", output=tmp_path / "d.deploy")
    before = contents(store / "objects")
    stages = {s.engine for s in first.manifest.stages}
    deployed = {d: contents(tmp_path / "d.deploy" / "engines" / d) for d in stages}
    third = compile([zoo.tasks["line"]], into=tmp_path / "d.deploy")
    assert built(third) == ["line/head"]
    after = contents(store / "objects")
    assert {k: v for k, v in after.items() if k in before} == before
    assert {d: contents(tmp_path / "d.deploy" / "engines" / d) for d in stages} == deployed
    assert [t.name for t in read_manifest(tmp_path / "d.deploy", DeployManifest).tasks] == ["land", "sea", "line"]


def changed_copy(source: Path, destination: Path, stage: int) -> Path:
    """A copy of a bundle in which one bit of one weight of one stage differs, with an honest manifest."""
    shutil.copytree(source, destination)
    manifest = read_manifest(destination, StagesManifest)
    entry = manifest.stages[stage]
    graph = read_graph(destination, entry)
    model = graph.edit()
    value = next(v for v in model.graph.initializers.values() if v.const_value.dtype == ir.DataType.FLOAT)
    array = np.array(value.const_value.numpy())
    array.reshape(-1).view(np.uint32)[0] ^= 1
    value.const_value = ir.tensor(array, name=value.name)
    (destination / entry.graph).write_bytes(Graph(model).proto().SerializeToString())
    data = json.loads((destination / MANIFEST).read_text())
    data["stages"][stage]["fingerprint"] = Graph(model).fingerprint
    (destination / MANIFEST).write_text(json.dumps(data))
    return destination


def test_one_changed_bit_of_one_weight_is_a_new_engine_of_that_stage_alone(
    zoo: Any, store: Path, tmp_path: Path
) -> None:
    compile([zoo.stages], profile="ort-f32")
    changed = compile([changed_copy(zoo.stages, tmp_path / "changed.stages", 1)], profile="ort-f32")
    assert built(changed) == ["stage1"]


def test_a_weight_that_is_not_the_manifests_is_found(zoo: Any, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bad.stages"
    shutil.copytree(zoo.stages, copy)
    weights = bytearray((copy / "weights.bin").read_bytes())
    weights[100] ^= 1
    (copy / "weights.bin").write_bytes(weights)
    with pytest.raises(BundleError, match="fingerprint"):
        compile([copy], profile="ort-f32")


@pytest.mark.parametrize("change", ["toolchain", "device"])
def test_another_toolchain_or_device_is_another_engine(
    zoo: Any, store: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    compile([zoo.stages], profile="ort-f32")
    monkeypatch.setattr(OnnxRuntimeTarget, change, lambda self, profile: "another")
    assert built(compile([zoo.stages], profile="ort-f32")) == ["stem", "stage1", "stage2"]


def test_a_profile_value_that_shapes_engines_is_another_engine_and_a_thread_count_is_not(zoo: Any, store: Path) -> None:
    profile, target = load_profile("ort-f32"), get("onnxruntime")
    built_with = [
        len(built(compile_bundles(zoo.stages, [], Builder(target, p, Store(store)))))
        for p in (
            profile,
            replace(profile, batch=(1, 2)),
            replace(profile, options={"threads": 1}),
            replace(profile, name="other"),
        )
    ]
    assert built_with == [3, 3, 0, 0]


def test_tasks_fit_the_same_backbone_at_another_input_size(zoo: Any, store: Path, tmp_path: Path) -> None:
    import torch

    tall, tiny = (read_manifest(p, StagesManifest) for p in (zoo.other_size, zoo.stages))
    assert tall.backbone.id == tiny.backbone.id
    assert [s.fingerprint for s in tall.stages] != [s.fingerprint for s in tiny.stages]
    compile([zoo.other_size, zoo.tasks["land"]], profile="ort-f32", output=tmp_path / "d.deploy", outputs="logits")
    image = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    with Session(tmp_path / "d.deploy") as session:
        logits = session.run(image)["land"]
    with torch.inference_mode():
        expected = zoo.network(torch.from_numpy(image)[None]).logits
        expected = torch.nn.functional.interpolate(expected, size=(48, 32), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("profile", ["ort-f32", "ov-f32"])
def test_labels_of_a_deployment_are_the_networks(zoo: Any, store: Path, tmp_path: Path, profile: str) -> None:
    import torch

    pytest.importorskip("openvino" if profile.startswith("ov") else "onnxruntime")
    compile([zoo.stages, zoo.tasks["land"]], profile=profile, output=tmp_path / "d.deploy")
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with Session(tmp_path / "d.deploy") as session:
        labels = session.run(image)["land"]
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(
            zoo.network(torch.from_numpy(image)[None]).logits, size=(32, 48), mode="bilinear"
        )[0]
    top = logits.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-3).numpy()  # where the two best classes are not a rounding error apart
    assert clear.mean() > 0.98
    assert np.array_equal(labels[clear], logits.argmax(0).numpy()[clear])


def test_a_task_of_another_backbone_is_refused_before_anything_is_built(zoo: Any, store: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="made for the backbone"):
        compile([zoo.foreign, zoo.tasks["land"]], profile="ort-f32", output=tmp_path / "d.deploy")
    assert not (tmp_path / "d.deploy").exists()
    assert not store.exists()


def test_two_tasks_of_one_name_are_refused(zoo: Any, store: Path) -> None:
    with pytest.raises(BundleError, match="land"):
        compile([zoo.stages, zoo.tasks["land"], zoo.tasks["land"]], profile="ort-f32")


def test_a_node_that_the_target_cannot_build_is_named_and_nothing_is_left(
    zoo: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [Unsupported("conv_7", "Conv", "no kernel")]
    monkeypatch.setattr(OnnxRuntimeTarget, "supports", lambda self, graph, profile: refused)
    with pytest.raises(CompileError, match=r"stem: conv_7 \(Conv\): no kernel"):
        compile([zoo.stages], profile="ort-f32", output=tmp_path / "d.deploy")
    assert not (tmp_path / "d.deploy").exists()
    assert Store(store).ls() == []


def test_replacing_a_task_of_a_deployment_removes_its_old_engines(zoo: Any, store: Path, tmp_path: Path) -> None:
    made = compile([zoo.stages, zoo.tasks["sea"]], profile="ort-f32", output=tmp_path / "d.deploy")
    renamed = tmp_path / "new.task"
    shutil.copytree(zoo.tasks["line"], renamed)
    data = json.loads((renamed / MANIFEST).read_text())
    (renamed / MANIFEST).write_text(json.dumps(data | {"name": "sea"}))
    compile([renamed], into=tmp_path / "d.deploy")
    left = {p.name for p in (tmp_path / "d.deploy" / "engines").iterdir()}
    assert not left & {e.digest for e in made.engines if e.graph.startswith("sea/")}
    assert left >= {s.engine for s in made.manifest.stages}


def test_two_that_add_to_one_deployment_take_turns(zoo: Any, store: Path, tmp_path: Path) -> None:
    deployment = tmp_path / "d.deploy"
    compile([zoo.stages], profile="ort-f32", output=deployment)
    waits = threading.Event()

    def heard(text: str) -> None:
        if text.startswith("waiting for process"):
            waits.set()

    with ThreadPoolExecutor(1) as pool:
        with held(deployment / LOCK, heard):  # as one who adds "land" has it, whose manifest is yet to be written
            builder = Builder(get("onnxruntime"), load_profile("ort-f32"), Store(store))
            second = pool.submit(compile, [zoo.tasks["sea"]], into=deployment, progress=heard)
            assert waits.wait(60)
            compile_into(deployment, [zoo.tasks["land"]], builder)
        second.result()
    assert {t.name for t in read_manifest(deployment, DeployManifest).tasks} == {"land", "sea"}
    assert {p.name for p in deployment.iterdir()} == {MANIFEST, "engines"}


@pytest.mark.parametrize("name", ["my tiles (2)", "n" * 200])
def test_folders_of_any_name_make_deployments(zoo: Any, store: Path, tmp_path: Path, name: str) -> None:
    made = compile([zoo.stages], profile="ort-f32", output=tmp_path / f"{name}.deploy")
    assert made.manifest == read_manifest(tmp_path / f"{name}.deploy", DeployManifest)


def test_an_engine_flipped_in_the_store_is_built_again(zoo: Any, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = compile([zoo.stages], profile="ort-f32")
    digest = first.engines[1].digest
    path = next((store / "objects" / digest[:2] / digest).glob("engine.onnx"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert built(compile([zoo.stages], profile="ort-f32")) == ["stage1"]
    assert "engine.onnx" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "--target or --profile"),
        ({"target": "onnxruntine"}, "did you mean 'onnxruntime'"),
        ({"profile": "ort-f23"}, "did you mean 'ort-f32'"),
        ({"target": "openvino", "profile": "ort-f32"}, "--target says openvino"),
    ],
)
def test_names_that_make_no_sense_say_what_would(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_profile(arguments.get("target"), arguments.get("profile"))


def test_collecting_garbage_keeps_what_deployments_use(
    zoo: Any, store: Path, tmp_path: Path, stagekit: Callable[..., Any]
) -> None:
    kept = compile([zoo.stages, zoo.tasks["line"]], profile="ort-f32", output=tmp_path / "d.deploy")
    loose = compile([zoo.other_size], profile="ort-f32")
    assert stagekit("store", "gc", "--all", "--json").code == 0
    left = {e.digest for e in Store(store).ls()}
    assert left == {e.digest for e in kept.engines}
    assert not left & {e.digest for e in loose.engines}
