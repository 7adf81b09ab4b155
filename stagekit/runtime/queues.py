"""Ready work, by engine and by device, in the order that the policy gives.

A device keeps its engines in a heap by the rank of each one's first work. Entries go stale when work is
dropped or its rank changes; they are recognised when they come up, so that nothing is ever searched for.
"""

from __future__ import annotations

from heapq import heappop, heappush

from stagekit.runtime.cost import Cost, LearntCost
from stagekit.runtime.work import READY, RUNNING, Work

Entry = tuple[tuple[float, ...], int, Work]


class EngineQueue:
    """An engine as the scheduler knows it, and its ready work.

    Args:
        sizes: batch sizes it is built for, ascending.
        item_bytes: of its outputs for one image.
        prior: its cost where that is known beforehand; learnt otherwise.
    """

    __slots__ = ("active", "cost", "device", "digest", "heap", "item_bytes", "posted", "ready", "sizes", "users")

    def __init__(
        self,
        digest: str,
        device: DeviceQueue,
        sizes: tuple[int, ...] = (1,),
        item_bytes: int = 0,
        prior: Cost | None = None,
    ) -> None:
        self.digest = digest
        self.device = device
        self.sizes = sizes
        self.item_bytes = item_bytes
        self.cost = LearntCost(prior)
        self.heap: list[Entry] = []
        self.ready = 0
        self.posted = -1
        """The sequence number of the work by whose rank the device knows this engine; -1 for none."""
        self.active = 0
        """Work that is not settled."""
        self.users = 0
        """Steps of registered programs."""

    def push(self, work: Work) -> None:
        """Work is ready (or was, and its rank got better)."""
        entry = (work.rank, work.sequence, work)
        heappush(self.heap, entry)
        if self.heap[0] is entry:
            self._post(entry)

    def top(self) -> Entry | None:
        """The first ready work."""
        heap = self.heap
        while heap:
            entry = heap[0]
            if entry[2].state == READY and entry[1] == entry[2].sequence:
                return entry
            heappop(heap)
        return None

    def take(self) -> list[Work]:
        """The next batch: the first in rank and what fits beside it.

        It may be smaller than the smallest size that the engine is built for; whoever runs it fills it up.
        """
        sizes, heap = self.sizes, self.heap
        size = sizes[0]
        if self.ready > size and sizes[-1] > size:
            limit = min(self.ready, self.cost.limit(sizes))
            size = max(n for n in sizes if n <= limit or n == size)
        taken: list[Work] = []
        while len(taken) < size:
            entry = self.top()
            if entry is None or (taken and entry[2].solo):
                break
            heappop(heap)
            work = entry[2]
            work.state = RUNNING
            taken.append(work)
            if work.solo:
                break
        self.ready -= len(taken)
        self.repost()
        return taken

    def repost(self) -> None:
        """Tells the device which work is first now, after the one it knew is gone."""
        entry = self.top()
        if entry is None:
            self.posted = -1
        else:
            self._post(entry)

    def _post(self, entry: Entry) -> None:
        self.posted = entry[1]
        heappush(self.device.heap, (entry[0], entry[1], self))


class DeviceQueue:
    """A device and the engines that have ready work for it.

    Args:
        depth: batches in flight at once; with two, one's transfers overlap with the other's computation.
    """

    __slots__ = ("busy", "depth", "heap", "in_flight", "name", "since")

    def __init__(self, name: str, depth: int = 2) -> None:
        self.name = name
        self.depth = depth
        self.heap: list[tuple[tuple[float, ...], int, EngineQueue]] = []
        self.in_flight = 0
        self.busy = 0.0
        """Seconds with at least one batch in flight."""
        self.since = 0.0
        """Up to when ``busy`` is counted."""

    def first(self) -> EngineQueue | None:
        """The engine whose first work comes first."""
        heap = self.heap
        while heap:
            _, sequence, queue = heap[0]
            if queue.posted != sequence:
                heappop(heap)
                continue
            top = queue.top()
            if top is not None and top[1] == sequence:
                return queue
            heappop(heap)
            queue.repost()
        return None
