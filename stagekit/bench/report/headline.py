"""What a deployment is summed up by: one run, one latency, one accuracy."""

from __future__ import annotations

from stagekit.bench.modelled import NAME, STAGES
from stagekit.bench.results import Figure, Result, ScenarioResult


def latency_scenario(result: Result) -> ScenarioResult | None:
    """The run whose latencies stand for the deployment: one query at a time where there is one."""
    named = ("SingleStream", "ClosedLoop", "Arrivals", "Server", "MultiStream")
    found = [result.scenario(n, reuse) for reuse in (True, False) for n in named]
    return next((s for s in found if s and s.samples.latency), None)


def headline(result: Result) -> ScenarioResult | None:
    """What a deployment is summed up by: of an emulated device what it is modelled to take, if that is known."""
    return result.scenario(NAME) if result.deployment.emulates else latency_scenario(result)


def latency(result: Result) -> Figure | None:
    """The median; of an emulated device that does not compute all, what is known of it: its stages, modelled."""
    scenario = headline(result)
    return figure(scenario, "p50") or figure(scenario, STAGES)


def mean_miou(result: Result) -> Figure | None:
    """Over the tasks."""
    if not result.accuracy:
        return None
    values = [a.miou.value for a in result.accuracy]
    return Figure(value=sum(values) / len(values), unit="")


def figure(scenario: ScenarioResult | None, name: str) -> Figure | None:
    """A scenario's figure, where there are both."""
    return None if scenario is None else scenario.figures.get(name)
