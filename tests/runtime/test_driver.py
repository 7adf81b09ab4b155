"""Threads, lanes, failures and closing, over engines that take no time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from stagekit.errors import Cancelled, DeadlineMissed, EngineError, Overloaded, StagekitError, UsageError
from stagekit.runtime.admission import Admission
from stagekit.runtime.driver import Driver
from stagekit.runtime.null import SCALAR, NullEngine
from stagekit.runtime.program import Program
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.work import Frame, Request
from stagekit.target import Buffer, HostBuffer

from .programs import prompted

TIMEOUT = 10.0
Answers = tuple[list[Any], Future[Request]]


def scalar(value: float) -> HostBuffer:
    return HostBuffer(SCALAR.bind(batch=1), np.full(1, value, np.float32))


def sum_and_one(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
    """Each output is the sum of the inputs and 1, image by image: a program's result counts its calls."""
    total = sum(b.to_host() for b in inputs) + 1  # type: ignore[arg-type]
    return tuple(HostBuffer(SCALAR.bind(batch=batch), np.asarray(total, np.float32)) for _ in range(2))


class Bench:
    """A driver over null engines for some programs; ``faults`` maps an engine to what it does instead."""

    def __init__(self, programs: Sequence[Program], sizes: tuple[int, ...] = (1,), depth: int = 2, **more: Any) -> None:
        self.faults: dict[str, Callable[[Sequence[Buffer], int], tuple[Buffer, ...]]] = {}
        self.opened: list[NullEngine] = []
        self.reopened: list[str] = []
        self.sizes = sizes
        self.driver = Driver(Scheduler({"null": depth}), reopen=self._reopen, **more)
        for program in programs:
            self.add(program)

    def add(self, program: Program) -> None:
        self.driver.add(program, lambda digest: (self._engine(digest), "null"))

    def _engine(self, digest: str) -> NullEngine:
        def compute(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
            return self.faults.get(digest, sum_and_one)(inputs, batch)

        engine = NullEngine((SCALAR,), (SCALAR, SCALAR), self.sizes, compute=compute)
        self.opened.append(engine)
        return engine

    def _reopen(self, digest: str) -> NullEngine:
        self.reopened.append(digest)
        return self._engine(digest)

    def submit(self, value: float, *tasks: str, **more: Any) -> Future[Request]:
        done: Future[Request] = Future()
        frame = Frame(f"f{value}", scalar(value))
        done.request = self.driver.submit(frame, tasks, done.set_result, **more)  # type: ignore[attr-defined]
        return done

    def run(self, value: float, *tasks: str) -> list[Any]:
        outcomes = self.submit(value, *tasks).result(TIMEOUT).outcomes
        return [o if isinstance(o, Exception) else float(o.to_host()[0]) for o in outcomes]


PROGRAMS = [prompted("a", (0,), 2), prompted("c", (), 2)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(PROGRAMS)
    yield made
    made.driver.close()


def test_results_come_from_the_calls_of_the_program(bench: Bench) -> None:
    assert bench.run(10.0, "a", "c") == [14.0, 13.0]


def test_many_threads_get_their_own_results(bench: Bench) -> None:
    wrong: list[float] = []

    def ask(start: int) -> None:
        futures = [(v, bench.submit(float(v), "a")) for v in range(start, start + 50)]
        wrong.extend(v for v, f in futures if float(f.result(TIMEOUT).outcomes[0].to_host()[0]) != v + 4)

    threads = [threading.Thread(target=ask, args=(i * 1000,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert wrong == []
    assert bench.driver.statistics().requests["done"] == 200


def test_images_in_a_batch_get_their_own_results() -> None:
    bench = Bench(PROGRAMS, sizes=(1, 2, 4), depth=1)
    gate = hold(bench, "s0")
    first = bench.submit(0.0, "c")
    futures = [bench.submit(float(v), "c") for v in range(1, 8)]
    gate.set()
    assert [float(f.result(TIMEOUT).outcomes[0].to_host()[0]) for f in [first, *futures]] == [3.0 + v for v in range(8)]
    statistics = bench.driver.statistics()
    assert statistics.batches["stage0"] < statistics.calls["stage0"] == 8
    bench.driver.close()


def test_a_batch_smaller_than_the_engine_takes_is_filled_up() -> None:
    bench = Bench(PROGRAMS, sizes=(4,))
    assert bench.run(1.0, "c") == [4.0]
    bench.driver.close()


def test_a_batch_that_stays_together_is_copied_once() -> None:
    bench = Bench([prompted("c", (), 4)], sizes=(1, 2), depth=1)
    gate = hold(bench, "s0")
    futures = [bench.submit(float(v), "c") for v in range(3)]
    gate.set()
    for future in futures:
        future.result(TIMEOUT)
    assert bench.driver.statistics().gathered_bytes == 8  # two floats for the first stage, none for those after it
    bench.driver.close()


def hold(bench: Bench, digest: str) -> threading.Event:
    """Makes an engine wait until the event is set."""
    gate = threading.Event()

    def wait(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        assert gate.wait(TIMEOUT)
        return sum_and_one(inputs, batch)

    bench.faults[digest] = wait
    return gate


def fail(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
    raise RuntimeError("device lost")


def test_an_engine_that_fails_once_is_reopened_and_nobody_notices(bench: Bench) -> None:
    def once(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        bench.faults.clear()
        return fail(inputs, batch)

    bench.faults["a/p0"] = once
    assert bench.run(1.0, "a") == [5.0]
    assert bench.reopened == ["a/p0"]
    assert [e.closed for e in bench.opened].count(True) == 1
    assert bench.driver.out == {}


def test_an_engine_that_fails_again_takes_its_tasks_out_and_no_other(bench: Bench) -> None:
    bench.faults["a/p0"] = fail
    error, result = bench.run(1.0, "a", "c")
    assert isinstance(error, EngineError) and "a/spm0 failed" in error.what and "device lost" in error.what
    assert result == 4.0
    assert "a/spm0 failed again after it was reopened" in bench.driver.out["a"]
    with pytest.raises(EngineError, match="the task was taken out: a/spm0"):
        bench.submit(1.0, "a")
    assert bench.run(2.0, "c") == [5.0]


def test_a_task_that_was_taken_out_can_be_added_again(bench: Bench) -> None:
    bench.faults["a/p0"] = fail
    bench.run(1.0, "a")
    bench.faults.clear()
    bench.add(PROGRAMS[0])
    assert bench.run(1.0, "a") == [5.0]


def test_a_stage_that_dies_takes_all_tasks_out(bench: Bench) -> None:
    bench.faults["s1"] = fail
    bench.run(1.0, "c")
    assert set(bench.driver.out) == {"a", "c"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_adapter_that_gives_no_numbers_fails_its_own_requests(bench: Bench, value: float) -> None:
    bench.faults["a/p0"] = lambda inputs, batch: (scalar(value), scalar(0.0))
    error, result = bench.run(1.0, "a", "c")
    assert isinstance(error, EngineError) and "not finite" in error.what
    assert result == 4.0
    assert bench.driver.out == {}, "the engine is not dead"


def test_an_input_that_does_not_fit_fails_the_request_and_not_the_engine(bench: Bench) -> None:
    def refuse(inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        raise UsageError("expected another shape")

    bench.faults["s0"] = refuse
    (error,) = bench.run(1.0, "c")
    assert isinstance(error, StagekitError) and "another shape" in error.what
    assert bench.reopened == [] and bench.driver.out == {}


def test_a_cancelled_request_is_answered_at_once_and_others_go_on() -> None:
    bench = Bench(PROGRAMS, depth=1)
    gate = hold(bench, "s0")
    lost, kept = bench.submit(1.0, "c"), bench.submit(2.0, "c")
    assert bench.driver.cancel(lost.request)  # type: ignore[attr-defined]
    assert isinstance(lost.result(0).error, Cancelled)
    gate.set()
    assert kept.result(TIMEOUT).error is None
    bench.driver.close()


def test_a_deadline_is_noticed_though_nothing_else_happens() -> None:
    bench = Bench(PROGRAMS, depth=2)
    gate = hold(bench, "s0")
    request = bench.submit(1.0, "c", deadline=0.01)
    assert isinstance(request.result(TIMEOUT).error, DeadlineMissed)
    gate.set()
    bench.driver.close()


def test_more_than_can_be_kept_in_flight_is_refused_and_room_comes_back() -> None:
    bench = Bench(PROGRAMS, depth=1, admission=Admission(most=2))
    gate = hold(bench, "s0")
    futures = [bench.submit(1.0, "c"), bench.submit(2.0, "c")]
    with pytest.raises(Overloaded, match="try again in"):
        bench.submit(3.0, "c")
    gate.set()
    for future in futures:
        future.result(TIMEOUT)
    assert bench.run(4.0, "c") == [7.0]
    assert bench.driver.statistics().requests["refused"] == 1
    bench.driver.close()


def test_removing_a_task_answers_what_is_in_flight_and_closes_its_engines() -> None:
    bench = Bench(PROGRAMS, depth=1)
    gate = hold(bench, "s0")
    future = bench.submit(1.0, "a")
    bench.driver.remove("a")
    gate.set()
    assert future.result(TIMEOUT).error is None
    assert bench.run(1.0, "c") == [4.0]  # after the answer, in the same thread, come the engines
    assert set(bench.driver.engines) == {"s0", "s1", "c/h"}
    assert [e.closed for e in bench.opened].count(True) == 2
    bench.driver.close()


def test_closing_answers_everybody() -> None:
    bench = Bench(PROGRAMS, depth=1)
    gate = hold(bench, "s0")
    futures = [bench.submit(float(v), "a") for v in range(5)]
    closing = threading.Thread(target=bench.driver.close)
    closing.start()
    assert all(isinstance(f.result(TIMEOUT).error, Cancelled) for f in futures)
    gate.set()
    closing.join(TIMEOUT)
    assert all(engine.closed for engine in bench.opened)
    with pytest.raises(Cancelled):
        bench.submit(1.0, "a")
