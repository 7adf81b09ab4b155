"""The charts of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stagekit.bench.report.cells import significant
from stagekit.bench.report.chart import NAMED, Chart, Trace, bars, line, log_ticks
from stagekit.bench.report.headline import latency, latency_scenario, mean_miou
from stagekit.bench.results import Figure, Result

POINTS = 400
"""Points of a distribution that are drawn."""

BESIDE = ("top center", "bottom center")
"""Where the names of two points stand, which may lie close together; more points are told apart by a legend."""

WIDE = 12
"""Times the quickest query that the slowest must take for a logarithmic axis."""


def charts(results: Sequence[Result]) -> list[Chart]:
    """All charts that have something to show."""
    made = [pareto(results), distribution(results), stages(results), *scaling(results), roofline(results)]
    return _paired([chart for chart in [*made, *classes(results)] if chart.data])


def _paired(drawn: Sequence[Chart]) -> list[Chart]:
    """Two narrow charts share a line; one that is left alone before a wide one, or at the end, becomes wide."""
    made: list[Chart] = []
    waiting = False
    for chart in drawn:
        if chart.wide and waiting:
            made[-1] = replace(made[-1], wide=True)
        waiting = not chart.wide and not waiting
        made.append(chart)
    if waiting:
        made[-1] = replace(made[-1], wide=True)
    return made


def pareto(results: Sequence[Result]) -> Chart:
    """Accuracy over latency; up and to the left is better."""
    few = len(results) <= len(BESIDE)
    data: list[Trace] = []
    for index, r in enumerate(results):
        p50, miou = latency(r), mean_miou(r)
        if p50 is None or miou is None:
            continue
        tasks = ", ".join(a.task for a in r.accuracy)
        data.append(
            {
                **line(r.deployment.name, index, mode="markers+text" if few else "markers"),
                "x": [1e3 * p50.value],
                "y": [100 * miou.value],
                "text": [r.deployment.name],
                "textposition": BESIDE[index % len(BESIDE)],
                "cliponaxis": False,
                "error_x": bars([p50], 1e3),
                "marker": {"size": 12, "symbol": _symbol(index, p50)},
                "hovertemplate": f"{r.deployment.name}: {r.deployment.target} {r.deployment.precision}, {tasks}<br>"
                f"%{{x:.2f}} ms ({p50.kind}), mIoU %{{y:.1f}} %<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "p50, ms"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "mIoU, %"}},
        "showlegend": not few,
    }
    if data:
        top = max(t["x"][0] + t["error_x"]["array"][0] for t in data)
        layout["xaxis"]["range"] = [0, 1.15 * top]  # type: ignore[index]
        middle = sum(y for t in data for y in t["y"]) / len(data)
        reach = max(2.0, 1.6 * max(abs(y - middle) for t in data for y in t["y"]))
        layout["yaxis"]["range"] = [middle - reach, middle + reach]  # type: ignore[index]
    caption = (
        "Mean mIoU of the tasks over median latency of an image with all tasks. Up and left is better."
        " Filled: measured; hollow: modelled, and of the stages alone where SPMs and heads do not run on the device."
    )
    return Chart("pareto", "Latency and accuracy", caption, data, layout)


def distribution(results: Sequence[Result]) -> Chart:
    """The share of queries answered within a time."""
    data: list[Trace] = []
    for index, r in enumerate(results):
        s = latency_scenario(r)
        if s is None or r.deployment.emulates:  # an emulator's times are no device's
            continue
        share = np.linspace(0, 1, min(POINTS, len(s.samples.latency)))
        within = np.quantile(s.samples.latency, share)
        data.append(
            {
                **line(r.deployment.name, index),
                "x": (1e3 * within).round(4).tolist(),
                "y": (100 * share).round(2).tolist(),
                "line": {"width": 2, "shape": "hv"},
                "hovertemplate": "%{y:.0f} % within %{x:.2f} ms<extra>%{fullData.name}</extra>",
            }
        )
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "latency, ms"}},
        "yaxis": {"title": {"text": "queries answered, %"}, "range": [0, 101]},
    }
    if data and max(t["x"][-1] for t in data) > WIDE * min(t["x"][0] for t in data):
        layout["xaxis"] |= {"type": "log", **log_ticks()}
    return Chart(
        "latency", "Latency distribution", "Every raw sample. Steep and left is better. Measured.", data, layout
    )


def stages(results: Sequence[Result]) -> Chart:
    """Milliseconds of a query in each call."""
    data: list[Trace] = []
    labels: list[str] = []
    for index, r in enumerate(results):
        s = latency_scenario(r)
        if s is None or not s.calls or r.deployment.emulates:
            continue
        queries = max(1, len(s.samples.latency))
        ordered = sorted(s.calls, key=lambda c: c.adapter)
        labels += [c.label for c in ordered if c.label not in labels]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": r.deployment.name,
                "color": index,
                "y": [c.label for c in ordered],
                "x": [1e3 * c.median * c.batches / queries for c in ordered],
                "hovertemplate": "%{y}: %{x:.3f} ms<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "ms a query"}},
        "yaxis": {"categoryorder": "array", "categoryarray": labels, "autorange": "reversed"},
        "barmode": "group",
        "bargap": 0.25,
        "height": 140 + len(labels) * (8 + (16 if len(data) <= NAMED else 8) * len(data)),
    }
    caption = "Median of a call times the calls that a query makes; what tasks share is counted once. Measured."
    return Chart("stages", "Where the time goes", caption, data, layout, wide=True)


def scaling(results: Sequence[Result]) -> list[Chart]:
    """Time and storage over the number of tasks."""
    made = []
    for name, title, unit, scale, together, apart in (
        ("time", "Time over tasks", "ms an image", 1e3, "shared_seconds", "separate_seconds"),
        ("storage", "Storage over tasks", "MB", 1e-6, "shared_bytes", "separate_bytes"),
    ):
        data: list[Trace] = []
        for index, r in enumerate(results):
            for column, what, dash in ((together, "one backbone", "solid"), (apart, "whole models", "dot")):
                figures: list[Figure] = [getattr(row, column) for row in r.scaling]
                if len(figures) < 2:
                    continue
                data.append(
                    {
                        **line(f"{r.deployment.name}, {what}", index, mode="lines+markers"),
                        "x": [row.tasks for row in r.scaling],
                        "y": [scale * f.value for f in figures],
                        "line": {"width": 2, "dash": dash},
                        "marker": {
                            "size": 8,
                            "symbol": ["circle" if f.kind == "measured" else "circle-open" for f in figures],
                        },
                        "customdata": [f.kind for f in figures],
                        "hovertemplate": "%{x} tasks: %{y:.3g} "
                        + unit
                        + " (%{customdata})<extra>%{fullData.name}</extra>",
                    }
                )
        layout = {
            "xaxis": {"title": {"text": "tasks"}, "tickmode": "array", "tickvals": [1, 2, 4, 8, 16]},
            "yaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        }
        caption = (
            "One backbone with T tasks against T whole models. Filled: measured; hollow: modelled by a straight line."
        )
        made.append(Chart(f"scaling-{name}", title, caption, data, layout))
    return made


def roofline(results: Sequence[Result]) -> Chart:
    """Multiply-accumulates a second over multiply-accumulates a byte of engine."""
    data: list[Trace] = []
    for index, r in enumerate(results):
        s = latency_scenario(r)
        known = [c for c in (s.calls if s else ()) if c.macs and c.bytes and c.median]
        if not known or r.roof is None:
            continue
        intensity = [c.macs / c.bytes for c in known]  # type: ignore[operator]
        peak, bandwidth = r.roof.macs_per_second.value, r.roof.bytes_per_second.value
        ends = [min(intensity) / 2, peak / bandwidth, 2 * max(*intensity, peak / bandwidth)]
        data.append(
            {
                **line(f"{r.deployment.name}, limit", index),
                "x": ends,
                "y": [min(peak, bandwidth * e) / 1e9 for e in ends],
                "line": {"width": 1, "dash": "dash"},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
        data.append(
            {
                **line(r.deployment.name, index, mode="markers"),
                "x": intensity,
                "y": [c.macs / c.median / 1e9 for c in known],  # type: ignore[operator]
                "text": [c.label for c in known],
                "marker": {"size": 9, "symbol": ["diamond" if c.adapter else "circle" for c in known]},
                "hovertemplate": "%{text}: %{y:.3g} GMAC/s<extra>%{fullData.name}</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "MACs a byte of engine"}, "type": "log", **log_ticks()},
        "yaxis": {"title": {"text": "GMAC/s"}, "type": "log", **log_ticks()},
    }
    caption = (
        "Stages (circles) and adapters (diamonds). Dashed: what a float32 matrix product and a copy in numpy reach."
        " Bytes are the engine's, not those of activations. Measured."
    )
    return Chart("roofline", "Roofline", caption, data, layout)


def classes(results: Sequence[Result]) -> list[Chart]:
    """IoU by class, a chart a task."""
    made = []
    for task in dict.fromkeys(a.task for r in results for a in r.accuracy):
        data: list[Trace] = []
        for index, r in enumerate(results):
            for a in r.accuracy:
                if a.task != task:
                    continue
                iou = [v["iou"] for v in a.per_class.values()]
                data.append(
                    {
                        "type": "bar",
                        "name": r.deployment.name,
                        "color": index,
                        "x": list(a.per_class),
                        "y": [None if v is None else 100 * v for v in iou],
                        "text": ["" if v is None or len(results) > NAMED else significant(100 * v, 2) for v in iou],
                        "textposition": "outside",
                        "cliponaxis": False,
                        "hovertemplate": "%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
                    }
                )
        layout = {"yaxis": {"title": {"text": "IoU, %"}, "range": [0, 105]}, "barmode": "group", "bargap": 0.25}
        caption = "A class that occurs in neither truth nor prediction has no bar. Measured."
        made.append(Chart(f"classes-{task}", f"Accuracy by class: {task}", caption, data, layout))
    return made


def _symbol(index: int, latency: Figure) -> str:
    shape = ("circle", "square", "diamond", "cross")[index % 4]
    return shape if latency.kind == "measured" else f"{shape}-open"
