"""The scheduler on devices that are not here: a virtual clock and cost curves in their place.

It is the scheduler itself that runs, so what is predicted is what it would decide. With it capacity can be
known before hardware is bought, and hundreds of tasks or minutes of load be tried in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import numpy as np

from stagekit.errors import Overloaded
from stagekit.runtime.admission import Admission
from stagekit.runtime.cost import Cost
from stagekit.runtime.policy import Policy, adapters_first
from stagekit.runtime.program import Program
from stagekit.runtime.scheduler import Batch, Scheduler
from stagekit.runtime.work import Frame, Request, Value

OUTPUTS = 16
"""Values that a simulated call has; more than any engine gives."""


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """An engine by what it costs.

    Args:
        device: its name.
        cost: seconds of a batch.
        sizes: batch sizes it is built for.
        item_bytes: of its outputs for one image.
    """

    device: str
    cost: Cost
    sizes: tuple[int, ...] = (1,)
    item_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """A device that computes one batch at a time.

    Args:
        depth: batches in flight.
        transfer: seconds to bring a batch in, during which it may compute another.
    """

    depth: int = 2
    transfer: float = 0.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at a time.

    Args:
        frame: key of its frame; each its own where none is given.
        deadline: seconds after it arrives.
    """

    time: float
    tasks: tuple[str, ...]
    frame: str = ""
    deadline: float | None = None
    priority: int = 0


@dataclass(slots=True)
class Simulated:
    """What came of it.

    Args:
        answered: (arrival, seconds on the virtual clock at which it had its result or error, that error).
        refused: arrivals that were not let in.
        ended: when the last was answered.
        busy: seconds that each device computed.
        batches: sizes, by engine.
    """

    answered: list[tuple[Arrival, float, Exception | None]] = field(default_factory=list)
    refused: list[Arrival] = field(default_factory=list)
    ended: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    batches: dict[str, list[int]] = field(default_factory=dict)

    @property
    def latencies(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Seconds from arrival to result of all that had one, in the order of the results."""
        return np.array([end - arrival.time for arrival, end, error in self.answered if error is None])


Compute = Callable[[Batch], Sequence[Value | Exception]]


def nothing(batch: Batch) -> Sequence[Value]:
    """Outputs that say nothing."""
    return [(None,) * OUTPUTS] * len(batch.works)


def simulate(
    programs: Iterable[Program],
    engines: Mapping[str, SimulatedEngine],
    arrivals: Iterable[Arrival],
    devices: Mapping[str, SimulatedDevice] | None = None,
    policy: Policy = adapters_first,
    admission: Admission | None = None,
    compute: Compute = nothing,
) -> Simulated:
    """Runs arrivals through the scheduler until all are answered.

    Args:
        engines: by digest.
        arrivals: in the order of their times.
        devices: by name; one of the default kind for each name that engines mention, where none are given.
        admission: lets everybody in where none is given.
        compute: what batches give.
    """
    devices = devices or {e.device: SimulatedDevice() for e in engines.values()}
    scheduler = Scheduler({name: d.depth for name, d in devices.items()}, policy)
    for digest, engine in engines.items():
        scheduler.add_engine(digest, engine.device, engine.sizes, engine.item_bytes)
    for program in programs:
        scheduler.add(program)
    admission = admission or Admission(most=1 << 60)
    return _Loop(scheduler, engines, devices, admission, compute).run(arrivals)


class _Loop:
    def __init__(
        self,
        scheduler: Scheduler,
        engines: Mapping[str, SimulatedEngine],
        devices: Mapping[str, SimulatedDevice],
        admission: Admission,
        compute: Compute,
    ) -> None:
        self._scheduler = scheduler
        self._engines = engines
        self._devices = devices
        self._admission = admission
        self._compute = compute
        self._free = dict.fromkeys(devices, 0.0)
        self._events: list[tuple[float, int, Batch]] = []
        self._number = count()
        self._arrivals: dict[Request, Arrival] = {}
        self._result = Simulated(busy=dict.fromkeys(devices, 0.0))

    def run(self, arrivals: Iterable[Arrival]) -> Simulated:
        for arrival in arrivals:
            self._until(arrival.time)
            self._arrive(arrival)
        self._until(float("inf"))
        return self._result

    def _until(self, time: float) -> None:
        """All that ends before then."""
        while self._events and self._events[0][0] <= time:
            now, _, batch = heappop(self._events)
            self._scheduler.complete(batch, self._compute(batch), now)
            self._start(now)

    def _arrive(self, arrival: Arrival) -> None:
        try:
            self._admission.admit(self._scheduler.in_flight)
        except Overloaded:
            self._result.refused.append(arrival)
            return
        now = arrival.time
        frame = Frame(arrival.frame or f"frame-{next(self._number)}", None, bool(arrival.frame))
        deadline = None if arrival.deadline is None else now + arrival.deadline
        request = self._scheduler.submit(frame, arrival.tasks, now, deadline, arrival.priority)
        self._arrivals[request] = arrival
        self._start(now)

    def _start(self, now: float) -> None:
        for batch in self._scheduler.schedule(now):
            digest, device, size = batch.queue.digest, batch.queue.device.name, len(batch.works)
            seconds = self._engines[digest].cost(size)
            begun = max(now + self._devices[device].transfer, self._free[device])
            self._free[device] = begun + seconds
            self._result.busy[device] += seconds
            self._result.batches.setdefault(digest, []).append(size)
            heappush(self._events, (begun + seconds, next(self._number), batch))
        finished, self._scheduler.finished = self._scheduler.finished, []
        if finished:
            self._admission.observe(len(finished), self._scheduler.devices.values())
            self._result.ended = now
            self._result.answered += [(self._arrivals.pop(r), now, r.error) for r in finished]
