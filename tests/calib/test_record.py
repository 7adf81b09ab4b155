"""The record on disk: bound to stages and adapters, complete or refused."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.bundle import MANIFEST, StagesManifest, TaskManifest, read_manifest
from stagekit.errors import BundleError
from stagekit.quant.record import STATISTICS, Calibration, load, save, task_binding
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import quantise_stages


@pytest.fixture(scope="module")
def record(zoo: Any, pictures: Path) -> Calibration:
    return calibrate(open_chain(zoo.stages, [zoo.tasks["land"]]), from_path(pictures), "minmax")


def test_a_record_read_back_is_the_record(record: Calibration, tmp_path: Path) -> None:
    record = replace(record, keep_float=("stage1/*",))
    manifest = save(record, tmp_path / "x.calib")
    back = load(tmp_path / "x.calib")
    for hashed, s in record.statistics.items():
        other = back.statistics[hashed]
        assert (s.minimum, s.maximum, s.average_maximum, s.frames, s.exponent) == (
            other.minimum,
            other.maximum,
            other.average_maximum,
            other.frames,
            other.exponent,
        )
        assert np.array_equal(s.counts, other.counts)
        assert np.array_equal(s.channel_mean, other.channel_mean)
    assert (back.stages, back.tasks, back.data, back.method) == (record.stages, record.tasks, record.data, "minmax")
    assert (back.keep_float, dict(back.places)) == (record.keep_float, dict(record.places))
    assert back.tools["onnxruntime"] == manifest.tools["onnxruntime"]


def test_nothing_in_it_is_pickled(record: Calibration, tmp_path: Path) -> None:
    save(record, tmp_path / "x.calib")
    with zipfile.ZipFile(tmp_path / "x.calib" / STATISTICS) as archive:
        for name in archive.namelist():
            assert b"'descr': '|O'" not in archive.read(name)


def test_other_stages_are_refused_by_name(record: Calibration, zoo: Any) -> None:
    foreign = read_manifest(zoo.foreign, StagesManifest)
    with pytest.raises(BundleError, match="was made on stem") as caught:
        record.check_stages(foreign, zoo.foreign)
    assert "stagekit calibrate" in str(caught.value)
    record.check_stages(read_manifest(zoo.stages, StagesManifest), zoo.stages)


def test_ranges_are_found_by_content_not_by_name(record: Calibration, zoo: Any) -> None:
    """The same stages with every inner tensor renamed take the same scales."""
    chain = open_chain(zoo.stages)
    renamed = []
    for name, graph in chain.stages:
        model = graph.edit()
        edges = {s.name for s in (*graph.inputs, *graph.outputs)}
        for index, value in enumerate(v for node in model.graph for v in node.outputs if v.name not in edges):
            value.name = f"t{index}"
        renamed.append((name, graph.with_model(model)))
    one = quantise_stages(chain.stages, record, QuantScheme())
    other = quantise_stages(renamed, record, QuantScheme())
    assert [g.fingerprint for g in one.graphs] == [g.fingerprint for g in other.graphs]


def test_a_record_covers_its_tasks_and_those_without_adapters(record: Calibration, zoo: Any) -> None:
    bindings = {n: task_binding(read_manifest(p, TaskManifest)) for n, p in zoo.tasks.items()}
    assert record.covers(bindings["land"])
    assert record.covers(bindings["line"])
    assert not record.covers(bindings["sea"])


def test_a_truncated_record_is_refused(record: Calibration, tmp_path: Path) -> None:
    save(record, tmp_path / "x.calib")
    path = tmp_path / "x.calib" / STATISTICS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="cut short"):
        load(tmp_path / "x.calib")
    path.unlink()
    with pytest.raises(BundleError, match="missing"):
        load(tmp_path / "x.calib")


def test_a_record_of_another_schema_is_refused(record: Calibration, tmp_path: Path) -> None:
    save(record, tmp_path / "x.calib")
    path = tmp_path / "x.calib" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))
    with pytest.raises(BundleError, match="schema is 0"):
        load(tmp_path / "x.calib")


def test_saving_over_a_record_replaces_it_and_over_anything_else_is_refused(
    record: Calibration, tmp_path: Path
) -> None:
    save(record, tmp_path / "x.calib")
    save(replace(record, method="mse"), tmp_path / "x.calib")
    assert load(tmp_path / "x.calib").method == "mse"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(BundleError, match="not be overwritten"):
        save(record, tmp_path / "mine")


def test_records_of_different_stages_do_not_merge(record: Calibration, zoo: Any, pictures: Path) -> None:
    other = calibrate(open_chain(zoo.foreign), from_path(pictures))
    with pytest.raises(BundleError, match="different stages"):
        record.extended(other)
