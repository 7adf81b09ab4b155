"""Calling an engine and having its outputs, as directly as its lane allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stagekit.target import Buffer, Engine

Run = Callable[[Sequence[Buffer], int], tuple[Buffer, ...]]
"""Inputs and their batch size to outputs; returns when they are there."""


def direct(engine: Engine) -> Run:
    """A lane of an engine as a function: in the caller's thread where the lane offers it (``run``)."""
    lane = engine.lane()
    run: Run | None = getattr(lane, "run", None)
    return run or (lambda inputs, batch: lane.submit(inputs, batch).wait())
