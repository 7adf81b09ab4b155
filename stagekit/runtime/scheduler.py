"""When to run what. It decides and nothing else: no threads, no clock, no engine, no look into a value.

Whoever drives it passes the time in, runs the batches that :meth:`Scheduler.schedule` gives, and brings back
what came of them with :meth:`Scheduler.complete`. Real devices (:mod:`stagekit.runtime.driver`) and a virtual
clock (:mod:`stagekit.runtime.simulate`) drive the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

from stagekit.errors import Cancelled, DeadlineMissed
from stagekit.runtime.cache import ValueCache
from stagekit.runtime.cost import Cost
from stagekit.runtime.flow import Flow
from stagekit.runtime.policy import Policy, adapters_first
from stagekit.runtime.program import Program
from stagekit.runtime.queues import DeviceQueue, EngineQueue
from stagekit.runtime.registry import Registry
from stagekit.runtime.statistics import CallStatistics
from stagekit.runtime.work import DONE, Entry, Frame, Request, Value, Work, nobody

PATIENCE = 1.0
"""Seconds after its arrival by which a request without a deadline counts as due, so that it is not put off for ever."""


@dataclass(slots=True, eq=False)
class Batch:
    """Work of one engine to run in one call.

    Args:
        queue: of the engine.
        works: as many as the engine takes at once; fewer than its smallest size may have to be filled up.
        started: seconds on the scheduler's clock.
    """

    queue: EngineQueue
    works: list[Work]
    started: float


class Scheduler:
    """Programs and requests in, batches out.

    Args:
        devices: batches in flight at once, by device name.
        policy: the order among ready work.
        budget: bytes for results, those in use and those kept for reusable frames together.
    """

    def __init__(self, devices: Mapping[str, int], policy: Policy = adapters_first, budget: int = 256 << 20) -> None:
        self.devices = {name: DeviceQueue(name, depth) for name, depth in devices.items()}
        self.engines: dict[str, EngineQueue] = {}
        self.registry = Registry(self.engines)
        self.cache = ValueCache(budget)
        self.requests: set[Request] = set()
        """In flight."""
        self.finished: list[Request] = []
        """Requests that are answered since the driver last looked; it takes them from here."""
        self._flow = Flow(policy, self.cache, self._settle)
        self._sequence = count()
        self._deadlines: list[tuple[float, int, Request]] = []
        self._outcomes: Counter[str] = Counter()

    # -- what there is ---------------------------------------------------------------------------------------

    def add_engine(
        self, digest: str, device: str, sizes: Sequence[int] = (1,), item_bytes: int = 0, prior: Cost | None = None
    ) -> None:
        """Makes an engine known; see :class:`EngineQueue`."""
        self.engines[digest] = EngineQueue(digest, self.devices[device], tuple(sizes), item_bytes, prior)

    def add(self, program: Program) -> Entry:
        """Registers a program whose engines are known; see :meth:`Registry.add`."""
        return self.registry.add(program)

    def remove(self, task: str) -> Entry:
        """No new requests for this task; those in flight are answered."""
        return self.registry.remove(task)

    def unused_engines(self) -> list[str]:
        """Engines that no program holds and no work waits for; they are forgotten here, for the driver to close."""
        unused = [d for d, q in self.engines.items() if q.users == 0 and q.active == 0]
        for digest in unused:
            del self.engines[digest]
        return unused

    # -- requests --------------------------------------------------------------------------------------------

    @property
    def live_bytes(self) -> int:
        """Of results that somebody will still read."""
        return self._flow.live_bytes

    @property
    def in_flight(self) -> int:
        """Requests that are not answered."""
        return len(self.requests)

    def submit(
        self,
        frame: Frame,
        tasks: Sequence[str | Entry],
        now: float,
        deadline: float | None = None,
        priority: int = 0,
        done: Callable[[Request], None] = nobody,
    ) -> Request:
        """Takes a request for some tasks of a frame; what is there or under way for it is shared.

        Args:
            frame: two with the same key and ``reusable`` set are the same.
            deadline: seconds on the scheduler's clock, after which the answer is not wanted.
            priority: higher goes first.
            done: kept with the request, for the driver.

        Raises:
            UsageError: a task is not registered.
        """
        entries = tuple(self.registry.find(t) if isinstance(t, str) else t for t in tasks)
        if frame.reusable:
            frame = self._flow.frames.setdefault(frame.key, frame)
        request = Request(frame, entries, now, deadline, done)
        self.requests.add(request)
        due = now + PATIENCE if deadline is None else deadline
        if deadline is not None:
            self._remember(deadline, request)
        for place, entry in enumerate(entries):
            entry.asked += 1
            work = self._flow.want(frame, entry.result[0], entry.task, due, priority)
            if work.state == DONE:
                self._settle(request, place, work.values[entry.result[1]])  # type: ignore[index]
                if work.reads == 0:  # it came from the cache and goes back there
                    self._flow.free(work)
            else:
                work.reads += 1
                work.requests.append((request, place))
                request.works[place] = work
        if not entries:
            self._finish(request)
        return request

    @property
    def is_full(self) -> bool:
        """Whether the results that somebody will still read take all of the memory."""
        return self.live_bytes > self.cache.budget

    def cancel(self, request: Request, error: Exception | None = None) -> bool:
        """Lets a request go unless it is answered: what only it wanted is dropped where it has not started."""
        if request.done:
            return False
        error = error or Cancelled("the request was cancelled")
        for place, work in enumerate(request.works):
            if work is not None:
                work.requests.remove((request, place))
                self._settle(request, place, error)
                self._flow.release(work)
        return True

    def expire(self, now: float) -> None:
        """Answers the requests whose deadline has passed with :class:`DeadlineMissed`."""
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heappop(self._deadlines)[2]
            if not request.done:
                late = f"not done {request.deadline - request.arrived:.3g} s after it came"  # type: ignore[operator]
                self.cancel(request, DeadlineMissed(f"the request missed its deadline: {late}"))

    @property
    def next_deadline(self) -> float | None:
        """When :meth:`expire` must be called next, if nothing else happens."""
        while self._deadlines and self._deadlines[0][2].done:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    # -- batches ---------------------------------------------------------------------------------------------

    def schedule(self, now: float) -> list[Batch]:
        """All batches that may start now."""
        started = []
        for device in self.devices.values():
            while (batch := self.next_batch(device, now)) is not None:
                started.append(batch)
        return started

    def next_batch(self, device: DeviceQueue, now: float) -> Batch | None:
        """One batch that may start now on a device, or ``None``. It never waits for a batch to fill up."""
        if self._deadlines:
            self.expire(now)
        if device.in_flight >= device.depth:
            return None
        queue = device.first()
        if queue is None:
            return None
        if device.in_flight == 0:
            device.since = now
        device.in_flight += 1
        return Batch(queue, queue.take(), now)

    def started(self, batch: Batch, values: tuple[Value, ...]) -> None:
        """A batch of one runs on a device that keeps the order of calls, and its outputs will be ``values``.

        What reads them on that device may start at once, behind it. If they turn out otherwise (the call fails, or
        :meth:`complete` brings other outputs), whatever was started so far is ``spoilt`` and has to be made again.
        """
        self._flow.started(batch.works[0], values)

    def complete(self, batch: Batch, outcomes: Sequence[Value | Exception], now: float) -> None:
        """Takes back a batch.

        Args:
            outcomes: for each of its works, the outputs or why they failed. Work of a larger batch that failed
                runs again, alone, so that one image's failure is not its neighbours'.
        """
        queue, works = batch.queue, batch.works
        device = queue.device
        device.in_flight -= 1
        # Of two in flight, the later had to wait until the earlier was done.
        seconds = max(0.0, now - (batch.started if batch.started > device.since else device.since))
        if now > device.since:
            device.busy += now - device.since
            device.since = now
        if len(queue.sizes) > 1:  # elsewhere there is nothing to choose
            queue.cost.observe(len(works), seconds)
        tally = works[0].step.tally
        tally.calls += len(works)
        tally.batches += 1
        tally.seconds += seconds
        for work, outcome in zip(works, outcomes, strict=True):
            if isinstance(outcome, Exception):
                if len(works) > 1 and work.reads:
                    work.solo = True
                    self._flow.ready(work)
                else:
                    self._flow.fail(work, outcome)
            else:
                self._flow.done(work, outcome)

    def statistics(self) -> CallStatistics:
        """What happened so far."""
        for entry in self.registry.entries.values():
            self.registry.count(entry)
        tallies = self.registry.tallies
        return CallStatistics(
            calls=Counter({label: t.calls for label, t in tallies.items() if t.calls}),
            shared=Counter({label: t.asked - t.created for label, t in tallies.items() if t.asked > t.created}),
            seconds={label: t.seconds for label, t in tallies.items() if t.calls},
            batches=Counter({label: t.batches for label, t in tallies.items() if t.calls}),
            requests=Counter(self._outcomes),
            busy={device.name: device.busy for device in self.devices.values()},
            waiting=self.in_flight,
            live_bytes=self.live_bytes,
            cached_bytes=self.cache.bytes,
        )

    # -- inside ----------------------------------------------------------------------------------------------

    def _remember(self, deadline: float, request: Request) -> None:
        """Notes a deadline, and from time to time lets those go whose requests are answered long before."""
        if len(self._deadlines) > 64 + 2 * len(self.requests):
            self._deadlines = [entry for entry in self._deadlines if not entry[2].done]
            heapify(self._deadlines)
        heappush(self._deadlines, (deadline, next(self._sequence), request))

    def _settle(self, request: Request, place: int, outcome: Value | Exception) -> None:
        request.outcomes[place] = outcome
        request.works[place] = None
        request.pending -= 1
        if request.pending == 0:
            self._finish(request)

    def _finish(self, request: Request) -> None:
        self.requests.discard(request)
        self.finished.append(request)
        error = request.error
        if error is None:
            self._outcomes["done"] += 1
        else:
            late, cancelled = isinstance(error, DeadlineMissed), isinstance(error, Cancelled)
            self._outcomes["late" if late else "cancelled" if cancelled else "failed"] += 1
