"""The scheduler under arbitrary orders of arrival, completion, failure and cancelling; time is a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagekit.errors import Cancelled, DeadlineMissed, EngineError, UsageError
from stagekit.runtime.cost import Cost
from stagekit.runtime.policy import earliest_deadline
from stagekit.runtime.program import Program, call_keys
from stagekit.runtime.scheduler import Batch, Scheduler
from stagekit.runtime.work import Frame, Request

from .programs import compute, engines, expected, prompted

TASKS = (prompted("a", (0, 2)), prompted("b", (1,)), prompted("c"), prompted("d", (0, 1, 2, 3)), prompted("e", (1, 3)))
BY_NAME = {p.task: p for p in TASKS}
SIZES = (1, 2, 4)


def make(
    programs: Sequence[Program] = TASKS,
    sizes: tuple[int, ...] = (1,),
    depth: int = 1,
    prior: Cost | None = None,
    **more: Any,
) -> Scheduler:
    scheduler = Scheduler({"device": depth}, **more)
    for digest in engines(programs):
        scheduler.add_engine(digest, "device", sizes, 10, prior)
    for program in programs:
        scheduler.add(program)
    return scheduler


def drain(scheduler: Scheduler, now: float = 0.0) -> list[list[str]]:
    """Runs all there is; the labels of every batch."""
    ran = []
    while batches := scheduler.schedule(now):
        for batch in batches:
            ran.append([f"{w.task}:{w.step.label.rpartition('/')[2]}" for w in batch.works])
            scheduler.complete(batch, compute(batch), now)
    return ran


def assert_empty(scheduler: Scheduler) -> None:
    """Nothing is held that nobody will read."""
    assert scheduler.in_flight == 0
    assert scheduler.live_bytes == 0
    assert not scheduler._flow.frames
    assert all(q.active == 0 and q.ready == 0 for q in scheduler.engines.values())
    assert all(d.in_flight == 0 for d in scheduler.devices.values())


class Failure(Exception):
    pass


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Requests, cancels, and completions (good or bad) of any batch in flight, in any order."""
    step = st.one_of(
        st.tuples(
            st.just("submit"),
            st.integers(0, 3),
            st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True),
            st.booleans(),
            st.sampled_from([None, None, 5.0, 50.0]),
            st.integers(0, 2),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("start")),
        st.tuples(st.just("finish"), st.integers(0, 5)),
        st.tuples(st.just("fail"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.floats(0.1, 10.0)),
    )
    return draw(st.lists(step, min_size=5, max_size=60))


@settings(max_examples=250, deadline=None)
@given(scripts(), st.integers(1, 3), st.sampled_from([0, 45, 1 << 20]))
def test_every_request_is_answered_once_and_as_if_it_had_been_alone(
    script: list[tuple[Any, ...]], depth: int, budget: int
) -> None:
    scheduler = make(sizes=SIZES, depth=depth, budget=budget)
    answers: list[Request] = []
    requests: list[Request] = []
    running: list[Batch] = []
    cancelled: set[int] = set()
    failed = False
    now = 0.0

    def start() -> None:
        for batch in scheduler.schedule(now):
            assert 1 <= len(batch.works) <= SIZES[-1]
            assert len({w.step.queue for w in batch.works}) == 1
            running.append(batch)
        assert len(running) <= depth

    for kind, *details in script:
        if kind == "submit":
            number, tasks, shared, deadline, priority = details
            frame = Frame(f"f{number}" if shared else f"own{len(requests)}", ("pixels", number), shared)
            due = None if deadline is None else now + deadline
            requests.append(scheduler.submit(frame, tasks, now, due, priority, answers.append))
        elif kind == "cancel" and requests:
            request = requests[details[0] % len(requests)]
            if scheduler.cancel(request):
                cancelled.add(id(request))
        elif kind == "start":
            start()
        elif kind in ("finish", "fail") and running:
            batch = running.pop(details[0] % len(running))
            failed |= kind == "fail"
            outcomes = compute(batch) if kind == "finish" else [Failure("lost")] * len(batch.works)
            scheduler.complete(batch, outcomes, now)
        elif kind == "wait":
            now += details[0]
    while True:
        start()
        if not running:
            break
        batch = running.pop()
        scheduler.complete(batch, compute(batch), now)
    scheduler.expire(now)
    assert sorted(map(id, scheduler.finished)) == sorted(map(id, requests))
    for request in requests:
        for entry, outcome in zip(request.entries, request.outcomes, strict=True):
            if isinstance(outcome, Failure):
                assert failed
            elif isinstance(outcome, DeadlineMissed):
                assert request.deadline is not None and request.deadline <= now
            elif isinstance(outcome, Cancelled):
                assert id(request) in cancelled
            else:
                assert outcome == expected(BY_NAME[entry.task], request.frame.value)
    assert_empty(scheduler)
    assert scheduler.cache.bytes <= budget


