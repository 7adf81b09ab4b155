"""Calls that an ordered device is handed before their inputs are there, and all that may go wrong meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import cycle
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagekit.errors import Cancelled, DeadlineMissed, EngineError
from stagekit.runtime.driver import Driver
from stagekit.runtime.null import SCALAR, NullEngine, NullLane
from stagekit.runtime.scheduler import Batch, Scheduler
from stagekit.runtime.work import Frame, Request
from stagekit.target import Buffer

from .programs import compute, expected, outputs, prompted
from .test_driver import TIMEOUT, fail, scalar, sum_and_one
from .test_scheduler import BY_NAME, Failure, assert_empty, make, scripts

Compute = Callable[[Sequence[Buffer], int], tuple[Buffer, ...]]
FATES = st.lists(st.sampled_from(["good", "good", "good", "again", "lost"]), min_size=1, max_size=9)


@settings(max_examples=250, deadline=None)
@given(scripts(), FATES, st.integers(2, 3), st.sampled_from([0, 45, 1 << 20]))
def test_requests_are_answered_as_if_nothing_had_been_started_ahead(
    script: list[tuple[Any, ...]], fates: list[str], depth: int, budget: int
) -> None:
    """Calls whose fate is not good promise rubbish: none of it may reach an answer."""
    scheduler = make(depth=depth, budget=budget)
    requests: list[Request] = []
    running: deque[tuple[Batch, str, Any]] = deque()
    fate, now = cycle(fates), 0.0

    def start() -> None:
        batch = scheduler.next_batch(scheduler.devices["device"], now)
        if batch is not None:
            (work,), kind = batch.works, next(fate)
            promised = outputs(batch.queue.digest if kind == "good" else "rubbish", work.taken())
            running.append((batch, kind, promised))
            scheduler.started(batch, promised)

    def finish() -> None:
        batch, kind, promised = running.popleft()
        (work,) = batch.works
        if isinstance(work.spoilt, Exception):
            scheduler.complete(batch, [work.spoilt], now)
        elif kind == "lost":
            scheduler.complete(batch, [Failure("lost")], now)
        else:
            again = work.spoilt or kind == "again"
            scheduler.complete(batch, compute(batch) if again else [promised], now)

    for kind, *details in script:
        if kind == "submit":
            number, tasks, shared, deadline, priority = details
            frame = Frame(f"f{number}" if shared else f"own{len(requests)}", ("pixels", number), shared)
            due = None if deadline is None else now + deadline
            requests.append(scheduler.submit(frame, tasks, now, due, priority))
        elif kind == "cancel" and requests:
            scheduler.cancel(requests[details[0] % len(requests)])
        elif kind == "start":
            start()
        elif kind in ("finish", "fail") and running:
            finish()
        elif kind == "wait":
            now += details[0]
    while True:
        while len(running) < depth:
            before = len(running)
            start()
            if len(running) == before:
                break
        if not running:
            break
        finish()
    scheduler.expire(now)
    assert sorted(map(id, scheduler.finished)) == sorted(map(id, requests))
    for request in requests:
        for entry, outcome in zip(request.entries, request.outcomes, strict=True):
            if isinstance(outcome, Failure):
                assert "lost" in fates
            elif not isinstance(outcome, Cancelled | DeadlineMissed):
                assert outcome == expected(BY_NAME[entry.task], request.frame.value)
    assert_empty(scheduler)


class Stream:
    """An ordered device that computes when somebody waits, all that was started before first."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._jobs: deque[Callable[[], None]] = deque()

    def start(self, digest: str, job: Callable[[], None]) -> Callable[[], None]:
        """Takes a job; gives what to call to wait for it."""
        errors: list[Exception] = []
        self.events.append(f"start {digest}")

        def run() -> None:
            try:
                job()
            except Exception as error:
                errors.append(error)

        def wait() -> None:
            self.events.append(f"wait {digest}")
            while run in self._jobs:
                self._jobs.popleft()()
            if errors:
                raise errors[0]

        self._jobs.append(run)
        return wait


class Ahead:
    """A call on a stream; its outputs are NaN until it is computed."""

    def __init__(self, stream: Stream, digest: str, inputs: Sequence[Buffer], compute: Compute) -> None:
        self.outputs: tuple[Buffer, ...] = (scalar(np.nan), scalar(np.nan))

        def job() -> None:
            for promised, value in zip(self.outputs, compute(inputs, 1), strict=True):
                promised.to_host()[...] = value.to_host()

        self._wait = stream.start(digest, job)

    def wait(self) -> tuple[Buffer, ...]:
        self._wait()
        return self.outputs


