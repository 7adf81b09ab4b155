"""What to measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from stagekit.bench.loadgen import Settings
from stagekit.bench.names import SCENARIOS, Scenario

EMULATED = 5
"""Queries that an emulator is asked: its own time is no device's latency."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Args:
        scenarios: LoadGen's, by name; Server only with an ``slo``.
        seconds, queries: the least of each scenario.
        slo: seconds within which Server must answer 99 %; of other scenarios the share within is told.
        reuse: tasks of one image share what they can.
        callers: of a closed loop; none without.
        mix, arrivals: files; see :mod:`stagekit.bench.mix`.
        bundles: the ``.stages`` and ``.task`` folders that were compiled, for the baseline and the roofline.
        uncut: also measure each task as one graph.
        accuracy: also score the tasks that have labelled pictures.
        rounds: of the baseline and of scaling; neither is measured without.
    """

    scenarios: tuple[Scenario, ...] = SCENARIOS
    seconds: float = 5.0
    queries: int = 100
    official: bool = False
    slo: float | None = None
    reuse: bool = True
    callers: int = 0
    mix: Path | None = None
    arrivals: Path | None = None
    bundles: tuple[Path, ...] = ()
    uncut: bool = False
    accuracy: bool = True
    split: str | None = None
    rounds: int = 30
    tasks: tuple[str, ...] = ()

    def settings(self, scenario: Scenario, rate: float) -> Settings:
        """LoadGen's settings of a scenario."""
        slo = self.slo or 0.1
        if self.official:
            return Settings.official(scenario, rate, slo)
        return Settings(scenario, self.seconds, self.queries, rate, slo)

    def of_emulator(self) -> Options:
        """What is worth knowing of a device that is emulated: its labels, and what an image costs the emulator."""
        few = min(self.queries, EMULATED)
        return replace(self, scenarios=(), callers=1, seconds=0.0, queries=few, arrivals=None, rounds=0)
