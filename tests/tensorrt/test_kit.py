"""Kits: everything that is needed elsewhere is there, and what comes back is checked and found again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_tensorrt import TensorRtTarget, reference, sidecar
from stagekit_tensorrt.builder.gpu import Gpu
from stagekit_tensorrt.import_kit import compare, from_trtexec, import_kit, main
from stagekit_tensorrt.kit import trtexec_command, write_kit

from stagekit.build.engines import WantedEngine
from stagekit.build.kit import emit_kit
from stagekit.errors import BundleError, UsageError, VerificationFailed
from stagekit.graph import TensorSpec, load
from stagekit.store import Store
from stagekit.target import Availability, HostBuffer

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


@pytest.mark.parametrize(
    ("version", "gives", "outcome"),
    [
        ("10.16.1.11", 1.0, "stored"),
        ("10.16.1.11", 1.2, "refused"),
        ("10.99.0.1", 1.2, "stored, not run"),
    ],
)
def test_a_plan_is_run_before_it_is_stored_where_it_can_be(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, gives: float, outcome: str
) -> None:
    """On a stand-in for the GPU's engine; a wrong plan leaves nothing behind that ``compile`` would find."""
    built(kit)
    gpu = Gpu(0, "NVIDIA RTX A4000", 86)
    monkeypatch.setattr(sidecar, "gpus", lambda: (gpu,))
    monkeypatch.setattr(sidecar, "resolve", lambda profile: ("tensorrt", version))
    monkeypatch.setattr(TensorRtTarget, "probe", lambda self: Availability(True, True))
    golden = np.load(kit / "a-net.golden.npz")["out:y"]

    class Engine:
        inputs = nets.conv().inputs

        def lane(self) -> Engine:
            return self

        def submit(self, inputs: Any, batch: int) -> Engine:
            return self

        def wait(self) -> list[HostBuffer]:
            spec = TensorSpec("y", "float32", golden.shape)
            return [HostBuffer(spec, golden * np.float32(gives))]

        def close(self) -> None:
            pass

    monkeypatch.setattr(TensorRtTarget, "load", lambda self, blob, profile: Engine())
    store, told = Store(tmp_path / "store"), []
    if outcome == "refused":
        with pytest.raises(VerificationFailed):
            import_kit(kit, store, told.append)
        assert store.ls() == []
        return
    import_kit(kit, store, told.append)
    assert len(store.ls()) == 1
    assert ("not run: here is NVIDIA RTX A4000, tensorrt 10.99.0.1" in told[0]) == (outcome == "stored, not run")
    import_kit(kit, store, told.append)
    assert "already there" in told[1]


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


def test_a_result_that_was_cut_short_is_refused(kit: Path, tmp_path: Path) -> None:
    built(kit)
    (kit / "a-net.result.json").write_text('{"builder": "tens')
    with pytest.raises(BundleError, match="expected what the builder writes"):
        import_kit(kit, Store(tmp_path / "store"))


def test_one_bad_plan_does_not_keep_the_others_out(script: Any, tmp_path: Path) -> None:
    folder, told = tmp_path / "kit", []
    for name in ("net", "bad"):
        (folder / f"{name}.plan").write_bytes(b"a plan")
        (folder / f"{name}.log").write_text(LOG if name == "net" else LOG.replace("PASSED", "FAILED"))
    store = Store(tmp_path / "store")
    with pytest.raises(BundleError, match="a trtexec that passed") as caught:
        import_kit(folder, store, told.append)
    assert str(caught.value.where).endswith("bad.log")
    refused = [line for line in told if "NOT STORED" in line]
    assert refused[0] == f"bad: NOT STORED: {caught.value.what}"
    assert refused[1].endswith("this plan has not been built")
    assert len(store.ls()) == 1


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


TRTEXEC = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$(basename "${1#--onnx=}").words"
[[ "$1" != *bad* ]]
"""


@pytest.fixture
def script(tmp_path: Path, profile: MakeProfile) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Writes a kit of three graphs, and runs its script with a stand-in for trtexec."""
    graph = nets.conv()
    odd = nets.graph(
        [nets.node("Relu", ["input:0"], "y")],
        {"input:0": (nets.FLOAT, ["batch", 3])},
        {"y": (nets.FLOAT, ["batch", 3])},
    )
    wanted = [("net", graph), ("bad", graph), ("sea & 'land'/head", odd)]
    engines = [WantedEngine(name, g, g.inputs, g.outputs) for name, g in wanted]
    write_kit(tmp_path / "kit", engines, profile(batch=(1, 4)), lambda _: None)
    trtexec = tmp_path / "trtexec"
    trtexec.write_text(TRTEXEC)
    trtexec.chmod(0o755)

    def run(*words: str, trtexec: Path = trtexec) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "kit" / "build_with_trtexec.sh", *words]
        variables = {**os.environ, "TRTEXEC": str(trtexec)}
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)

    return run


def test_the_script_builds_all_that_can_be_built_and_names_the_rest(script: Any, tmp_path: Path) -> None:
    done = script()
    assert done.returncode == 1
    assert done.stderr == "FAILED: bad: see bad.log\n"
    words = {path.name: path.read_text().splitlines() for path in (tmp_path / "kit").glob("*.words")}
    name = "sea & 'land'-head"
    assert words.keys() == {"net.onnx.words", "bad.onnx.words", f"{name}.onnx.words"}
    assert words[f"{name}.onnx.words"][:2] == [f"--onnx={name}.onnx", f"--saveEngine={name}.plan"]
    assert "--minShapes='input:0':1x3" in words[f"{name}.onnx.words"]
    assert (tmp_path / "kit" / f"{name}.log").is_file()


def test_the_script_says_how_it_is_used(script: Any, tmp_path: Path) -> None:
    asked = script("--help")
    assert asked.returncode == 2
    assert "TRTEXEC=/usr/src/tensorrt/bin/trtexec ./build_with_trtexec.sh" in asked.stdout
    missing = script(trtexec=tmp_path / "nowhere")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "is not here; set TRTEXEC to its path" in missing.stderr


def test_a_kit_for_rtx_is_built_with_python(tmp_path: Path, profile: MakeProfile) -> None:
    """Its own tool's log does not say enough to store what it builds."""
    graph = nets.conv()
    rtx = profile(builder="tensorrt-rtx")
    write_kit(tmp_path, [WantedEngine("net", graph, graph.inputs, graph.outputs)], rtx, lambda _: None)
    assert not (tmp_path / "build_with_trtexec.sh").exists()
    text = (tmp_path / "README.md").read_text()
    assert "python -m builder ." in text
    assert "trtexec" not in text


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2), (["nowhere"], 2)])
def test_the_python_script_says_how_it_is_used(kit: Path, words: list[str], code: int) -> None:
    command = [sys.executable, "-S", "-m", "builder", *words]
    done = subprocess.run(command, cwd=kit, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("there is no such file" if "nowhere" in words else "python -m builder .") in done.stdout


def test_the_checker_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["--help"]), main([])) == (0, 2)
    said = capsys.readouterr()
    assert said.out == said.err
    assert "STAGEKIT_STORE" in said.out


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
