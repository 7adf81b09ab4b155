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
intermediate saturation for instance, is tested when they are first used (:mod:`~stagekit_fixedpoint.self_test`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stagekit_fixedpoint import bounds
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints
from stagekit_fixedpoint.program import Array, Program, Tensor

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
