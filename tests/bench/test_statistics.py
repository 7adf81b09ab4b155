"""Percentiles, intervals and the rate search against distributions whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stagekit.bench.statistics import blocks, bootstrap, highest_rate, percentile, ratio, spread


def test_percentiles_are_those_of_loadgen() -> None:
    values = list(range(100, 0, -1))
    assert [percentile(values, p) for p in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 51, 91, 100, 100]
    assert percentile([*range(10)], 0.9) == 9
    assert percentile([7.0], 0.99) == 7.0


def test_percentiles_of_an_exponential_distribution() -> None:
    values = np.random.default_rng(0).exponential(2.0, 200_000)
    for share in (0.5, 0.9, 0.99):
        assert percentile(values, share) == pytest.approx(-2.0 * math.log(1 - share), rel=0.02)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_interval_covers_the_truth_as_often_as_it_says(share: float) -> None:
    rng = np.random.default_rng(1)
    truth = -math.log(1 - share)
    covered = 0
    for trial in range(200):
        low, high = bootstrap(rng.exponential(1.0, 150), share, resamples=300, seed=trial)
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_intervals_width_is_that_of_theory() -> None:
    # The median of n normal samples has the standard error sqrt(pi / 2n).
    values = np.random.default_rng(2).normal(10.0, 1.0, 4000)
    low, high = bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(math.pi / 8000), rel=0.35)
    low, high = bootstrap(values, None)
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(4000), rel=0.15), "the mean's"


def test_the_interval_covers_what_another_opening_gives() -> None:
    # Each of eight openings has a level of its own; samples within an opening are alike.
    rng = np.random.default_rng(5)
    covered = {True: 0, False: 0}
    for trial in range(150):
        levels = rng.normal(10.0, 0.5, 8)
        values = (levels[:, None] + rng.normal(0.0, 0.3, (8, 40))).ravel()
        for whole in (True, False):
            low, high = bootstrap(values, 0.5, range(0, 320, 40) if whole else (), resamples=200, seed=trial)
            covered[whole] += low <= 10.0 <= high
    assert 0.90 <= covered[True] / 150 <= 1.0
    assert covered[False] / 150 < 0.6, "samples that are taken to be independent promise too much"


def test_blocks_are_openings_or_ten_parts() -> None:
    assert blocks(100, [0, 40, 70, 100]) == [0, 40, 70]
    assert blocks(100, [0]) == list(range(0, 100, 10))
    assert blocks(3, [0]) == [0, 1, 2]
    assert blocks(1, [0]) == [0]


def test_what_slows_both_cancels_in_a_ratio() -> None:
    rng = np.random.default_rng(3)
    weather = rng.lognormal(0.0, 1.0, 400)
    value, low, high = ratio(1.2 * weather * rng.normal(1, 0.01, 400), weather * rng.normal(1, 0.01, 400))
    assert low <= 1.2 <= high
    assert value == pytest.approx(1.2, rel=0.02)
    assert high - low < 0.1
    with pytest.raises(ValueError, match="do not pair"):
        ratio([1.0, 2.0], [1.0])


def test_a_ratios_interval_covers_what_other_openings_give() -> None:
    rng = np.random.default_rng(6)
    covered = {True: 0, False: 0}
    for trial in range(150):
        above, below = ((rng.normal(10.0, 0.5, 6)[:, None] + rng.normal(0.0, 0.2, (6, 20))).ravel() for _ in range(2))
        for whole in (True, False):
            _, low, high = ratio(above, below, range(0, 120, 20) if whole else (), resamples=200, seed=trial)
            covered[whole] += low <= 1.0 <= high
    assert 0.90 <= covered[True] / 150 <= 1.0
    assert covered[False] / 150 < 0.6, "rounds that are taken to be independent promise too much"


def test_a_drift_shows_in_the_spread() -> None:
    rng = np.random.default_rng(4)
    steady = rng.normal(1.0, 0.02, 500)
    assert spread(steady) == pytest.approx(0.0, abs=0.01)
    assert spread(steady * np.linspace(1.0, 1.5, 500)) == pytest.approx(0.4 / 1.25, rel=0.1)
    assert spread([1.0] * 10) is None


def test_levels_of_openings_are_no_drift_but_what_happens_within_one_is() -> None:
    rng = np.random.default_rng(6)
    levels = np.repeat([1.0, 1.2, 0.9, 1.1], 64)
    values = levels * rng.normal(1.0, 0.01, 256)
    starts = [0, 64, 128, 192]
    assert spread(values, starts) == pytest.approx(0.0, abs=0.02)
    values[96:128] *= 1.3
    assert spread(values, starts) == pytest.approx(0.36 / 1.05, rel=0.1)
    assert spread([1.0] * 40, [0, 20]) is None


def mm1_p99(rate: float, capacity: float) -> float:
    """The 99th percentile of the time in an M/M/1 system, exponential with capacity - rate."""
    return math.log(100.0) / (capacity - rate) if rate < capacity else math.inf


@pytest.mark.parametrize("start", [1.0, 40.0, 5000.0])
def test_the_search_finds_the_rate_of_a_queue_with_a_known_answer(start: float) -> None:
    capacity, slo = 100.0, 0.1
    best = capacity - math.log(100.0) / slo
    found = highest_rate(lambda rate: mm1_p99(rate, capacity) <= slo, start, tolerance=0.01, probes=40)
    assert found.rate <= best < found.failed
    assert found.rate == pytest.approx(best, rel=0.01)


def test_the_search_on_simulated_arrivals() -> None:
    capacity, slo = 100.0, 0.2
    best = capacity - math.log(100.0) / slo

    def holds(rate: float) -> bool:
        rng = np.random.default_rng(round(1000 * rate))
        arrivals = np.cumsum(rng.exponential(1 / rate, 60_000))
        service = rng.exponential(1 / capacity, arrivals.size)
        ends, free = np.empty_like(arrivals), 0.0
        for i, (at, takes) in enumerate(zip(arrivals, service, strict=True)):
            free = max(at, free) + takes
            ends[i] = free
        return percentile(ends - arrivals, 0.99) <= slo

    found = highest_rate(holds, 50.0, tolerance=0.02, probes=10)
    assert found.rate == pytest.approx(best, rel=0.06)


def test_the_search_ends_where_nothing_holds_or_everything_does() -> None:
    assert highest_rate(lambda rate: False, 10.0).rate == 0.0
    found = highest_rate(lambda rate: True, 1.0, probes=5)
    assert (found.rate, found.failed, len(found.tried)) == (16.0, math.inf, 5)
