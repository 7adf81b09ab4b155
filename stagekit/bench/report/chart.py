"""A chart as plain data for plotly; colours of the page are filled in by the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stagekit.bench.results import Figure

Trace = dict[str, Any]

NAMED = 4
"""Deployments whose bars are of full height and have their values beside them."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A plotly figure with its title and what it shows; ``color`` in a trace is an index into the page's palette."""

    name: str
    title: str
    caption: str
    data: list[Trace]
    layout: dict[str, Any]
    wide: bool = False


def line(name: str, color: int, mode: str = "lines") -> Trace:
    """A line or points; ``mode`` as in plotly."""
    return {"type": "scatter", "mode": mode, "name": name, "color": color}


def bars(figures: Sequence[Figure], scale: float) -> dict[str, Any]:
    """Error bars to the ends of the intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * ((f.high or f.value) - f.value) for f in figures],
        "arrayminus": [scale * (f.value - (f.low or f.value)) for f in figures],
        "thickness": 1,
    }


def log_ticks() -> dict[str, Any]:
    """1, 2, 5, 10, ... and no exponents."""
    return {"dtick": "D2", "tickformat": "~g"}
