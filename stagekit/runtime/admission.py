"""How many requests may be in flight: more than can be answered in time are refused at the door.

By Little's law, requests in flight = throughput x time in the system: with ``K = share x capacity x SLO`` in
flight, an admitted request is answered within the SLO, and the device never runs dry. Capacity is what was
measured: requests answered for each second in which the busiest device worked.
"""

from __future__ import annotations

from collections.abc import Iterable

from stagekit.errors import Overloaded
from stagekit.runtime.queues import DeviceQueue

SHARE = 0.8
"""Of the requests that fit into the SLO; 0.7 to 0.9 keep goodput at 0.99 of capacity."""

FLOOR = 4
"""Always admitted, so that a device is not left idle between two of its answers."""

WINDOW = 32
"""Requests over which capacity is measured before it is taken in."""

MEMORY = 0.9
"""Weight that a window keeps when the next comes: about the last ten count. Requests and seconds are averaged
apart, since the mean of their ratios would be too high, the more so the burstier the answers."""


class Admission:
    """The cap on requests in flight.

    Args:
        slo: seconds within which an admitted request is to be answered; ``None`` for no promise.
        most: a cap that holds in any case, since every request in flight holds memory.
        capacity: requests per second where that is known beforehand; measured otherwise.
    """

    def __init__(self, slo: float | None = None, most: int = 1024, share: float = SHARE, capacity: float = 0.0) -> None:
        self.slo = slo
        self.most = most
        self.share = share
        self.capacity = capacity
        self.refused = 0
        self._answered = 0
        self._busy: dict[str, float] = {}
        self._mean_answered = 0.0
        self._mean_spent = 0.0

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        if self.slo is None or self.capacity == 0.0:
            return self.most
        return max(FLOOR, min(self.most, int(self.share * self.capacity * self.slo)))

    def admit(self, in_flight: int, is_full: bool = False) -> None:
        """Lets one more request in.

        Args:
            is_full: results of those in flight take all of the memory.

        Raises:
            Overloaded: there is no room; says when there will be.
        """
        limit = in_flight if is_full else self.limit
        if in_flight >= limit:
            self.refused += 1
            wait = (in_flight - limit + 1) / self.capacity if self.capacity else 0.1
            why = "their results fill the memory" if is_full else "the most that can be answered in time"
            raise Overloaded(f"{in_flight} requests are in flight, {why}", retry_after=wait)

    def observe(self, answered: int, devices: Iterable[DeviceQueue]) -> None:
        """Takes in that so many more requests were answered."""
        self._answered += answered
        if self._answered < WINDOW:
            return
        spent = max((d.busy - self._busy.get(d.name, 0.0) for d in devices), default=0.0)
        self._mean_answered = MEMORY * self._mean_answered + self._answered
        self._mean_spent = MEMORY * self._mean_spent + spent
        if self._mean_spent > 0.0:
            self.capacity = self._mean_answered / self._mean_spent
        self._answered = 0
        self._busy = {d.name: d.busy for d in devices}
