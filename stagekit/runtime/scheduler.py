"""When to run what. It decides and nothing else: no threads, no clock, no engine, no look into a value.

Whoever drives it passes the time in, runs the batches that :meth:`Scheduler.schedule` gives, and brings back
what came of them with :meth:`Scheduler.complete`. Real devices (:mod:`stagekit.runtime.driver`) and a virtual
clock (:mod:`stagekit.runtime.simulate`) drive the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from stagekit.errors import Cancelled, DeadlineMissed
from stagekit.runtime.cache import ValueCache
from stagekit.runtime.cost import Cost
from stagekit.runtime.policy import Policy, adapters_first
from stagekit.runtime.program import Program
from stagekit.runtime.queues import DeviceQueue, EngineQueue
from stagekit.runtime.registry import Entry, Registry
from stagekit.runtime.statistics import CallStatistics
from stagekit.runtime.work import (
    DONE,
    DROPPED,
    FAILED,
    READY,
    RUNNING,
    WAITING,
    Frame,
    Request,
    Step,
    Value,
    Work,
    nobody,
)

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
        self.live_bytes = 0
        self.requests: set[Request] = set()
        """In flight."""
        self.finished: list[Request] = []
        """Requests that are answered since the driver last looked; it takes them from here."""
        self._policy = policy
        self._sequence = count()
        self._frames: dict[str, Frame] = {}
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
            frame = self._frames.setdefault(frame.key, frame)
        request = Request(frame, entries, now, deadline, done)
        self.requests.add(request)
        due = now + PATIENCE if deadline is None else deadline
        if deadline is not None:
            heappush(self._deadlines, (deadline, next(self._sequence), request))
        for place, entry in enumerate(entries):
            entry.asked += 1
            work = self._want(frame, entry.result[0], entry.task, due, priority)
            if work.state == DONE:
                self._settle(request, place, work.values[entry.result[1]])  # type: ignore[index]
                if work.reads == 0:  # it came from the cache and goes back there
                    self._free(work)
            else:
                work.reads += 1
                work.requests.append((request, place))
                request.works[place] = work
        if not entries:
            self._finish(request)
        return request

    def cancel(self, request: Request, error: Exception | None = None) -> bool:
        """Lets a request go unless it is answered: what only it wanted is dropped where it has not started."""
        if request.done:
            return False
        error = error or Cancelled("the request was cancelled")
        for place, work in enumerate(request.works):
            if work is not None:
                work.requests.remove((request, place))
                self._settle(request, place, error)
                self._release(work)
        return True

    def expire(self, now: float) -> None:
        """Answers the requests whose deadline has passed with :class:`DeadlineMissed`."""
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heappop(self._deadlines)[2]
            if not request.done:
                late = f"not done {request.deadline - request.arrived:.3f} s after it came"  # type: ignore[operator]
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
        queue.cost.observe(len(works), seconds)
        tally = works[0].step.tally
        tally.calls += len(works)
        tally.batches += 1
        tally.seconds += seconds
        for work, outcome in zip(works, outcomes, strict=True):
            if isinstance(outcome, Exception):
                if len(works) > 1 and work.reads:
                    work.solo = True
                    self._ready(work)
                else:
                    self._fail(work, outcome)
            else:
                self._done(work, outcome)

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

    def _want(self, frame: Frame, step: Step, task: str, due: float, priority: int) -> Work:
        """The work of a step for a frame: there, under way, kept from before, or new with all that it needs."""
        work = frame.work.get(step)
        if work is not None:
            if (due < work.due or priority > work.priority) and work.state < RUNNING:
                self._hurry(work, due, priority)
            return work
        work = frame.work[step] = Work(step, frame, task, due, priority)
        if frame.reusable and (kept := self.cache.get((frame.key, step))) is not None:
            work.state, work.values = DONE, kept
            self.live_bytes += step.queue.item_bytes
            return work
        step.queue.active += 1
        step.tally.created += 1
        inputs, missing = work.inputs, 0
        for source, output in step.inputs:
            if source is None:
                inputs.append((None, output))
                continue
            before = self._want(frame, source, task, due, priority)
            before.reads += 1
            if before.state != DONE:
                before.readers.append(work)
                missing += 1
            inputs.append((before, output))
        work.missing = missing
        if missing == 0:
            self._ready(work)
        return work

    def _hurry(self, work: Work, due: float, priority: int) -> None:
        """Somebody wants it sooner: so with all that it waits for."""
        work.due, work.priority = min(due, work.due), max(priority, work.priority)
        if work.state == READY:
            work.sequence = next(self._sequence)
            work.rank = self._policy(work)
            work.step.queue.push(work)
            return
        for before, _ in work.inputs:
            if before is not None and before.state < RUNNING and (due < before.due or priority > before.priority):
                self._hurry(before, due, priority)

    def _ready(self, work: Work) -> None:
        work.state = READY
        work.sequence = next(self._sequence)
        work.rank = self._policy(work)
        queue = work.step.queue
        queue.ready += 1
        queue.push(work)

    def _done(self, work: Work, values: tuple[Value, ...]) -> None:
        work.state, work.values = DONE, values
        queue = work.step.queue
        queue.active -= 1
        self.live_bytes += queue.item_bytes
        for before, _ in work.inputs:
            if before is not None:
                self._release(before)
        work.inputs = []
        for reader in work.readers:
            if reader.state == WAITING:
                reader.missing -= 1
                if reader.missing == 0:
                    self._ready(reader)
        work.readers = []
        for request, place in work.requests:
            work.reads -= 1
            self._settle(request, place, values[request.entries[place].result[1]])
        work.requests = []
        if work.reads == 0:
            self._free(work)

    def _release(self, work: Work) -> None:
        """A reader less: done values go after the last, and what has not started is not started."""
        work.reads -= 1
        if work.reads:
            return
        if work.state == DONE:
            self._free(work)
        elif work.state in (WAITING, READY):
            self._discard(work, DROPPED)

    def _free(self, work: Work) -> None:
        size = work.step.queue.item_bytes
        self.live_bytes -= size
        frame = work.frame
        if frame.reusable:
            self.cache.put((frame.key, work.step), size, work.values, self.live_bytes)
        work.values = None
        self._forget(work)

    def _fail(self, work: Work, error: Exception) -> None:
        """Its requests fail, and so does everything that waits for it."""
        readers, requests = work.readers, work.requests
        work.readers, work.requests = [], []
        self._discard(work, FAILED)
        for request, place in requests:
            self._settle(request, place, error)
        for reader in readers:
            if reader.state == WAITING:
                self._fail(reader, error)

    def _discard(self, work: Work, state: int) -> None:
        if work.state == READY:
            work.step.queue.ready -= 1
        work.state = state
        work.step.queue.active -= 1
        inputs, work.inputs = work.inputs, []
        self._forget(work)
        for before, _ in inputs:
            if before is not None:
                self._release(before)

    def _forget(self, work: Work) -> None:
        frame = work.frame
        if frame.work.get(work.step) is work:
            del frame.work[work.step]
            if frame.reusable and not frame.work:
                self._frames.pop(frame.key, None)

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
