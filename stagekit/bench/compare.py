"""Two runs of the same thing: what changed, what became worse, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stagekit.bench.results import Figure, Result
from stagekit.errors import UsageError, nearest

LESS_IS_BETTER = ("mean", "p50", "p90", "p95", "p99")
MORE_IS_BETTER = ("samples_per_second", "rate")
METRICS = (*LESS_IS_BETTER, *MORE_IS_BETTER, "miou", "bytes")


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in two runs.

    Args:
        metric: what it is of, one of :data:`METRICS`.
        worse: by which share of ``before`` it became worse; negative where it became better.
        sure: the 95 % intervals do not overlap, or there are none.
    """

    deployment: str
    what: str
    metric: str
    before: Figure
    after: Figure
    worse: float
    sure: bool

    @property
    def better(self) -> str:
        """``+5.0 %`` for people."""
        return f"{0.0 - 100 * self.worse:+.1f} %"

    @property
    def verdict(self) -> str:
        """``yes``, ``within noise``, or ``the same``."""
        if self.worse == 0.0:
            return "the same"
        return "yes" if self.sure else "within noise"


def pairs(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """What is compared with what: two results with each other, of more those of one name with their first."""
    if len(results) == 2:
        return [(results[0], results[1])]
    first: dict[str, Result] = {}
    return [(first[r.deployment.name], r) for r in results if first.setdefault(r.deployment.name, r) is not r]


def changes(before: Result, after: Result) -> list[Change]:
    """Every figure that both have."""
    theirs = dict(_figures(after))
    made = []
    for what, (old, metric) in _figures(before):
        if what in theirs and old.value:
            new = theirs[what][0]
            change = (new.value - old.value) / abs(old.value)
            worse = change if metric in (*LESS_IS_BETTER, "bytes") else -change
            made.append(Change(after.deployment.name, what, metric, old, new, worse, _apart(old, new)))
    return made


def regressions(found: Sequence[Change], above: float, metrics: Sequence[str] = ()) -> list[Change]:
    """Changes for the worse by more than a share, as far as they are sure; the worst first.

    Args:
        metrics: the only ones looked at; all without.

    Raises:
        UsageError: no such metric is compared.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UsageError(f"no metric {metric!r} is compared" + nearest(metric, METRICS), where="--metric")
    worse = (c for c in found if c.sure and c.worse > above and (not metrics or c.metric in metrics))
    return sorted(worse, key=lambda c: -c.worse)


def warnings(results: Sequence[Result]) -> list[str]:
    """Why figures may not mean what they seem to: noise, what is missing, other devices or versions."""
    told: list[str] = []
    for result in results:
        name = result.deployment.name
        if result.deployment.emulates:
            told.append(f"{name} emulates a device: measured times are the emulator's")
        told += [f"{name} is partial: {problem}" for problem in result.problems]
        if result.noise and result.noise.noisy:
            told.append(f"{name} was measured on a noisy machine: {'; '.join(result.noise.reasons)}")
    if len(results) > 1:
        first, *others = results
        for other in others:
            names = f"{first.deployment.name} and {other.deployment.name}"
            for what, mine, theirs in _facts(first, other):
                if mine != theirs:
                    told.append(f"{names} differ in {what}: {mine or 'none'} and {theirs or 'none'}")
    return list(dict.fromkeys(told))


def _facts(first: Result, other: Result) -> Iterator[tuple[str, object, object]]:
    for what in ("cpu", "cores", "flags", "governor", "accelerator"):
        yield what, getattr(first.device, what), getattr(other.device, what)
    for package in sorted({*first.versions, *other.versions}):
        yield f"version of {package}", first.versions.get(package), other.versions.get(package)
    if first.deployment.name == other.deployment.name:
        yield "task mix", first.mix, other.mix
        yield "backbone", first.deployment.backbone[:12], other.deployment.backbone[:12]


def _figures(result: Result) -> Iterator[tuple[str, tuple[Figure, str]]]:
    """Name, figure and metric."""
    for scenario in result.scenarios:
        # Server's latencies are those at the rate that was found, which is another in each run.
        compared = ("rate",) if scenario.scenario == "Server" else (*LESS_IS_BETTER, *MORE_IS_BETTER)
        name = scenario.scenario if scenario.reuse else f"{scenario.scenario} without reuse"
        for key, figure in scenario.figures.items():
            if key in compared:
                yield f"{name} {key}", (figure, key)
    for task in result.accuracy:
        yield f"mIoU of {task.task}", (task.miou, "miou")
    if result.memory:
        yield "engine bytes", (Figure(value=result.memory.engines, unit="B"), "bytes")


def _apart(old: Figure, new: Figure) -> bool:
    if None in (old.low, old.high, new.low, new.high):
        return True
    return bool(old.high < new.low or new.high < old.low)  # type: ignore[operator]