def test_what_tasks_begin_with_alike_is_computed_once() -> None:
    scheduler = make()
    request = scheduler.submit(Frame("f", "x"), ["a", "b", "c"], 0.0)
    ran = [label for batch in drain(scheduler) for label in batch]
    # stage0 for all; stage1 for b and c together and for a behind its SPM; then each for itself but c's.
    assert len([label for label in ran if label.endswith("stage0")]) == 1
    assert len([label for label in ran if label.endswith("stage1")]) == 2
    assert request.outcomes == [expected(BY_NAME[t], "x") for t in "abc"]
    counts = scheduler.statistics()
    assert counts.shared["stage0"] == 2 and counts.shared["stage1"] == 1
    assert counts.requests["done"] == 1


def test_a_call_is_named_by_its_engine_and_inputs_alone() -> None:
    scheduler = make()
    for program in TASKS:
        entry = scheduler.registry.find(program.task)
        assert [s.key("frame") for s in entry.steps] == call_keys(program, "frame")


def test_frames_with_other_keys_share_nothing() -> None:
    scheduler = make()
    first = scheduler.submit(Frame("f", "x"), ["c"], 0.0)
    second = scheduler.submit(Frame("g", "y"), ["c"], 0.0)
    drain(scheduler)
    assert first.outcomes == [expected(BY_NAME["c"], "x")]
    assert second.outcomes == [expected(BY_NAME["c"], "y")]
    assert not scheduler.statistics().shared


def test_a_shared_frame_is_computed_once_while_in_flight_and_after() -> None:
    scheduler = make()
    first = scheduler.submit(Frame("f", "x", reusable=True), ["a"], 0.0)
    second = scheduler.submit(Frame("f", "x", reusable=True), ["a"], 0.0)
    assert len(drain(scheduler)) == len(TASKS[0].calls)
    third = scheduler.submit(Frame("f", "x", reusable=True), ["a"], 0.0)
    assert third.done and not drain(scheduler)
    assert first.outcomes == second.outcomes == third.outcomes
    fourth = scheduler.submit(Frame("f", "x", reusable=True), ["e"], 0.0)
    assert drain(scheduler)[0] == ["e:stage1"]  # stage0 was kept
    assert fourth.outcomes == [expected(BY_NAME["e"], "x")]
    assert_empty(scheduler)


def test_results_of_a_frame_that_nobody_shares_are_not_kept() -> None:
    scheduler = make()
    scheduler.submit(Frame("f", "x"), ["a"], 0.0)
    drain(scheduler)
    assert len(scheduler.cache) == 0
    assert_empty(scheduler)


def test_values_go_when_their_last_known_reader_has_read_them() -> None:
    scheduler = make([prompted("c")])
    scheduler.submit(Frame("f", "x"), ["c"], 0.0)
    held = []
    while batches := scheduler.schedule(0.0):
        for batch in batches:
            scheduler.complete(batch, compute(batch), 0.0)
            held.append(scheduler.live_bytes)
    assert held == [10, 10, 10, 10, 0]  # each stage's output until the next has read it; the result is the caller's


def test_adapters_go_before_stages_and_stages_by_deadline() -> None:
    scheduler = make([prompted("a", (0,), 2), prompted("c", (), 2)])
    scheduler.submit(Frame("late", "x"), ["a"], 0.0, deadline=9.0)
    scheduler.submit(Frame("soon", "y"), ["c"], 0.0, deadline=5.0)
    scheduler.submit(Frame("soonest", "z"), ["a"], 0.0, deadline=1.0)
    order = [batch[0] for batch in drain(scheduler)]
    assert order == [
        *["a:stage0", "a:spm0", "a:stage1", "a:head"],  # due at 1
        *["c:stage0", "c:stage1", "c:head"],  # at 5
        *["a:stage0", "a:spm0", "a:stage1", "a:head"],
    ]


