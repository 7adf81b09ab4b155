"""LoadGen, the closed loop and recorded arrivals, over systems whose times are known."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from stagekit.bench import loadgen
from stagekit.bench.loadgen import Settings
from stagekit.bench.mix import Arrival, Sample
from stagekit.bench.run import Query, Run, closed_loop, replay
from stagekit.bench.statistics import percentile
from stagekit.bench.system import Answers, Done, NullSystem

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: pip install 'stagekit[bench]'")


class Vanishing(NullSystem):
    """Answers a few queries and fails from then on."""

    def __init__(self, good: int) -> None:
        super().__init__(8)
        self.left = good

    def answer(self, number: int, index: int) -> Answers:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the device is gone")
        return []


class Threaded(NullSystem):
    """One worker that takes a set time for each query, as a device does."""

    def submit(self, number: int, index: int, done: Done) -> None:
        threading.Timer(self._seconds, lambda: done([])).start()


@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream", "Server"])
def test_our_percentiles_are_those_of_loadgens_own_summary(tmp_path: Path, scenario: loadgen.Scenario) -> None:
    system = NullSystem(8, 0.002)
    run = loadgen.run(system, Settings(scenario, 0.5, 60, rate=100.0, slo=1.0), tmp_path)
    summary = loadgen.read_summary(tmp_path / loadgen.SUMMARY)
    assert summary["Scenario"] == scenario
    for share in (50, 90, 99):
        theirs = int(summary[f"{share}.00 percentile latency (ns)"]) * 1e-9
        assert percentile(run.latencies, share / 100) == pytest.approx(theirs, abs=1e-8)
    assert run.samples == len(run.latencies) * (8 if scenario == "MultiStream" else 1)


def test_offline_counts_samples_as_loadgen_does(tmp_path: Path) -> None:
    run = loadgen.run(NullSystem(8, 0.001), Settings("Offline", 0.3, 1, rate=500.0), tmp_path)
    assert run.rate == pytest.approx(float(run.summary["Samples per second"]), rel=0.02)


def test_accuracy_mode_asks_for_each_sample_once(tmp_path: Path) -> None:
    seen: list[int] = []
    settings = Settings("Offline", accuracy=True)
    loadgen.run(NullSystem(13), settings, tmp_path, lambda index, answers: seen.append(index))
    assert sorted(seen) == list(range(13))


@pytest.mark.parametrize("scenario", ["SingleStream", "Server"])
def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path, scenario: loadgen.Scenario) -> None:
    run = loadgen.run(Vanishing(5), Settings(scenario, 0.2, 10, rate=100.0), tmp_path)
    assert str(run.error) == "the device is gone"
    assert len(run.answered) == run.samples == 5


def test_early_stopping_is_loadgens_to_judge(tmp_path: Path) -> None:
    few = loadgen.run(NullSystem(8), Settings("MultiStream", 0.0, 50), tmp_path / "few")
    enough = loadgen.run(NullSystem(8), Settings("MultiStream", 0.0, 700), tmp_path / "enough")
    assert (few.summary["Result is"], enough.summary["Result is"]) == ("INVALID", "VALID")


def test_official_runs_last_ten_minutes() -> None:
    assert Settings.official("Server").seconds == 600.0
    assert Settings.official("MultiStream").queries >= 662


def test_the_harness_costs_little(tmp_path: Path) -> None:
    single = loadgen.run(NullSystem(8), Settings("SingleStream", 0.3, 1000), tmp_path / "single")
    # From one issue to the next is all that a query costs: LoadGen, Python and our bookkeeping.
    gaps = np.diff([q.issued for q in single.answered])
    assert np.median(gaps) < 50e-6
    offline = loadgen.run(NullSystem(8), Settings("Offline", 0.3, 1, rate=20_000.0), tmp_path / "offline")
    ends = np.sort([q.ended for q in offline.answered])
    assert np.median(np.diff(ends)) < 0.01 * 0.005


def test_a_pause_behind_the_last_answer_is_no_part_of_the_time() -> None:
    queries = [Query(i, 0, float(i), i + 1.0) for i in range(4)]
    assert Run(queries, samples=4, openings=[0, 4], pauses=[3.0]).rate == 4 / 4.0
    assert Run(queries, samples=4, openings=[0, 2, 4], pauses=[0.5, 3.0]).rate == 4 / 3.5


def test_a_closed_loop_keeps_its_callers_busy() -> None:
    run = closed_loop(NullSystem(8, 0.005), 4, 0.3, least=8)
    assert run.rate == pytest.approx(4 / 0.005, rel=0.3)
    assert {q.index for q in run.queries} == set(range(8))
    assert closed_loop(NullSystem(8), 1, 0.0, least=20).samples == 20


def test_a_closed_loop_keeps_what_it_had_before_a_failure() -> None:
    run = closed_loop(Vanishing(7), 1, 1.0)
    assert (run.samples, str(run.error)) == (7, "the device is gone")


def test_arrivals_come_when_they_were_recorded_and_latency_counts_from_there() -> None:
    arrivals = [Arrival(0.02 * i, Sample(())) for i in range(8)]
    run = replay(Threaded(8, 0.05), arrivals)
    gaps = np.diff([q.issued for q in run.answered])
    assert gaps == pytest.approx([0.02] * 7)
    assert run.samples == 8
    assert np.median(run.latencies) == pytest.approx(0.05, abs=0.02)
    slow = replay(NullSystem(8, 0.05), arrivals)  # each issue holds up the next
    assert slow.latencies[-1] > 0.2
