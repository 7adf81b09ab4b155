"""Channels that count for different powers of two: what is stored, what reads it, what it gains."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial

import numpy as np
import onnx_ir as ir
import pytest
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.dense import extremes
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.engine import to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.files import from_json, pack_arrays, to_json
from stagekit_fixedpoint.lowering import lower, lowered
from stagekit_fixedpoint.program import Array, Program

from stagekit.graph import Graph
from stagekit.partition.verify import run_graph
from stagekit.quant.exponents import scales_by_channel
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.scheme import scheme_of
from stagekit.quant.statistics import Statistics
from stagekit.quant.stored import stored_positions
from stagekit.targets import load_profile

from .conftest import codes
from .nets import Net, transformer

DPU = load_device("dpu-b4096-zcu104")
SCHEME = scheme_of(load_profile(DPU.name))
TOKENS, WIDTH = 17, 32


def sample(seed: int) -> dict[str, Array]:
    """Tokens of which some channels reach thirty times further than others."""
    values = np.random.default_rng(seed).standard_normal((2, TOKENS, WIDTH))
    return {"x": (values * 2.0 ** (np.arange(WIDTH) % 6)).astype(np.float32)}


def exposed(graph: Graph) -> Mapping[str, Array]:
    """All float tensors of one sample."""
    model = graph.edit()
    known = {str(v.name) for v in model.graph.outputs}
    model.graph.outputs.extend(v for n in model.graph for v in n.outputs if v.shape is not None and v.name not in known)
    return run_graph(graph.with_model(model), [sample(1)["x"]])


@cache
def quantised(by_channel: bool) -> Graph:
    graph = transformer(TOKENS, WIDTH)
    positions = stored_positions(graph)
    found = extremes(graph, positions.sources, [sample(1)])
    quantizations = {name: SCHEME.activation.fit(*found[name]) for name in positions.sources}
    if by_channel:
        values = {n: v for n, v in exposed(graph).items() if n in quantizations}
        statistics = {name: statistics_of(value) for name, value in values.items()}
        quantizations |= scales_by_channel(graph, positions, statistics, SCHEME.activation)
    return insert_qdq(graph, positions, quantizations, SCHEME)


def statistics_of(value: Array) -> Statistics:
    """As calibration has them: channels are the last axis of tokens, heads the second of scores."""
    reach = np.abs(value).max(axis=(0, 1) if value.ndim == 3 else (0, *range(2, value.ndim)))
    nothing = np.zeros(1)
    return Statistics(0, 0, 0, 0, 1, 0, nothing, reach, reach)


@cache
def program() -> Program:
    return lowered(quantised(True), DPU).program


def test_the_stream_and_the_scores_have_a_scale_for_each_channel() -> None:
    found = {name: t for name, t in program().tensors.items() if t.exponents}
    assert {len(t.exponents) for t in found.values() if t.axis == -1} == {WIDTH}
    assert {len(t.exponents) for t in found.values() if t.axis == 1} == {4}
    assert all(min(t.exponents) == 0 for t in found.values())
    steps = {type(s): s for s in program().steps}
    norms = [s for s in program().steps if isinstance(s, p.LayerNorm)]
    assert sorted(len(n.left) for n in norms) == [0, WIDTH]  # the input's own norm reads one scale
    assert isinstance(steps[p.Softmax], p.Softmax)
    assert len(steps[p.Softmax].left) == 4


def test_all_three_agree() -> None:
    for seed in range(3):
        given_codes = codes(program(), 2, seed)
        wanted = reference.run(program(), given_codes)
        for run in (Fast(program()).run, partial(blas.run, program())):
            found = run(given_codes)
            assert all(np.array_equal(found[n], wanted[n]) for n in program().outputs)


def test_small_channels_keep_more_of_what_they_were() -> None:
    """Noise relative to each channel's own power; what the input's one scale adds is in both."""
    noise = []
    for by_channel in (False, True):
        made = lowered(quantised(by_channel), DPU).program
        (x,) = made.inputs
        stored = to_stored(sample(1)["x"], made.tensors[x]).astype(np.int64)
        (name,) = (s.inputs[0] for s in made.steps if isinstance(s, p.LayerNorm) and s.inputs[0] != x)
        found = reference.run(made, {x: stored}, keep=True)[name] * made.tensors[name].scales
        wanted = exposed(transformer(TOKENS, WIDTH))[name.removesuffix("/q")]
        noise.append((((found - wanted) ** 2).mean(axis=(0, 1)) / (wanted**2).mean(axis=(0, 1))).mean())
    assert noise[1] < 0.7 * noise[0]


def test_a_head_is_as_a_tensor_of_its_own_with_the_scale_that_it_has() -> None:
    (step,) = (s for s in program().steps if isinstance(s, p.Softmax))
    tensor, out = program().tensors[step.inputs[0]], program().tensors[step.output]
    scores = codes(replace(program(), inputs=step.inputs), 1)[tensor.name]
    found = reference.evaluate(program(), step, {tensor.name: scores})
    for head, exponent in enumerate(tensor.exponents):
        real = np.exp((scores[:, head] - scores[:, head].max()) * tensor.scale * 2.0**exponent)
        real /= real.sum(axis=-1, keepdims=True)
        assert np.abs(found[:, head] * out.scale - real.clip(max=127 * out.scale)).max() < 0.003 + out.scale / 2


def test_what_a_constant_is_added_to_keeps_one_scale() -> None:
    net = Net(5)
    parts = [net.op("MatMul", "x", net.normal(WIDTH, WIDTH)) for _ in range(2)]
    summed = net.op("Add", *parts, out="summed")
    net.op("Add", summed, net.normal(TOKENS, WIDTH), out="y")
    net.op("LayerNormalization", summed, net.normal(WIDTH), net.normal(WIDTH), axis=-1, out="z")
    graph = net.graph([TOKENS, WIDTH], ["y", "z"])
    positions = stored_positions(graph)
    statistics = {n: statistics_of(v) for n, v in exposed(graph).items() if n in positions.sources}
    assert set(scales_by_channel(graph, positions, statistics, SCHEME.activation)) == set(parts)


def test_a_program_with_exponents_survives_its_own_files() -> None:
    with np.load(io.BytesIO(pack_arrays(program().arrays)), allow_pickle=False) as archive:
        again = from_json(to_json(program()), {n: archive[n] for n in archive.files})
    assert again.steps == program().steps
    assert again.tensors == dict(program().tensors)


def test_a_device_with_one_scale_refuses_them() -> None:
    without = replace(DPU, arithmetic=replace(DPU.arithmetic, channel_exponents=False))
    whys = {u.why for u in lower(quantised(True), without).problems}
    assert whys == {"dpu-b4096-zcu104 has one scale for all channels of an activation, and this one has more"}


def test_what_cannot_shift_its_input_is_refused() -> None:
    """A Gelu behind the sum, where a LayerNorm was."""
    model = quantised(True).edit()
    norm = [n for n in model.graph if n.op_type == "LayerNormalization"][-1]
    gelu = ir.node("Gelu", [norm.inputs[0]], name="gelu_of_the_sum")
    gelu.outputs[0].name, gelu.outputs[0].shape, gelu.outputs[0].type = "g", norm.outputs[0].shape, norm.outputs[0].type
    model.graph.insert_before(norm, gelu)
    norm.outputs[0].replace_all_uses_with(gelu.outputs[0])
    model.graph.remove(norm, safe=True)
    (problem,) = lower(quantised(True).with_model(model), DPU).problems
    assert problem.node == "gelu_of_the_sum"
    assert "scales of their own" in problem.why


@pytest.mark.parametrize("exponent", [9, 12])
def test_channels_too_far_apart_are_refused(exponent: int) -> None:
    model = quantised(True).edit()
    (value, *_) = (
        v for k, v in model.graph.initializers.items() if str(k).endswith("/scale") and tuple(v.shape or ()) == (WIDTH,)
    )
    scales = value.const_value.numpy().copy()  # type: ignore[union-attr]  # an initializer's
    scales[0] = scales.min() * 2.0**exponent
    value.const_value = ir.tensor(scales, name=value.name)
    assert any("differ by" in u.why for u in lower(quantised(True).with_model(model), DPU).problems)
