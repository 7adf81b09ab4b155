"""What a scenario brings home, and the plain ways to drive a system: a closed loop, recorded arrivals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stagekit.bench.mix import Arrival
from stagekit.bench.statistics import Values
from stagekit.bench.system import Answers, System, clock, numbers

Observe = Callable[[int, Answers], None]
"""Sees the answers to a sample, by its index."""


Between = Callable[[], bool]
"""Called between queries, outside their time; says whether it opened the system anew."""


def unseen(index: int, answers: Answers) -> None:
    """An :data:`Observe` that looks at nothing."""


def unbroken() -> bool:
    """A :data:`Between` that does nothing."""
    return False


@dataclass(slots=True)
class Query:
    """A query under way: its number and sample, when it was issued and answered."""

    number: int
    index: int
    issued: float
    ended: float = 0.0


@dataclass(slots=True)
class Run:
    """Queries with their times, and how it ended.

    Args:
        samples: answered, where a query holds several.
        summary: LoadGen's own, line by line.
        error: the first failure; queries after it are not counted.
        openings: places in ``queries`` of the first that each opening of the deployment answered.
        pauses: seconds that opening it anew took, before each of them but the first.
    """

    queries: list[Query] = field(default_factory=list)
    samples: int = 0
    summary: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    settings: dict[str, float | int | str] = field(default_factory=dict)
    openings: list[int] = field(default_factory=lambda: [0])
    pauses: list[float] = field(default_factory=list)

    @property
    def answered(self) -> list[Query]:
        """Queries that have their answer, in the order of issue."""
        return sorted((q for q in self.queries if q.ended), key=lambda q: q.issued)

    @property
    def latencies(self) -> Values:
        """Seconds from issue to answer."""
        return np.array([q.ended - q.issued for q in self.answered])

    @property
    def paused(self) -> float:
        """Seconds of pauses that lie between answered queries."""
        answered = len(self.answered)
        return sum(s for place, s in zip(self.openings[1:], self.pauses, strict=True) if place < answered)

    @property
    def rate(self) -> float:
        """Samples answered a second, from the first issue to the last answer, without pauses."""
        answered = self.answered
        if not answered:
            return 0.0
        return self.samples / (max(q.ended for q in answered) - answered[0].issued - self.paused)


def closed_loop(system: System, callers: int, seconds: float, *, least: int = 1, observe: Observe = unseen) -> Run:
    """Callers who each ask again as soon as they have their answer.

    Args:
        seconds: to go on for; ``least`` queries are made in any case.
    """
    run = Run(settings={"callers": callers, "seconds": seconds, "least": least})
    lock = threading.Lock()
    until = clock() + seconds

    def call() -> None:
        while run.error is None:
            with lock:
                if clock() >= until and len(run.queries) >= least:
                    return
                query = Query(next(numbers), len(run.queries) % len(system), 0.0)
                run.queries.append(query)
            query.issued = clock()
            try:
                answers = system.answer(query.number, query.index)
            except Exception as error:  # it goes into the results, with what was measured before
                run.error = run.error or error
                return
            query.ended = clock()
            observe(query.index, answers)

    threads = [threading.Thread(target=call, name=f"caller-{i}") for i in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.samples = len(run.answered)
    return run


def replay(system: System, arrivals: Sequence[Arrival], *, sleep: Callable[[float], None] = time.sleep) -> Run:
    """Recorded arrivals, sample i at the time of arrival i, whether or not those before are answered.

    Latency counts from when a query was due, so that a late issue is not forgiven (coordinated omission).
    """
    run = Run(settings={"arrivals": len(arrivals), "seconds": arrivals[-1].seconds})
    left = threading.Semaphore(0)
    begun = clock()
    for index, arrival in enumerate(arrivals):
        wait = begun + arrival.seconds - clock()
        if wait > 0:
            sleep(wait)
        query = Query(next(numbers), index, begun + arrival.seconds)
        run.queries.append(query)

        def done(answers: Answers | Exception, query: Query = query) -> None:
            if isinstance(answers, Exception):
                run.error = run.error or answers
            else:
                query.ended = clock()
            left.release()

        try:
            system.submit(query.number, index, done)
        except Exception as error:  # as above
            run.error = run.error or error
            left.release()
    for _ in arrivals:
        left.acquire()
    run.samples = len(run.answered)
    return run
