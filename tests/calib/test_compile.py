"""int8 deployments from a record: engines, edges, refusals; and the verbs around them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate, extend

from stagekit.build.compile import compile
from stagekit.bundle import TaskManifest, read_manifest, write_manifest
from stagekit.bundle.manifest import ThroughEntry
from stagekit.data.folder import Folder
from stagekit.errors import UsageError, VerificationFailed
from stagekit.quant.record import Audit, load, save, task_binding
from stagekit.session import Session

from .conftest import picture

PROFILES = ("ort-int8", "ov-int8")


@pytest.fixture(scope="module")
def land(zoo: Any, labelled: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record that covers the task ``land`` alone."""
    folder = tmp_path_factory.mktemp("record") / "land.calib"
    save(calibrate(open_chain(zoo.stages, [zoo.tasks["land"]]), from_path(labelled.root), name="land"), folder)
    return folder


@pytest.mark.parametrize("profile", PROFILES)
def test_an_int8_deployment_answers_like_the_float_one(
    profile: str, zoo: Any, land: Path, labelled: Folder, store: Path, tmp_path: Path
) -> None:
    output = tmp_path / "int8.deploy"
    compile([zoo.stages, zoo.tasks["land"]], profile=profile, output=output, calibration=land)
    with Session(output) as session:
        agreement = [np.mean(session.run(s.image)["land"] == s.mask) for s in labelled.samples("val")]
    assert np.mean(agreement) > 0.95


def test_boundaries_are_integers_with_one_scale_for_stages_and_tasks(
    zoo: Any, land: Path, store: Path, tmp_path: Path
) -> None:
    output = tmp_path / "int8.deploy"
    compile([zoo.stages, zoo.tasks["land"]], profile="ort-int8", output=output, calibration=land)
    with Session(output) as session:
        for stage in session.manifest.stages:
            spec = stage.boundary.spec
            assert spec.dtype == "uint8"
            assert spec.quantization is not None
        assert session.run(picture(3))["land"].dtype == np.uint8


def test_a_task_added_later_compiles_no_stage_and_meets_integer_edges(
    zoo: Any, land: Path, store: Path, tmp_path: Path
) -> None:
    output = tmp_path / "int8.deploy"
    compile([zoo.stages, zoo.tasks["land"]], profile="ort-int8", output=output, calibration=land)
    added = compile([zoo.tasks["line"]], into=output, calibration=land)
    assert [e.graph for e in added.engines if not e.cached] == ["line/head"]
    assert {s.dtype for s in added.engines[0].blob.inputs} == {"uint8"}
    with Session(output) as session:
        assert set(session.run(picture(0))) == {"land", "line"}


