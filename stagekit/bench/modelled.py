"""Devices that are not here: what an emulating target says they would take.

A target that emulates a device states a modelled ``latency_ms`` in the report of each engine, and under
``label`` for which device. Measured times are the emulator's then, and results must say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagekit.bench.results import Figure, ScenarioResult
from stagekit.bundle import DeployedTask, DeployManifest
from stagekit.runtime.program import call_keys, task_program

Reports = Mapping[str, Mapping[str, Any]]
"""Engines' reports, by digest."""

NAME = "Modelled"
STAGES = "stages"


def modelled_for(reports: Reports) -> str | None:
    """What the engines' times are modelled for, e.g. ``modelled for dpu-b4096``; none where they run for real."""
    return next((str(r["label"]) for r in reports.values() if "latency_ms" in r and "label" in r), None)


def modelled(manifest: DeployManifest, tasks: list[DeployedTask], reports: Reports) -> ScenarioResult | None:
    """One image with these tasks, call after call; what tasks share counts once.

    The figure ``p50`` is of all calls; where some run elsewhere (SPMs and heads in floats, beside the device), it is
    missing, and ``stages`` is of the calls that the device makes. None where no engine says anything of time.
    """
    calls: dict[str, str] = {}
    for task in tasks:
        program = task_program(task, manifest.stages)
        calls |= {key: call.engine for key, call in zip(call_keys(program, "frame"), program.calls, strict=True)}
    times = [reports.get(engine, {}).get("latency_ms") for engine in calls.values()]
    known = [float(t) for t in times if t is not None]
    if not known:
        return None
    seconds = sum(known) / 1e3
    figures = {STAGES: Figure(value=seconds, unit="s", kind="modelled")}
    if len(known) == len(times):
        figures["p50"] = figures[STAGES]
        figures["samples_per_second"] = Figure(value=1 / seconds, unit="1/s", kind="modelled")
    return ScenarioResult(scenario=NAME, figures=figures)
