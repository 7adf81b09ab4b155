"""What the command line says of itself: help, verbs, targets, options."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from stagekit.cli import VERBS

Run = Callable[..., Any]


def test_every_verb_has_help_with_an_example(stagekit: Run) -> None:
    from stagekit.cli import VERBS

    for verb in VERBS:
        done = stagekit(verb, "--help")
        assert done.code == 0
        assert f"stagekit {verb}" in done.out, verb


def test_a_mistyped_verb_names_the_nearest(stagekit: Run) -> None:
    done = stagekit("complie")
    assert done.code == 2
    assert "compile" in done.err


def test_help_fits_80_columns(stagekit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for verb in VERBS:
        text = stagekit(verb, "--help").out
        assert not [line for line in text.splitlines() if len(line) > 80], verb


def test_options_are_listed_once_each_under_their_headings() -> None:
    from click.testing import CliRunner

    from stagekit.cli.bench import SECTIONS, command

    text = CliRunner().invoke(command, ["--help"]).output
    found = [text.index(f"\n{heading}:\n") for heading in (*SECTIONS, "Options")]
    assert found == sorted(found)
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert {name for names in SECTIONS.values() for name in names} < {p.name for p in options}
    assert all(len(re.findall(rf"^  (?:-\w, )?{p.opts[-1]}\b", text, re.MULTILINE)) == 1 for p in options)


def test_targets_lists_each_with_profiles_or_a_reason(stagekit: Run) -> None:
    rows = {r["name"]: r for r in stagekit("targets", "--json").json["targets"]}
    assert rows["onnxruntime"]["run"] is True
    assert "ort-f32" in rows["onnxruntime"]["profiles"]
    assert all(r["run"] or r["reason"] for r in rows.values())


def test_names_out_of_a_file_cannot_speak_to_the_terminal() -> None:
    from stagekit.cli.console import table

    assert table(["t"], [["a\x1b[31mred\nb"]]).splitlines()[-1] == "a\\x1b[31mred\\nb"


def test_an_error_with_json_is_json_alone(stagekit: Run, tmp_path: Path) -> None:
    done = stagekit("inspect", tmp_path / "nothing.task", "--json")
    assert done.code == 4
    assert done.json["error"] == "BundleError"
    assert done.json["exit_code"] == 4


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "x.stages", "--seed", "-1"),
        ("partition", "lite0", "--seed", "-1"),
        ("store", "gc", "--older-than", "99999999999999d"),
        ("calibrate", "x.stages", "--data", "x", "-o", "x.calib", "--max-drop", "nan"),
    ],
)
def test_numbers_out_of_bounds_are_usage_errors(stagekit: Run, command: tuple[str, ...]) -> None:
    done = stagekit(*command)
    assert (done.code, command[-2] in done.err) == (2, True), done.err
