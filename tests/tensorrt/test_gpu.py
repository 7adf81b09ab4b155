"""On a GPU: ``make test-gpu``. ``STAGEKIT_GPU_REPORT=file.json`` writes down what was measured, and on what."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_tensorrt import TensorRtTarget, reference, sidecar
from stagekit_tensorrt.builder.gpu import gpus
from stagekit_tensorrt.engine import TrtEngine
from stagekit_tensorrt.installed import resolve, vendor
from stagekit_tensorrt.layers import inspect, layer_times
from stagekit_tensorrt.typed import plan

from stagekit.graph import Graph
from stagekit.store import Store
from stagekit.target import HostBuffer, Profile, silent

from . import nets
from .conftest import MakeProfile

pytestmark = pytest.mark.gpu

TARGET = TensorRtTarget()
NETS: dict[str, tuple[Callable[[], Graph], tuple[str, ...]]] = {
    "conv": (lambda: nets.conv(64), ("f32", "fp16", "bf16")),
    "stem": (nets.stem, ("f32", "fp16")),
    "attention": (nets.attention, ("f32", "fp16")),
    "labels": (nets.labels, ("f32", "fp16")),
    "quantised": (nets.quantised, ("int8",)),
}
TOLERANCE = {"f32": 1e-3, "fp16": 1e-2, "bf16": 3e-2}
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What the tests of this session have found so far."""
    found = TARGET.probe()
    path = os.environ.get("STAGEKIT_GPU_REPORT")
    if not found.run and path:
        pytest.exit(f"there will be no {path}: {found.reason}\n  -> {found.remedy}", returncode=3)
    if not found.run:
        pytest.skip(f"NOT TESTED: {found.reason}")
    here = {"gpus": [gpu.name for gpu in gpus()], "capability": gpus()[0].capability, "toolchain": found.version}
    return {"device": here, "rows": []}


