"""Who called what when: a session's recorder that keeps what results need and nothing else."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

import numpy as np

from stagekit.bench.results import CallTimes
from stagekit.runtime.scheduler import Batch

Row = tuple[str, bool, str, float, float, tuple[str, ...]]


class Recording:
    """Batches since it was last cleared; see :class:`stagekit.runtime.driver.Recorder`."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()

    def add(self, batch: Batch, slot: int, begun: float, ended: float) -> None:
        """Called by the driver, from any of its threads."""
        step = batch.works[0].step
        frames = tuple(work.frame.key for work in batch.works)
        self._rows.append((step.label, step.adapter, batch.queue.digest, begun, ended, frames))

    def clear(self) -> None:
        self._rows.clear()

    def first_calls(self) -> dict[int, float]:
        """When the first engine call of each query began, by the query's number."""
        first: dict[int, float] = {}
        for _, _, _, begun, _, frames in list(self._rows):
            for frame in frames:
                if number := _query(frame):
                    first[int(number)] = min(begun, first.get(int(number), begun))
        return first

    def calls(
        self,
        before: Mapping[str, int],
        after: Mapping[str, int],
        sizes: Mapping[str, int],
        macs: Mapping[str, int],
    ) -> tuple[CallTimes, ...]:
        """Times by label, in the order in which labels were first seen.

        Args:
            before, after: how many calls were shared until then, by label.
            sizes: bytes of engines, by digest.
            macs: multiply-accumulates of an image, by label, as far as they are known.
        """
        by_label: dict[str, list[Row]] = {}
        for row in list(self._rows):
            if not any(map(_query, row[-1])):  # to warm up
                continue
            by_label.setdefault(row[0], []).append(row)
        made = []
        for label, rows in by_label.items():
            seconds = np.array([ended - begun for _, _, _, begun, ended, _ in rows])
            made.append(
                CallTimes(
                    label=label,
                    adapter=rows[0][1],
                    calls=sum(len(frames) for *_, frames in rows),
                    batches=len(rows),
                    shared=after.get(label, 0) - before.get(label, 0),
                    sizes=dict(sorted(Counter(len(frames) for *_, frames in rows).items())),
                    median=float(np.median(seconds)),
                    p90=float(np.quantile(seconds, 0.9)),
                    total=float(seconds.sum()),
                    macs=macs.get(label),
                    bytes=sizes.get(rows[0][2]),
                )
            )
        return tuple(made)


def _query(frame: str) -> str:
    """The number of the query that a frame is named after; empty for others."""
    number, _, _ = frame.partition("/")
    return number if number.isdigit() else ""
