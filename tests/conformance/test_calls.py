"""Calls: whose memory is whose, what is refused, what runs side by side."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from stagekit.errors import EngineError, StagekitError
from stagekit.graph import Graph, TensorSpec
from stagekit.target import Engine, EngineBlob, HostBuffer

from .conftest import Bench, buffers
from .graphs import Array, sample
from .test_results import assert_close

Compiled = Callable[[str], tuple[Graph, EngineBlob]]
MEGABYTE = 2**20


@pytest.fixture
def engine(bench: Bench, compiled: Compiled) -> Iterator[Engine]:
    opened = bench.target.load(compiled("residual")[1], bench.profile)
    yield opened
    opened.close()


def test_a_later_call_leaves_held_outputs_alone(bench: Bench, compiled: Compiled, engine: Engine) -> None:
    graph, _ = compiled("residual")
    samples = [sample(graph, 1, seed) for seed in range(6)]
    lane = engine.lane()
    held = [lane.submit(buffers(engine.inputs, s.inputs), 1).wait()[0] for s in samples]
    for buffer, s in zip(held, samples, strict=True):
        assert_close(buffer.to_host(), s.outputs[0], bench.tolerance)


def test_an_array_stays_valid_when_its_buffer_is_dropped(bench: Bench, compiled: Compiled, engine: Engine) -> None:
    graph, _ = compiled("residual")
    first, other = sample(graph, 1, 1), sample(graph, 1, 2)
    lane = engine.lane()
    rows = lane.submit(buffers(engine.inputs, first.inputs), 1).wait()[0].to_host()[0, 3:5]
    for _ in range(3):
        lane.submit(buffers(engine.inputs, other.inputs), 1).wait()
    assert_close(rows, first.outputs[0][0, 3:5], bench.tolerance * 10)


def test_outputs_outlive_their_engine(bench: Bench, compiled: Compiled) -> None:
    graph, blob = compiled("residual")
    s = sample(graph, 1)
    engine = bench.target.load(blob, bench.profile)
    (output,) = engine.lane().submit(buffers(engine.inputs, s.inputs), 1).wait()
    engine.close()
    del engine
    gc.collect()
    assert_close(output.to_host(), s.outputs[0], bench.tolerance)


def test_outputs_are_read_only(compiled: Compiled, engine: Engine) -> None:
    s = sample(compiled("residual")[0], 1)
    (output,) = engine.lane().submit(buffers(engine.inputs, s.inputs), 1).wait()
    with pytest.raises(ValueError, match="read-only"):
        output.to_host()[...] = 0


def test_an_engine_takes_what_an_engine_gave(bench: Bench, compiled: Compiled) -> None:
    graph, blob = compiled("softmax")
    s = sample(graph, 1)
    engine = bench.target.load(blob, bench.profile)
    lane = engine.lane()
    once = lane.submit(buffers(engine.inputs, s.inputs), 1).wait()
    (twice,) = lane.submit(once, 1).wait()
    plain = onnxruntime.InferenceSession(graph.proto().SerializeToString())
    (wanted,) = plain.run(None, {"x": s.outputs[0]})
    assert_close(twice.to_host(), wanted, bench.tolerance)
    engine.close()


def test_an_ordered_device_takes_a_chain_before_its_first_call_is_done(bench: Bench, compiled: Compiled) -> None:
    graph, blob = compiled("softmax")
    engine = bench.target.load(blob, bench.profile)
    lane: Any = engine.lane()
    ordered = getattr(bench.target, "ordered", lambda profile: False)(bench.profile)
    assert hasattr(lane, "start") == ordered
    for seed in range(10 * ordered):
        (frame,) = buffers(engine.inputs, sample(graph, 1, seed).inputs)
        started = [lane.start([frame], 1)]
        for _ in range(4):
            started.append(lane.start(started[-1].outputs, 1))
        ended = [call.wait()[0].to_host().copy() for call in started]
        for given, wanted in zip([frame.to_host(), *ended], ended, strict=False):
            (alone,) = lane.submit(buffers(engine.inputs, [given]), 1).wait()
            assert np.array_equal(alone.to_host(), wanted)
    engine.close()


def test_any_buffer_will_do_as_an_input(bench: Bench, compiled: Compiled, engine: Engine) -> None:
    """Also one of another target, of which only ``spec`` and ``to_host`` are known."""

    class Foreign:
        spec = engine.inputs[0].bind(batch=1)

        def to_host(self) -> Array:
            return s.inputs[0]

    s = sample(compiled("residual")[0], 1)
    (output,) = engine.lane().submit([Foreign()], 1).wait()
    assert_close(output.to_host(), s.outputs[0], bench.tolerance)


def test_inputs_may_be_read_only_or_strided(bench: Bench, compiled: Compiled, engine: Engine) -> None:
    s = sample(compiled("residual")[0], 1)
    frozen = s.inputs[0].copy()
    frozen.flags.writeable = False
    strided = np.ascontiguousarray(s.inputs[0].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for array in (frozen, strided):
        (output,) = engine.lane().submit(buffers(engine.inputs, [array]), 1).wait()
        assert_close(output.to_host(), s.outputs[0], bench.tolerance)


def test_two_lanes_at_once_keep_their_calls_apart(bench: Bench, compiled: Compiled, engine: Engine) -> None:
    graph, _ = compiled("residual")
    samples = [sample(graph, batch, seed) for batch, seed in ((1, 1), (3, 2))]
    lanes = [engine.lane(), engine.lane()]
    rounds = [
        [
            lane.submit(buffers(engine.inputs, s.inputs), len(s.inputs[0]))
            for lane, s in zip(lanes, samples, strict=True)
        ]
        for _ in range(10)
    ]
    for calls in rounds:
        for call, s in zip(calls, samples, strict=True):
            assert_close(call.wait()[0].to_host(), s.outputs[0], bench.tolerance)
            assert call.done()


def test_the_same_call_gives_the_same_bits(compiled: Compiled, engine: Engine) -> None:
    s = sample(compiled("residual")[0], 3)
    lane = engine.lane()
    first, second = (lane.submit(buffers(engine.inputs, s.inputs), 3).wait()[0].to_host() for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("shapes", "batch", "says"),
    [
        ([], 1, "expected 1 inputs"),
        ([(1, 32, 16, 16)] * 2, 1, "expected 1 inputs"),
        ([(1, 32, 16, 8)], 1, r"'x': expected float32 \[1, 32, 16, 16\], got float32 \[1, 32, 16, 8\]"),
        ([(3, 32, 16, 16)], 1, "'x': expected float32"),
        ([(32, 16, 16)], 1, "'x': expected float32"),
        ([(2, 32, 16, 16)], 2, "batches of 1, 3, not 2"),
    ],
)
def test_inputs_of_the_wrong_form_are_refused(
    engine: Engine, shapes: list[tuple[int, ...]], batch: int, says: str
) -> None:
    inputs = [HostBuffer(TensorSpec("mine", "float32", shape), np.zeros(shape, np.float32)) for shape in shapes]
    with pytest.raises(StagekitError, match=says):
        engine.lane().submit(inputs, batch)


def test_an_input_of_the_wrong_type_is_refused(compiled: Compiled, engine: Engine) -> None:
    spec = TensorSpec("mine", "float16", (1, 32, 16, 16))
    with pytest.raises(StagekitError, match=r"expected float32 .* got float16"):
        engine.lane().submit([HostBuffer(spec, np.zeros(spec.shape, np.float16))], 1)


def test_a_closed_engine_refuses_calls_and_may_be_closed_again(bench: Bench, compiled: Compiled) -> None:
    graph, blob = compiled("conv")
    s = sample(graph, 1)
    engine = bench.target.load(blob, bench.profile)
    lane = engine.lane()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        lane.submit(buffers(engine.inputs, s.inputs), 1)
    with pytest.raises(EngineError, match="closed"):
        engine.lane()


def test_memory_does_not_grow_with_calls(compiled: Compiled, engine: Engine) -> None:
    s = sample(compiled("residual")[0], 3)
    lane = engine.lane()
    inputs = buffers(engine.inputs, s.inputs)
    for _ in range(50):
        lane.submit(inputs, 3).wait()
    before = _resident()
    for _ in range(200):
        lane.submit(inputs, 3).wait()
    assert _resident() - before < 4 * MEGABYTE


def _resident() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("resident memory is read from /proc")
    return int(statm.read_text().split()[1]) * 4096
