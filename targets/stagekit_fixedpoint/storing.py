"""What a QuantizeLinear does to a value: it becomes a stored tensor, and with it one step of the program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stagekit_fixedpoint import factors, hosting
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.limits import emit_limits
from stagekit_fixedpoint.program import Tensor
from stagekit_fixedpoint.tables import store_table
from stagekit_fixedpoint.values import Hosted, Joined, Pending, Refused, Stored, Tabulated, Value


def store(builder: Builder, value: Value, name: str, form: Tensor) -> Stored:
    """A value in the form of the QuantizeLinear behind it; of ``form``, name and shape say nothing."""
    if isinstance(value, Stored):
        x = value.tensor
        if x.form == form.form:
            return value
        out = builder.like(form, name, x.shape)
        builder.convert(x, out)
        return Stored(out, value.joined)
    if isinstance(value, Pending):
        out = builder.like(form, name, value.shape)
        complete(builder, value, out)
        return Stored(out, value.joined)
    if form.exponents:
        raise Refused("only sums of products, and sums, are stored with a scale for each channel")
    if isinstance(value, Joined):
        out = builder.like(form, name, value.shape)
        parts = [builder.converted(part, out, f"{name}/{i}") for i, part in enumerate(value.parts)]
        builder.emit(p.Concatenate(value.name, tuple(parts), out.name, value.axis))
        return Stored(out)
    if isinstance(value, Tabulated):
        out = builder.like(form, name, value.source.shape)
        store_table(builder, value, out)
        return Stored(out)
    if isinstance(value, Hosted):
        out = builder.like(form, name, value.shape)
        hosting.emit(builder, value, out)
        return Stored(out)
    raise Refused("a constant needs no quantisation at run time")


def complete(builder: Builder, value: Pending, out: Tensor) -> None:
    """Emits the step of a pending accumulator, and those of its limits by channel."""
    rank = len(out.shape) + 1
    if out.exponents and out.axis % rank != value.axis % rank:
        raise Refused(f"it is not stored with a scale for each index along the axis {out.axis}")
    if value.limits is not None:
        wider = builder.like(out, f"{out.name}/unlimited", out.shape)
        complete(builder, replace(value, limits=None), wider)
        emit_limits(builder, value.name, wider, out, value.limits)
        return
    stage = factors.requantize(builder.arithmetic, value.unit, out, value.low, value.high, value.multiplier)
    bias = np.zeros(1, np.int64)
    if value.bias is not None:
        bias = factors.integer_bias(
            builder.arithmetic, value.bias, value.unit, out.shape[value.axis - (value.axis > 0)]
        )
        if stage.rescale.rounding == "floor" and stage.rescale.style == "shift":
            # Half of the last bit kept, so that cutting off rounds to nearest: else each layer takes half a bit away.
            bias = bias + ((np.int64(1) << np.maximum(np.asarray(stage.rescale.shift), 0)) >> 1)
    builder.emit(value.finish(out.name, stage, bias))
