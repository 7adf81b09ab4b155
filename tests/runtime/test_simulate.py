"""What the scheduler promises under load, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stagekit.runtime.admission import Admission
from stagekit.runtime.cost import Cost
from stagekit.runtime.policy import Policy, adapters_first, earliest_deadline
from stagekit.runtime.simulate import Arrival, Simulated, SimulatedDevice, SimulatedEngine, simulate

from .programs import engines, prompted

MS = 1e-3
TASKS = [prompted(f"t{i}", (0, 1, 2, 3)) for i in range(8)]
SIZES = tuple(range(1, 17))


def engine(digest: str, device: str = "d") -> SimulatedEngine:
    """A stage takes 3 + n ms, an SPM or head a tenth."""
    scale = MS if "/" not in digest else 0.1 * MS
    return SimulatedEngine(device, Cost(3 * scale, scale), SIZES)


ENGINES = {digest: engine(digest) for digest in engines(TASKS)}


def poisson(rate: float, seconds: float, deadline: float | None = None, seed: int = 0) -> Iterator[Arrival]:
    random, now = np.random.default_rng(seed), 0.0
    while (now := now + random.exponential(1 / rate)) < seconds:
        yield Arrival(now, (f"t{random.integers(8)}",), deadline=deadline)


def capacity() -> float:
    """Requests per second with everything in the largest batches that come about under a backlog."""
    burst = [Arrival(0.0, (f"t{i % 8}",)) for i in range(2000)]
    return 2000 / simulate(TASKS, ENGINES, burst).ended


def within(result: Simulated, slo: float) -> float:
    return float(np.mean(result.latencies <= slo))


@pytest.mark.parametrize(("policy", "low", "high"), [(adapters_first, 0.99, 1.0), (earliest_deadline, 0.0, 0.9)])
def test_draining_adapters_first_keeps_promises_that_plain_deadlines_do_not(
    policy: Policy, low: float, high: float
) -> None:
    result = simulate(TASKS, ENGINES, poisson(0.85 * capacity(), 10.0), policy=policy)
    assert low <= within(result, 0.4) <= high


def test_under_overload_what_is_let_in_is_answered_in_time_and_nothing_is_lost() -> None:
    slo, rate = 0.5, 0.95 * capacity()
    assert within(simulate(TASKS, ENGINES, poisson(rate, 20.0)), slo) >= 0.99, "more than this cannot be promised"
    arrivals = list(poisson(1.5 * rate, 20.0))
    admission = Admission(slo)
    result = simulate(TASKS, ENGINES, arrivals, admission=admission)
    assert len(result.answered) + len(result.refused) == len(arrivals)
    good = sum(end - a.time <= slo for a, end, _ in result.answered if 2.0 <= end < 20.0) / 18.0
    assert good >= 0.95 * rate
    assert np.quantile(result.latencies, 0.99) <= slo


def test_without_a_cap_overload_makes_everybody_late() -> None:
    result = simulate(TASKS, ENGINES, poisson(1.5 * capacity(), 20.0))
    assert within(result, 0.5) < 0.2


def pipeline(depth: int) -> float:
    """The share of 1 / (longest load) that stages on one device and adapters on the other reach."""
    program = prompted("p", (0, 1, 2))
    apart = {d: SimulatedEngine("b" if "/" in d else "a", Cost(0.0, MS)) for d in engines([program])}
    device = SimulatedDevice(depth, transfer=0.5 * MS)
    burst = [Arrival(i * MS, ("p",)) for i in range(500)]
    result = simulate([program], apart, burst, {"a": device, "b": device})
    return 500 * 4 * MS / result.ended


def test_two_batches_in_flight_keep_two_devices_busy_and_one_does_not() -> None:
    assert pipeline(2) >= 0.95
    assert pipeline(1) <= 0.76


def test_hundreds_of_tasks_share_the_stages_in_front_of_their_adapters() -> None:
    tasks = [prompted(f"t{i}", (3,)) for i in range(300)]
    costs = {digest: engine(digest) for digest in engines(tasks)}
    everything = [Arrival(0.0, tuple(t.task for t in tasks))]
    result = simulate(tasks, costs, everything)
    assert [sum(result.batches[f"s{i}"]) for i in range(4)] == [1, 1, 1, 1]
    assert len(result.answered) == 1


def test_a_frame_asked_for_twice_is_computed_once() -> None:
    twice = [Arrival(0.0, ("t0",), "same"), Arrival(1.0, ("t0",), "same")]
    result = simulate(TASKS, ENGINES, twice)
    assert sum(map(len, result.batches.values())) == len(TASKS[0].calls)
    assert result.latencies[1] == 0.0
