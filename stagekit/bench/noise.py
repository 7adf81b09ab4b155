"""Was the machine our own? A loop of plain hashing before and after, and the spread within the run.

The loop keeps every core busy for a moment. What share of the cores' time it got says who else was there; how
much it hashed for each second of processor time says whether the clock stayed the same.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

from stagekit.bench.results import Noise, NoiseProbe
from stagekit.cpu import usable_cores

LOOP = 0.4
"""Seconds of a loop."""

BLOCK = bytes(1 << 20)

LEAST_SHARE = 0.9
"""Of the cores' time; less means that others ran."""

DRIFT = 0.08
"""Of the rate between before and after; more means another clock, or neighbours who shared caches."""

SPREAD = 0.1
"""Between the medians of the parts of a run."""

LEVELS = 0.2
"""Between the medians of openings, which differ by several percent on a quiet machine too."""


def probe(seconds: float = LOOP) -> NoiseProbe:
    """Hashes on every core (hashlib lets go of the interpreter meanwhile)."""
    cores = usable_cores()

    def loop(until: float) -> tuple[int, float]:
        begun, blocks = time.thread_time(), 0
        while time.perf_counter() < until:
            hashlib.sha256(BLOCK).digest()
            blocks += 1
        return blocks, time.thread_time() - begun

    with ThreadPoolExecutor(cores) as pool:
        begun = time.perf_counter()
        ran = list(pool.map(loop, [begun + seconds] * cores))
        wall = time.perf_counter() - begun
    spent = sum(s for _, s in ran)
    return NoiseProbe(share=min(1.0, spent / (wall * cores)), rate=len(BLOCK) * sum(b for b, _ in ran) / spent)


def judged(before: NoiseProbe, after: NoiseProbe, spread: float | None, levels: float | None = None) -> Noise:
    """The verdict, with its reasons."""
    reasons: list[str] = []
    share = min(before.share, after.share)
    if share < LEAST_SHARE:
        reasons.append(f"others took {100 * (1 - share):.0f} % of the processor")
    drift = abs(after.rate - before.rate) / before.rate
    if drift > DRIFT:
        reasons.append(f"the processor's speed changed by {100 * drift:.0f} % during the run")
    if spread is not None and spread > SPREAD:
        reasons.append(f"medians within the run lie {100 * spread:.0f} % apart")
    if levels is not None and levels > LEVELS:
        reasons.append(f"medians of openings lie {100 * levels:.0f} % apart")
    return Noise(before=before, after=after, spread=spread, levels=levels, noisy=bool(reasons), reasons=tuple(reasons))
