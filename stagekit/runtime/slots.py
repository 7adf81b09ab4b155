"""Running batches on a device: inputs gathered, engines called, outputs taken apart, failures told apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from stagekit.errors import EngineError, UsageError
from stagekit.runtime.buffers import gather, is_finite, split
from stagekit.runtime.lanes import Run, Start, run_on, start_on
from stagekit.runtime.queues import DeviceQueue
from stagekit.runtime.scheduler import Batch
from stagekit.runtime.work import Value, Work
from stagekit.target import Buffer, Engine, Started


class Recorder(Protocol):
    """Sees every batch that was run; see :mod:`stagekit.runtime.trace`."""

    def add(self, batch: Batch, slot: int, begun: float, ended: float) -> None: ...


class Owner(Protocol):
    """Who has the engines."""

    @property
    def engines(self) -> Mapping[str, Engine]:
        """Open now, by digest."""

    def mend(self, digest: str, failed: Engine) -> Engine | None:
        """An engine in the place of one that failed; ``None`` where there is none."""

    def give_up(self, digest: str, error: Exception) -> None:
        """An engine is dead."""


class Running:
    """A batch in a slot, and what came of it.

    Args:
        engine: which the call was started on.
        call: under way; ``None`` where it is yet to be made.
    """

    __slots__ = ("batch", "begun", "call", "ended", "engine", "outcomes")

    def __init__(self, batch: Batch, begun: float, engine: Engine, call: Started | None) -> None:
        self.batch = batch
        self.begun = begun
        self.engine = engine
        self.call = call
        self.outcomes: Sequence[Value | Exception] = ()
        self.ended = 0.0


class Slot:
    """Room on a device, used by one thread at a time, with lanes that no other slot uses.

    Args:
        window: calls under way at once. With more than one, the device keeps the order of calls: the next is started
            before the one before is waited for, so that the device goes from one to the other by itself.
    """

    __slots__ = ("_lanes", "_owner", "batch", "device", "done", "fresh", "gathered", "number", "under_way", "window")

    def __init__(self, owner: Owner, device: DeviceQueue, number: int, window: int = 1) -> None:
        self.device = device
        self.number = number
        self.window = window
        self.batch: Batch | None = None
        """To be started next."""
        self.fresh: Running | None = None
        """Started, which the scheduler has not been told yet."""
        self.done: Running | None = None
        """Ended, which the scheduler has not been told yet."""
        self.under_way: deque[Running] = deque()
        self.gathered = 0
        """Bytes copied to bring the images of batches together."""
        self._owner = owner
        self._lanes: dict[str, tuple[Engine, Run, Start | None]] = {}

    def advance(self, clock: Callable[[], float], recorder: Recorder | None) -> None:
        """Starts the batch there is, then waits for the oldest under way unless there is room for one more."""
        batch, self.batch = self.batch, None
        if batch is not None:
            running = self._started(batch, clock())
            self.under_way.append(running)
            if running.call is not None:
                self.fresh = running
                if len(self.under_way) < self.window:
                    return
        running = self.under_way.popleft()
        running.outcomes = self._outcomes(running)
        running.ended = clock()
        if recorder is not None:
            recorder.add(running.batch, self.number, running.begun, running.ended)
        if self.under_way:  # it could not begin before this one was done
            self.under_way[0].begun = running.ended
        self.done = running

    def _started(self, batch: Batch, now: float) -> Running:
        queue, works = batch.queue, batch.works
        engine, call = self._owner.engines[queue.digest], None
        if self.window > 1 and len(works) == queue.sizes[0] == 1:
            # What fails here is called again when its turn comes, and fails there.
            with suppress(Exception):
                start = self._lane(queue.digest, engine)[2]
                call = start and start(works[0].taken(), 1)
        return Running(batch, now, engine, call)

    def _outcomes(self, running: Running) -> Sequence[Value | Exception]:
        """The outputs of each work of a batch, or why there are none."""
        queue, works = running.batch.queue, running.batch.works
        count = len(works)
        try:
            if count == queue.sizes[0] == 1:
                if works[0].spoilt and (error := self._spoilt(works[0], running)):
                    return [error]
                results = [self._call(running, works[0].taken(), 1, alone=True)]
            else:
                size = next(n for n in queue.sizes if n >= count)
                inputs, copied = gather([work.taken() for work in works], size)
                self.gathered += copied
                results = split(self._call(running, inputs, size, alone=count == 1), count, size)
        except Exception as error:  # whatever a vendor's runtime raises is this batch's failure and nobody else's
            return [_named(error, works[0].step.label)] * count
        if works[0].step.adapter:
            return [
                values if all(map(is_finite, values)) else _not_finite(work.step.label)
                for work, values in zip(works, results, strict=True)
            ]
        return results

    def _spoilt(self, work: Work, running: Running) -> Exception | None:
        """Lets a call end that read what was never there; the error, if there is nothing to make it again from."""
        if running.call is not None:
            with suppress(Exception):
                running.call.wait()
            running.call = None
        return work.spoilt if isinstance(work.spoilt, Exception) else None

    def _call(self, running: Running, inputs: Sequence[Buffer], size: int, alone: bool) -> tuple[Buffer, ...]:
        """The outputs of the call that is under way, or of one made now."""
        owner, digest, engine = self._owner, running.batch.queue.digest, running.engine
        try:
            if running.call is not None:
                return running.call.wait()
            return self._lane(digest, engine)[1](inputs, size)
        except UsageError:
            raise
        except Exception as error:
            if not alone:  # each of its works will run alone, and show whether the engine is dead
                raise
            last = error
        try:
            fresh = owner.mend(digest, engine)
            if fresh is not None:
                return self._lane(digest, fresh)[1](inputs, size)
        except Exception as error:
            last = error
        owner.give_up(digest, last)
        raise last

    def _lane(self, digest: str, engine: Engine) -> tuple[Engine, Run, Start | None]:
        """How to call an engine on a lane that is this slot's own."""
        found = self._lanes.get(digest)
        if found is None or found[0] is not engine:
            if len(self._lanes) > 2 * len(self._owner.engines):
                open_now = self._owner.engines
                self._lanes = {d: lane for d, lane in self._lanes.items() if d in open_now}
            lane = engine.lane()
            found = self._lanes[digest] = (engine, run_on(lane), start_on(lane))
        return found


def _named(error: Exception, label: str) -> EngineError:
    where = getattr(error, "where", None)
    return EngineError(f"the call of {label} failed: {what(error)}", where=where)


def _not_finite(label: str) -> EngineError:
    return EngineError(f"{label} gave values that are not finite", remedy="its weights or its input are out of range")


def what(error: Exception) -> str:
    """An error in one line."""
    return str(getattr(error, "what", "") or error or type(error).__name__)
