"""What a device cannot do, placed on the host by choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stagekit_fixedpoint import FixedPointTarget, reference
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.device import FOLDER, Device
from stagekit_fixedpoint.engine import from_stored, to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.lowering import lower

from stagekit import targets
from stagekit.errors import CompileError
from stagekit.graph import Graph
from stagekit.partition.verify import run_graph

from .nets import NETS, inputs, qdq


@pytest.fixture
def graph(dpu: Device) -> Graph:
    return qdq(NETS["transformer"](), dpu)


def without(device: Device, *operators: str) -> Device:
    left = tuple(o for o in device.arithmetic.operators if o not in operators)
    return replace(device, arithmetic=replace(device.arithmetic, operators=left))


def test_nothing_goes_to_the_host_unasked(graph: Graph, dpu: Device) -> None:
    assert [u.op for u in lower(graph, without(dpu, "softmax")).problems] == ["Softmax"]
    assert not any(isinstance(step, p.Host) for step in lower(graph, dpu, host=True).program.steps)


def test_a_host_softmax_is_that_of_real_numbers(graph: Graph, dpu: Device) -> None:
    result = lower(graph, without(dpu, "softmax"), host=True)
    assert not result.problems and result.share == 1.0
    program = result.program
    (step,) = [s for s in program.steps if isinstance(s, p.Host)]
    x, y = program.tensors[step.inputs[0]], program.tensors[step.output]
    stored = np.random.default_rng(0).integers(-128, 128, (2, *x.shape))
    real = stored * x.scale
    wanted = np.exp(real - real.max(axis=-1, keepdims=True))
    wanted /= wanted.sum(axis=-1, keepdims=True)
    found = reference.evaluate(program, step, {x.name: stored}) * y.scale
    assert np.abs(found - np.minimum(wanted, y.scale * y.format.highest)).max() <= y.scale / 2 * 1.001


def test_interpreters_agree_and_stay_near_the_float_model(graph: Graph, dpu: Device) -> None:
    program = lower(graph, without(dpu, "softmax", "layer_norm", "attention", "table"), host=True).program
    hosts = [s for s in program.steps if isinstance(s, p.Host)]
    assert len(hosts) == 6  # two LayerNorms, two products, softmax, GELU
    given = inputs(NETS["transformer"](), 2)
    stored = {"x": to_stored(given["x"], program.tensors["x"])}
    exact = reference.run(program, {"x": stored["x"].astype(np.int64)})
    quick = Fast(program).run(stored)
    (name,) = program.outputs
    assert np.array_equal(quick[name], exact[name])
    wanted = run_graph(NETS["transformer"](), [given["x"]])["y"]
    error = from_stored(exact[name], program.tensors[name], True) - wanted
    assert np.sqrt((error**2).mean() / (wanted**2).mean()) < 0.1


def test_the_report_says_what_the_host_does_and_the_share_that_is_left(
    graph: Graph, dpu: Device, tmp_path: Path
) -> None:
    text = FOLDER / "dpu-b4096-zcu104.toml"
    (tmp_path / "overlay.toml").write_text(text.read_text().replace('"attention", ', "").replace('"softmax", ', ""))
    profile = targets.load_profile("dpu-b4096-zcu104", "fixedpoint")
    overlay = replace(profile, options={**profile.options, "device_file": str(tmp_path / "overlay.toml")})
    target = FixedPointTarget()
    assert {u.op for u in target.supports(graph, overlay)} == {"MatMul"}
    with pytest.raises(CompileError, match="has no unit for attention"):
        target.compile(graph, graph.inputs, graph.outputs, overlay, tmp_path, lambda _: None)
    chosen = replace(overlay, options={**overlay.options, "host": True})
    assert target.supports(graph, chosen) == []
    blob = target.compile(graph, graph.inputs, graph.outputs, chosen, tmp_path, lambda _: None)
    attention = 2 * 17 * 17 * 32  # of tokens x tokens x width, for scores and for the mix
    dense = 17 * (4 * 32 * 32 + 2 * 2 * 32 * 32)
    assert blob.report["device_share"] == pytest.approx(dense / (dense + attention))
    assert len(blob.report["host"]) == 3
