"""Percentiles, confidence intervals, and the search for the highest rate that a server keeps up with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95

LEVELLED = 4
"""Samples of an opening whose median is looked at."""

PARTS = 10
"""Blocks of a run, where nothing else says which samples are alike."""


def percentile(values: Sequence[float] | Values, share: float) -> float:
    """The sample below which ``share`` of all lie: sorted, element floor(n share), as LoadGen has it."""
    given = np.asarray(values, dtype=np.float64)
    if not given.size:
        raise ValueError("no sample")
    return float(_estimates(given[None], share)[0])


def _estimates(rows: Values, share: float | None) -> Values:
    """:func:`percentile` of each row, or its mean."""
    if share is None:
        means: Values = rows.mean(axis=1)
        return means
    count = rows.shape[1]
    # 0.9 * 10 may come out just below 9.
    column: Values = np.sort(rows, axis=1)[:, min(count - 1, int(count * share + 1e-9))]
    return column


def blocks(count: int, openings: Sequence[int]) -> list[int]:
    """Where the blocks of a run begin that are independent of each other: one an opening, or ten of one length."""
    if len(openings) > 1:
        return [place for place in openings if place < count]
    return sorted({count * part // PARTS for part in range(PARTS)})


def bootstrap(
    values: Sequence[float] | Values,
    share: float | None = 0.5,
    blocks: Sequence[int] = (),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval of a percentile: percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

    Args:
        share: the percentile's; the mean without.
        blocks: where blocks begin; they are drawn whole, as samples within are alike. Of few blocks the
            interval is expanded (Hesterberg, What Teachers Should Know About the Bootstrap, 2015). Without,
            samples are taken to be independent.
    """
    given = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    if len(blocks) > 1:
        parts = np.split(given, blocks[1:])
        drawn = rng.integers(0, len(parts), (resamples, len(parts)))
        made = (np.concatenate([parts[i] for i in row])[None] for row in drawn)
        return _interval(np.concatenate([_estimates(row, share) for row in made]), len(parts))
    made = (given[rng.integers(0, given.size, (rows, given.size))] for rows in _chunks(resamples, given.size))
    return _interval(np.concatenate([_estimates(rows, share) for rows in made]))


def ratio(
    above: Sequence[float] | Values,
    below: Sequence[float] | Values,
    blocks: Sequence[int] = (),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Median of ``above`` over median of ``below``, with its 95 % interval.

    Sample i of both was taken at about the same time: rounds are drawn, not samples, so that what slowed both
    cancels.

    Args:
        blocks: where blocks of rounds begin that are drawn whole, as for :func:`bootstrap`.
    """
    first, second = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if first.size != second.size:
        raise ValueError(f"{first.size} samples do not pair with {second.size}")
    parts = np.split(np.arange(first.size), blocks[1:]) if len(blocks) > 1 else list(np.arange(first.size)[:, None])
    rng = np.random.default_rng(seed)
    drawn = [np.concatenate([parts[i] for i in row]) for row in rng.integers(0, len(parts), (resamples, len(parts)))]
    estimates = np.array([np.median(first[rounds]) / np.median(second[rounds]) for rounds in drawn])
    low, high = _interval(estimates, len(parts) if len(blocks) > 1 else None)
    return float(np.median(first) / np.median(second)), low, high


def spread(values: Sequence[float] | Values, openings: Sequence[int] = (0,), parts: int = 5) -> float | None:
    """How far the medians of consecutive parts of a run lie apart, relative to the median of all.

    Args:
        openings: where the deployment was opened anew, which moves medians on a quiet machine too: the halves
            of each opening are compared then, and the largest difference counts.
    """
    given = np.asarray(values, dtype=np.float64)
    runs = [(given, parts, 4)] if len(openings) < 2 else [(run, 2, 16) for run in np.split(given, openings[1:])]
    # Of few samples the medians of halves differ by chance, and the largest of several differences more so.
    apart = [_apart(run, parts) for run, parts, least in runs if run.size >= least * parts]
    return max(apart) / float(np.median(given)) if apart else None


def levels(values: Sequence[float] | Values, openings: Sequence[int]) -> float | None:
    """How far the medians of openings lie apart, relative to the median of all; none where there is but one."""
    given = np.asarray(values, dtype=np.float64)
    runs = [run for run in np.split(given, openings[1:]) if run.size >= LEVELLED]
    if len(runs) < 2:
        return None
    medians = [float(np.median(run)) for run in runs]
    return (max(medians) - min(medians)) / float(np.median(given))


def _apart(run: Values, parts: int) -> float:
    medians = [float(np.median(part)) for part in np.array_split(run, parts)]
    return max(medians) - min(medians)


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Args:
        rate: the highest that held, 0 where none did.
        failed: the lowest that did not hold, infinite where all did.
        tried: (rate, whether it held), in order.
    """

    rate: float
    failed: float
    tried: tuple[tuple[float, bool], ...]


def highest_rate(
    holds: Callable[[float], bool], start: float, *, tolerance: float = 0.05, probes: int = 12, least: float = 0.01
) -> Search:
    """The highest rate that holds: doubled or halved from ``start`` until bracketed, then bisected.

    Args:
        holds: tries a rate; taken to be monotonous up to chance.
        tolerance: the bracket's relative width at which the search ends.
        probes: tries at most.
        least: gives up below this.
    """
    good, bad = 0.0, float("inf")
    rate = start
    tried: list[tuple[float, bool]] = []
    while len(tried) < probes and rate >= least and (good == 0.0 or (bad - good) / good > tolerance):
        held = holds(rate)
        tried.append((rate, held))
        if held:
            good = max(good, rate)
        else:
            bad = min(bad, rate)
        rate = 2 * good if bad == float("inf") else bad / 2 if good == 0.0 else (good + bad) / 2
    return Search(good, bad, tuple(tried))


def _interval(estimates: Values, drawn: int | None = None) -> tuple[float, float]:
    """The middle 95 % of estimates; further out where each was made of few drawn things."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    if drawn is not None:
        z = _student(z, drawn - 1) * math.sqrt(drawn / (drawn - 1))
    tail = NormalDist().cdf(-z)
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def _student(z: float, freedom: int) -> float:
    """Student's t where the normal distribution has z (Abramowitz and Stegun 26.7.5)."""
    return z + (
        (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _chunks(resamples: int, size: int, most: int = 4_000_000) -> list[int]:
    """Rows at a time, so that no more than ``most`` numbers are held."""
    rows = max(1, most // max(1, size))
    return [min(rows, resamples - done) for done in range(0, resamples, rows)]
