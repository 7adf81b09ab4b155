"""The verbs from end to end, as their user types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


def test_compile_gives_the_agreed_json(zoo: Any, stagekit: Run) -> None:
    done = stagekit("compile", zoo.stages, "--target", "onnxruntime", "--json")
    engine = done.json["engines"][0]
    assert {"graph", "digest", "cached", "seconds", "bytes"} <= engine.keys()
    assert engine["graph"] == "stem"
    assert engine["cached"] is False
    again = stagekit("compile", zoo.stages, "--target", "onnxruntime", "--json")
    assert all(e["cached"] for e in again.json["engines"])


def test_run_writes_label_maps_with_the_tasks_palette_in_the_images_size(
    deployment: Path, stagekit: Run, photo: Path, tmp_path: Path
) -> None:
    done = stagekit("run", deployment, photo, "--task", "land", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    (row,) = done.json["results"]
    with Image.open(row["labels"]) as labels:
        assert labels.mode == "P"
        assert labels.size == (83, 61)
        assert labels.getpalette()[3:6] == [60, 195, 90]  # class 1
        assert int(np.asarray(labels).max()) < 4
    with Image.open(row["overlay"]) as overlay:
        assert overlay.size == (83, 61)
    assert sum(row["shares"].values()) == pytest.approx(1)


def test_two_tasks_share_what_comes_before_their_first_difference(
    deployment: Path, stagekit: Run, photo: Path, tmp_path: Path
) -> None:
    done = stagekit("run", deployment, photo, "-o", tmp_path / "out", "--json")
    calls = {c["call"]: (c["calls"], c["shared"]) for c in done.json["calls"]}
    # "land" prompts the stem's output, so only the stem itself is common.
    assert calls["stem"] == (1, 1)
    assert calls["stage1"] == (2, 0)


def test_run_needs_nothing_but_the_deployment(
    zoo: Any, stagekit: Run, fresh_stagekit: Run, photo: Path, store: Path, tmp_path: Path
) -> None:
    stages, task, path = tmp_path / "s.stages", tmp_path / "t.task", tmp_path / "alone.deploy"
    shutil.copytree(zoo.stages, stages)
    shutil.copytree(zoo.tasks["land"], task)
    assert stagekit("compile", stages, task, "--target", "onnxruntime", "-o", path).code == 0
    for folder in (stages, task, store):
        shutil.rmtree(folder)
    done = fresh_stagekit("run", path, photo, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "photo.land.png").is_file()
    assert not store.exists()


def test_compile_and_run_work_without_torch(zoo: Any, fresh_stagekit: Run, photo: Path, tmp_path: Path) -> None:
    path, block = tmp_path / "d.deploy", ("torch",)
    done = fresh_stagekit("compile", zoo.stages, zoo.tasks["land"], "--target", "onnxruntime", "-o", path, block=block)
    assert done.code == 0, done.err
    done = fresh_stagekit("run", path, photo, "-o", tmp_path / "out", block=block)
    assert done.code == 0, done.err
    done = fresh_stagekit("verify", zoo.stages, block=block)
    assert done.code == 0, done.err


def test_verify_prints_every_boundary(zoo: Any, stagekit: Run) -> None:
    done = stagekit("verify", zoo.stages, "--json")
    assert done.code == 0, done.err
    assert [b["boundary"] for b in done.json["boundaries"]] == ["stem", "stage1", "stage2"]
    assert all(b["relative"] <= 1e-5 for b in done.json["boundaries"])


def test_results_do_not_go_among_the_images_they_are_made_from(
    deployment: Path, stagekit: Run, photo: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(photo, photos)
    assert stagekit("run", deployment, photos, "-o", photos / ".." / "photos").code == 2
    assert stagekit("run", deployment, photos, "-o", photos / "out").code == 0
    assert [file.name for file in photos.iterdir() if file.is_file()] == [photo.name]


def test_a_task_that_is_not_deployed_names_the_nearest(deployment: Path, stagekit: Run, photo: Path) -> None:
    done = stagekit("run", deployment, photo, "--task", "lnd")
    assert done.code == 2
    assert "land" in done.err


def test_inspect_shows_bundles_deployments_and_models(zoo: Any, deployment: Path, stagekit: Run) -> None:
    for path, word in ((zoo.stages, "stem"), (zoo.tasks["land"], "SPM at stem"), (deployment, "land/head")):
        done = stagekit("inspect", path)
        assert done.code == 0, done.err
        assert word in done.out
    done = stagekit("inspect", zoo.stages / "uncut.onnx", "--json")
    assert done.json["nodes"]["Conv"] == 4
    done = stagekit("inspect", "--schema", "task")
    assert json.loads(done.out)["title"] == "TaskManifest"
