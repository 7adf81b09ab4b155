"""Help is quick: it imports the command line and nothing that does work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stagekit.cli import VERBS

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "openvino", "PIL", "pydantic", "rich", "sympy", "torch")
MOST = 60
"""Modules beyond those of `stagekit --help`; importing one of HEAVY brings hundreds."""

COUNT = """
import sys
from click.testing import CliRunner
import stagekit.cli
before = set(sys.modules)
done = CliRunner().invoke(stagekit.cli.stagekit, [sys.argv[1], "--help"])
assert done.exit_code == 0, done.output
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_nothing_heavy(verb: str) -> None:
    done = subprocess.run([sys.executable, "-c", COUNT, verb], capture_output=True, text=True, check=True)
    added = done.stdout.split()
    assert [name for name in added if name.split(".")[0] in HEAVY] == []
    assert len(added) < MOST


def test_calibrates_help_names_every_method() -> None:
    from click.testing import CliRunner

    from stagekit.cli.calibrate import command
    from stagekit.quant.ranges import METHODS

    shown = CliRunner().invoke(command, ["--help"]).output
    assert [name for name in METHODS if name not in shown] == []
