"""Without any TensorRT: what to install from where, in three lines, and exit code 3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stagekit_tensorrt.installed import DISTRIBUTIONS

HIDING = f"""
import importlib.metadata as metadata, sys
hidden = {sorted(n for names in DISTRIBUTIONS.values() for n in names)!r}
version = metadata.version
def without(name):
    if name in hidden:
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without
for name in ("tensorrt", "tensorrt_rtx", "cuda"):
    sys.modules[name] = None
from stagekit.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a fresh interpreter to which TensorRT is not installed."""

    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", HIDING, *map(str, arguments)]
        variables = {**os.environ, "STAGEKIT_STORE": str(tmp_path / "store")}
        return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120, check=False)

    return run


def three_lines(text: str) -> list[str]:
    lines = text.strip().splitlines()[-3:]
    assert "no TensorRT is installed" in lines[0]
    assert "pip install 'stagekit[tensorrt-rtx]'" in lines[1]
    assert "docs.nvidia.com" in lines[2]
    return lines


@pytest.mark.parametrize("name", ["trt", "tensorrt"])
def test_compiling_says_what_to_install(call: Any, zoo: Any, name: str) -> None:
    done = call("compile", zoo.stages, "--target", name)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    three_lines(done.stderr)


def test_targets_says_what_to_install(call: Any) -> None:
    done = call("targets")
    assert done.returncode == 0
    assert done.stdout.count("no TensorRT is installed") == 1
    assert "\ntensorrt (trt) " in done.stdout, "one target, its other name beside it"
    three_lines(done.stdout)


def test_a_kit_can_be_written_all_the_same(call: Any, zoo: Any, tmp_path: Path) -> None:
    done = call("compile", zoo.stages, zoo.tasks["land"], "--profile", "trt-fp16", "--emit-kit", tmp_path / "kit")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kit" / "kit.json").is_file()
