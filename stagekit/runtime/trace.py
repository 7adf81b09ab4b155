"""What ran when, for chrome://tracing and https://ui.perfetto.dev, and where the time went, in words.

The format is Chrome's Trace Event Format (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU):
complete events, times in microseconds. A device has a row for each call that it may have in flight.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagekit.runtime.scheduler import Batch
from stagekit.runtime.work import Step

KEPT = 200_000
"""Slices; the oldest go when there are more."""


@dataclass(frozen=True, slots=True)
class Slice:
    """An engine call.

    Args:
        device, slot: the row.
        begun, ended: seconds on the driver's clock.
        images: (task that asked first, step, frame) of each.
        engine: digest.
    """

    device: str
    slot: int
    begun: float
    ended: float
    images: tuple[tuple[str, Step, str], ...]
    engine: str

    @property
    def label(self) -> str:
        return self.images[0][1].label

    def event(self, row: int, origin: float) -> dict[str, Any]:
        """The slice as Chrome takes it."""
        return {
            "name": self.label,
            "cat": "adapter" if self.images[0][1].adapter else "stage",
            "ph": "X",
            "ts": round(1e6 * (self.begun - origin), 3),
            "dur": round(1e6 * (self.ended - self.begun), 3),
            "pid": 1,
            "tid": row,
            "args": {
                "task": ", ".join(dict.fromkeys(task for task, _, _ in self.images)),
                "batch": len(self.images),
                "frame": [frame for _, _, frame in self.images],
                "key": [step.key(frame)[:16] for _, step, frame in self.images],
                "engine": self.engine[:16],
            },
        }


@dataclass(frozen=True, slots=True)
class Spent:
    """Where time went: one kind of call, or a device's waiting.

    Args:
        what: the call's label, or ``idle``.
        seconds: of the device's time from its first call to its last.
        share: of that time.
    """

    device: str
    what: str
    calls: int
    images: int
    seconds: float
    share: float


class Trace:
    """Records engine calls; one for a session (``Session(..., trace=Trace())``)."""

    def __init__(self) -> None:
        self.slices: deque[Slice] = deque(maxlen=KEPT)

    def add(self, batch: Batch, slot: int, begun: float, ended: float) -> None:
        """Called by the driver, from any of its threads."""
        images = tuple((work.task, work.step, work.frame.key) for work in batch.works)
        self.slices.append(Slice(batch.queue.device.name, slot, begun, ended, images, batch.queue.digest))

    def events(self) -> list[dict[str, Any]]:
        """All slices and the names of their rows."""
        slices = list(self.slices)
        origin = min((s.begun for s in slices), default=0.0)
        rows = {key: number for number, key in enumerate(sorted({(s.device, s.slot) for s in slices}), start=1)}
        names = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": {"name": f"{device} #{slot}"}}
            for (device, slot), row in rows.items()
        ]
        process = {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "stagekit"}}
        return [process, *names, *(s.event(rows[s.device, s.slot], origin) for s in slices)]

    def write(self, path: Path) -> None:
        """Writes the trace as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"traceEvents": self.events(), "displayTimeUnit": "ms"}), encoding="utf-8")

    def summary(self) -> list[Spent]:
        """Where each device's time went, from its first call to its last; the most first, idle time at the end."""
        by_device: dict[str, list[Slice]] = defaultdict(list)
        for one in list(self.slices):
            by_device[one.device].append(one)
        spent: list[Spent] = []
        for device, slices in sorted(by_device.items()):
            whole = max(s.ended for s in slices) - min(s.begun for s in slices)
            by_label: dict[str, list[Slice]] = defaultdict(list)
            for one in slices:
                by_label[one.label].append(one)
            rows = [
                Spent(
                    device, label, len(ran), sum(len(s.images) for s in ran), seconds, seconds / whole if whole else 0.0
                )
                for label, ran in by_label.items()
                for seconds in [sum(s.ended - s.begun for s in ran)]
            ]
            idle = max(0.0, whole - _covered(slices))
            rows.sort(key=lambda row: -row.seconds)
            spent += [*rows, Spent(device, "idle", 0, 0, idle, idle / whole if whole else 0.0)]
        return spent


def _covered(slices: list[Slice]) -> float:
    """Seconds in which at least one slice ran."""
    covered, until = 0.0, float("-inf")
    for one in sorted(slices, key=lambda s: s.begun):
        if one.ended > until:
            covered += one.ended - max(one.begun, until)
            until = one.ended
    return covered
