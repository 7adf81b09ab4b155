"""ONNX Runtime's 8-bit kernels as exact integer arithmetic, and the proofs that they are.

Every tensor is held as ``stored - lowest`` in uint8 (a signed one with an offset of 128, so the kernel's own
saturation is the format's), images with channels last. ``QLinearConv`` and ``QGemm`` compute
``saturate(rint(float32(acc) * s))`` with an int32 accumulator.

*Half to even* needs ``s = 2**-k``: both steps are exact while ``|acc| < 2**24``. *Half up* takes
``s = 2**-k (1 + 2**-23)``, which moves every value up by one or two units in the last place: a tie then rounds
up, and nothing else crosses a tie while ``|acc| < 2**22``. Values below zero would go the wrong way, but the
offset has made them saturate. *Floor* is half up of ``acc - 2**(k - 1)``. Where the accumulator can pass those
limits the result is exact all the same if ``2**22`` is far outside of the format after the shift (``k <= 14``),
because rounding is monotone and saturates. That this processor's kernels do what they should, without 16-bit
intermediate saturation for instance, is tested when they are first used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from stagekit_fixedpoint import bounds, reference
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Format, Ints, Requantize, Rescale
from stagekit_fixedpoint.program import Array, Program, Step, Tensor

CONTRIB = "com.microsoft"
HALF_UP_LIMIT, HALF_EVEN_LIMIT = 2**22, 2**24
TIE = 1 + 2.0**-23


@dataclass(frozen=True, eq=False)
class Scaled:
    """What a QLinearConv or QGemm must be given to requantise like the specification.

    Args:
        scale: float32, one or one for each channel.
        bias: int32, where ties go up with the offset of the unsigned output, and with what the rounding needs.
        zero_point: of the output, added by the kernel after rounding; an odd offset ahead of it would turn
            half to even into half to odd.
        why: the proof in words.
    """

    scale: Array
    bias: Ints
    zero_point: int
    why: str


def eight_bit(tensor: Tensor) -> bool:
    """Whether a tensor can be held as uint8."""
    return tensor.format.bits == 8


def scaled(program: Program, step: p.Convolution | p.Linear) -> Scaled | str:
    """The kernel's parameters for a step, or why it has none."""
    stage, x, weight = step.requantize, program.tensors[step.inputs[0]], program.arrays[step.weight]
    rescale = stage.rescale
    if not eight_bit(x) or stage.format.bits != 8 or int(weight.min()) < -128 or int(weight.max()) > 127:
        return "it is not 8 bits wide"
    if rescale.style == "double" or set(rescale.multiplier) != {1}:
        return "it requantises with a multiplier"
    if rescale.rounding not in ("half_up", "half_even", "floor") or stage.overflow != "saturate":
        return f"no kernel rounds {rescale.rounding} and overflows by {stage.overflow}"
    limit = bounds.accumulator(program, step)
    assert limit is not None
    if limit.bits > min(32, program.accumulator_bits):
        return "its accumulator can overflow"
    shift = np.asarray(rescale.shift, np.int64)
    if shift.min() < -16 or shift.max() > 22:
        return f"its shift of {shift.max()} is out of reach"
    up, offset = np.maximum(shift, 0), stage.zero_point - stage.format.lowest
    half_up = rescale.rounding != "half_even" and shift.max() > 0
    bias = program.arrays[step.bias]
    if half_up:
        if shift.min() < 0:
            return "it shifts some channels to the left"
        bias = bias + (offset << up) - (((np.int64(1) << up) >> 1) if rescale.rounding == "floor" else 0)
    reach = limit.magnitude + int((np.int64(256) << up).max())
    if reach >= 2**31:
        return "its accumulator and the offset do not fit 32 bits"
    proof = exactness(int(shift.max()), reach, half_up)
    if not proof:
        return f"sums reach 2**{reach.bit_length()}, which float32 does not hold"
    factor = np.ldexp(1.0, -shift) * np.where((shift > 0) & half_up, TIE, 1.0)
    channels = weight.shape[0] if isinstance(step, p.Convolution) else weight.shape[1]
    wide = np.broadcast_to(bias, (channels,))
    return Scaled(factor.astype(np.float32), wide, 0 if half_up else offset, proof)


def exactness(shift: int, reach: int, half_up: bool) -> str:
    """The proof for one requantisation, in words; empty when there is none."""
    limit, bits = (HALF_UP_LIMIT, 22) if half_up else (HALF_EVEN_LIMIT, 24)
    if reach < limit:
        return f"sums stay below 2**{bits}, float32 requantises exactly"
    return f"sums above 2**{bits} saturate after a shift of {shift}" if shift <= bits - 8 else ""


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
    from stagekit_fixedpoint.segments import OnnxBuilder

    net = OnnxBuilder()
    for name in ("a", "b"):
        net.input(name, left.shape)
    net.add("a", "b", candidate, "y")
    result: Array = net.session(("y",), 1).run(None, {"a": left, "b": right})[0]
    return result


@cache
def self_test() -> str:
    """Runs this processor's kernels against the specification once a process; returns what failed, or nothing.

    Dense 1x1 and 3x3, strided, grouped and depthwise convolutions and a matrix product, on extreme values (where
    16-bit intermediate sums would saturate) and on random ones with many ties.
    """
    from stagekit_fixedpoint.segments import Segment

    random = np.random.default_rng(0)
    for rounding in ("half_up", "half_even", "floor"):
        for outs, ins, kernel, groups in ((16, 64, 1, 1), (24, 40, 3, 1), (32, 1, 3, 32), (8, 4, 3, 2), (5, 300, 0, 1)):
            for extreme in (True, False):
                program = _probe(random, rounding, outs, ins, kernel, groups, extreme)
                x = program.tensors["x"]
                shape = (2, *x.shape)
                codes = random.choice([-128, 127], shape) if extreme else random.integers(-128, 128, shape)
                wanted = reference.run(program, {"x": codes})["y"]
                found = Segment(program, program.steps, ("y",), 1).run({"x": codes.astype(np.int8)})["y"]
                if not np.array_equal(found, wanted):
                    return f"a {kernel}x{kernel} kernel with {groups} groups, {rounding}"
    return ""


def _probe(
    random: np.random.Generator, rounding: Any, outs: int, ins: int, kernel: int, groups: int, extreme: bool
) -> Program:
    int8 = Format(8)
    terms = ins * max(kernel, 1) ** 2
    shift = min(int(np.ceil(np.log2(terms))) + 6, 14) if extreme else 5
    stage = Requantize(Rescale((1,), (shift,), rounding), int8, 0, -128, 127)
    draw = (
        (lambda shape: random.choice([-128, 127], shape)) if extreme else (lambda shape: random.integers(-9, 10, shape))
    )
    bias: Array = random.integers(-(2**shift), 2**shift, outs)
    step: Step
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    if kernel:
        weight = draw((outs, ins, kernel, kernel))
        step = p.Convolution("probe", ("x",), "y", "w", "b", (1, 1), (0, 0, 0, 0), (1, 1), groups, stage)
        shapes = (ins * groups, 9, 8), (outs, 10 - kernel, 9 - kernel)
    else:
        weight = draw((ins, outs))
        step = p.Linear("probe", ("x",), "y", "w", "b", stage)
        shapes = (7, ins), (7, outs)
    tensors = {n: Tensor(n, s, int8, 1.0) for n, s in zip(("x", "y"), shapes, strict=True)}
    return Program("probe", ("x",), ("y",), tensors, (step,), {"w": np.asarray(weight), "b": bias})
