"""The device's limits as numpy reaches them: what a roofline is drawn with.

Multiply-accumulates a second of a large float32 matrix product on all cores, and bytes a second of a copy that
fits no cache (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785).
"""

from __future__ import annotations

import numpy as np

from stagekit.bench.results import Figure, Roof
from stagekit.bench.system import clock

SIDE = 1024
COPIED = 64 << 20


def measure_roof(repeats: int = 5) -> Roof:
    """The best of a few repeats of each."""
    rng = np.random.default_rng(0)
    left, right = (rng.random((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    product = np.empty_like(left)
    source = np.ones(COPIED, np.uint8)
    destination = np.empty_like(source)
    multiplying, copying = [], []
    for _ in range(repeats):
        begun = clock()
        np.matmul(left, right, out=product)
        between = clock()
        np.copyto(destination, source)
        copying.append(clock() - between)
        multiplying.append(between - begun)
    return Roof(
        macs_per_second=Figure(value=SIDE**3 / min(multiplying), unit="1/s"),
        bytes_per_second=Figure(value=2 * COPIED / min(copying), unit="B/s"),
    )
