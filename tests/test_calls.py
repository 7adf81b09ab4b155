"""Engines whose calls take a thread of the host: what comes through, what is refused, who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Thread, current_thread

import numpy as np
import pytest

from stagekit.calls import OrderedLane, ThreadEngine, ThreadLane
from stagekit.errors import EngineError, UsageError
from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer, HostBuffer

SPEC = TensorSpec("x", "float32", ("batch", 2))
ONE = HostBuffer(SPEC.bind(batch=1), np.array([[1, 2]], np.float32))

Method = Callable[[ThreadLane, Sequence[Buffer], int], Sequence[Buffer]]


def submitted(lane: ThreadLane, inputs: Sequence[Buffer], batch: int) -> Sequence[Buffer]:
    return lane.submit(inputs, batch).wait()


both = pytest.mark.parametrize("method", [submitted, ThreadLane.run])


def engine(call: Callable[[Sequence[Buffer], int], tuple[Buffer, ...]]) -> ThreadEngine:
    return ThreadEngine("tiny", (SPEC,), (SPEC,), (1,), lambda: call)


@both
def test_a_failed_call_names_the_engine_and_keeps_the_cause(method: Method) -> None:
    def fails(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        raise MemoryError("no room")

    with pytest.raises(EngineError, match="the call failed: no room") as caught:
        method(engine(fails).lane(), [ONE], 1)
    assert caught.value.where == "tiny"
    assert isinstance(caught.value.__cause__, MemoryError)


@both
def test_what_does_not_fit_never_reaches_the_call(method: Method) -> None:
    made = engine(lambda inputs, batch: pytest.fail("it was called"))
    with pytest.raises(UsageError, match="expected 1 inputs"):
        method(made.lane(), [ONE, ONE], 1)
    with pytest.raises(UsageError, match="batches of 1, not 2"):
        method(made.lane(), [ONE], 2)


@both
def test_a_lane_of_a_closed_engine_refuses_calls(method: Method) -> None:
    made = engine(lambda inputs, batch: tuple(inputs))
    lane = made.lane()
    assert method(lane, [ONE], 1) == (ONE,)
    made.close()
    with pytest.raises(EngineError, match="closed"):
        method(lane, [ONE], 1)


def test_a_call_runs_on_the_lanes_thread_or_on_the_callers() -> None:
    seen: list[Thread] = []

    def watched(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        seen.append(current_thread())
        return tuple(inputs)

    lane = engine(watched).lane()
    lane.run([ONE], 1)
    lane.submit([ONE], 1).wait()
    assert seen[0] is current_thread()
    assert seen[1] is not current_thread()


class Later:
    """A call that a device makes by itself, when it is waited for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        return tuple(inputs)

    def start(self, inputs: Sequence[Buffer], batch: int) -> tuple[tuple[Buffer, ...], Callable[[], None]]:
        def wait() -> None:
            if self.error:
                raise self.error

        return tuple(inputs), wait


def test_lanes_of_an_ordered_device_tell_their_outputs_before_they_are_there() -> None:
    lane = ThreadEngine("tiny", (SPEC,), (SPEC,), (1,), Later, ordered=True).lane()
    assert isinstance(lane, OrderedLane)
    call = lane.start([ONE], 1)
    assert call.outputs == (ONE,) == call.wait()
    with pytest.raises(UsageError, match="expected 1 inputs"):
        lane.start([ONE, ONE], 1)
    assert not hasattr(engine(Later()).lane(), "start")


def test_a_started_call_that_fails_says_so_when_it_is_waited_for() -> None:
    made = ThreadEngine("tiny", (SPEC,), (SPEC,), (1,), lambda: Later(MemoryError("no room")), ordered=True)
    lane = made.lane()
    assert isinstance(lane, OrderedLane)
    call = lane.start([ONE], 1)
    with pytest.raises(EngineError, match="the call failed: no room"):
        call.wait()
    made.close()
    with pytest.raises(EngineError, match="closed"):
        lane.start([ONE], 1)


def test_closing_waits_for_the_calls_under_way() -> None:
    started, go_on = Event(), Event()

    def slow(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        started.set()
        assert go_on.wait(10)
        return tuple(inputs)

    made = engine(slow)
    lane = made.lane()
    call = lane.submit([ONE], 1)
    started.wait(10)
    closing = Thread(target=made.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    closing.join(10)
    assert call.done()
    assert call.wait() == (ONE,)


def test_a_closed_engine_lets_go_of_its_model() -> None:
    """Also while somebody keeps a lane of it."""
    from weakref import ref

    class Model:
        def __call__(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
            return tuple(inputs)

    model = Model()
    watched, made = ref(model), engine(model)
    del model
    lane = made.lane()
    lane.submit([ONE], 1).wait()
    made.close()
    assert watched() is None, lane
