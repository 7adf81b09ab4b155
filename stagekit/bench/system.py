"""What is measured, as a scenario sees it: give it a query, be told when it is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any, Protocol

import numpy as np

from stagekit.bench.mix import Sample
from stagekit.runtime.answer import SharedFrame
from stagekit.session import Session

Array = np.ndarray[Any, Any]
Answers = list[dict[str, Array]]
"""For each part of a query, label maps by task."""

Done = Callable[[Answers | Exception], None]

clock = time.perf_counter


class System(Protocol):
    """Answers queries; ``number`` is the query's own, unlike any other's of the run."""

    def answer(self, number: int, index: int) -> Answers:
        """The answers to sample ``index``, when they are there."""

    def submit(self, number: int, index: int, done: Done) -> None:
        """Hands a query over and returns; ``done`` is called once, in whichever thread."""

    def __len__(self) -> int:
        """Samples to choose from."""


class NullSystem:
    """Answers at once: what is left is the harness's own cost."""

    def __init__(self, samples: int = 64, seconds: float = 0.0) -> None:
        self._samples = samples
        self._seconds = seconds

    def answer(self, number: int, index: int) -> Answers:
        if self._seconds:
            time.sleep(self._seconds)
        return []

    def submit(self, number: int, index: int, done: Done) -> None:
        done(self.answer(number, index))

    def __len__(self) -> int:
        return self._samples


class SessionSystem:
    """A session and the samples to ask it for.

    Args:
        session: may be exchanged for another of the same deployment while no query is under way.
        images: uint8 (height, width, 3), in memory.
        reuse: tasks of one image share what they have in common; otherwise each task is asked for alone.
    """

    def __init__(
        self, session: Session, images: Sequence[Array], samples: Sequence[Sample], reuse: bool = True
    ) -> None:
        self.session = session
        self._images = images
        self._parts = [s.parts if reuse else _alone(s) for s in samples]

    def answer(self, number: int, index: int) -> Answers:
        parts = self._parts[index]
        if len(parts) == 1:
            image, tasks = parts[0]
            return [self.session.run(self._frame(number, 0, image), tasks)]
        return [future.result() for future in self._start(number, index)]

    def submit(self, number: int, index: int, done: Done) -> None:
        futures = self._start(number, index)
        if len(futures) == 1:
            futures[0].add_done_callback(lambda future: done(_gathered([future])))
        else:
            _Gathering(futures, done)

    def _start(self, number: int, index: int) -> list[Future[dict[str, Array]]]:
        return [
            self.session.submit(self._frame(number, place, image), tasks)
            for place, (image, tasks) in enumerate(self._parts[index])
        ]

    def _frame(self, number: int, place: int, image: int) -> SharedFrame:
        """An image of this query's own, under a name that tells recordings whose it is."""
        return SharedFrame(f"{number}/{place}", self._images[image], shared=False)

    def __len__(self) -> int:
        return len(self._parts)


def _alone(sample: Sample) -> tuple[tuple[int, tuple[str, ...]], ...]:
    return tuple((image, (task,)) for image, tasks in sample.parts for task in tasks)


class _Gathering:
    """Tells when all parts of a query are answered."""

    def __init__(self, futures: Sequence[Future[dict[str, Array]]], done: Done) -> None:
        self._futures = futures
        self._done = done
        self._lock = threading.Lock()
        self._open = len(futures)
        for future in futures:
            future.add_done_callback(self._answered)

    def _answered(self, _: Future[dict[str, Array]]) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                return
        self._done(_gathered(self._futures))


def _gathered(futures: Sequence[Future[dict[str, Array]]]) -> Answers | Exception:
    """The answers of futures that are done, or the first one's failure; one that was cancelled failed as well."""
    try:
        return [future.result() for future in futures]
    except Exception as error:  # whatever a vendor's runtime raises is for the results
        return error


numbers = count()
"""Numbers for queries, unlike any other's of this process: frames are named after them."""
