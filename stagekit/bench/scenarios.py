"""Runs one scenario and says what came of it, as results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stagekit.bench import loadgen
from stagekit.bench.loadgen import TAIL, Settings
from stagekit.bench.recording import Recording
from stagekit.bench.results import Figure, Samples, ScenarioResult
from stagekit.bench.run import Run
from stagekit.bench.statistics import blocks, bootstrap, highest_rate, percentile
from stagekit.bench.system import System

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
PROBE = 0.3
"""Of a scenario's seconds and queries, for each rate that the Server search tries."""

RESAMPLES = 400

STEP = 0.95
"""Where the rate that the search found does not hold for the whole time, the next is this much lower."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known about engine calls while scenarios run.

    Args:
        recording: of the session.
        shared: calls so far whose result was there already, by label.
        sizes: bytes of engines, by digest.
        macs: by label, as far as known.
        slo: seconds within which queries should be answered.
    """

    recording: Recording
    shared: Callable[[], Mapping[str, int]]
    sizes: Mapping[str, int]
    macs: Mapping[str, int]
    slo: float | None = None

    def during(
        self, name: str, reuse: bool, official: bool, kinds: Mapping[int, int], run: Callable[[], Run]
    ) -> ScenarioResult:
        """Runs a scenario and puts together what it gave.

        Args:
            kinds: the kind of request of each sample.
        """
        self.recording.clear()
        before = self.shared()
        ran = run()
        made = result(name, ran, self.recording.first_calls(), kinds, self.slo)
        calls = self.recording.calls(before, self.shared(), self.sizes, self.macs)
        return made.model_copy(update={"reuse": reuse, "official": official, "calls": calls})


def result(
    name: str, run: Run, first_calls: Mapping[int, float], kinds: Mapping[int, int], slo: float | None = None
) -> ScenarioResult:
    """A run as results; latencies are left out of Offline's figures, where all is asked at once."""
    queries = run.answered
    begun = queries[0].issued if queries else 0.0
    first = [first_calls.get(q.number) for q in queries]
    samples = Samples(
        issued=tuple(q.issued - begun for q in queries),
        latency=tuple(q.ended - q.issued for q in queries),
        queued=tuple(None if f is None else max(0.0, f - q.issued) for f, q in zip(first, queries, strict=True)),
        request=tuple(kinds.get(q.index, 0) for q in queries),
    )
    figures: dict[str, Figure] = {}
    if queries:
        figures["samples_per_second"] = _rate(run)
        if name != "Offline":
            figures |= _latencies(samples, run.openings)
            if slo is not None:
                figures["within_slo"] = Figure(value=float(np.mean(np.array(samples.latency) <= slo)), unit="")
    verdict = run.summary.get("Result is")
    return ScenarioResult(
        scenario=name,
        settings=run.settings,
        samples=samples,
        figures=figures,
        openings=tuple(run.openings),
        loadgen=run.summary,
        valid=None if verdict is None else verdict == "VALID" and run.error is None,
        problem=None if run.error is None else str(run.error),
    )


def _rate(run: Run) -> Figure:
    """Samples a second; the interval is that of the time between answers, without pauses."""
    queries = run.answered
    ended = np.array([q.ended for q in queries])
    ended.sort()
    between = np.diff(ended, prepend=queries[0].issued)
    for first in run.openings[1:]:
        if first < len(queries):
            between[first] = queries[first].ended - queries[first].issued
    slow, quick = bootstrap(between, None, blocks(len(between), run.openings), resamples=RESAMPLES)[::-1]
    each = run.samples / len(queries)
    return Figure(value=run.rate, unit="1/s", low=each / slow, high=each / quick)


def _latencies(samples: Samples, openings: Sequence[int]) -> dict[str, Figure]:
    latency = np.array(samples.latency)
    figures: dict[str, Figure] = {}
    for name, share in {"mean": None, **PERCENTILES}.items():
        value = float(latency.mean()) if share is None else percentile(latency, share)
        low, high = bootstrap(latency, share, blocks(len(latency), openings), resamples=RESAMPLES)
        figures[name] = Figure(value=value, unit="s", low=low, high=high)
    queued = [q for q in samples.queued if q is not None]
    if queued:
        figures["queued_p50"] = Figure(value=percentile(queued, 0.5), unit="s")
        figures["queued_p99"] = Figure(value=percentile(queued, 0.99), unit="s")
    return figures


def serve(system: System, settings: Settings, folder: Path, progress: Callable[[str], None] = lambda text: None) -> Run:
    """The highest rate at which 99 % of queries are answered within the SLO, and the run at that rate.

    The search tries short runs; what it finds must then hold for the whole time, or the next lower rate. With
    official settings LoadGen's verdict counts, early stopping included; a quick run has too few queries for it,
    and its own 99th percentile counts. A run is at least five times the SLO long: in a shorter one, a queue that
    grows without end would still be short.
    """
    settings = replace(settings, seconds=max(settings.seconds, 5 * settings.slo))
    official = settings.seconds >= Settings.official("Server").seconds

    def attempt(wanted: Settings) -> tuple[Run, bool]:
        progress(f"Server at {wanted.rate:.3g} queries/s")
        ran = loadgen.run(system, wanted, folder)
        if ran.error is not None:
            raise _Stopped(ran)
        if official and wanted.seconds >= settings.seconds:
            return ran, ran.summary.get("Result is") == "VALID"
        return ran, percentile(ran.latencies, TAIL["Server"]) <= settings.slo

    short = replace(
        settings,
        seconds=max(PROBE * min(settings.seconds, 20.0), 5 * settings.slo),
        queries=max(20, round(PROBE * min(settings.queries, 400))),
    )
    try:
        found = highest_rate(lambda rate: attempt(replace(short, rate=rate))[1], settings.rate, probes=8)
        rate = found.rate or found.tried[-1][0]
        ran, held = attempt(replace(settings, rate=rate))
        while found.rate and not held and rate > found.rate / 2:
            rate *= STEP
            ran, held = attempt(replace(settings, rate=rate))
    except _Stopped as stopped:
        return stopped.run
    ran.settings["holds"] = int(held)
    return ran


class _Stopped(Exception):
    """The system failed during a search."""

    def __init__(self, run: Run) -> None:
        super().__init__(str(run.error))
        self.run = run
