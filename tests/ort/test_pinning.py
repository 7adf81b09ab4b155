from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stagekit_onnxruntime.target import pinned

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no threads to cores")

THREADS = """
import os, sys, time
import numpy as np, onnx, onnxruntime
from onnx import helper, TensorProto
from stagekit.target import Profile
from stagekit_onnxruntime.target import _session_options
info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in "xy"]
graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "g", info[:1], info[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = _session_options(onnxruntime, Profile("p", "onnxruntime"))
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones((64, 64), np.float32)})
cores, end = sorted(os.sched_getaffinity(0))[1:], time.monotonic() + 30
while True:  # a thread of the pool pins itself when it is first scheduled
    found = [sorted(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")]
    if all([core] in found for core in cores) or time.monotonic() > end:
        break
    time.sleep(0.01)
print(found)
"""


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [({0, 1}, 2, "2"), ({4, 2, 9}, 3, "5;10"), ({0, 1, 2, 3}, 2, ""), ({0, 1}, 4, ""), ({3}, 1, "")],
)
def test_the_pools_threads_get_every_core_but_the_callers(
    cores: set[int], threads: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    assert pinned(threads) == expected


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not list a process's threads")
def test_the_runtime_obeys() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is one core")
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert all(f"[{core}]" in done.stdout for core in cores[1:])
