"""``stagekit bench`` and ``stagekit report`` over tiny real deployments."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stagekit.bench import noise, openings, results, roof
from stagekit.bench.results import NoiseProbe
from stagekit.build.compile import compile
from stagekit.data.classes import Classes
from stagekit.data.dataset import Sample
from stagekit.data.folder import write_folder
from stagekit.session import Session
from stagekit.store import Store

from .made import made

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: pip install 'stagekit[bench]'")
QUICK = ("--seconds", 0.05, "--queries", 5, "--rounds", 4)
SINGLE = ("--scenario", "SingleStream")
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick_looks_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "probe", lambda: NoiseProbe(share=0.99, rate=1e9))
    monkeypatch.setattr(roof, "SIDE", 64)
    monkeypatch.setattr(roof, "COPIED", 1 << 16)


@pytest.fixture(scope="module")
def deployed(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    bundles = [zoo.stages, zoo.tasks["land"], zoo.tasks["sea"]]
    compile(bundles, profile="ort-f32", output=folder / "tiny.deploy", store=Store(folder / "store"))
    return folder / "tiny.deploy"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled pictures for ``sea``."""
    rng = np.random.default_rng(0)
    classes = Classes(tuple(f"class {i}" for i in range(3)), tuple((60 * i, 255 - 60 * i, 90) for i in range(3)))
    pictures = [
        ("test", Sample(f"p{i}", rng.integers(0, 256, (40, 56, 3), np.uint8), rng.integers(0, 3, (40, 56), np.uint8)))
        for i in range(6)
    ]
    root = tmp_path_factory.mktemp("data") / "sea"
    write_folder(root, classes, pictures)
    return root


