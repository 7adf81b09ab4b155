"""Kits: everything that is needed elsewhere is there, and what comes back is checked and found again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_tensorrt import reference
from stagekit_tensorrt.import_kit import compare, from_trtexec, import_kit
from stagekit_tensorrt.kit import trtexec_command, write_kit

from stagekit.build.kit import WantedEngine, emit_kit
from stagekit.errors import BundleError, UsageError, VerificationFailed
from stagekit.graph import load
from stagekit.store import Store

from . import nets
from .conftest import MakeProfile

LOG = """&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --onnx=a.onnx
[11/24/2026-10:00:00] [I] Selected Device: NVIDIA RTX A4000
[11/24/2026-10:00:00] [I] Compute Capability: 8.6
[11/24/2026-10:00:01] [W] something to mind
&&&& PASSED TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --onnx=a.onnx
"""


@pytest.fixture
def kit(tmp_path: Path, profile: MakeProfile) -> Path:
    folder = tmp_path / "kit"
    graph = nets.conv()
    write_kit(folder, [WantedEngine("a/net", graph, graph.inputs, graph.outputs)], profile("fp16"), lambda _: None)
    return folder


def built(kit: Path, **changes: Any) -> None:
    """A plan in the kit, as the builder leaves it."""
    plan = b"a plan of TensorRT 10"
    (kit / "a-net.plan").write_bytes(plan)
    result = {
        "builder": "tensorrt",
        "version": "10.16.1.11",
        "seconds": 1.0,
        "bytes": len(plan),
        "sha256": hashlib.sha256(plan).hexdigest(),
        "onnx_sha256": hashlib.sha256((kit / "a-net.onnx").read_bytes()).hexdigest(),
        "gpu": {"index": 0, "name": "NVIDIA RTX A4000", "capability": 86},
        "warnings": [],
    }
    (kit / "a-net.result.json").write_text(json.dumps(result | changes))


def test_a_kit_holds_files_scripts_and_golden_outputs(kit: Path) -> None:
    assert {path.name for path in kit.iterdir()} == {
        *("a-net.onnx", "a-net.request.json", "a-net.golden.npz", "kit.json"),
        *("builder", "build_with_trtexec.sh", "README.md"),
    }
    golden = np.load(kit / "a-net.golden.npz")
    found = reference.run(load(kit / "a-net.onnx"), {"x": golden["in:x"]})
    assert np.array_equal(found["y"], golden["out:y"])


@pytest.mark.parametrize(("precision", "crossing"), [("f32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_boundaries_are_in_half_where_the_arithmetic_is(
    zoo: Any, tmp_path: Path, precision: str, crossing: str
) -> None:
    """Where nothing can be measured; SPMs take and give the same, and golden inputs and outputs follow."""
    emit_kit([zoo.stages, zoo.tasks["land"]], tmp_path / "kit", profile=f"trt-{precision}")
    graphs = {e["graph"]: e for e in json.loads((tmp_path / "kit" / "kit.json").read_text())["graphs"]}
    edges = {(name, spec["name"]): spec["dtype"] for name, e in graphs.items() for spec in e["inputs"] + e["outputs"]}
    stages = [name for name in graphs if "/" not in name]
    for before, stage in pairwise(stages):
        (given,), (taken,) = graphs[before]["outputs"], graphs[stage]["inputs"]
        assert given["dtype"] == taken["dtype"] == crossing
    assert edges["land/spm0", "feature"] == edges["land/spm0", "prompted"] == crossing
    typed = load(tmp_path / "kit" / f"{stages[1]}.onnx")
    assert [spec.dtype for spec in (*typed.inputs, *typed.outputs)] == [crossing] * 2


def test_the_scripts_need_python_alone(kit: Path) -> None:
    """It runs without any package that is installed here, and gets as far as asking for TensorRT."""
    command = [sys.executable, "-S", "-m", "builder", "."]
    done = subprocess.run(command, cwd=kit, env={}, capture_output=True, text=True, check=False)
    assert "FAILED: a-net.request.json: No module named 'tensorrt_rtx'" in done.stdout, done.stderr
    assert done.returncode == 3


def test_plans_are_stored_under_the_key_that_compile_looks_for(kit: Path, tmp_path: Path) -> None:
    built(kit)
    store = Store(tmp_path / "store")
    digests = import_kit(kit, store, lambda _: None)
    assert list(digests) == ["a/net"]
    (entry,) = store.ls()
    assert (entry.digest, entry.toolchain) == (digests["a/net"], "tensorrt 10.16.1.11 engine 1")
    assert entry.device == "sm86 NVIDIA RTX A4000"
    assert store.verify() == []


def test_a_kit_without_its_plan_says_how_to_build(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has not been built") as caught:
        import_kit(kit, Store(tmp_path / "store"))
    assert "python -m builder" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"sha256": "0" * 64}, "not the one that its result describes"), ({"onnx_sha256": "0" * 64}, "another ONNX file")],
)
def test_a_plan_of_something_else_is_refused(kit: Path, tmp_path: Path, changes: dict[str, str], says: str) -> None:
    built(kit, **changes)
    with pytest.raises(BundleError, match=says):
        import_kit(kit, Store(tmp_path / "store"))
    assert Store(tmp_path / "store").ls() == []


def test_trtexec_is_believed_by_its_log(tmp_path: Path) -> None:
    assert from_trtexec(LOG, tmp_path) == {
        "builder": "tensorrt",
        "version": "10.16.1.11",
        "gpu": {"index": 0, "name": "NVIDIA RTX A4000", "capability": 86},
        "warnings": ["something to mind"],
    }
    with pytest.raises(BundleError, match="a trtexec that passed"):
        from_trtexec(LOG.replace("PASSED", "FAILED"), tmp_path)


def test_the_trtexec_command_says_what_the_python_script_does(profile: MakeProfile) -> None:
    from stagekit_tensorrt.config import build_config

    inputs = nets.conv().inputs
    full = trtexec_command("net", build_config(inputs, profile(batch=(1, 4), workspace_mib=512)).to_dict())
    for word in ("--minShapes=x:1x8x12x12", "--maxShapes=x:4x8x12x12", "--stronglyTyped", "--noTF32"):
        assert word in full
    assert "--memPoolSize=workspace:512M" in full
    rtx = trtexec_command(
        "net", build_config(inputs, profile(builder="tensorrt-rtx", compute_capability="86,89")).to_dict()
    )
    assert "--computeCapabilities=86,89" in rtx
    assert "--stronglyTyped" not in rtx


def test_golden_outputs_are_compared_by_precision() -> None:
    wanted = np.linspace(-1, 1, 1000, dtype=np.float32)
    compare(wanted + 5e-3, wanted, "fp16", "y")
    with pytest.raises(VerificationFailed, match="off by 5"):
        compare(wanted + 5e-3, wanted, "f32", "y")
    with pytest.raises(VerificationFailed, match="nan"):
        compare(wanted * np.float32("nan"), wanted, "f32", "y")
    labels = np.arange(200, dtype=np.uint8)
    compare(np.where(labels < 2, 9, labels).astype(np.uint8), labels, "int8", "labels")
    with pytest.raises(VerificationFailed, match="of the labels agree"):
        compare(np.where(labels < 3, 9, labels).astype(np.uint8), labels, "int8", "labels")


def test_a_target_that_writes_no_kits_says_so(zoo: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="onnxruntime writes no kits"):
        emit_kit([zoo.stages], tmp_path / "kit", target="onnxruntime")


def test_a_folder_that_holds_something_is_left_alone(zoo: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UsageError, match="empty or new folder"):
        emit_kit([zoo.stages], tmp_path, target="trt")
