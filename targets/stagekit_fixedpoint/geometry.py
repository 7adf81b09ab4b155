"""Windows over images: attributes of convolutions and pools, output sizes, and Resize's bilinear weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint.arithmetic import Ints
from stagekit_fixedpoint.values import Reals, Refused

Pads = tuple[int, int, int, int]


def pair(node: ir.Node, attribute: str, default: Sequence[int] = (1, 1)) -> tuple[int, int]:
    """A two-dimensional attribute such as ``strides``."""
    values = list(node.attributes.get_ints(attribute, default) or default)
    if len(values) != 2:
        raise Refused(f"only two-dimensional windows are computed; {attribute} is {values}")
    return int(values[0]), int(values[1])


def pads_of(
    node: ir.Node, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Pads:
    """Explicit (top, left, bottom, right), whichever way the node says it."""
    kind = node.attributes.get_string("auto_pad", "NOTSET")
    if kind in ("NOTSET", "VALID"):
        given = node.attributes.get_ints("pads", (0, 0, 0, 0)) if kind == "NOTSET" else (0, 0, 0, 0)
        top, left, bottom, right = (int(v) for v in (given or (0, 0, 0, 0)))
        return top, left, bottom, right
    totals = [
        max(0, (ceil(n / s) - 1) * s + d * (k - 1) + 1 - n)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    before, after = (small, large) if kind == "SAME_UPPER" else (large, small)
    return before[0], before[1], after[0], after[1]


def output_size(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Pads, dilations: Sequence[int] = (1, 1)
) -> tuple[int, int]:
    """Height and width of what a window yields."""
    padded = (size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3])
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded, kernel, strides, dilations, strict=True)]
    return out[0], out[1]


def ceiling(size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Pads) -> Pads:
    """The padding with which ``ceil_mode`` is plain: a last window counts if it starts before the padding behind."""
    ends = []
    for n, k, s, before, after in zip(size, kernel, strides, pads[:2], pads[2:], strict=True):
        count = ceil((n + before + after - k) / s) + 1
        count -= (count - 1) * s >= n + before
        ends.append(max(after, (count - 1) * s + k - n - before))
    return pads[0], pads[1], ends[0], ends[1]


def interpolation(positions: Reals, source: int, bits: int) -> Ints:
    """The (target, source) matrix of bilinear weights with ``bits`` fraction bits; every row sums to ``2**bits``."""
    matrix = np.zeros((len(positions), source), np.int64)
    for row, position in enumerate(np.clip(positions, 0, source - 1)):
        left = min(floor(position), max(source - 2, 0))
        part = int(np.rint((position - left) * 2**bits))
        matrix[row, left] += 2**bits - part
        if part:
            matrix[row, left + 1] += part
    return matrix
