"""A machine of our own, and one that is shared."""

from __future__ import annotations

import numpy as np

from stagekit.bench.memory import forget_peak, peak, resident
from stagekit.bench.noise import judged, probe
from stagekit.bench.results import NoiseProbe
from stagekit.bench.statistics import levels

QUIET = NoiseProbe(share=0.99, rate=1e9)


def test_a_quiet_run_is_not_flagged() -> None:
    noise = judged(QUIET, NoiseProbe(share=0.98, rate=1.01e9), 0.02)
    assert not noise.noisy
    assert noise.reasons == ()


def test_a_neighbour_is_flagged() -> None:
    # One hog on two cores leaves three quarters of them.
    assert "others took 25 %" in judged(QUIET, NoiseProbe(share=0.75, rate=1e9), None).reasons[0]


def test_another_clock_and_unsteady_medians_are_flagged() -> None:
    assert "speed changed by 20 %" in judged(QUIET, NoiseProbe(share=1.0, rate=0.8e9), 0.0).reasons[0]
    assert "30 % apart" in judged(QUIET, QUIET, 0.3).reasons[0]


def test_openings_may_differ_by_several_percent_and_no_more() -> None:
    near, far = (np.repeat([1.0, step, 1.0], 10) for step in (1.06, 1.5))
    found = [judged(QUIET, QUIET, 0.01, levels(run, [0, 10, 20])) for run in (near, far)]
    assert [n.noisy for n in found] == [False, True]
    assert found[1].reasons == ("medians of openings lie 50 % apart",)
    assert levels(near, [0]) is None


def test_the_loop_gets_a_share_of_the_cores() -> None:
    got = probe(0.05)
    assert 0.0 < got.share <= 1.0
    assert got.rate > 1e6


def test_memory_that_was_used_shows_in_the_peak_until_it_is_forgotten() -> None:
    forget_peak()
    before = peak()
    block = bytearray(b"x") * (40 << 20)
    assert peak() - before > 30 << 20
    assert resident() > 40 << 20
    del block
