"""Devices with two widths: softmax and the residual stream in 16 bits, products in 8."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.layers import layers_of
from stagekit_fixedpoint.lowering import lower, macs
from stagekit_fixedpoint.program import Array, Program

from stagekit.graph import Graph
from stagekit.partition.verify import run_graph
from stagekit.quant.formats import NumberFormat
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import chain_positions
from stagekit.targets import load_profile

from .conftest import codes
from .nets import Net

WIDE, NARROW = "dpu-b4096-zcu104-wide", "dpu-b4096-zcu104"
TOKENS, WIDTH, HEADS = 17, 32, 4


def unit() -> Graph:
    """A transformer unit as exporters write it: query, key and value from one product."""
    net = Net(7)
    normed = net.op("LayerNormalization", "x", net.normal(WIDTH), net.normal(WIDTH), axis=-1)

    def linear(x: str, ins: int, outs: int) -> str:
        return net.op("Add", net.op("MatMul", x, net.normal(ins, outs, scale=ins**-0.5)), net.normal(outs, scale=0.1))

    joined = linear(normed, WIDTH, 3 * WIDTH)
    net.op("Split", joined, out="q", axis=-1, num_outputs=3)
    net.nodes[-1].output.extend(["k", "v"])
    shape = net.weight(np.array([-1, TOKENS, HEADS, WIDTH // HEADS]))
    query, key, value = (
        net.op("Transpose", net.op("Reshape", name, shape), perm=perm)
        for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
    )
    shares = net.op("Softmax", net.op("MatMul", query, key), axis=-1, out="shares")
    mixed = net.op("Transpose", net.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    flat = net.op("Reshape", mixed, net.weight(np.array([-1, TOKENS, WIDTH])))
    x = net.op("Add", "x", net.op("Mul", linear(flat, WIDTH, WIDTH), net.normal(WIDTH, scale=0.5)), out="stream")
    normed = net.op("LayerNormalization", x, net.normal(WIDTH), net.normal(WIDTH), axis=-1)
    net.op("Add", x, linear(net.op("Gelu", linear(normed, WIDTH, WIDTH)), WIDTH, WIDTH), out="y")
    return net.graph([TOKENS, WIDTH], ["y"])


def sample() -> Array:
    """With one massive activation, which sets the range of the stream."""
    x = np.random.default_rng(1).standard_normal((2, TOKENS, WIDTH)).astype(np.float32)
    x[0, 0, 0] = 60.0
    return x


@pytest.fixture(scope="module")
def quantised() -> dict[str, Graph]:
    graph, x = unit(), sample()
    model = graph.edit()
    model.graph.outputs[:] = [v for node in model.graph for v in node.outputs]
    seen = {**run_graph(Graph(model), [x]), "x": x}
    found = {}
    for name in (WIDE, NARROW):
        scheme = scheme_of(load_profile(name))
        (positions,) = chain_positions([("unit", graph)], integer_only=True)
        fits = {t: scheme.form(t, positions).fit(seen[t].min(), seen[t].max()) for t in positions.sources}
        found[name] = insert_qdq(graph, positions, fits, scheme)
    return found


def program(quantised: dict[str, Graph], name: str) -> Program:
    result = lower(quantised[name], load_device(name))
    assert result.problems == ()
    return result.program


def test_what_is_stored_in_which_width(quantised: dict[str, Graph]) -> None:
    made = program(quantised, WIDE)
    formats = {n.removesuffix("/q"): str(t.format) for n, t in made.tensors.items()}
    assert {formats[n] for n in ("x", "stream", "shares", "y")} == {"int16"}
    assert {formats[n] for n in ("q", "k", "v")} == {"int8"}
    assert {str(t.format) for t in program(quantised, NARROW).tensors.values()} == {"int8"}
    kinds = Counter(type(step).__name__ for step in made.steps)
    assert kinds["Linear"] == 6, "query, key and value are stored apart, each with its own scale"
    assert macs(made) == TOKENS * WIDTH * (3 * WIDTH + 3 * WIDTH) + 2 * TOKENS * TOKENS * WIDTH


@pytest.mark.parametrize("name", [WIDE, NARROW])
def test_interpreters_agree(quantised: dict[str, Graph], name: str) -> None:
    made = program(quantised, name)
    given = codes(made)
    exact = reference.run(made, given)
    for found in (Fast(made).run(given), blas.run(made, given)):
        assert np.array_equal(found["y"], exact["y"])


def test_a_wide_stream_is_nearer_to_the_float_model(quantised: dict[str, Graph]) -> None:
    wanted, errors = run_graph(unit(), [sample()])["y"], {}
    for name in (WIDE, NARROW):
        made = program(quantised, name)
        x, y = made.tensors["x"], made.tensors["y"]
        stored = np.clip(np.rint(sample() / x.scale), x.format.lowest, x.format.highest).astype(np.int64)
        errors[name] = np.abs(reference.run(made, {"x": stored})["y"] * y.scale - wanted).mean()
    assert errors[WIDE] < errors[NARROW] / 3


def test_the_array_takes_a_wide_operand_in_two_passes(quantised: dict[str, Graph]) -> None:
    made = program(quantised, WIDE)
    products = {s.name for s in made.steps if isinstance(s, p.Product)}
    assert [x.passes for x in layers_of(made) if x.name in products] == [1, 2]
    assert {x.passes for x in layers_of(program(quantised, NARROW))} == {1}


def test_weights_never_meet_a_wide_tensor() -> None:
    net = Net(8)
    net.op("MatMul", "x", net.normal(WIDTH, 4), out="y")
    graph = net.graph([TOKENS, WIDTH], ["y"], TensorProto.FLOAT)
    scheme = replace(scheme_of(load_profile(WIDE)), activation=NumberFormat("int16", True, "power_of_two"))
    (positions,) = chain_positions([("net", graph)], integer_only=True)
    fits = {t: scheme.activation.fit(-4, 4) for t in positions.sources}
    (problem,) = lower(insert_qdq(graph, positions, fits, scheme), load_device(WIDE)).problems
    assert problem.why == f"it reads int16; the products of {WIDE} read int8"
