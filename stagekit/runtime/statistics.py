"""What happened so far, as counts and seconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Counts of one label, kept while requests run.

    Args:
        asked: times that a request's program holds it.
        created: times that it was neither there nor under way.
        calls, batches, seconds: as in :class:`CallStatistics`.
    """

    asked: int = 0
    created: int = 0
    calls: int = 0
    batches: int = 0
    seconds: float = 0.0


@dataclass
class CallStatistics:
    """What happened so far, by label of the call (of the task that came first, where several share one).

    Args:
        calls: engine calls made, one for each image in a batch.
        shared: calls that another task, or an earlier request, had already made for the same frame.
        seconds: spent in engine calls.
        batches: engine calls made, one for each batch.
        requests: answered, by outcome: ``done``, ``failed``, ``cancelled``, ``late``, ``refused``.
        busy: seconds with at least one batch in flight, by device.
        waiting: requests in flight now.
        live_bytes: of results that somebody will still read.
        cached_bytes: of results kept for frames that may be asked about again.
        gathered_bytes: copied to bring the images of a batch together.
    """

    calls: Counter[str] = field(default_factory=Counter)
    shared: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    batches: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    busy: dict[str, float] = field(default_factory=dict)
    waiting: int = 0
    live_bytes: int = 0
    cached_bytes: int = 0
    gathered_bytes: int = 0