def test_a_ready_adapter_overtakes_an_earlier_deadline_on_a_stage() -> None:
    scheduler = make([prompted("a", (0,), 2), prompted("c", (), 2)])
    scheduler.submit(Frame("late", "x"), ["a"], 0.0, deadline=9.0)
    (batch,) = scheduler.schedule(0.0)
    scheduler.submit(Frame("soon", "y"), ["c"], 0.0, deadline=5.0)
    scheduler.complete(batch, compute(batch), 0.0)
    assert [b[0] for b in drain(scheduler)][:2] == ["a:spm0", "c:stage0"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1.0, 100.0), min_size=1, max_size=20, unique=True))
def test_stages_run_by_earliest_deadline(deadlines: list[float]) -> None:
    scheduler = make([prompted("c", (), 1)])
    for number, deadline in enumerate(deadlines):
        scheduler.submit(Frame(str(number), "x"), ["c"], 0.0, deadline=deadline)
    order = []
    while batches := scheduler.schedule(0.0):
        for batch in batches:
            order += [w.due for w in batch.works if not w.step.adapter]
            scheduler.complete(batch, compute(batch), 0.0)
    assert order == sorted(deadlines)


def test_a_higher_priority_goes_first_whatever_the_deadlines() -> None:
    scheduler = make([prompted("c", (), 1)])
    scheduler.submit(Frame("f", "x"), ["c"], 0.0, deadline=1.0)
    scheduler.submit(Frame("g", "y"), ["c"], 0.0, deadline=9.0, priority=1)
    (batch,) = scheduler.schedule(0.0)
    assert batch.works[0].frame.key == "g"


def test_who_comes_later_with_an_earlier_deadline_hurries_what_is_shared() -> None:
    scheduler = make([prompted("c", (), 1)])
    for key, due in (("f", 9.0), ("g", 5.0)):
        scheduler.submit(Frame(key, key, reusable=True), ["c"], 0.0, deadline=due)
    scheduler.submit(Frame("f", "f", reusable=True), ["c"], 0.0, deadline=1.0)
    (batch,) = scheduler.schedule(0.0)
    assert batch.works[0].frame.key == "f"
    scheduler.complete(batch, compute(batch), 0.0)
    drain(scheduler)
    assert_empty(scheduler)


def test_images_of_several_tasks_share_a_batch() -> None:
    scheduler = make([prompted("a", (0,), 2), prompted("b", (0,), 2)], sizes=(1, 2, 4), prior=Cost(3.0, 1.0))
    scheduler.submit(Frame("f", "x"), ["a", "b"], 0.0)
    ran = drain(scheduler)
    assert ["a:stage1", "b:stage1"] in ran
    assert ["a:stage0"] in ran


def test_a_batch_is_no_larger_than_pays() -> None:
    assert len(first_batch(Cost(1.0, 1.0))) == 4
    assert len(first_batch(Cost(0.0, 1.0))) == 1, "where batching gains nothing, nobody waits for a neighbour"


def first_batch(prior: Cost) -> list[Any]:
    scheduler = make([prompted("c", (), 1)], sizes=SIZES, prior=prior)
    for number in range(7):
        scheduler.submit(Frame(str(number), "x"), ["c"], 0.0)
    (batch,) = scheduler.schedule(0.0)
    return batch.works


def test_nothing_waits_for_a_batch_to_fill_up() -> None:
    scheduler = make([prompted("c", (), 1)], sizes=SIZES, prior=Cost(9.0, 1.0))
    scheduler.submit(Frame("f", "x"), ["c"], 0.0)
    assert [len(b.works) for b in scheduler.schedule(0.0)] == [1]


def test_no_more_batches_are_in_flight_than_the_device_takes() -> None:
    scheduler = make(depth=2)
    for number in range(5):
        scheduler.submit(Frame(str(number), "x"), ["c"], 0.0)
    assert len(scheduler.schedule(0.0)) == 2
    assert scheduler.schedule(0.0) == []


