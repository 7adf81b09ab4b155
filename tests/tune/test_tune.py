"""From a recipe to a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stagekit.bundle import StagesManifest, TaskManifest, read_graph, read_manifest
from stagekit.data.folder import Folder
from stagekit.errors import DatasetError, StagekitError, UsageError, VerificationFailed
from stagekit.models.backbone import Backbone
from stagekit.models.identity import backbone_id
from stagekit.tune.loop import Status
from stagekit.tune.recipe import Recipe
from stagekit.tune.tune import tune


def test_a_task_names_its_backbone_what_it_learned_and_how_well(
    new_backbone: Callable[[], Backbone], recipe: Callable[..., Recipe], folder: Folder, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "rectangles.task"
    steps: list[int] = []
    chosen = recipe(data={"resize": "crop"}, method={"prompts": ["stage3"], "widths": [8]}, head={"reads": ["stage3"]})
    tune(chosen, output, backbone=new_backbone(), watch=lambda status: steps.append(status.step))
    manifest = read_manifest(output, TaskManifest)
    assert manifest.backbone == backbone_id(new_backbone())
    assert [c.name for c in manifest.classes] == ["ground", "red", "green"]
    assert manifest.resize == "crop"
    assert manifest.prior == pytest.approx(folder.class_frequencies("train").tolist())
    assert [prompt.boundary for prompt in manifest.prompts] == ["stage3"]
    for entry in (*manifest.prompts, manifest.head):
        read_graph(output, entry)
    assert {(m.name, m.split, m.images) for m in manifest.metrics} == {
        (name, split, 3) for name in ("miou", "dice", "accuracy") for split in ("test", "val")
    }
    assert manifest.provenance["data"] == {"digest": folder.digest(), "source": "drawn", "license": ""}
    assert manifest.provenance["recipe"]["train"]["iterations"] == 6
    assert str(tmp_path) not in json.dumps(manifest.provenance)
    assert steps == [1, 2, 3, 4, 5, 6]


def test_full_tuning_gives_a_backbone_of_its_own(
    new_backbone: Callable[[], Backbone], recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    output = tmp_path / "full.task"
    tune(recipe(method={"kind": "full"}, head={"reads": ["stage3"]}), output, backbone=new_backbone())
    stages = read_manifest(tmp_path / "full.stages", StagesManifest)
    manifest = read_manifest(output, TaskManifest)
    assert manifest.prompts == ()
    assert manifest.backbone == stages.backbone.id != backbone_id(new_backbone())


def test_a_frozen_backbone_that_changed_is_no_task(
    backbone: Backbone, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def tamper(status: Status) -> None:
        with torch.no_grad():
            next(backbone.parameters()).add_(1e-6)

    with pytest.raises(VerificationFailed, match="frozen backbone changed"):
        tune(recipe(), tmp_path / "x.task", backbone=backbone, watch=tamper)
    assert not (tmp_path / "x.task").exists()


def test_data_is_checked_before_anything_is_learned(
    backbone: Backbone, recipe: Callable[..., Recipe], folder: Folder, tmp_path: Path
) -> None:
    (folder.root / "masks" / "image03.png").unlink()
    (folder.root / "masks" / "image05.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="2 problems"):
        tune(recipe(), tmp_path / "x.task", backbone=backbone)
    assert not (tmp_path / "x.tuning").exists()


@pytest.mark.parametrize(
    ("name", "kind", "in_the_way", "message"),
    [
        ("x.stages", "spm", "", "called X.task"),
        ("x.task", "spm", "x.task", "will not be overwritten"),
        ("x.task", "full", "x.stages", "will not be overwritten"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_anything_is_learned(
    name: str, kind: str, in_the_way: str, message: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    if in_the_way:
        (tmp_path / in_the_way).mkdir()
        (tmp_path / in_the_way / "mine").touch()
    with pytest.raises(StagekitError, match=message):
        tune(recipe(method={"kind": kind}), tmp_path / name)
    assert not (tmp_path / "x.tuning").exists()


def test_a_run_that_stopped_half_way_is_not_begun_anew_by_accident(
    new_backbone: Callable[[], Backbone], recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    def stop(status: Status) -> None:
        if status.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(recipe(), tmp_path / "x.task", backbone=new_backbone(), watch=stop)
    before = (tmp_path / "x.tuning" / "last.safetensors").read_bytes()
    with pytest.raises(UsageError, match="stopped at step 2 of 6"):
        tune(recipe(), tmp_path / "x.task", backbone=new_backbone())
    assert (tmp_path / "x.tuning" / "last.safetensors").read_bytes() == before
    tune(recipe(), tmp_path / "x.task", backbone=new_backbone(), resume=True)
    tune(recipe(), tmp_path / "x.task", backbone=new_backbone())  # a finished one may be


def test_a_split_that_is_missing_is_told_before_anything_is_learned(
    backbone: Backbone, recipe: Callable[..., Recipe], folder: Folder, tmp_path: Path
) -> None:
    (folder.root / "test.txt").unlink()
    chosen = recipe(data={"folder": folder.root, "val": "validation"})
    with pytest.raises(DatasetError, match=r"2 problems:\n.*data.val: .*'validation'\n.*data.test: .*'test'"):
        tune(chosen, tmp_path / "x.task", backbone=backbone)
    assert not (tmp_path / "x.tuning").exists()