def test_a_deployment_is_measured_and_reported(stagekit: Run, deployed: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = stagekit("bench", deployed, "--data", data, "-o", out, *QUICK, "--slo", 50, "--json")
    assert done.code == 0, done.err
    assert {r["scenario"] for r in done.json["rows"] if "scenario" in r} == {
        *("SingleStream", "MultiStream", "Server", "Offline")
    }
    result = results.read(out / "tiny.json")
    assert result.status == "complete"
    single = result.scenario("SingleStream")
    assert single is not None
    assert len(single.samples.latency) >= 5
    assert all(q is None or 0 <= q <= t for q, t in zip(single.samples.queued, single.samples.latency, strict=True))
    stem = next(c for c in single.calls if c.label == "stem")
    assert stem.calls == stem.shared == len(single.samples.latency), "two tasks share the stem of each image"
    (scored,) = result.accuracy
    assert (scored.task, scored.images, scored.split) == ("sea", 6, "test")
    assert [r.tasks for r in result.scaling[:2]] == [1, 2]
    assert (out / "index.html").is_file()
    assert (out / result.pictures[0].labels).is_file()


def test_accuracy_is_that_of_the_session(stagekit: Run, deployed: Path, data: Path, tmp_path: Path) -> None:
    from stagekit.data.folder import Folder
    from stagekit.tune.score import score

    with Session(deployed, ["sea"]) as session:
        expected = score(Folder.open(data), "test", lambda image: session.run(image)["sea"])
    stagekit("bench", deployed, "--data", data, "-o", tmp_path, *QUICK, *SINGLE)
    scored = results.read(tmp_path / "tiny.json").accuracy[0]
    assert scored.miou.value == pytest.approx(expected.miou())
    assert [v["iou"] for v in scored.per_class.values()] == pytest.approx(expected.iou().tolist())


def test_the_uncut_model_agrees_and_is_timed_in_turn(
    stagekit: Run, zoo: Any, deployed: Path, data: Path, tmp_path: Path
) -> None:
    bundles = ("--bundle", zoo.stages, "--bundle", zoo.tasks["land"], "--bundle", zoo.tasks["sea"])
    done = stagekit("bench", deployed, "--data", data, "-o", tmp_path, *QUICK, *SINGLE, "--baseline", "uncut", *bundles)
    assert done.code == 0, done.err
    result = results.read(tmp_path / "tiny.json")
    assert [b.task for b in result.baseline] == ["land", "sea"]
    for row in result.baseline:
        assert row.agreement.value == 1.0
        assert len(row.staged) == len(row.uncut) == 4
        assert row.ratio.low is not None
        assert row.ratio.high is not None
        assert row.ratio.low <= row.ratio.value <= row.ratio.high
    single = result.scenario("SingleStream")
    assert single is not None
    assert all(c.macs for c in single.calls)


def test_without_reuse_nothing_is_shared(stagekit: Run, deployed: Path, data: Path, tmp_path: Path) -> None:
    stagekit("bench", deployed, "--data", data, "-o", tmp_path, *QUICK, *SINGLE, "--no-reuse", "--no-accuracy")
    single = results.read(tmp_path / "tiny.json").scenario("SingleStream", reuse=False)
    assert single is not None
    stem = next(c for c in single.calls if c.label == "stem")
    assert (stem.calls, stem.shared) == (2 * len(single.samples.latency), 0)


def test_a_mix_and_a_trace_of_arrivals(stagekit: Run, deployed: Path, data: Path, tmp_path: Path) -> None:
    mix, arrivals = tmp_path / "mix.toml", tmp_path / "arrivals.csv"
    mix.write_text('[[request]]\ntasks = ["sea"]\n[[request]]\ntasks = ["land", "sea"]\nimages = "own"\n')
    arrivals.write_text("seconds,tasks,image\n0,sea,p1\n0.01,land+sea,\n0.02,land,p0\n")
    given = ("--mix", mix, "--arrivals", arrivals, "--closed-loop", 2, "--no-accuracy", "--slo", 1e6)
    done = stagekit("bench", deployed, "--data", data, "-o", tmp_path, *QUICK, *given)
    assert done.code == 0, done.err
    result = results.read(tmp_path / "tiny.json")
    assert [s.scenario for s in result.scenarios] == ["ClosedLoop", "Arrivals"]
    asked = ("1 x sea", "1 x land + sea (an image each)")
    assert result.mix == (*asked, "1 x sea", "1 x land + sea", "1 x land")
    loop, arrived = result.scenarios
    assert set(loop.samples.request) == {0, 1}
    assert arrived.samples.request == (2, 3, 4)
    assert [s.figures["within_slo"].value for s in result.scenarios] == [1.0, 1.0]
    page = (tmp_path / "index.html").read_text()
    assert all(kind in page for kind in result.mix)


def test_the_second_deployment_is_compared_with_the_first(
    stagekit: Run, deployed: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(deployed, tmp_path / "other.deploy")
    stagekit("bench", deployed, tmp_path / "other.deploy", "--data", data, "-o", tmp_path / "out", *QUICK, *SINGLE)
    scored = results.read(tmp_path / "out" / "other.json").accuracy[0]
    assert scored.agreement is not None
    assert (scored.reference, scored.agreement.value) == ("tiny", 1.0)


def test_earlier_results_can_be_the_reference_and_pages_be_left_out(
    stagekit: Run, deployed: Path, data: Path, tmp_path: Path
) -> None:
    given = (deployed, "--data", data, *QUICK, *SINGLE, "--no-report", "--rounds", 0)
    assert stagekit("bench", *given, "-o", tmp_path / "first").code == 0
    done = stagekit("bench", *given, "-o", tmp_path / "second", "--reference", tmp_path / "first" / "tiny.json")
    assert done.code == 0, done.err
    result = results.read(tmp_path / "second" / "tiny.json")
    assert result.accuracy[0].agreement is not None
    assert (result.accuracy[0].reference, result.accuracy[0].agreement.value) == ("tiny", 1.0)
    assert result.scaling == ()
    assert not (tmp_path / "second" / "index.html").exists()


def test_what_was_measured_before_a_target_vanished_is_kept_and_marked(
    stagekit: Run, deployed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, run = 15, Session.run  # six of them to warm up
    monkeypatch.setattr(openings, "OPENINGS", 1)

    def vanishing(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("the device is gone")
        return run(*args, **kwargs)

    monkeypatch.setattr(Session, "run", vanishing)
    done = stagekit("bench", deployed, "--data", data, "-o", tmp_path, *SINGLE, "--seconds", 0, "--queries", 40)
    assert done.code == 1
    assert "the device is gone" in done.err
    result = results.read(tmp_path / "tiny.json")
    assert result.status == "partial"
    single = result.scenario("SingleStream")
    assert single is not None
    assert single.problem == "the device is gone"
    assert len(single.samples.latency) == 9
    assert "partial: SingleStream: the device is gone" in (tmp_path / "index.html").read_text()


def test_a_deployment_that_is_left_out_is_a_failure_and_the_others_are_measured(
    stagekit: Run, deployed: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.deploy").mkdir()
    done = stagekit(
        "bench", deployed, tmp_path / "empty.deploy", "--data", data, "-o", tmp_path / "out", *QUICK, *SINGLE
    )
    assert done.code == 1
    assert "empty.deploy is left out" in done.err
    assert results.read(tmp_path / "out" / "tiny.json").status == "complete"


def test_a_cell_that_fails_or_is_killed_is_a_failure_of_the_matrix(
    stagekit: Run, zoo: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, -9, "", "")

    monkeypatch.setattr("stagekit.bench.cell.subprocess.run", killed)
    matrix = ("bench", "--matrix", zoo.stages, zoo.tasks["sea"], "--profile", "ort-f32", "--data", data)
    done = stagekit(*matrix, "-o", tmp_path, "--json")
    assert done.code == 1
    assert [(o["cell"], o["what"]) for o in done.json["matrix"]] == [("ort-f32", "failed")]
    assert "SIGKILL" in done.json["matrix"][0]["why"]


def test_an_interrupt_says_what_is_kept(
    stagekit: Run, deployed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stagekit.bench.measure.score_task", interrupted)
    done = stagekit("bench", deployed, "--data", data, "-o", tmp_path / "out", *QUICK, *SINGLE)
    assert done.code == 130
    assert f"what was measured is in {tmp_path / 'out'}" in done.err
    result = results.read(tmp_path / "out" / "tiny.json")
    assert (result.status, result.problems) == ("partial", ("accuracy of sea: interrupted",))
    assert result.scenario("SingleStream") is not None


@pytest.mark.parametrize("option", ["--slo", "--seconds"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_number_that_is_none_is_refused(stagekit: Run, deployed: Path, data: Path, option: str, number: str) -> None:
    done = stagekit("bench", deployed, "--data", data, option, number)
    assert (done.code, "not a finite number" in done.err) == (2, True)


def test_a_slow_engine_is_found_by_fail_above(
    stagekit: Run, deployed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (deployed, "--data", data, *SINGLE, "--seconds", 0.3, "--queries", 20, "--rounds", 2, "--no-accuracy")
    stagekit("bench", *given, "-o", tmp_path / "before")
    run = Session.run

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.2)  # more than any machine is late by in most queries
        return run(*args, **kwargs)

    monkeypatch.setattr(Session, "run", slow)
    stagekit("bench", *given, "-o", tmp_path / "after")
    files = (tmp_path / "before" / "tiny.json", tmp_path / "after" / "tiny.json")
    done = stagekit("report", *files, "--fail-above", "5%", "--json", "-o", tmp_path / "cmp.html")
    assert done.code == 1
    assert "SingleStream p50" in {c["figure"] for c in done.json["regressions"]}
    assert stagekit("report", *reversed(files), "--fail-above", "5%").code == 0
    assert "Changes" in (tmp_path / "cmp.html").read_text()


@pytest.fixture
def broken(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "broken"))


def test_bad_input_is_a_clear_error(stagekit: Run, zoo: Any, deployed: Path, broken: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out", *QUICK, *SINGLE)
    (tmp_path / "empty").mkdir()
    done = stagekit("bench", deployed, "--data", tmp_path / "empty", *out)
    assert (done.code, "empty" in done.err) == (4, True), done.err
    done = stagekit("bench", deployed, "--data", f"lake={broken}", *out)
    assert (done.code, "no task 'lake' is deployed" in done.err) == (2, True), done.err
    done = stagekit("bench", deployed, "--data", f"land={broken}", *out)
    assert (done.code, "the task 'land' has" in done.err) == (2, True), done.err
    done = stagekit("bench", deployed, "--data", broken, *out, "--baseline", "uncut")
    assert (done.code, "--bundle" in done.err) == (2, True), done.err
    done = stagekit("bench", deployed, "--data", broken, *out, "--scenario", "Server")
    assert (done.code, "--slo" in done.err) == (2, True), done.err
    bundles = ("--bundle", zoo.foreign, "--bundle", zoo.tasks["sea"])
    done = stagekit("bench", deployed, "--data", broken, *out, "--baseline", "uncut", "--task", "sea", *bundles)
    assert (done.code, "not those that were compiled" in done.err) == (4, True), done.err
    bundles = ("--bundle", zoo.stages, "--bundle", zoo.tasks["sea"])
    done = stagekit("bench", deployed, "--data", broken, *out, "--baseline", "uncut", *bundles)
    assert (done.code, "the bundle of task 'land' is missing" in done.err) == (2, True), done.err
    done = stagekit("bench", "--matrix", deployed, "--data", broken, *out)
    assert (done.code, "--matrix" in done.err) == (2, True), done.err
    done = stagekit("bench", deployed, "--data", broken, *out, "--profile", "ort-f32")
    assert (done.code, "--matrix" in done.err) == (2, True), done.err
    assert not (tmp_path / "out").exists(), "nothing is measured before what is wrong is said"


def test_a_picture_without_its_mask_spares_the_rest(
    stagekit: Run, deployed: Path, broken: Path, tmp_path: Path
) -> None:
    (broken / "masks" / "p3.png").unlink()
    done = stagekit("bench", deployed, "--data", broken, "-o", tmp_path / "out", *QUICK, *SINGLE)
    assert done.code == 1
    assert "p3.png" in done.err
    result = results.read(tmp_path / "out" / "tiny.json")
    assert (result.status, result.accuracy) == ("partial", ())
    assert result.scenario("SingleStream") is not None


def test_report_reads_only_results_of_its_schema(stagekit: Run, tmp_path: Path) -> None:
    assert stagekit("report", "--schema").json["title"] == "Result"
    path = tmp_path / "old.json"
    results.write(made("old"), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))
    done = stagekit("report", path)
    assert (done.code, "its schema is 0, expected 1" in done.err) == (4, True)
    assert stagekit("report").code == 2
    results.write(made("new"), path)
    assert "mIoU %" in stagekit("report", path).out, "one is summed up"
    results.write(made("newer", 0.006), tmp_path / "newer.json")
    compared = stagekit("report", path, tmp_path / "newer.json").out
    assert [*compared.splitlines()[0].split()] == ["deployment", "figure", "new", "newer", "better", "by", "sure"]
    assert "SingleStream p50" in compared
    assert "-20.0 %" in compared
    assert stagekit("report", path, "--fail-above", "much").code == 2
    assert stagekit("report", path, "-o", tmp_path / "x.pdf").code == 2
    for name in ("x.html", "x.md", "x.csv"):
        assert stagekit("report", path, "-o", tmp_path / name).code == 0
        assert (tmp_path / name).stat().st_size > 500
