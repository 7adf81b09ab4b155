"""What images do to a program: the values that leave their format, and the distance from the float model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from stagekit.quant.error import sqnr
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.arithmetic import Format, Ints, Requantize
from stagekit_fixedpoint.program import Array, Program, Step

UNBOUNDED = Format(62)


@dataclass(frozen=True, slots=True)
class Seen:
    """A step on some images.

    Args:
        saturated: share of output values that the format could not hold (on devices that wrap: that wrapped); what
            a folded ReLU or Clip cuts is not among them. None where nothing is requantised.
        sqnr_db: of the output against the float model's; None where the float model has no such tensor.
    """

    saturated: float | None
    sqnr_db: float | None


def observe(
    program: Program, inputs: Mapping[str, Array], reals: Mapping[str, Array]
) -> tuple[dict[str, Array], list[Seen]]:
    """All tensors of the program, and what was seen at each of its steps.

    Args:
        inputs: stored integers, batch first.
        reals: the float model's tensors by name, of the same images.
    """
    values: dict[str, Array] = dict(inputs)
    seen: list[Seen] = []
    for step in program.steps:
        arrays = {name: values[name].astype(np.int64) for name in step.inputs}
        values[step.output] = _evaluated(program, step, arrays)
        out = program.tensors[step.output]
        real = reals.get(real_name(step.output))
        found = (values[step.output] - out.zero_point) * out.scale * 2.0 ** reference.along(out, out.exponents or (0,))
        noise = sqnr(real, found) if real is not None and real.shape == found.shape else None
        seen.append(Seen(_saturated(program, step, arrays), noise))
    return values, seen


def real_name(stored: str) -> str:
    """The float model's name of a program's tensor: a QuantizeLinear's output is called after what it reads."""
    return stored.removesuffix("/q")


def _evaluated(program: Program, step: Step, arrays: Mapping[str, Ints]) -> Ints:
    if blas.proven(program, step):
        return np.asarray(blas.prepare(program, step)([arrays[n] for n in step.inputs]), np.int64)
    return reference.evaluate(program, step, arrays)


def _saturated(program: Program, step: Step, arrays: Mapping[str, Ints]) -> float | None:
    stage: Requantize | None = getattr(step, "requantize", None)
    if stage is None:
        return None
    fmt = stage.format
    free = replace(stage, format=UNBOUNDED, low=UNBOUNDED.lowest, high=UNBOUNDED.highest)
    value = _evaluated(program, replace(step, requantize=free), arrays)  # type: ignore[call-arg]  # it has one
    over = (value > fmt.highest) & (stage.high == fmt.highest)
    under = (value < fmt.lowest) & (stage.low == fmt.lowest)
    return float((over | under).mean())
