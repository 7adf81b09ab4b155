"""Real devices for a scheduler: threads that take batches, run them on lanes and bring back what came of them.

A device has as many threads as batches it may have in flight; an ordered one has a single thread, which starts a
call before it waits for the one before. Decisions are made under one lock, engine calls outside it. A lane that can
run in its caller's thread does (``run``), and a caller who waits for an answer runs batches himself meanwhile: a
single request then sees no change of threads from its first stage to its last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from stagekit.errors import Cancelled, EngineError
from stagekit.runtime.admission import Admission
from stagekit.runtime.engines import Open, OpenEngines, Reopen
from stagekit.runtime.program import Program
from stagekit.runtime.queues import DeviceQueue
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.slots import Recorder, Slot
from stagekit.runtime.statistics import CallStatistics
from stagekit.runtime.work import Entry, Frame, Request, nobody
from stagekit.target import Engine

Done = Callable[[Request], None]
"""Told that a request is answered, in the thread that found out; it must be quick."""


class Driver:
    """Runs a scheduler's batches until it is closed.

    Args:
        scheduler: nobody else touches it from now on.
        admission: who may come in; everybody where none is given.
        reopen: how to open an engine that failed once more; without it, its first failure is its last.
        clock: seconds.
        recorder: told about every batch.
        ordered: names of devices whose engines' lanes have ``start``; see :class:`stagekit.target.Target`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        admission: Admission | None = None,
        reopen: Reopen | None = None,
        clock: Callable[[], float] = time.perf_counter,
        recorder: Recorder | None = None,
        ordered: Collection[str] = (),
    ) -> None:
        self.clock = clock
        self.recorder = recorder
        self._scheduler = scheduler
        self._admission = admission or Admission()
        self._closed = False
        self._lock = threading.Lock()
        self._open = OpenEngines(scheduler, self._lock, reopen)
        self._idle = dict.fromkeys(scheduler.devices, 0)
        self._woken = {name: threading.Condition(self._lock) for name in scheduler.devices}
        self._free = {
            name: [Slot(self._open, device, 0, device.depth)]
            if name in ordered
            else [Slot(self._open, device, number) for number in reversed(range(device.depth))]
            for name, device in scheduler.devices.items()
        }
        """Slots that no thread uses now."""
        self._slots = [slot for free in self._free.values() for slot in free]
        self._threads = [
            threading.Thread(target=self._serve, args=(s.device,), name=f"{s.device.name}-{s.number}", daemon=True)
            for s in self._slots
        ]
        for thread in self._threads:
            thread.start()

    # -- engines and tasks ---------------------------------------------------------------------------------------

    @property
    def engines(self) -> Mapping[str, Engine]:
        """Open now, by digest."""
        return self._open.engines

    @property
    def out(self) -> Mapping[str, str]:
        """Why a task was taken out, by its name."""
        return self._open.out

    def add(self, program: Program, open_engine: Open) -> None:
        """Serves a task from now on, in place of one of the same name.

        Args:
            open_engine: asked for the engines that are not open.

        Raises:
            Whatever ``open_engine`` raises; nothing has changed then.
        """
        self._open.add(program, open_engine)

    def remove(self, task: str) -> None:
        """Takes no new requests for a task. Those in flight are answered, then engines that nobody needs closed."""
        self._open.remove(task)

    # -- requests ------------------------------------------------------------------------------------------------

    def submit(
        self,
        frame: Frame,
        tasks: Sequence[str | Entry],
        done: Done,
        deadline: float | None = None,
        priority: int = 0,
        admitted: bool = False,
        waits: bool = False,
    ) -> Request:
        """Takes a request; ``done`` is called when it is answered, maybe before this returns.

        Args:
            deadline: seconds from now.
            admitted: it belongs to one that was let in already.
            waits: the caller has nothing else to do: batches are run in this thread until the request is
                answered or there is nothing to start.

        Raises:
            Overloaded: there are too many in flight.
            Cancelled: the driver is closed.
            EngineError: a task was taken out; says why.
        """
        with self._lock:
            if self._closed:
                raise Cancelled("the session is closed")
            for task in tasks if self.out else ():
                if task in self.out:
                    raise EngineError(f"the task was taken out: {self.out[str(task)]}", where=str(task))
            if not admitted:
                self._admission.admit(self._scheduler.in_flight, self._scheduler.is_full)
            now = self.clock()
            request = self._scheduler.submit(
                frame, tasks, now, None if deadline is None else now + deadline, priority, done
            )
            slot = self._pick(self._scheduler.devices.values()) if waits else None
            finished = self._after()
        self._deliver(finished)
        while slot is not None:
            slot.advance(self.clock, self.recorder)
            with self._lock:
                self._report(slot)
                if (request.done and not self._closed) or not self._goes_on(slot):
                    self._free[slot.device.name].append(slot)
                    slot = None if request.done else self._pick(self._scheduler.devices.values())
                finished = self._after()
            self._deliver(finished)
        return request

    def cancel(self, request: Request) -> bool:
        """Withdraws a request; whether it was still open."""
        with self._lock:
            cancelled = self._scheduler.cancel(request)
            finished = self._after()
        self._deliver(finished)
        return cancelled

    def statistics(self) -> CallStatistics:
        """What happened so far."""
        with self._lock:
            statistics = self._scheduler.statistics()
            statistics.gathered_bytes = sum(slot.gathered for slot in self._slots)
            statistics.requests["refused"] = self._admission.refused
            return statistics

    def close(self) -> None:
        """Withdraws what is open, waits for calls under way, closes all engines."""
        with self._lock:
            self._closed = True
            self._open.keep_dead()
            for request in list(self._scheduler.requests):
                self._scheduler.cancel(request, Cancelled("the session was closed"))
            finished = self._after()
            for condition in self._woken.values():
                condition.notify_all()
        self._deliver(finished)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._open.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _serve(self, device: DeviceQueue) -> None:
        """A thread of a device: runs batches until the driver is closed."""
        slot: Slot | None = None
        while True:
            if slot is not None:
                slot.advance(self.clock, self.recorder)
            with self._lock:
                if slot is not None:
                    self._report(slot)
                    if not self._goes_on(slot):
                        self._free[device.name].append(slot)
                        slot = None
                if slot is None:
                    slot = self._pick((device,))
                finished = self._after()
                if slot is None and not finished:
                    if self._closed:
                        return
                    self._rest(device)
            self._deliver(finished)

    def _pick(self, devices: Iterable[DeviceQueue]) -> Slot | None:
        """Under the lock: a slot with something to do, for the calling thread alone."""
        for device in devices:
            free = self._free[device.name]
            if free and self._goes_on(free[-1]):
                return free.pop()
        return None

    def _goes_on(self, slot: Slot) -> bool:
        """Under the lock: whether there is something to start in a slot, which is noted there, or to wait for."""
        slot.batch = self._scheduler.next_batch(slot.device, self.clock())
        return slot.batch is not None or bool(slot.under_way)

    def _report(self, slot: Slot) -> None:
        """Under the lock: tells the scheduler what a slot has done and what it has started."""
        done, fresh, slot.done, slot.fresh = slot.done, slot.fresh, None, None
        if done is not None:
            self._scheduler.complete(done.batch, done.outcomes, done.ended)
        if fresh is not None and fresh.call is not None:
            self._scheduler.started(fresh.batch, fresh.call.outputs)

    def _after(self) -> list[Request]:
        """Under the lock, after anything happened: wakes who has something to do, returns whom to tell."""
        for name, idle in self._idle.items():
            if idle and self._free[name]:
                device = self._scheduler.devices[name]
                if (device.heap and device.in_flight < device.depth) or self._free[name][-1].under_way:
                    self._woken[name].notify()
        finished, self._scheduler.finished = self._scheduler.finished, []
        if finished:
            self._admission.observe(len(finished), self._scheduler.devices.values())
        return finished

    def _deliver(self, finished: Sequence[Request]) -> None:
        """Outside the lock: tells who asked."""
        for request in finished:
            # Told once and let go: a future's callback holds the future, which holds the request, and results
            # in such a ring would keep their memory until the garbage collector comes by.
            done, request.done_callback = request.done_callback, nobody
            done(request)
        if finished and self._open.retiring:
            self._open.close_unused()

    def _rest(self, device: DeviceQueue) -> None:
        """Under the lock: waits until there may be something to do."""
        deadline = self._scheduler.next_deadline
        self._idle[device.name] += 1
        self._woken[device.name].wait(None if deadline is None else max(0.0, deadline - self.clock()))
        self._idle[device.name] -= 1