def test_an_uncovered_task_is_refused_until_the_record_is_extended(
    zoo: Any, land: Path, labelled: Folder, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(VerificationFailed, match="not among those that the record land covers") as caught:
        compile([zoo.stages, zoo.tasks["sea"]], profile="ort-int8", calibration=land)
    assert "--extend" in str(caught.value)
    grown = extend(load(land), open_chain(zoo.stages, [zoo.tasks["sea"]]), from_path(labelled.root))
    save(grown, tmp_path / "grown.calib")
    compile([zoo.stages, zoo.tasks["sea"]], profile="ort-int8", calibration=tmp_path / "grown.calib")


@pytest.mark.parametrize(("worst", "refused"), [(0.05, True), (0.001, False)])
def test_an_audit_decides_for_a_task_that_the_record_does_not_cover(
    worst: float, refused: bool, zoo: Any, land: Path, store: Path, tmp_path: Path
) -> None:
    binding = task_binding(read_manifest(zoo.tasks["sea"], TaskManifest))
    audited = replace(load(land), audits=(Audit(task=binding, images=8, worst=worst, tensor="stage2/x"),))
    save(audited, tmp_path / "a.calib")
    if refused:
        with pytest.raises(VerificationFailed, match=r"push 5.0 % of the values of stage2/x out of the range"):
            compile([zoo.stages, zoo.tasks["sea"]], profile="ort-int8", calibration=tmp_path / "a.calib")
    else:
        compile([zoo.stages, zoo.tasks["sea"]], profile="ort-int8", calibration=tmp_path / "a.calib")


def test_equalised_stages_answer_like_the_float_ones(zoo: Any, labelled: Folder, store: Path, tmp_path: Path) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"]], equalised=True)
    save(calibrate(chain, from_path(labelled.root)), tmp_path / "e.calib")
    assert load(tmp_path / "e.calib").equalised
    output = tmp_path / "int8.deploy"
    compile([zoo.stages, zoo.tasks["land"]], profile="ort-int8", output=output, calibration=tmp_path / "e.calib")
    with Session(output) as session:
        agreement = [np.mean(session.run(s.image)["land"] == s.mask) for s in labelled.samples("val")]
    assert np.mean(agreement) > 0.95


def test_precision_and_record_go_together(zoo: Any, land: Path, store: Path) -> None:
    with pytest.raises(UsageError, match="ranges come from a calibration record"):
        compile([zoo.stages], profile="ort-int8")
    with pytest.raises(UsageError, match="changes nothing there"):
        compile([zoo.stages], profile="ort-f32", calibration=land)


def test_the_same_record_gives_the_same_engines(
    zoo: Any, land: Path, labelled: Folder, store: Path, tmp_path: Path
) -> None:
    compile([zoo.stages], profile="ort-int8", calibration=land)
    again = calibrate(open_chain(zoo.stages, [zoo.tasks["land"]]), from_path(labelled.root))
    save(again, tmp_path / "again.calib")
    second = compile([zoo.stages], profile="ort-int8", calibration=tmp_path / "again.calib")
    assert all(e.cached for e in second.engines)


def test_the_verbs_from_calibration_to_audit(
    zoo: Any, labelled: Folder, tmp_path: Path, stagekit: Callable[..., Any]
) -> None:
    record, data = tmp_path / "v.calib", labelled.root
    made = stagekit("calibrate", zoo.stages, zoo.tasks["land"], "--data", data, "-o", record, "--json")
    assert made.code == 0
    assert made.json["data"][0]["images"] == 5
    assert [t["name"] for t in made.json["tasks"]] == ["land"]
    shown = stagekit("inspect", record)
    assert "method percentile, tasks: land" in shown.out
    audited = stagekit(
        "calibrate", zoo.stages, "--audit", zoo.tasks["sea"], "--data", data, "--eval-split", "none", "-o", record
    )
    assert audited.code == 0
    assert "no labels, so no mIoU" in audited.out
    extended = stagekit(
        "calibrate", zoo.stages, "--task", zoo.tasks["sea"], "--data", data, "-o", record, "--extend", "--json"
    )
    assert [t["name"] for t in extended.json["tasks"]] == ["land", "sea"]
    analysed = stagekit(
        *("calibrate", zoo.stages, zoo.tasks["land"], "--data", data, "-o", record),
        *("--analyze", "--max-drop", "20", "--profile", "ort-int8", "--json"),
    )
    assert analysed.code == 0
    assert analysed.json["trials"][0]["keep_float"] == []
    assert len(analysed.json["layers"]) == 4
    assert {t["stage"] for t in analysed.json["tensor_damage"]} == {"stem", "stage1", "stage2"}


def test_nodes_named_by_pattern_stay_in_floats(
    zoo: Any, pictures: Path, tmp_path: Path, stagekit: Callable[..., Any]
) -> None:
    record = tmp_path / "k.calib"
    arguments = ("calibrate", zoo.stages, "--data", pictures, "-o", record, "--keep-float")
    wrong = stagekit(*arguments, "stage9/*")
    assert wrong.code == 2
    assert "no node of the stages matches 'stage9/*'" in wrong.err
    assert not record.exists()
    assert stagekit(*arguments, "stage1/*").code == 0
    assert load(record).keep_float == ("stage1/*",)


def test_labels_missing_for_a_mode_that_needs_them(
    zoo: Any, pictures: Path, tmp_path: Path, stagekit: Callable[..., Any]
) -> None:
    arguments = (zoo.tasks["land"], "--data", pictures, "-o", tmp_path / "x.calib", "--analyze")
    result = stagekit("calibrate", zoo.stages, *arguments)
    assert result.code == 2
    assert "needs labels" in result.err
    assert not (tmp_path / "x.calib").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--extend",), 2, "there is no record to extend"),
        (("--analyze", "--eval-split", "night"), 4, "no split is called 'night'"),
    ],
)
def test_what_cannot_end_well_is_told_before_images_run(
    zoo: Any, labelled: Folder, tmp_path: Path, stagekit: Callable[..., Any], options: Any, code: int, message: str
) -> None:
    record = tmp_path / "x.calib"
    result = stagekit("calibrate", zoo.stages, zoo.tasks["land"], "--data", labelled.root, "-o", record, *options)
    assert result.code == code
    assert message in result.err
    assert not record.exists()


def test_a_folder_that_is_no_record_is_left_alone(
    zoo: Any, pictures: Path, tmp_path: Path, stagekit: Callable[..., Any]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("keep")
    result = stagekit("calibrate", zoo.stages, "--data", pictures, "-o", tmp_path / "notes")
    assert result.code == 4
    assert "will not be overwritten" in result.err
    assert (tmp_path / "notes/mine.txt").read_text() == "keep"


def test_inspect_names_the_integer_stages_that_a_task_is_bound_to(
    zoo: Any, tmp_path: Path, stagekit: Callable[..., Any]
) -> None:
    bound = tmp_path / "bound.task"
    shutil.copytree(zoo.tasks["land"], bound)
    made = read_manifest(bound, TaskManifest)
    through = ThroughEntry(record="land", stages={"ort-int8": {"stem": "ab" * 32}, "ov-int8": {"stem": "cd" * 32}})
    write_manifest(bound, made.model_copy(update={"through": through}))
    shown = stagekit("inspect", bound).out
    assert "integer stages alone, those of the record land" in shown
    assert "ort-int8: stem abababababab" in shown
    assert "ov-int8: stem cdcdcdcdcdcd" in shown
    assert "integer stages" not in stagekit("inspect", zoo.tasks["land"]).out
