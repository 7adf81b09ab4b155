"""Sums of two tensors in ONNX Runtime's QLinearAdd, where all of the results that it can give are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale
from stagekit_fixedpoint.coded import OnnxBuilder
from stagekit_fixedpoint.kernels import eight_bit
from stagekit_fixedpoint.program import Array, Program


@dataclass(frozen=True, slots=True)
class Sum:
    """Scales and zero points that make QLinearAdd equal an Add step."""

    scales: tuple[float, float]
    zero_points: tuple[int, int, int]


def exact_sum(program: Program, step: p.Add) -> Sum | None:
    """Parameters for which QLinearAdd gives every one of the 65536 results, found by trying all of them here.

    QLinearAdd rounds half to even. Half up needs a small push on every tie: scales a little too large push by
    nothing only where both codes are zero, where the sum is an integer or saturates.
    """
    if any(len(r.shift) > 1 for r in (*step.rescales, step.requantize.rescale)):
        return None
    if step.constant or step.left or any(r.style == "double" or set(r.multiplier) != {1} for r in step.rescales):
        return None
    tensors = [program.tensors[name] for name in step.inputs]
    stage = step.requantize
    if not all(eight_bit(t) for t in tensors) or stage.format.bits != 8 or set(stage.rescale.multiplier) != {1}:
        return None
    signed = tuple(t.format.signed for t in tensors)
    zeros = tuple(t.zero_point for t in tensors)
    return _search(step.rescales, stage, signed, zeros)


@cache
def _search(
    rescales: tuple[Rescale, ...], stage: Requantize, signed: tuple[bool, ...], zeros: tuple[int, ...]
) -> Sum | None:
    ratios = [2.0 ** -(r.shift[0] + stage.rescale.shift[0]) for r in rescales]
    centres = [z - Format(8, s).lowest for z, s in zip(zeros, signed, strict=True)]
    offset = stage.zero_point - stage.format.lowest
    codes = np.arange(256, dtype=np.int64)
    left, right = (x.reshape(-1) for x in np.meshgrid(codes, codes, indexing="ij"))
    total = rescales[0](left - centres[0]) + rescales[1](right - centres[1])
    free = replace(stage, low=stage.format.lowest, high=stage.format.highest)
    wanted = (free(total) - stage.format.lowest).astype(np.uint8)
    for candidate in _candidates(ratios, centres, offset):
        if np.array_equal(_try_sum(candidate, left.astype(np.uint8), right.astype(np.uint8)), wanted):
            return candidate
    return None


def _candidates(ratios: Sequence[float], centres: Sequence[int], offset: int) -> list[Sum]:
    (a, b), (ca, cb) = ratios, centres
    found = [Sum((a, b), (ca, cb, offset))]
    for push in (2.0**-9, 2.0**-11, 2.0**-7):
        rest = offset - a * ca - b * cb
        if rest.is_integer() and 0 <= rest <= 255:
            found.append(Sum((a * (1 + push), b * (1 + push)), (0, 0, int(rest))))
        for zero in range(256):
            other = (zero - rest) / b
            if other.is_integer() and 0 <= other <= 255:
                found.append(Sum((a * (1 + push), b), (0, int(other), zero)))
                break
        for zero in range(256):
            other = (zero - rest) / a
            if other.is_integer() and 0 <= other <= 255:
                found.append(Sum((a, b * (1 + push)), (int(other), 0, zero)))
                break
    return found


def _try_sum(candidate: Sum, left: Array, right: Array) -> Array:
    net = OnnxBuilder()
    for name in ("a", "b"):
        net.input(name, left.shape)
    net.add("a", "b", candidate.scales, candidate.zero_points, "y")
    result: Array = net.session(("y",), 1).run(None, {"a": left, "b": right})[0]
    return result
