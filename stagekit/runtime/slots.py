"""Running one batch: inputs gathered, the engine called, outputs taken apart, failures told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from stagekit.errors import EngineError, UsageError
from stagekit.runtime.buffers import gather, is_finite, split
from stagekit.runtime.lanes import Run, direct
from stagekit.runtime.scheduler import Batch
from stagekit.runtime.work import Value
from stagekit.target import Buffer, Engine


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
    """A batch in a slot, and what came of it."""

    __slots__ = ("batch", "ended", "outcomes", "slot")

    def __init__(self, batch: Batch, slot: Slot) -> None:
        self.batch = batch
        self.slot = slot
        self.outcomes: Sequence[Value | Exception] = ()
        self.ended = 0.0

    def execute(self, clock: Callable[[], float], recorder: Recorder | None) -> None:
        begun = clock()
        self.outcomes = self.slot.run(self.batch)
        self.ended = clock()
        if recorder is not None:
            recorder.add(self.batch, self.slot.number, begun, self.ended)


class Slot:
    """Room for one batch in flight on a device: lanes that no other batch uses meanwhile."""

    def __init__(self, owner: Owner, number: int) -> None:
        self.number = number
        self.gathered = 0
        """Bytes copied to bring the images of batches together."""
        self._owner = owner
        self._lanes: dict[str, tuple[Engine, Run]] = {}

    def run(self, batch: Batch) -> Sequence[Value | Exception]:
        """The outputs of each work of a batch, or why there are none."""
        queue, works = batch.queue, batch.works
        count = len(works)
        try:
            if count == queue.sizes[0] == 1:
                results = [self._call(queue.digest, works[0].taken(), 1, alone=True)]
            else:
                size = next(n for n in queue.sizes if n >= count)
                inputs, copied = gather([work.taken() for work in works], size)
                self.gathered += copied
                results = split(self._call(queue.digest, inputs, size, alone=count == 1), count, size)
        except Exception as error:  # whatever a vendor's runtime raises is this batch's failure and nobody else's
            return [_named(error, works[0].step.label)] * count
        if works[0].step.adapter:
            return [
                values if all(map(is_finite, values)) else _not_finite(work.step.label)
                for work, values in zip(works, results, strict=True)
            ]
        return results

    def _call(self, digest: str, inputs: Sequence[Buffer], size: int, alone: bool) -> tuple[Buffer, ...]:
        owner = self._owner
        engine = owner.engines[digest]
        try:
            return self._lane(digest, engine)(inputs, size)
        except UsageError:
            raise
        except Exception as error:
            if not alone:  # each of its works will run alone, and show whether the engine is dead
                raise
            last = error
        try:
            fresh = owner.mend(digest, engine)
            if fresh is not None:
                return self._lane(digest, fresh)(inputs, size)
        except Exception as error:
            last = error
        owner.give_up(digest, last)
        raise last

    def _lane(self, digest: str, engine: Engine) -> Run:
        """How to call an engine on a lane that is this slot's own."""
        found = self._lanes.get(digest)
        if found is None or found[0] is not engine:
            if len(self._lanes) > 2 * len(self._owner.engines):
                open_now = self._owner.engines
                self._lanes = {d: lane for d, lane in self._lanes.items() if d in open_now}
            found = self._lanes[digest] = (engine, direct(engine))
        return found[1]


def _named(error: Exception, label: str) -> EngineError:
    where = getattr(error, "where", None)
    return EngineError(f"the call of {label} failed: {what(error)}", where=where)


def _not_finite(label: str) -> EngineError:
    return EngineError(f"{label} gave values that are not finite", remedy="its weights or its input are out of range")


def what(error: Exception) -> str:
    """An error in one line."""
    return str(getattr(error, "what", "") or error or type(error).__name__)
