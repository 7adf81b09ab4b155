"""Stages against the same tasks in another form."""

from __future__ import annotations

from stagekit.bench.results.figures import Figure
from stagekit.bundle.manifest import Record


class BaselineRow(Record):
    """A task through its stages against the same task as one graph, in alternation; seconds each."""

    task: str
    staged: tuple[float, ...]
    uncut: tuple[float, ...]
    ratio: Figure
    agreement: Figure
    uncut_bytes: int


class ScalingRow(Record):
    """So many tasks on one backbone against as many whole models."""

    tasks: int
    shared_seconds: Figure
    separate_seconds: Figure
    shared_bytes: Figure
    separate_bytes: Figure