def test_a_failed_batch_is_split_so_that_one_image_fails_alone() -> None:
    scheduler = make([prompted("c", (), 1)], sizes=SIZES, prior=Cost(9.0, 1.0))
    requests = [scheduler.submit(Frame(str(n), n), ["c"], 0.0) for n in range(4)]
    (batch,) = scheduler.schedule(0.0)
    assert len(batch.works) == 4
    scheduler.complete(batch, [Failure("all of it")] * 4, 0.0)
    while batches := scheduler.schedule(0.0):
        for batch in batches:
            bad = any(w.frame.value == 2 for w in batch.works)
            if batch.queue.digest == "s0":
                assert len(batch.works) == 1
            scheduler.complete(batch, [Failure("it was me")] if bad else compute(batch), 0.0)
    assert [isinstance(r.error, Failure) for r in requests] == [False, False, True, False]
    assert_empty(scheduler)


def test_a_failing_adapter_fails_its_own_task_and_no_other() -> None:
    scheduler = make()
    request = scheduler.submit(Frame("f", "x"), ["a", "c"], 0.0)
    while batches := scheduler.schedule(0.0):
        for batch in batches:
            bad = batch.queue.digest == "a/p0"
            scheduler.complete(batch, [EngineError("broken")] if bad else compute(batch), 0.0)
    assert isinstance(request.outcomes[0], EngineError)
    assert request.outcomes[1] == expected(BY_NAME["c"], "x")
    assert_empty(scheduler)


def test_cancelling_drops_what_only_the_request_wanted() -> None:
    scheduler = make()
    lost = scheduler.submit(Frame("f", "x", reusable=True), ["a"], 0.0)
    kept = scheduler.submit(Frame("f", "x", reusable=True), ["c"], 0.0)
    assert scheduler.cancel(lost)
    assert not scheduler.cancel(lost)
    ran = [label for batch in drain(scheduler) for label in batch]
    assert len(ran) == len(BY_NAME["c"].calls)
    assert isinstance(lost.error, Cancelled) and kept.error is None
    assert_empty(scheduler)


def test_a_request_past_its_deadline_is_answered_and_costs_no_more_calls() -> None:
    scheduler = make()
    request = scheduler.submit(Frame("f", "x"), ["a"], 0.0, deadline=2.0)
    (batch,) = scheduler.schedule(0.0)
    assert scheduler.next_deadline == 2.0
    scheduler.complete(batch, compute(batch), 3.0)
    assert scheduler.schedule(3.0) == []
    assert isinstance(request.error, DeadlineMissed)
    assert scheduler.next_deadline is None
    assert_empty(scheduler)


def test_deadlines_of_requests_long_answered_are_forgotten() -> None:
    scheduler = make([prompted("c", (), 1)])
    for number in range(1000):
        scheduler.submit(Frame(str(number), "x"), ["c"], 0.0, deadline=1e6)
        drain(scheduler)
    assert len(scheduler._deadlines) <= 65


def test_a_removed_task_answers_what_is_in_flight_and_then_needs_no_engine() -> None:
    scheduler = make([prompted("a", (0,)), prompted("c")])
    request = scheduler.submit(Frame("f", "x"), ["a"], 0.0)
    scheduler.remove("a")
    with pytest.raises(UsageError, match="no task 'a' is open"):
        scheduler.submit(Frame("g", "y"), ["a"], 0.0)
    assert scheduler.unused_engines() == []
    drain(scheduler)
    assert request.outcomes == [expected(prompted("a", (0,)), "x")]
    assert sorted(scheduler.unused_engines()) == ["a/h", "a/p0"]
    scheduler.submit(Frame("g", "y"), ["c"], 0.0)
    drain(scheduler)


def test_a_program_that_calls_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="z/head needs the engine z/h"):
        make().add(prompted("z"))


def test_another_policy_is_one_function() -> None:
    scheduler = make([prompted("a", (0,), 2), prompted("c", (), 2)], policy=earliest_deadline)
    scheduler.submit(Frame("late", "x"), ["a"], 0.0, deadline=9.0)
    (batch,) = scheduler.schedule(0.0)
    scheduler.submit(Frame("soon", "y"), ["c"], 0.0, deadline=5.0)
    scheduler.complete(batch, compute(batch), 0.0)
    assert [b[0] for b in drain(scheduler)][:2] == ["c:stage0", "c:stage1"]


def test_a_thousand_other_tasks_change_nothing_that_a_request_touches() -> None:
    few, many = make(), make([*TASKS, *(prompted(f"t{i}", (i % 4,)) for i in range(1000))])
    for scheduler in (few, many):
        scheduler.submit(Frame("f", "x"), ["a", "b"], 0.0)
    assert drain(few) == drain(many)
    assert len(few.devices["device"].heap) == len(many.devices["device"].heap)
