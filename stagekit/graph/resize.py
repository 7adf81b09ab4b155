"""Where the places of a Resize's output lie in its input, as ONNX's specification has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, floor

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]


def _half_pixel(index: Reals, source: int, scale: float) -> Reals:
    return (index + 0.5) / scale - 0.5


COORDINATES: Mapping[str, Callable[[Reals, int, float], Reals]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": lambda i, n, s: _half_pixel(i, n, s) if len(i) > 1 else np.zeros(1),
    "align_corners": lambda i, n, s: i * (n - 1) / (len(i) - 1) if len(i) > 1 else np.zeros(1),
    "asymmetric": lambda i, n, s: i / s,
}
"""By ``coordinate_transformation_mode``: (indices of the output, length of the input, scale) to places in the input."""

ROUNDINGS: Mapping[str, Callable[[float], int]] = {
    "round_prefer_floor": lambda v: ceil(v - 0.5),
    "round_prefer_ceil": lambda v: floor(v + 0.5),
    "floor": floor,
    "ceil": ceil,
}
"""By ``nearest_mode``."""


def source_positions(mode: str, source: int, target: int, scale: float) -> Reals:
    """Where each index along an axis of the output lies in the input.

    Args:
        mode: one of :data:`COORDINATES`.
        source, target: lengths of the axis.
        scale: that the coordinates are computed with.
    """
    return COORDINATES[mode](np.arange(target, dtype=np.float64), source, scale)


def nearest_indices(positions: Reals, rule: str, source: int) -> tuple[int, ...]:
    """The index in the input for each position, by one of :data:`ROUNDINGS`."""
    return tuple(min(max(int(ROUNDINGS[rule](v)), 0), source - 1) for v in positions)
