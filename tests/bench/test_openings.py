"""A deployment opened anew between queries: outside their time, never often, and counted right."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stagekit.bench import loadgen
from stagekit.bench.loadgen import Settings
from stagekit.bench.openings import OPENINGS, Openings, Renewing
from stagekit.bench.statistics import percentile
from stagekit.bench.system import Answers, NullSystem, clock

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: pip install 'stagekit[bench]'")


class Opened:
    """A session whose every answer shares one call with another's; ``span`` is when it was opened."""

    def __init__(self, cost: float) -> None:
        begun = clock()
        time.sleep(cost)
        self.span = (begun, clock())
        self.statistics = SimpleNamespace(shared=Counter[str]())
        self.closed = False

    def run(self) -> None:
        self.statistics.shared["stem"] += 1

    def close(self) -> None:
        self.closed = True


class Asking(NullSystem):
    """Takes 2 ms through whichever session is open."""

    def __init__(self, session: Any) -> None:
        super().__init__(8, 0.002)
        self.session = session

    def answer(self, number: int, index: int) -> Answers:
        assert not self.session.closed
        self.session.run()
        return super().answer(number, index)


def renewed(cost: float, seconds: float, folder: Path) -> tuple[Any, Openings, list[Opened]]:
    made: list[Opened] = []

    def opener() -> Any:
        made.append(Opened(cost))
        return made[-1]

    openings = Openings(opener)
    system: Any = Asking(openings.session)
    renewing = Renewing(openings, system, lambda session: session.run(), seconds)  # type: ignore[func-returns-value]
    settings = Settings("SingleStream", seconds + renewing.pauses, 20)
    return loadgen.run(system, settings, folder, between=renewing), openings, made


def test_opening_anew_is_outside_of_every_query(tmp_path: Path) -> None:
    run, openings, made = renewed(0.02, 1.0, tmp_path)
    assert run.error is None
    assert len(run.openings) == OPENINGS
    assert len(made) == OPENINGS + 1, "once more before the first query"
    assert [session.closed for session in made] == [True] * OPENINGS + [False]
    opened = [session.span for session in made]
    assert not any(q.issued < end and begun < q.ended for q in run.answered for begun, end in opened)
    theirs = int(run.summary["50.00 percentile latency (ns)"]) * 1e-9
    assert percentile(run.latencies, 0.5) == pytest.approx(theirs, abs=1e-8)
    assert run.paused > sum(end - begun for begun, end in opened[2:])
    whole = run.answered[-1].ended - run.answered[0].issued
    assert run.rate == pytest.approx(run.samples / (whole - run.paused)), "pauses are no part of the rate"
    assert openings.shared()["stem"] == run.samples, "answers that warm up are not counted"


def test_what_is_slow_to_open_is_opened_seldom(tmp_path: Path) -> None:
    run, _, _ = renewed(0.2, 0.4, tmp_path)
    starts = [run.answered[place].issued for place in run.openings]
    assert 1 <= len(run.openings) <= 2
    assert all(gap > 0.4 for gap in np.diff(starts)), "as much is measured as opening takes"
