"""Results as data: written and read whole, and nothing else is taken for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagekit.bench import results
from stagekit.bench.device import commit, device_facts, versions
from stagekit.bench.results import DeployFacts, Figure, Result, ResultError, Samples, ScenarioResult

from .made import made


def test_results_survive_their_file(tmp_path: Path) -> None:
    given = made("lite0-a")
    results.write(given, tmp_path / "a.json")
    assert results.read(tmp_path / "a.json") == given
    assert not list(tmp_path.glob("*.tmp"))


def test_an_older_schema_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    results.write(made("old"), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))
    with pytest.raises(ResultError, match="its schema is 0, expected 1") as raised:
        results.read(path)
    assert "stagekit bench" in str(raised.value)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "expected results"), ('{"kind": "task"}', "expected results")],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ResultError, match=message):
        results.read(tmp_path / "x.json")
    with pytest.raises(ResultError, match="cannot be read"):
        results.read(tmp_path / "none.json")


def test_a_damaged_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    results.write(made("x"), path)
    data = json.loads(path.read_text())
    data["scenarios"][0]["figures"]["p50"]["kind"] = "guessed"
    path.write_text(json.dumps(data))
    with pytest.raises(ResultError, match=r"scenarios\.0\.figures\.p50\.kind"):
        results.read(path)


def test_columns_of_raw_samples_have_one_length() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Samples(issued=(0.0,), latency=(), queued=(), request=())


def test_the_schema_is_published_and_says_what_a_figure_is() -> None:
    definitions = results.schema()["$defs"]
    assert definitions["Figure"]["properties"]["kind"]["enum"] == ["measured", "modelled", "published"]
    assert {"ScenarioResult", "Noise", "DeviceFacts", "Samples"} <= definitions.keys()


def test_the_device_is_described() -> None:
    facts = device_facts()
    assert facts.cores >= 1
    assert facts.cpu
    assert {"python", "numpy", "stagekit"} <= versions().keys()
    assert commit() is None or len(commit() or "") >= 40


def test_a_partial_result_keeps_what_there_is(tmp_path: Path) -> None:
    whole = made("x")
    partial = whole.model_copy(update={"status": "partial", "problems": ("the target vanished",), "scenarios": ()})
    results.write(partial, tmp_path / "x.json")
    read = results.read(tmp_path / "x.json")
    assert (read.status, read.problems) == ("partial", ("the target vanished",))
    assert read.accuracy == whole.accuracy


def test_a_scenario_is_found_by_name_and_reuse() -> None:
    given = made("x")
    found = given.scenario("SingleStream")
    assert isinstance(found, ScenarioResult)
    assert isinstance(found.figures["p50"], Figure)
    assert isinstance(given.deployment, DeployFacts)
    assert isinstance(given, Result)
    assert given.scenario("Nonesuch") is None