@pytest.fixture
def report(measured: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Written after each test: a crash of the vendor's code must not take the others' results with it."""
    yield measured
    if path := os.environ.get("STAGEKIT_GPU_REPORT"):
        Path(path).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


Load = Callable[..., TrtEngine]


@pytest.fixture
def load(report: dict[str, Any], tmp_path: Path) -> Iterator[Load]:
    opened: list[TrtEngine] = []

    def build_and_load(graph: Graph, profile: Profile, form: int = 0) -> TrtEngine:
        """``form`` counts the forms that the target offers for its edges."""
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        takes, gives = ([TARGET.boundaries(s, profile)[form] for s in edges] for edges in (graph.inputs, graph.outputs))
        blob = TARGET.compile(graph, takes, gives, profile, folder, silent)
        opened.append(TARGET.load(blob, profile))
        return opened[-1]

    yield build_and_load
    for engine in opened:
        engine.close()


def buffers(engine: TrtEngine, arrays: dict[str, Any]) -> list[HostBuffer]:
    return [HostBuffer(replace(s, shape=arrays[s.name].shape), arrays[s.name]) for s in engine.inputs]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("name", "precision"), [(n, p) for n, (_, ps) in NETS.items() for p in ps])
def test_outputs_are_those_of_onnxruntime(
    load: Load, profile: MakeProfile, report: dict[str, Any], name: str, precision: str, batch: int
) -> None:
    graph = NETS[name][0]()
    wanted_profile = profile(precision, (1, 4))
    engine = load(graph, wanted_profile)
    inputs = reference.sample(graph.inputs, batch)
    typed = plan(graph, graph.inputs, graph.outputs, wanted_profile).graph
    wanted = reference.run(typed, inputs)
    row: dict[str, Any] = {"graph": name, "precision": precision, "batch": batch}
    report["rows"].append(row)
    for buffer in engine.lane().submit(buffers(engine, inputs), batch).wait():
        found, right = buffer.to_host(), wanted[buffer.spec.name]
        assert found.shape == right.shape
        if right.dtype in (np.uint8, np.int8):
            row["agreement"] = float(np.mean(np.abs(found.astype(int) - right.astype(int)) <= (right.dtype == np.int8)))
            assert row["agreement"] >= 0.99
        else:
            row["error"] = float(np.abs(found - right).max() / np.abs(right).max())
            assert row["error"] < TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_edges_may_be_in_half(load: Load, profile: MakeProfile, report: dict[str, Any], precision: str) -> None:
    graph, wanted_profile = nets.conv(64), profile(precision)
    engine = load(graph, wanted_profile, 1)
    inputs = reference.sample(engine.inputs, 1)
    wanted = reference.run(plan(graph, engine.inputs, engine.outputs, wanted_profile).graph, inputs)["y"]
    (buffer,) = engine.lane().submit(buffers(engine, inputs), 1).wait()
    found = buffer.to_host()
    assert found.dtype == engine.outputs[0].numpy_dtype != np.float32
    error = float(np.abs(found.astype(np.float32) - wanted).max() / np.abs(wanted).max())
    report["rows"].append({"graph": "conv", "precision": precision, "edges": str(found.dtype), "error": error})
    assert error < TOLERANCE[precision]


def test_latency_is_measured_and_a_chain_stays_on_the_device(
    load: Load, profile: MakeProfile, report: dict[str, Any]
) -> None:
    engine = load(nets.conv(64), profile("fp16"))
    lanes = [engine.lane() for _ in range(4)]
    frame = buffers(engine, reference.sample(engine.inputs, 1))
    times = []
    for _ in range(60):
        begun = time.perf_counter()
        value: Any = frame
        for lane in lanes:
            value = lane.submit(value, 1).outputs
        value[0].ready.wait()
        times.append(time.perf_counter() - begun)
    row = {"chain": 4, "us_per_call": float(np.median(times[10:])) * 1e6 / 4}
    report["rows"].append(row)
    assert row["us_per_call"] < 50_000
    assert all(buffer._host is None for buffer in value)


def test_device_memory_does_not_grow_with_calls(load: Load, profile: MakeProfile, report: dict[str, Any]) -> None:
    engine = load(nets.conv(64), profile("f32"))
    lane, frame = engine.lane(), buffers(engine, reference.sample(engine.inputs, 1))

    def used() -> int:
        free, total = engine.cuda.call("cudaMemGetInfo")
        return int(total - free)

    for _ in range(20):
        lane.submit(frame, 1).wait()[0].to_host()
    before = used()
    for _ in range(500):
        lane.submit(frame, 1).wait()[0].to_host()
    report["rows"].append({"device_bytes": used(), "grown_by": used() - before})
    assert used() - before < 2 * MEGABYTE


def test_two_lanes_at_once_keep_their_calls_apart(load: Load, profile: MakeProfile) -> None:
    """With a range of batch sizes: each context takes the engine's one optimization profile."""
    engine = load(nets.conv(64), profile("f32", (1, 4)))
    lanes = [engine.lane(), engine.lane()]
    frames = [buffers(engine, reference.sample(engine.inputs, 1, seed)) for seed in range(10)]
    alone = [lanes[0].submit(f, 1).wait()[0].to_host() for f in frames]
    calls = [lanes[k % 2].submit(f, 1) for k, f in enumerate(frames)]
    for call, wanted in zip(calls, alone, strict=True):
        # RTX may have compiled a better kernel for this size in the meantime, so not to the last bit.
        assert np.allclose(call.wait()[0].to_host(), wanted, rtol=1e-4, atol=1e-4)


def test_the_inspector_and_the_profiler_name_layers(load: Load, profile: MakeProfile, report: dict[str, Any]) -> None:
    wanted = profile("fp16")
    engine = load(nets.attention(), wanted)
    trt, row = vendor(resolve(wanted)[0])
    found = inspect(engine, trt, row)
    assert found["layers"]
    times = layer_times(engine, trt, buffers(engine, reference.sample(engine.inputs, 1)), 1)
    assert sum(layer["ms"] for layer in times) > 0
    report["rows"].append({"graph": "attention", "layers": len(found["layers"]), "times": times})


def test_the_timing_cache_is_kept_in_the_store(load: Load, profile: MakeProfile, report: dict[str, Any]) -> None:
    wanted = profile("fp16")
    _, row = vendor(resolve(wanted)[0])
    if not row.timing_cache:
        pytest.skip("TensorRT-RTX keeps no timing cache")
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        load(nets.conv(128), wanted)
        seconds.append(time.perf_counter() - begun)
    (cache,) = (Store.default().root / "timing").iterdir()
    assert cache.stat().st_size > 0
    report["rows"].append({"first_build_s": seconds[0], "second_build_s": seconds[1]})
    assert seconds[1] < seconds[0]


def test_compiled_kernels_are_kept_in_the_store(load: Load, profile: MakeProfile, report: dict[str, Any]) -> None:
    wanted = profile("fp16")
    _, row = vendor(resolve(wanted)[0])
    if not row.kernel_cache:
        pytest.skip("TensorRT compiles no kernels when it runs")
    engine = load(nets.conv(128), wanted)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        engine.lane().submit(buffers(engine, reference.sample(engine.inputs, 1)), 1).wait()
        seconds.append(time.perf_counter() - begun)
    engine.close()
    (cache,) = (Store.default().root / "kernels").iterdir()
    assert cache.stat().st_size > 0
    report["rows"].append({"first_call_s": seconds[0], "call_of_another_lane_s": seconds[1]})


def test_a_plan_for_another_gpu_is_refused_before_it_is_loaded(
    load: Load, profile: MakeProfile, tmp_path: Path
) -> None:
    from stagekit.errors import EngineError

    wanted = profile("f32")
    (tmp_path / "plan").mkdir()
    graph = nets.conv()
    blob = TARGET.compile(graph, graph.inputs, graph.outputs, wanted, tmp_path / "plan", silent)
    foreign = replace(blob, metadata={**blob.metadata, "compute_capabilities": [10]})
    with pytest.raises(EngineError, match="compute capability 10"):
        sidecar.check(foreign, {}, gpus()[0])
