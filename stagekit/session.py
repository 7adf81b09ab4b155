"""The user's handle on a deployment: opened engines, a scheduler and tasks.

::

    with stagekit.Session("lite0.deploy") as session:
        labels = session.run(image, tasks=["landcover"])["landcover"]
        future = session.submit(image, deadline=0.1)
        for results in session.stream(images):
            ...
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from stagekit.bundle import DeployedTask, DeployManifest
from stagekit.data.geometry import Geometry, Resize
from stagekit.errors import Overloaded, UsageError, nearest
from stagekit.runtime.admission import Admission
from stagekit.runtime.answer import Answer, Job, Results, SharedFrame
from stagekit.runtime.driver import Driver
from stagekit.runtime.opening import Deployment
from stagekit.runtime.policy import Policy, adapters_first
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.slots import Recorder
from stagekit.runtime.statistics import CallStatistics
from stagekit.target import Engine

Array = np.ndarray[Any, Any]
Image = Array | SharedFrame

PAUSE = 0.01
"""Seconds before a stream asks again for room that others have taken."""


class Session:
    """Opens a deployment; runs images through any of its tasks.

    Only the engines that the chosen tasks need are loaded. All methods may be called from any thread.

    Args:
        deployment: a ``.deploy`` folder.
        tasks: names to open; all by default.
        slo: seconds within which requests are to be answered. What would take longer is refused at the door.
        memory: bytes for results between calls, and for those kept of shared frames.
        policy: the order among ready calls.
        trace: told about every call; see :class:`stagekit.runtime.trace.Trace`.

    Raises:
        BundleError: the folder is no deployment, or damaged.
        TargetUnavailable: its target cannot run here.
        EngineError: an engine is damaged or was built for another toolchain or device.
    """

    def __init__(
        self,
        deployment: str | Path,
        tasks: Sequence[str] | None = None,
        *,
        slo: float | None = None,
        memory: int = 256 << 20,
        policy: Policy = adapters_first,
        trace: Recorder | None = None,
    ) -> None:
        self.path = Path(deployment)
        self._deployment = Deployment(self.path)
        self._tasks: dict[str, DeployedTask] = {}
        self._geometries: dict[Resize, Geometry] = {}
        self._frames = count()
        self._finishing = ThreadPoolExecutor(1, thread_name_prefix="stagekit-results")
        scheduler = Scheduler({p.name: p.in_flight for p in self._deployment.places}, policy, memory)
        ordered = {p.name for p in self._deployment.places if p.ordered}
        self._driver = Driver(scheduler, Admission(slo), self._deployment.open, recorder=trace, ordered=ordered)
        try:
            self._add(self._deployment.tasks(tasks))
        except BaseException:
            self.close()
            raise

    @property
    def manifest(self) -> DeployManifest:
        """Of the deployment."""
        return self._deployment.manifest

    @property
    def tasks(self) -> Mapping[str, DeployedTask]:
        """The open tasks by name."""
        return dict(self._tasks)

    @property
    def states(self) -> dict[str, str]:
        """``open`` for each task, or why it was taken out: an engine of its failed again after it was reopened."""
        return {name: self._driver.out.get(name, "open") for name in self._tasks}

    @property
    def statistics(self) -> CallStatistics:
        """Calls made and shared since the session was opened."""
        return self._driver.statistics()

    def geometry(self, task: str) -> Geometry:
        """How this task maps an image to a frame."""
        resize = self._tasks[task].resize
        if resize not in self._geometries:
            frame = self.manifest.frame
            self._geometries[resize] = Geometry(frame.height, frame.width, resize, frame.fill)
        return self._geometries[resize]

    # -- tasks ---------------------------------------------------------------------------------------------------

    def add_task(self, name: str) -> None:
        """Opens one more task, which may have been compiled into the deployment since; others run on meanwhile.

        A task that was taken out is opened again.

        Raises:
            UsageError, EngineError: as for the session.
        """
        self._deployment.reread()
        self._add(self._deployment.tasks([name]))

    def remove_task(self, name: str) -> None:
        """Takes no new requests for a task; those in flight are answered. Closes engines that no task needs.

        Raises:
            UsageError: it is not open.
        """
        self._named([name])
        del self._tasks[name]
        self._driver.remove(name)

    def _add(self, tasks: Sequence[DeployedTask]) -> None:
        together = {**self._tasks, **{t.name: t for t in tasks}}.values()
        for task in tasks:
            self._driver.add(self._deployment.program(task, together), self._open)
            self._tasks[task.name] = task

    def _open(self, digest: str) -> tuple[Engine, str]:
        return self._deployment.open(digest), self._deployment.place_of(digest).name

    # -- requests ------------------------------------------------------------------------------------------------

    def frame(self, image: Array) -> SharedFrame:
        """A copy of an image for several requests: what one has computed of it, the next need not.

        Raises:
            UsageError: the image has another form than :meth:`run` takes.
        """
        return SharedFrame(f"shared-{next(self._frames)}", _checked(image).copy())

    def run(
        self,
        image: Image,
        tasks: Sequence[str] | None = None,
        *,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Results:
        """Label maps (or logits) of one image, by task.

        Args:
            image: uint8 (height, width, 3) RGB, of any size; or a :meth:`frame`.
            tasks: names; all that the session has open by default.
            deadline: seconds from now after which the results are not wanted.
            priority: higher goes first.

        Returns:
            Labels as uint8 (height, width) in the image's own size; of a deployment compiled for logits,
            float32 (classes, height, width).

        Raises:
            UsageError: the image has another form, or a task is not open.
            EngineError: an engine call of one of the tasks failed, or one was taken out.
            Overloaded: too many requests are in flight; says when to try again.
            DeadlineMissed: there was no result in time.
        """
        job = self._start(image, tasks, deadline, priority)
        job.answered.result()
        return job.results()

    def submit(
        self,
        image: Image,
        tasks: Sequence[str] | None = None,
        *,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Future[Results]:
        """The same, without waiting: a future, whose ``cancel`` withdraws what has not been computed.

        The image may be changed as soon as this returns.
        """
        job = self._start(image, tasks, deadline, priority, waits=False)
        return Answer(job, self._driver.cancel, self._finishing)

    def stream(
        self,
        images: Iterable[Image],
        tasks: Sequence[str] | None = None,
        *,
        window: int = 4,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Iterator[Results]:
        """Results of a sequence, in its order, with up to ``window`` images under way."""
        pending: deque[Future[Results]] = deque()
        try:
            for image in images:
                while (future := self._try(image, tasks, deadline, priority)) is None:
                    if pending:
                        yield pending.popleft().result()
                    else:
                        time.sleep(PAUSE)
                pending.append(future)
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    async def run_async(
        self,
        image: Image,
        tasks: Sequence[str] | None = None,
        *,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Results:
        """:meth:`run` for asyncio; cancelling it withdraws the request."""
        return await asyncio.wrap_future(self.submit(image, tasks, deadline=deadline, priority=priority))

    async def stream_async(
        self,
        images: AsyncIterable[Image],
        tasks: Sequence[str] | None = None,
        *,
        window: int = 4,
        deadline: float | None = None,
        priority: int = 0,
    ) -> AsyncIterator[Results]:
        """:meth:`stream` for asyncio."""
        pending: deque[asyncio.Future[Results]] = deque()
        try:
            async for image in images:
                while (future := self._try(image, tasks, deadline, priority)) is None:
                    if pending:
                        yield await pending.popleft()
                    else:
                        await asyncio.sleep(PAUSE)
                pending.append(asyncio.wrap_future(future))
                if len(pending) >= window:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for waiting in pending:
                waiting.cancel()

    def close(self) -> None:
        """Withdraws what is under way and closes all engines; further requests fail."""
        self._driver.close()
        self._finishing.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _try(
        self, image: Image, tasks: Sequence[str] | None, deadline: float | None, priority: int
    ) -> Future[Results] | None:
        """A future, or ``None`` where there is no room just now."""
        try:
            return self.submit(image, tasks, deadline=deadline, priority=priority)
        except Overloaded:
            return None

    def _start(
        self,
        image: Image,
        tasks: Sequence[str] | None,
        deadline: float | None,
        priority: int,
        waits: bool = True,
    ) -> Job:
        """Requests for each way in which the tasks see the image.

        Args:
            waits: the caller does nothing else meanwhile, such as changing the image.
        """
        names = self._named(list(self._tasks) if tasks is None else tasks)
        groups: dict[Geometry, list[str]] = {}
        for name in names:
            groups.setdefault(self.geometry(name), []).append(name)
        if not isinstance(image, SharedFrame):
            image = SharedFrame(f"frame-{next(self._frames)}", _checked(image), shared=False)
        job = Job(names, self._tasks, len(groups))
        spec = self.manifest.frame.spec.bind(batch=1)
        try:
            for geometry, group in groups.items():
                frame, placement = image.seen(geometry, spec, not waits)
                told, more = job.expect(placement), bool(job.requests)
                request = self._driver.submit(frame, group, told, deadline, priority, admitted=more, waits=waits)
                job.requests.append(request)
        except BaseException:
            for request in job.requests:
                with suppress(Exception):
                    self._driver.cancel(request)
            raise
        return job

    def _named(self, names: Sequence[str]) -> list[str]:
        for name in names:
            if name not in self._tasks:
                raise UsageError(f"no task {name!r} is open" + nearest(name, list(self._tasks)), where=self.path)
        return list(dict.fromkeys(names))


def _checked(image: Array) -> Array:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(f"expected a uint8 image (height, width, 3), got {image.dtype} {image.shape}")
    return image
