"""``stagekit tune`` on Lite0 with random weights, from scratch: the shortest run without packages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stagekit.cli import main
from stagekit.data.folder import Folder

RECIPE = """
[task]
name = "rectangles"
[backbone]
name = "lite0"
size = [32, 32]
[data]
folder = "data"
[method]
kind = "scratch"
[head]
reads = ["stage2"]
[train]
iterations = 2
batch = 2
warmup = 0
precision = "f32"
"""


@pytest.fixture
def file(folder: Folder) -> Path:
    path = folder.root.parent / "rectangles.toml"
    path.write_text(RECIPE)
    return path


def test_mistakes_are_messages_with_exit_codes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, message in (
        ([str(file), "--set", "train.iteration=3"], 2, "did you mean 'iterations'?"),
        ([str(file), "--data", str(file.parent / "none")], 4, "classes.json"),
        ([str(file), "--set", "backbone.name=lite1"], 2, "lite0"),
        ([str(file), "--set", "data.kind=folders"], 2, "did you mean 'folder'?"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["tune", *arguments])
        assert caught.value.code == code
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_says_how_to_go_on_and_exits_130(file: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", "from stagekit.cli import main; main()", "tune", str(file)]
    command += ["-o", str(file.parent / "x.task"), "--set", "train.iterations=100000", "--json"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "step 1 of" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stagekit tune {file} -o {file.parent}/x.task --set train.iterations=100000 --resume" in err
    assert out == ""
    assert (file.parent / "x.tuning" / "last.safetensors").is_file()


@pytest.mark.slow
def test_the_result_is_json_alone_on_stdout(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tune", str(file), "-o", str(file.parent / "x.task"), "--json"])
    assert caught.value.code == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kind"] == "task"
    assert (file.parent / "x.stages" / "manifest.json").is_file()
