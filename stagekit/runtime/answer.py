"""Between images and requests: what is asked of an image, and what a caller holds until it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

from stagekit.bundle import DeployedTask
from stagekit.data.geometry import Geometry, Placement
from stagekit.errors import Cancelled
from stagekit.graph.spec import TensorSpec
from stagekit.runtime.work import Frame, Request
from stagekit.target import HostBuffer

Array = np.ndarray[Any, Any]
Results = dict[str, Array]
"""Label maps or logits in the image's own size, by task."""


class SharedFrame:
    """An image with a name of its own: requests for one object share what is computed of it.

    Args:
        key: unlike any other image's.
        image: never changed by anyone.
        shared: several requests may come for it.
    """

    def __init__(self, key: str, image: Array, shared: bool = True) -> None:
        self.key = key
        self.image = image
        self.shared = shared
        self._seen: dict[Geometry, tuple[Frame, Placement]] = {}

    def seen(self, geometry: Geometry, spec: TensorSpec, keep: bool) -> tuple[Frame, Placement]:
        """The frame of ``spec``'s form that a geometry makes of the image.

        Args:
            keep: the caller may change an image that is not shared before it is read.
        """
        found = self._seen.get(geometry)
        if found is None:
            pixels, placement = geometry.apply(self.image)
            if keep and not self.shared and np.may_share_memory(pixels, self.image):
                pixels = pixels.copy()
            frame = Frame(f"{self.key}:{geometry.key()}", HostBuffer(spec, pixels[None]), self.shared)
            found = self._seen[geometry] = (frame, placement)
        return found


class Job:
    """What was asked of one image: a request for each geometry, answered when all of them are.

    Args:
        names: tasks, in the order of the results.
        parts: requests to wait for.
    """

    def __init__(self, names: Sequence[str], tasks: Mapping[str, DeployedTask], parts: int) -> None:
        self.answered: Future[None] = Future()
        self.requests: list[Request] = []
        self._tasks = {name: tasks[name] for name in names}
        self._parts = parts
        self._lock = Lock()
        self._values: dict[str, tuple[Any, Placement]] = {}
        self._error: Exception | None = None

    def expect(self, placement: Placement) -> Callable[[Request], None]:
        """What to call when a request is answered, whose frame shows the image like this."""

        def answered(request: Request) -> None:
            with self._lock:
                self._error = self._error or request.error
                for entry, outcome in zip(request.entries, request.outcomes, strict=True):
                    self._values[entry.task] = (outcome, placement)
                self._parts -= 1
                last = self._parts == 0
            if last and self._error is None:
                self.answered.set_result(None)
            elif last:
                self.answered.set_exception(self._error)

        return answered

    def results(self) -> Results:
        """The results in the image's own size; takes time, so not in a thread that others wait for."""
        results: Results = {}
        for name, task in self._tasks.items():
            outcome, placement = self._values[name]
            value = outcome.to_host()[0]
            if task.output == "logits":
                results[name] = placement.logits_to_image(value)
            elif placement.image_box == placement.frame_box and value.shape == (
                placement.image_height,
                placement.image_width,
            ):
                results[name] = value.copy()  # pixel for pixel, and not a view that holds a whole batch
            else:
                results[name] = placement.labels_to_image(value)
        return results


class Answer(Future[Results]):
    """The results of a job, when they are there.

    Args:
        job: under way.
        withdraw: takes a request back.
        finishing: where results are brought to the image's size.
    """

    def __init__(self, job: Job, withdraw: Callable[[Request], bool], finishing: ThreadPoolExecutor) -> None:
        super().__init__()
        self._job = job
        self._withdraw = withdraw
        self._finishing = finishing
        job.answered.add_done_callback(self._answered)

    def cancel(self) -> bool:
        """Withdraws the requests; whether none of them had been answered in full before."""
        if self.done():
            return self.cancelled()
        for request in self._job.requests:
            self._withdraw(request)
        return self.cancelled()

    def _answered(self, answered: Future[None]) -> None:
        error = answered.exception()
        if isinstance(error, Cancelled):
            super().cancel()
            self.set_running_or_notify_cancel()
        elif error is not None:
            self.set_exception(error)
        else:
            self._finishing.submit(self._finish)

    def _finish(self) -> None:
        try:
            self.set_result(self._job.results())
        except Exception as error:
            self.set_exception(error)
