"""One backbone with T tasks against T whole models: time, and bytes on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stagekit.bench.mix import Sample
from stagekit.bench.results import Figure, ScalingRow
from stagekit.bench.statistics import bootstrap
from stagekit.bench.system import SessionSystem, clock, numbers
from stagekit.bundle import DeployedTask, DeployManifest
from stagekit.data.images import Pixels
from stagekit.session import Session

FURTHER = (4, 8, 16)
"""Numbers of tasks that are modelled where fewer are deployed."""


def scale(session: Session, images: Sequence[Pixels], rounds: int) -> tuple[ScalingRow, ...]:
    """Rows for 1 to all tasks, measured, and beyond by the straight line through the first and the last."""
    names = list(session.tasks)
    measured: list[ScalingRow] = []
    for count in range(1, len(names) + 1):
        sample = [Sample(((index, tuple(names[:count])),)) for index in range(len(images))]
        systems = [SessionSystem(session, images, sample, reuse) for reuse in (True, False)]
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(-2, rounds):
            for system, spent in zip(systems, times, strict=True):  # in turn, so that both see the same weather
                begun = clock()
                system.answer(next(numbers), number % len(images))
                if number >= 0:
                    spent.append(clock() - begun)
        together, apart = (Figure(value=float(np.median(t)), unit="s", **_interval(t)) for t in times)
        tasks = [session.tasks[name] for name in names[:count]]
        sizes = storage(session.manifest, tasks), sum(storage(session.manifest, [t]) for t in tasks)
        measured.append(
            ScalingRow(
                tasks=count,
                shared_seconds=together,
                separate_seconds=apart,
                shared_bytes=Figure(value=sizes[0], unit="B"),
                separate_bytes=Figure(value=sizes[1], unit="B", kind="modelled"),
            )
        )
    return (*measured, *_further(measured))


def storage(manifest: DeployManifest, tasks: Sequence[DeployedTask]) -> int:
    """Bytes of the engines that these tasks need: all stages, each SPM and head; an engine used twice counts once."""
    sizes = {e.digest: e.bytes for e in manifest.engines}
    needed = {s.engine for s in manifest.stages}
    for task in tasks:
        needed |= {task.head, *(p.engine for p in task.prompts)}
    return sum(sizes[digest] for digest in needed)


def _further(measured: Sequence[ScalingRow]) -> list[ScalingRow]:
    """The straight line through one task and all; none where noise made more tasks seem to take less time."""
    first, last = measured[0], measured[-1]
    if last.tasks == first.tasks or last.shared_seconds.value < first.shared_seconds.value:
        return []

    def line(name: str, tasks: int) -> Figure:
        one, all_ = getattr(first, name), getattr(last, name)
        slope = (all_.value - one.value) / (last.tasks - first.tasks)
        return Figure(value=one.value + slope * (tasks - first.tasks), unit=one.unit, kind="modelled")

    columns = ("shared_seconds", "separate_seconds", "shared_bytes", "separate_bytes")
    return [ScalingRow(tasks=n, **{c: line(c, n) for c in columns}) for n in FURTHER if n > last.tasks]


def _interval(times: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap(times)
    return {"low": low, "high": high}
