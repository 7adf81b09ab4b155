"""Weights as inputs: the same numbers, and one plan for all graphs of a structure."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stagekit_tensorrt import TensorRtTarget, reference
from stagekit_tensorrt import cuda as cuda_module
from stagekit_tensorrt.cuda import Cuda
from stagekit_tensorrt.engine import TrtEngine
from stagekit_tensorrt.shared import WEIGHTS, read_weights, without_weights
from stagekit_tensorrt.typed import plan

from stagekit.graph import Graph, TensorSpec
from stagekit.target import EngineBlob, HostBuffer, silent

from . import nets
from .conftest import MakeProfile
from .fake_cuda import FakeRuntime, FakeVendorEngine

TARGET = TensorRtTarget()


@pytest.mark.parametrize("precision", ["f32", "fp16", "bf16"])
@pytest.mark.parametrize("make", [nets.conv, nets.attention, nets.stem, nets.labels])
def test_with_its_weights_as_inputs_a_graph_computes_what_it_did(
    make: Callable[[], Graph], precision: str, profile: MakeProfile
) -> None:
    graph = make()
    typed = plan(graph, graph.inputs, graph.outputs, profile(precision)).graph
    structure, weights = without_weights(typed)
    assert weights
    inputs = reference.sample(graph.inputs, 1)
    wanted, found = reference.run(typed, inputs), reference.run(structure, inputs | weights)
    for name, array in wanted.items():
        assert np.allclose(found[name], array, rtol=1e-4, atol=1e-5), name


def test_graphs_that_differ_in_weights_alone_have_one_structure() -> None:
    small, large, wide = nets.conv(8, 0.1), nets.conv(8, 0.2), nets.conv(16, 0.1)
    assert small.fingerprint != large.fingerprint
    structures = {without_weights(graph)[0].fingerprint for graph in (small, large)}
    assert len(structures) == 1
    assert without_weights(wide)[0].fingerprint not in structures


def test_what_is_no_weight_stays() -> None:
    """Scales and stored weights of a Q/DQ graph."""
    structure, weights = without_weights(nets.quantised())
    assert list(weights) == ["weight0"], "the bias"
    assert {"w", "ws", "s", "z"} <= set(structure.body.initializers)


def test_weights_lie_on_the_device_for_as_long_as_the_engine_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeRuntime()
    monkeypatch.setattr(cuda_module, "runtime_module", lambda: runtime)
    x, y = (TensorSpec(name, "float32", (1, 2)) for name in "xy")
    weight = np.arange(12, dtype=np.uint8)
    vendor = FakeVendorEngine(runtime, lambda x: x)
    engine = TrtEngine(vendor, None, None, Cuda(0), "engine", (x,), (y,), (1,), weights={"weight0": weight})
    lanes = [engine.lane(), engine.lane()]
    for _ in range(3):
        for lane in lanes:
            lane.submit([HostBuffer(x, np.ones((1, 2), np.float32))], 1).wait()
        gc.collect()
    (address,) = {lane.context._address["weight0"] for lane in lanes}
    assert np.array_equal(runtime.blocks[address], weight)
    engine.close()
    assert engine.cuda.device.take(weight.nbytes).address == address, "it went back"


def test_a_second_graph_of_a_structure_takes_the_plan_of_the_first(rtx: MakeProfile, tmp_path: Path) -> None:
    profile = rtx("fp16", (1, 4), compute_capability="89", shared=True)
    blobs: list[EngineBlob] = []
    for scale in (0.1, 0.2):
        folder = tmp_path / str(scale)
        folder.mkdir()
        graph = nets.conv(8, scale)
        blobs.append(TARGET.compile(graph, graph.inputs, graph.outputs, profile, folder, silent))
        assert {path.name for path in folder.iterdir()} == {"engine.plan", WEIGHTS}
    first, second = blobs
    assert (first.report["plan_was_there"], second.report["plan_was_there"]) == (False, True)
    assert first.metadata["sha256"][0] == second.metadata["sha256"][0]
    assert first.metadata["sha256"][1] != second.metadata["sha256"][1]
    for blob, scale in zip(blobs, (0.1, 0.2), strict=True):
        stored = read_weights(blob)["weight0"].view(np.float16).reshape(8, 8, 3, 3)
        right = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32) * scale
        assert np.array_equal(stored, right.astype(np.float16))
