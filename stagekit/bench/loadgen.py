"""MLPerf's LoadGen as the driver: SingleStream, MultiStream, Server, Offline; performance and accuracy.

One sample is one image with its set of tasks. LoadGen (https://github.com/mlcommons/inference/tree/master/loadgen)
decides what is asked when and judges the run; its own log stays beside the results. SingleStream is answered
in the thread that asks; elsewhere queries are handed to a thread of our own, so that asking is never held up.
"""

from __future__ import annotations

import atexit
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagekit.bench.names import Scenario
from stagekit.bench.run import Between, Observe, Query, Run, unbroken, unseen
from stagekit.bench.system import Answers, System, clock, numbers
from stagekit.errors import TargetUnavailable

TAIL: dict[str, float] = {"SingleStream": 0.9, "MultiStream": 0.99, "Server": 0.99, "Offline": 0.99}
"""The percentile that MLPerf judges each scenario by (Offline by its throughput)."""

WINDOW = 512
"""Samples handed over and not yet answered; a session refuses more than 1024."""

SUMMARY = "mlperf_log_summary.txt"
TRACE = "mlperf_log_trace.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """How long, how many, how fast.

    Args:
        seconds: LoadGen's least duration.
        queries: its least number of queries.
        rate: queries a second that Server asks, samples a second that Offline should expect.
        slo: seconds within which 99 % of Server's queries must be answered.
        accuracy: each sample once, and no judgement of speed.
    """

    scenario: Scenario
    seconds: float = 5.0
    queries: int = 100
    rate: float = 100.0
    slo: float = 0.1
    accuracy: bool = False

    @classmethod
    def official(cls, scenario: Scenario, rate: float = 100.0, slo: float = 0.1) -> Settings:
        """What MLPerf's rules ask for: ten minutes, and queries enough for early stopping."""
        return cls(scenario, 600.0, {"SingleStream": 64, "MultiStream": 662}.get(scenario, 100), rate, slo)


def run(
    system: System, settings: Settings, folder: Path, observe: Observe = unseen, between: Between = unbroken
) -> Run:
    """One LoadGen run.

    Args:
        folder: for LoadGen's logs.
        observe: sees every answer.
        between: called between the queries of SingleStream.

    Returns:
        Queries with the latencies that LoadGen logged, and its summary. Of a MultiStream query the slowest
        sample counts; a Server query's time begins when it was due, not when it was issued.

    Raises:
        TargetUnavailable: LoadGen is not installed.
    """
    loadgen = _loadgen()
    folder.mkdir(parents=True, exist_ok=True)
    issuer = _Issuer(loadgen, system, settings, observe, between)
    samples = len(system)
    log = loadgen.LogSettings()
    log.log_output.outdir = str(folder)
    log.log_output.copy_summary_to_stdout = False
    log.log_output.copy_detail_to_stdout = False
    log.enable_trace = True
    sut = loadgen.ConstructSUT(issuer.issue, lambda: None)
    library = loadgen.ConstructQSL(samples, samples, lambda _: None, lambda _: None)
    ended = threading.Event()

    def test() -> None:
        try:
            loadgen.StartTestWithLogSettings(sut, library, _settings(loadgen, settings), log, "")
        finally:
            ended.set()

    # A thread of its own, so that an interrupt reaches us while LoadGen runs. It is waited for by an event: after an
    # interrupted join Python takes a thread that goes on for one that has ended.
    threading.Thread(target=test, name="loadgen", daemon=True).start()
    try:
        while not ended.wait(0.5):
            pass
    except BaseException:
        issuer.abandoned.set()
        atexit.register(_leave)
        raise
    issuer.close()
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(sut)
    issuer.result.summary = read_summary(folder / SUMMARY)
    _adopt(issuer.result.queries, read_latencies(folder / TRACE))
    issuer.result.settings = {
        "seconds": settings.seconds,
        "queries": settings.queries,
        **({"rate": settings.rate} if settings.scenario in ("Server", "Offline") else {}),
        **({"slo": settings.slo} if settings.scenario == "Server" else {}),
    }
    return issuer.result


