"""How work becomes ready, runs out of readers, or fails: the graph of one or many requests as it is computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from stagekit.runtime.cache import ValueCache
from stagekit.runtime.policy import Policy
from stagekit.runtime.work import DONE, DROPPED, FAILED, READY, RUNNING, WAITING, Frame, Request, Step, Value, Work

Settle = Callable[[Request, int, Value | Exception], None]
"""Told a request's result or error, with its place."""


class Flow:
    """Work and values, from what a request wants to what somebody will still read.

    Args:
        policy: ranks work when it becomes ready.
        cache: takes the values of reusable frames that nobody reads any more.
        settle: told of results.
    """

    def __init__(self, policy: Policy, cache: ValueCache, settle: Settle) -> None:
        self.cache = cache
        self.frames: dict[str, Frame] = {}
        """Reusable frames with work or values, by key."""
        self.live_bytes = 0
        """Of values that somebody will still read."""
        self._policy = policy
        self._settle = settle
        self._sequence = count()

    def want(self, frame: Frame, step: Step, task: str, due: float, priority: int) -> Work:
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
            before = self.want(frame, source, task, due, priority)
            before.reads += 1
            if before.state != DONE:
                before.readers.append(work)
                missing += 1
            inputs.append((before, output))
        work.missing = missing
        if missing == 0:
            self.ready(work)
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

    def ready(self, work: Work) -> None:
        """Its inputs are there, or it is to run again."""
        work.state = READY
        work.sequence = next(self._sequence)
        work.rank = self._policy(work)
        queue = work.step.queue
        queue.ready += 1
        queue.push(work)

    def started(self, work: Work, values: tuple[Value, ...]) -> None:
        """It runs, on a device that keeps the order of calls: its readers there need not wait for it to end."""
        work.values = values
        device, elsewhere = work.step.queue.device, list[Work]()
        for reader in work.readers:
            if reader.step.queue.device is not device:
                elsewhere.append(reader)
                continue
            work.ahead.append(reader)
            self._has_one_more(reader)
        work.readers = elsewhere

    def done(self, work: Work, values: tuple[Value, ...]) -> None:
        """Its outputs are there: whoever waited for them goes on, and what it read has a reader less."""
        if work.ahead and work.values is not values:  # the call was made again: what read the first outputs is void
            for reader in work.ahead:
                if reader.state == RUNNING:
                    reader.spoilt = True
        work.ahead = []
        work.state, work.values = DONE, values
        queue = work.step.queue
        queue.active -= 1
        self.live_bytes += queue.item_bytes
        for before, _ in work.inputs:
            if before is not None:
                self.release(before)
        work.inputs = []
        for reader in work.readers:
            self._has_one_more(reader)
        work.readers = []
        for request, place in work.requests:
            work.reads -= 1
            self._settle(request, place, values[request.entries[place].result[1]])
        work.requests = []
        if work.reads == 0:
            self.free(work)

    def _has_one_more(self, reader: Work) -> None:
        if reader.state == WAITING:
            reader.missing -= 1
            if reader.missing == 0:
                self.ready(reader)

    def release(self, work: Work) -> None:
        """A reader less: done values go after the last, and what has not started is not started."""
        work.reads -= 1
        if work.reads:
            return
        if work.state == DONE:
            self.free(work)
        elif work.state in (WAITING, READY):
            self._discard(work, DROPPED)

    def free(self, work: Work) -> None:
        """Lets done values go, to the cache where somebody may ask again."""
        size = work.step.queue.item_bytes
        self.live_bytes -= size
        frame = work.frame
        if frame.reusable:
            self.cache.put((frame.key, work.step), size, work.values, self.live_bytes)
        work.values = None
        self._forget(work)

    def fail(self, work: Work, error: Exception) -> None:
        """Its requests fail, and so does everything that waits for it."""
        readers, requests = [*work.readers, *work.ahead], work.requests
        work.readers, work.ahead, work.requests = [], [], []
        self._discard(work, FAILED)
        for request, place in requests:
            self._settle(request, place, error)
        for reader in readers:
            if reader.state < RUNNING:
                self.fail(reader, error)
            elif reader.state == RUNNING:
                reader.spoilt = error

    def _discard(self, work: Work, state: int) -> None:
        if work.state == READY:
            work.step.queue.ready -= 1
        work.state = state
        work.step.queue.active -= 1
        inputs, work.inputs = work.inputs, []
        self._forget(work)
        for before, _ in inputs:
            if before is not None:
                self.release(before)

    def _forget(self, work: Work) -> None:
        frame = work.frame
        if frame.work.get(work.step) is work:
            del frame.work[work.step]
            if frame.reusable and not frame.work:
                self.frames.pop(frame.key, None)
