"""Results kept for frames that may be asked about again, the least recently used given up first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class ValueCache:
    """Values by key within a budget of bytes; the scheduler's live values count against the same budget."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.hits = 0
        self._values: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: Hashable, size: int, value: Any, live: int = 0) -> None:
        """Keeps a value of ``size`` bytes if it fits at all beside ``live`` bytes in use."""
        if size + live > self.budget:
            return
        old = self._values.pop(key, None)
        if old is not None:
            self.bytes -= old[0]
        self._values[key] = (size, value)
        self.bytes += size
        self.shrink(live)

    def get(self, key: Hashable) -> Any | None:
        """The value, now the most recently used; ``None`` where there is none."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        self.hits += 1
        return found[1]

    def shrink(self, live: int) -> None:
        """Gives up values until those left fit beside ``live`` bytes in use."""
        while self._values and self.bytes + live > self.budget:
            _, (size, _) = self._values.popitem(last=False)
            self.bytes -= size