def _leave() -> None:
    """Ends the process as an interrupt does, without tearing anything down.

    LoadGen cannot be stopped, and its threads do not survive their libraries: they would end the process by a signal.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def read_summary(path: Path) -> dict[str, str]:
    """``mlperf_log_summary.txt`` as key and value, the first of each key."""
    found: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            parts = re.match(r"\s*(\S.*?)\s*:\s*(\S.*)$", line)
            if parts:
                found.setdefault(parts[1], parts[2])
    return found


def read_latencies(path: Path) -> dict[int, float]:
    """Seconds that LoadGen's trace has for each query, by the query's place in the order of issue.

    The trace is removed: it holds a kilobyte for each query, and nothing else that is needed.
    """
    found: dict[int, float] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                parts = _LOGGED.search(line)
                if parts:
                    place, seconds = int(parts[1]), int(parts[2]) * 1e-9
                    found[place] = max(seconds, found.get(place, 0.0))
        path.unlink()
    return found


_LOGGED = re.compile(r'"query_seq":(\d+),"sample_idx":\d+,"issue_start_ns":\d+,"complete_ns":(\d+)')


def _adopt(queries: Sequence[Query], logged: Mapping[int, float]) -> None:
    """LoadGen's latency in place of ours, which does not know when a query was due.

    Offline's one query is told apart into samples, each of which keeps our own time.
    """
    if len(logged) != len(queries):
        return
    for place, query in enumerate(queries):
        if query.ended:
            query.issued = query.ended - logged[place]


class _Issuer:
    """Takes LoadGen's queries, asks the system, tells LoadGen. Nothing may be raised into LoadGen's threads."""

    def __init__(self, loadgen: Any, system: System, settings: Settings, observe: Observe, between: Between) -> None:
        self.result = Run()
        self._response = loadgen.QuerySampleResponse
        self._complete = loadgen.QuerySamplesComplete
        self._system = system
        self._observe = observe
        self._between = between
        self._per_sample = settings.scenario != "MultiStream"
        self._work: queue.SimpleQueue[tuple[_Group, int, int] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(WINDOW)
        self._feeder: threading.Thread | None = None
        self._take = self._answer if settings.scenario == "SingleStream" else self._hand_over
        self.abandoned = threading.Event()
        """Nobody waits for the rest: whatever LoadGen asks next is left without an answer."""
        if settings.scenario != "SingleStream":
            self._feeder = threading.Thread(target=self._feed, name="loadgen-feeder", daemon=True)
            self._feeder.start()

    def close(self) -> None:
        if self._feeder is not None:
            self._work.put(None)
            self._feeder.join()

    def issue(self, samples: Sequence[Any]) -> None:
        if self.abandoned.is_set():
            threading.Event().wait()
        self._take(samples)

    def _answer(self, samples: Sequence[Any]) -> None:
        result = self.result
        for sample in samples:
            query = Query(next(numbers), sample.index, clock())
            result.queries.append(query)
            try:
                if result.error is None:
                    answers = self._system.answer(query.number, query.index)
                    query.ended = clock()
                    self._observe(query.index, answers)
                    result.samples += 1
                else:
                    time.sleep(0.001)  # LoadGen goes on until its time is over
            except Exception as error:  # it goes into the results, with what was measured before
                result.error = result.error or error
            self._complete([self._response(sample.id, 0, 0)])
        self._pause()

    def _pause(self) -> None:
        """LoadGen asks again, and its clock begins, when this is over."""
        result, begun = self.result, clock()
        try:
            if result.error is None and self._between():
                result.openings.append(len(result.queries))
                result.pauses.append(clock() - begun)
        except Exception as error:  # as above
            result.error = error

    def _hand_over(self, samples: Sequence[Any]) -> None:
        now = clock()
        if self._per_sample:
            for sample in samples:
                self._work.put((_Group(self, now, sample.index, 1), sample.id, sample.index))
        else:
            group = _Group(self, now, samples[0].index, len(samples))
            for sample in samples:
                self._work.put((group, sample.id, sample.index))

    def _feed(self) -> None:
        while (item := self._work.get()) is not None:
            group, identity, index = item
            self._room.acquire()

            def done(
                answers: Answers | Exception, group: _Group = group, identity: int = identity, index: int = index
            ) -> None:
                group.answered(index, answers)
                self._complete([self._response(identity, 0, 0)])
                self._room.release()

            if self.result.error is not None:
                done(self.result.error)
                continue
            try:
                self._system.submit(group.query.number, index, done)
            except Exception as error:  # as above
                done(error)


class _Group:
    """The samples of a query; it is answered when the last of them is."""

    def __init__(self, issuer: _Issuer, issued: float, index: int, samples: int) -> None:
        self.query = Query(next(numbers), index, issued)
        self._issuer = issuer
        self._open = samples
        self._lock = threading.Lock()
        issuer.result.queries.append(self.query)

    def answered(self, index: int, answers: Answers | Exception) -> None:
        now, result = clock(), self._issuer.result
        if isinstance(answers, Exception):
            result.error = result.error or answers
            return
        try:
            self._issuer._observe(index, answers)
        except Exception as error:  # what looks at answers must not stop LoadGen either
            result.error = result.error or error
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self.query.ended = now
        result.samples += 1


def _settings(loadgen: Any, wanted: Settings) -> Any:
    made = loadgen.TestSettings()
    made.scenario = getattr(loadgen.TestScenario, wanted.scenario)
    made.mode = loadgen.TestMode.AccuracyOnly if wanted.accuracy else loadgen.TestMode.PerformanceOnly
    made.min_duration_ms = round(1000 * wanted.seconds)
    made.min_query_count = wanted.queries
    made.use_token_latencies = False
    made.server_target_qps = made.offline_expected_qps = wanted.rate
    made.server_target_latency_ns = round(1e9 * wanted.slo)
    made.server_target_latency_percentile = TAIL["Server"]
    made.single_stream_target_latency_percentile = TAIL["SingleStream"]
    made.multi_stream_target_latency_percentile = TAIL["MultiStream"]
    return made


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise TargetUnavailable(
            "the scenarios are driven by MLPerf's LoadGen, which is not installed",
            where="stagekit bench",
            remedy="pip install 'stagekit[bench]', or use --closed-loop",
        ) from error
    return mlperf_loadgen
