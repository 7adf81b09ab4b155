"""Opening and running a deployment imports nothing that only building needs: it is slow, or not on the device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_calib.verb import calibrate

from stagekit.build.compile import compile
from stagekit.store import Store

CODE = """
import sys
import numpy as np
import stagekit
with stagekit.Session(sys.argv[1]) as session:
    session.run(np.zeros((40, 56, 3), np.uint8))
print([name for name in ("onnx", "onnx_ir", "torch") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("profile", "imported"),
    [("ort-f32", []), ("ov-f32", []), ("dpu-b4096-zcu104", ["onnx"])],  # the emulator writes graphs as it opens
)
def test_running_imports_no_builder(zoo: Any, tmp_path: Path, profile: str, imported: list[str]) -> None:
    bundles, output = [zoo.stages, zoo.tasks["land"]], tmp_path / "tiny.deploy"
    record = None
    if profile.startswith("dpu"):
        record = tmp_path / "tiny.calib"
        noise = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
        calibrate(zoo.stages, [zoo.tasks["land"]], data=noise, output=record)
    compile(bundles, profile=profile, output=output, calibration=record, store=Store(tmp_path / "store"))
    done = subprocess.run([sys.executable, "-c", CODE, str(output)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{imported}\n"