class StreamEngine(NullEngine):
    """A null engine whose lanes have ``start``."""

    digest: str
    stream: Stream

    def lane(self) -> NullLane:
        lane = super().lane()
        lane.start = lambda inputs, batch: Ahead(self.stream, self.digest, inputs, self.run)  # type: ignore[attr-defined]
        return lane


class Bench:
    """A driver over an ordered device; ``faults`` maps an engine to what it does instead."""

    def __init__(self, sizes: tuple[int, ...] = (1,)) -> None:
        self.stream = Stream()
        self.faults: dict[str, Compute] = {}
        self.reopened: list[str] = []
        self.sizes = sizes
        self.driver = Driver(Scheduler({"null": 2}), reopen=self._reopen, ordered=["null"])
        for program in (prompted("a", (0,), 3), prompted("c", (), 3)):
            self.driver.add(program, lambda digest: (self._engine(digest), "null"))

    def _engine(self, digest: str) -> StreamEngine:
        def compute(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
            return self.faults.get(digest, sum_and_one)(inputs, batch)

        engine = StreamEngine((SCALAR,), (SCALAR, SCALAR), self.sizes, compute=compute)
        engine.digest, engine.stream = digest, self.stream
        return engine

    def _reopen(self, digest: str) -> StreamEngine:
        self.reopened.append(digest)
        return self._engine(digest)

    def run(self, value: float, *tasks: str, waits: bool = True) -> list[Any]:
        done: Future[Request] = Future()
        self.driver.submit(Frame(f"f{value}", scalar(value)), tasks, done.set_result, waits=waits)
        outcomes = done.result(TIMEOUT).outcomes
        return [o if isinstance(o, Exception) else float(o.to_host()[0]) for o in outcomes]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.driver.close()


def test_a_call_is_started_before_the_one_that_it_reads_is_waited_for(bench: Bench) -> None:
    assert bench.run(1.0, "c") == [5.0]
    assert bench.stream.events == [
        *("start s0", "start s1", "wait s0", "start s2", "wait s1", "start c/h", "wait s2", "wait c/h")
    ]


@pytest.mark.parametrize("waits", [True, False])
def test_results_are_those_of_the_program(bench: Bench, waits: bool) -> None:
    for value in range(20):
        assert bench.run(float(value), "a", "c", waits=waits) == [value + 5.0, value + 4.0]
    assert bench.driver.statistics().requests["done"] == 20


def test_what_was_started_behind_an_engine_that_is_reopened_is_made_again(bench: Bench) -> None:
    def once(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        bench.faults.clear()
        return fail(inputs, batch)

    bench.faults["s1"] = once
    assert bench.run(1.0, "a", "c") == [6.0, 5.0]
    assert bench.reopened == ["s1"]
    assert bench.driver.out == {}


def test_what_was_started_behind_an_adapter_that_fails_fails_with_it_and_nothing_else(bench: Bench) -> None:
    bench.faults["a/p0"] = lambda inputs, batch: (scalar(np.inf), scalar(0.0))
    error, result = bench.run(1.0, "a", "c")
    assert isinstance(error, EngineError) and "a/spm0 gave values that are not finite" in error.what
    assert result == 5.0
    bench.faults["a/p0"] = fail
    error, result = bench.run(2.0, "a", "c")
    assert isinstance(error, EngineError) and "a/spm0 failed" in error.what
    assert result == 6.0
    assert set(bench.driver.out) == {"a"}
    assert bench.run(3.0, "c") == [7.0]


def test_a_call_that_cannot_be_started_fails_when_its_turn_comes(bench: Bench) -> None:
    def refuse(inputs: Sequence[Buffer], batch: int) -> Any:
        raise RuntimeError("no room")

    bench.stream.start = refuse  # type: ignore[assignment]
    assert bench.run(1.0, "c") == [5.0], "the call itself goes without it"


def test_batches_are_gathered_from_what_is_there() -> None:
    bench = Bench(sizes=(2,))
    assert bench.run(1.0, "a", "c") == [6.0, 5.0]
    bench.driver.close()


def test_cancelling_and_closing_leave_no_call_behind(bench: Bench) -> None:
    begun, cancelled = Event(), Event()

    def held(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        begun.set()
        assert cancelled.wait(TIMEOUT)
        return sum_and_one(inputs, batch)

    bench.faults["s0"] = held
    lost: Future[Request] = Future()
    request = bench.driver.submit(Frame("f", scalar(1.0)), ["c"], lost.set_result)
    assert begun.wait(TIMEOUT)
    assert bench.driver.cancel(request)
    cancelled.set()
    assert isinstance(lost.result(TIMEOUT).error, Cancelled)
    assert bench.run(1.0, "c", waits=False) == [5.0]
    bench.driver.close()
    begun_calls, waited = ([e for e in bench.stream.events if word in e] for word in ("start", "wait"))
    assert len(begun_calls) == len(waited)
