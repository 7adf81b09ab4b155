"""Every target computes what plain ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stagekit.graph import Graph, TensorSpec
from stagekit.graph.spec import BLOCKED
from stagekit.target import EngineBlob

from .conftest import BATCHES, Bench, buffers
from .graphs import GRAPHS, Array, Sample, sample

Compiled = Callable[[str], tuple[Graph, EngineBlob]]


def assert_close(found: Array, wanted: Array, tolerance: float) -> None:
    found, wanted = found.astype(np.float32), wanted.astype(np.float32)
    assert found.shape == wanted.shape
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert error < tolerance, f"off by {error:.2e} of the largest value"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_gives_what_onnxruntime_gives(bench: Bench, compiled: Compiled, name: str, batch: int) -> None:
    graph, blob = compiled(name)
    expected = sample(graph, batch)
    engine = bench.target.load(blob, bench.profile)
    outputs = engine.lane().submit(buffers(engine.inputs, expected.inputs), batch).wait()
    assert [b.spec.name for b in outputs] == [s.name for s in graph.outputs]
    for buffer, wanted in zip(outputs, expected.outputs, strict=True):
        found = buffer.to_host()
        assert found.dtype == buffer.spec.numpy_dtype
        assert found.shape == buffer.spec.shape
        if wanted.dtype == np.uint8:
            # Near a tie between two classes a rounding may decide.
            assert np.mean(found == wanted) > (0.999 if bench.profile.precision == "f32" else 0.97)
        else:
            assert_close(found, wanted, bench.tolerance)
    engine.close()


def _converted(array: Array, plain: TensorSpec, spec: TensorSpec) -> Array:
    if spec.layout == BLOCKED:
        batch, channels, height, width = array.shape
        groups, size = spec.concrete()[1], spec.concrete()[4]
        filled = np.pad(array, ((0, 0), (0, groups * size - channels), (0, 0), (0, 0)))
        array = filled.reshape(batch, groups, size, height, width).transpose(0, 1, 3, 4, 2)
    elif spec.layout != plain.layout:
        array = array.transpose([plain.layout.index(axis) for axis in spec.layout])
    return np.ascontiguousarray(array.astype(spec.numpy_dtype))


@pytest.mark.parametrize("name", ["conv", "attention", "spm"])
def test_every_edge_format_on_offer_gives_the_same_result(bench: Bench, name: str) -> None:
    graph = GRAPHS[name]()
    expected = sample(graph, 1)
    offers = bench.target.boundaries(graph.inputs[0], bench.profile)
    assert offers[0] == graph.inputs[0], "the plain form comes first"
    for offer in offers:
        inputs = [_as(bench, spec, offer) for spec in graph.inputs]
        outputs = [_as(bench, spec, offer) for spec in graph.outputs]
        engine = bench.target.load(bench.compile(graph, inputs, outputs), bench.profile)
        assert engine.inputs == tuple(inputs)
        bound = [spec.bind(batch=1) for spec in inputs]
        arrays = [_converted(a, p, s) for a, p, s in zip(expected.inputs, graph.inputs, bound, strict=True)]
        found = engine.lane().submit(buffers(inputs, arrays), 1).wait()
        for buffer, wanted, plain, spec in zip(found, expected.outputs, graph.outputs, outputs, strict=True):
            assert buffer.spec == spec.bind(batch=1)
            assert_close(buffer.to_host(), _converted(wanted, plain, buffer.spec), bench.tolerance)
        engine.close()


def _as(bench: Bench, spec: TensorSpec, offer: TensorSpec) -> TensorSpec:
    """A tensor in the form of another's offer, where the target has that for it."""
    own = bench.target.boundaries(spec, bench.profile)
    return next((form for form in own if (form.dtype, form.layout) == (offer.dtype, offer.layout)), spec)


def test_a_square_cube_is_transposed_all_the_same(bench: Bench) -> None:
    """64 channels, 64 high, 64 wide: the shape alone does not tell the order of axes."""
    from .graphs import FLOAT, Net

    net = Net(9)
    net.conv("x", (8, 8), to="y")
    graph = net.graph({"x": (FLOAT, "NCHW", [8, 8, 8])}, {"y": (FLOAT, "NCHW", [8, 8, 8])})
    expected: Sample = sample(graph, 1)
    for offer in bench.target.boundaries(graph.inputs[0], bench.profile):
        inputs, outputs = [_as(bench, graph.inputs[0], offer)], [_as(bench, graph.outputs[0], offer)]
        engine = bench.target.load(bench.compile(graph, inputs, outputs), bench.profile)
        arrays = [_converted(expected.inputs[0], graph.inputs[0], inputs[0].bind(batch=1))]
        (found,) = engine.lane().submit(buffers(inputs, arrays), 1).wait()
        assert_close(found.to_host(), _converted(expected.outputs[0], graph.outputs[0], found.spec), bench.tolerance)
        engine.close()
