"""Calling an engine and having its outputs, as directly as its lane allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stagekit.target import Buffer, Engine, Lane, Started

Run = Callable[[Sequence[Buffer], int], tuple[Buffer, ...]]
"""Inputs and their batch size to outputs; returns when they are there."""

Start = Callable[[Sequence[Buffer], int], Started]
"""Inputs and their batch size to a call under way, whose outputs can be handed on before they are there."""


def direct(engine: Engine) -> Run:
    """A lane of an engine as a function."""
    return run_on(engine.lane())


def run_on(lane: Lane) -> Run:
    """Calls in the caller's thread where the lane offers it (``run``)."""
    run: Run | None = getattr(lane, "run", None)
    return run or (lambda inputs, batch: lane.submit(inputs, batch).wait())


def start_on(lane: Lane) -> Start | None:
    """Calls that may be made before their inputs are there, where the lane offers it (``start``)."""
    start: Start | None = getattr(lane, "start", None)
    return start
