"""Comparing runs: what is worse is found, what is noise is not, and what cannot be compared is said."""

from __future__ import annotations

import pytest

from stagekit.bench.compare import changes, pairs, regressions, warnings
from stagekit.bench.results import Figure, Noise, NoiseProbe, Result, ScenarioResult
from stagekit.errors import UsageError

from .made import made


def test_a_slower_engine_is_found() -> None:
    found = regressions(changes(made("a", 0.005), made("a", 0.006)), 0.05)
    assert {c.what for c in found} >= {"SingleStream p50", "SingleStream p90", "SingleStream samples_per_second"}
    p50 = next(c for c in found if c.what == "SingleStream p50")
    assert p50.worse == pytest.approx(0.2)


def test_the_same_again_is_no_regression_and_neither_is_better() -> None:
    assert regressions(changes(made("a"), made("a")), 0.0) == []
    assert regressions(changes(made("a", 0.006), made("a", 0.005)), 0.05) == []


def test_what_lies_within_both_intervals_is_not_sure() -> None:
    # 3 % slower; the intervals are 2 % to each side.
    p50 = next(c for c in changes(made("a", 0.005), made("a", 0.00515)) if c.what.endswith("p50"))
    assert not p50.sure
    assert p50.worse == pytest.approx(0.03)


def test_only_the_metrics_that_are_asked_for_decide() -> None:
    found = changes(made("a", 0.005, miou=0.6), made("a", 0.006, miou=0.5))
    assert {c.metric for c in regressions(found, 0.05, ["p50", "miou"])} == {"p50", "miou"}
    with pytest.raises(UsageError, match="did you mean"):
        regressions(found, 0.05, ["p5O"])


def test_servers_are_compared_by_the_rate_they_hold_alone() -> None:
    """Their latencies are those at that rate, which is another in each run."""

    def served(rate: float, p50: float) -> Result:
        figures = {"rate": Figure(value=rate, unit="1/s"), "p50": Figure(value=p50, unit="s")}
        result = made("a")
        return result.model_copy(update={"scenarios": (ScenarioResult(scenario="Server", figures=figures),)})

    found = changes(served(40.0, 0.02), served(30.0, 0.04))
    assert [(c.what, c.better) for c in found if "Server" in c.what] == [("Server rate", "-25.0 %")]
    assert {c.better for c in changes(served(40.0, 0.02), served(40.0, 0.02))} == {"+0.0 %"}


def test_lost_accuracy_is_a_regression() -> None:
    found = regressions(changes(made("a", miou=0.6), made("a", miou=0.5)), 0.05)
    assert [c.what for c in found] == ["mIoU of landcover"]


def test_two_results_are_compared_whatever_their_names_and_more_by_name() -> None:
    a, b, c = made("a"), made("b"), made("a", 0.006)
    assert pairs([a, b]) == [(a, b)]
    assert pairs([a, b, c]) == [(a, c)]
    assert pairs([a]) == []


def test_other_devices_versions_noise_and_gaps_are_warned_about() -> None:
    first = made("a")
    probe = NoiseProbe(share=0.5, rate=1e9)
    noise = Noise(before=probe, after=probe, noisy=True, reasons=("others took 50 % of the processor",))
    other = made("b", cpu="Other CPU").model_copy(
        update={
            "noise": noise,
            "status": "partial",
            "problems": ("Server: it vanished",),
            "versions": {"stagekit": "2"},
        }
    )
    told = warnings([first, other])
    assert "b is partial: Server: it vanished" in told
    assert "b was measured on a noisy machine: others took 50 % of the processor" in told
    assert "a and b differ in cpu: Some CPU and Other CPU" in told
    assert "a and b differ in version of stagekit: 0.1.0 and 2" in told
    assert warnings([first, made("a")]) == []
