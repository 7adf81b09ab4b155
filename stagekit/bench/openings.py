"""A deployment that is opened anew now and then while it is measured.

Where an engine's memory comes to lie, and which thread beside which, is settled when it is opened. It moves times by
several percent and stays until the next opening, so that one opening says little about the next run. Repeating at
the level at which chance enters is what Kalibera and Jones ask for (Rigorous Benchmarking in Reasonable Time, 2013).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import TracebackType

from stagekit.bench.system import SessionSystem, clock
from stagekit.session import Session

OPENINGS = 8
"""Of a scenario."""

SETTLE = 0.2
"""Seconds for which what was just opened answers unseen."""


class Openings:
    """The session of now, and what those before it shared.

    Args:
        opener: opens the deployment.
    """

    def __init__(self, opener: Callable[[], Session]) -> None:
        self._opener = opener
        self._shared: Counter[str] = Counter()
        self.session = opener()
        self.seconds = 0.0
        """That the last opening anew took, until it was warm."""

    def renew(self, warm: Callable[[Session], object], seconds: float) -> None:
        """Closes the session, opens another and has it answer for so long."""
        begun = clock()
        self._shared = self.shared()
        self.session.close()
        self.session = self._opener()
        settle(self.session, warm, seconds)
        self._shared.subtract(self.session.statistics.shared)
        self.seconds = clock() - begun

    def shared(self) -> Counter[str]:
        """Calls of all sessions so far whose result was there already, by label; warming up does not count."""
        total = self._shared.copy()
        total.update(self.session.statistics.shared)
        return total

    def __enter__(self) -> Openings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()


def settle(session: Session, warm: Callable[[Session], object], seconds: float, least: int = 3) -> None:
    """Asks for so long, and so many times at the least."""
    until, asked = clock() + seconds, 0
    while asked < least or clock() < until:
        warm(session)
        asked += 1


class Renewing:
    """Between queries: opens anew when it is time, a few times; and once before the first.

    Opening never takes more time than what is measured in between.
    """

    def __init__(
        self, openings: Openings, system: SessionSystem, warm: Callable[[Session], object], seconds: float
    ) -> None:
        self._openings, self._system, self._warm = openings, system, warm
        self._settle = min(SETTLE, seconds / OPENINGS / 2)
        self._renew()
        self._every = max(seconds / OPENINGS, openings.seconds)
        self._left = OPENINGS - 1
        self._due = clock() + self._every
        self.pauses = min(self._left, seconds // self._every) * openings.seconds
        """Seconds that opening anew will take, about."""

    def __call__(self) -> bool:
        if not self._left or clock() < self._due:
            return False
        self._renew()
        self._left -= 1
        self._due = clock() + self._every
        return True

    def _renew(self) -> None:
        self._openings.renew(self._warm, self._settle)
        self._system.session = self._openings.session
