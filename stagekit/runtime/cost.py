"""What a batch costs: ``t = a + c n`` seconds, given or learnt from the calls that were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FORGETTING = 0.98
"""Weight that a measurement keeps when the next one comes: about the last 50 count."""

WORTH = 0.05
"""A larger batch must make an image at least this share cheaper; less is not worth its images' waiting."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a call: ``fixed + each * n`` for a batch of ``n``."""

    fixed: float
    each: float

    def __call__(self, n: int) -> float:
        return self.fixed + self.each * n


class LearntCost:
    """A weighted least-squares line through (batch size, seconds), the latest measurements counting most.

    Until two sizes have been seen the line goes through the origin, except that a size never tried is taken
    to be worth trying.
    """

    __slots__ = ("_limits", "_nn", "_nt", "_t", "_tried", "_weight", "_x")

    def __init__(self, prior: Cost | None = None) -> None:
        self._weight = self._x = self._t = self._nn = self._nt = 0.0
        self._tried: set[int] = set()
        self._limits: dict[tuple[int, ...], int] = {}
        if prior is not None:
            for n in (1, 16):
                self.observe(n, prior(n))

    def observe(self, n: int, seconds: float) -> None:
        """Takes in that a batch of ``n`` took so long."""
        self._weight = self._weight * FORGETTING + 1.0
        self._x = self._x * FORGETTING + n
        self._t = self._t * FORGETTING + seconds
        self._nn = self._nn * FORGETTING + n * n
        self._nt = self._nt * FORGETTING + n * seconds
        self._tried.add(n)
        self._limits.clear()

    @property
    def known(self) -> bool:
        return self._weight > 0.0

    @property
    def cost(self) -> Cost:
        """The line; zero before the first measurement."""
        if not self.known:
            return Cost(0.0, 0.0)
        spread = self._weight * self._nn - self._x * self._x
        if len(self._tried) < 2 or spread <= 1e-9 * self._weight * self._nn:
            return Cost(0.0, self._t / self._x)
        each = (self._weight * self._nt - self._x * self._t) / spread
        fixed = (self._t - each * self._x) / self._weight
        if each < 0.0:
            return Cost(self._t / self._weight, 0.0)
        return Cost(fixed, each) if fixed > 0.0 else Cost(0.0, self._t / self._x)

    def limit(self, sizes: Sequence[int]) -> int:
        """The batch size above which an image gets no cheaper: the smallest within :data:`WORTH` of the best.

        Args:
            sizes: that the engine is built for, ascending. Sizes not yet tried are assumed to be worth it.
        """
        if len(sizes) == 1:
            return sizes[0]
        key = tuple(sizes)
        found = self._limits.get(key)
        if found is None:
            found = self._limits[key] = self._limit(sizes)
        return found

    def _limit(self, sizes: Sequence[int]) -> int:
        untried = [n for n in sizes if n not in self._tried]
        if untried and len(self._tried) < 2:
            return sizes[-1]
        cost = self.cost
        best = min(cost(n) / n for n in sizes)
        return next(n for n in sizes if cost(n) / n <= best * (1.0 + WORTH))
