"""How large a sum of products can become, proved from the actual weights and the range of the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints
from stagekit_fixedpoint.program import Array, Program, Step, Tensor


@dataclass(frozen=True, slots=True)
class Bound:
    """The least and the largest value that an accumulator can take, over all output channels."""

    low: int
    high: int

    @property
    def magnitude(self) -> int:
        return max(abs(self.low), abs(self.high))

    @property
    def bits(self) -> int:
        """Bits of the smallest signed format that holds both ends."""
        return max(self.high.bit_length(), (-self.low - 1).bit_length() if self.low < 0 else 0) + 1


def weighted(weights: Ints, bias: Ints, x: Tensor) -> Bound:
    """The bound of ``sum w (x - zx) + b`` with ``weights`` (channels, terms).

    Each end is reached: every input takes the end of its range that its weight's sign asks for. A place in the
    padding counts as zero, which lies between them.
    """
    low, high = ends(x)
    positive, negative = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
    smallest = np.minimum(positive * low + negative * high + bias, bias)
    largest = np.maximum(positive * high + negative * low + bias, bias)
    return Bound(int(smallest.min()), int(largest.max()))


def ends(x: Tensor) -> tuple[int, int]:
    """Least and largest stored value less the zero point."""
    return x.format.lowest - x.zero_point, x.format.highest - x.zero_point


def accumulator(program: Program, step: Step) -> Bound | None:
    """The bound of a step's accumulator; None for steps without one."""
    return bound(step, program.tensors, program.arrays)


def bound(step: Step, tensors: Mapping[str, Tensor], arrays: Mapping[str, Array]) -> Bound | None:
    """:func:`accumulator` before there is a program."""
    x = tensors[step.inputs[0]]
    if isinstance(step, p.Convolution):
        weight = arrays[step.weight]
        return weighted(weight.reshape(len(weight), -1), arrays[step.bias], x)
    if isinstance(step, p.Linear):
        return weighted(arrays[step.weight].T, arrays[step.bias], x)
    if isinstance(step, p.Product):
        (a, b), (c, d) = ends(x), ends(tensors[step.inputs[1]])
        corners, terms = (a * c, a * d, b * c, b * d), x.shape[-1]
        return Bound(min(corners) * terms, max(corners) * terms)
    if isinstance(step, p.SumPool):
        low, high = ends(x)
        count = step.kernel[0] * step.kernel[1]
        return Bound(min(low, 0) * count, max(high, 0) * count)
    return None
