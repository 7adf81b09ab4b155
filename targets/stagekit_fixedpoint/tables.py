"""Rules for expressions of one stored tensor: a table of all its values, evaluated in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import erf
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.builder import Builder, Rule
from stagekit_fixedpoint.program import Tensor
from stagekit_fixedpoint.values import Constant, Reals, Refused, Stored, Tabulated, Value

TABLE_ENTRIES = 2**18
"""Most entries of a step's tables: for each of 1024 channels in 8 bits, of 4 (the planes of an image) in 16."""


def function_rule(function: Callable[[ir.Node, Reals], Reals]) -> Rule:
    """A function of one number, as a table."""

    def rule(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
        builder.need("table")
        value = _as_table(builder.value(node, 0))
        return (replace(value, levels=function(node, value.levels), factor=None),)

    return rule


def cast(builder: Builder, node: ir.Node) -> tuple[Value, ...]:
    """Integers to floats: their own values, as for frames of bytes."""
    value = builder.value(node, 0)
    if isinstance(value, Constant):
        return (value,)
    return (_as_table(value),)


def _as_table(value: Value) -> Tabulated:
    if isinstance(value, Tabulated):
        return value
    if isinstance(value, Stored) and not value.joined:
        if value.tensor.exponents:
            raise Refused("the channels of its input have scales of their own; a table reads one scale")
        return Tabulated.of(value.tensor)
    raise Refused("its input is not quantised; calibrate the graph for this profile")


def tabulated(left: Value, right: Value, operate: Callable[[Any, Any], Any], op: str) -> Tabulated:
    sides = [v if isinstance(v, Constant) else _as_table(v) for v in (left, right)]
    tables = [s for s in sides if isinstance(s, Tabulated)]
    if len({t.source.name for t in tables}) > 1:
        raise Refused("it joins two tensors, of which at least one is not quantised")
    levels, axis = [], tables[0].axis
    for side in sides:
        if isinstance(side, Tabulated):
            levels.append(side.levels)
            continue
        values, axis = _rows(side.real.astype(np.float64), tables[0].source, axis)
        levels.append(values[:, None])
    factor = None
    constants = [s.real.reshape(-1) for s in sides if isinstance(s, Constant)]
    if len(tables) == 1 and tables[0].factor is not None and constants[0].size == 1:
        value = float(constants[0][0])
        if op == "Mul" or (op == "Div" and sides[0] is tables[0]):
            factor = tables[0].factor * (value if op == "Mul" else 1 / value)
    return Tabulated(tables[0].source, operate(levels[0], levels[1]), axis, factor)


def _rows(real: Reals, source: Tensor, axis: int) -> tuple[Reals, int]:
    """A constant as one row, or as one row for each index of the axis along which it varies."""
    if real.size == 1:
        return real.reshape(1), axis
    rank = len(source.shape) + 1
    varying = [rank - real.ndim + i for i, n in enumerate(real.shape) if n > 1]
    if len(varying) != 1:
        raise Refused("a constant that varies along several axes has no table; quantise the tensor before it")
    if real.size * 2**source.format.bits > TABLE_ENTRIES:
        raise Refused(f"a table of {source.format} for each of {real.size} channels is too large; quantise it first")
    return real.reshape(-1), varying[0]


def store_table(builder: Builder, value: Tabulated, out: Tensor) -> None:
    """Emits the table, or a mere change of scale where that is all it is."""
    if value.factor is not None and value.factor > 0:
        try:
            builder.convert(value.source, out, value.factor)
        except Refused:
            pass
        else:
            return
    builder.need("table")
    if not np.isfinite(value.levels).all():
        raise Refused("its table holds values that are not finite")
    codes = np.clip(np.rint(value.levels / out.scale) + out.zero_point, out.format.lowest, out.format.highest)
    key = builder.array(f"{out.name}/table", codes.astype(np.int64))
    builder.emit(p.Lookup(out.name, (value.source.name,), out.name, key, value.axis))


def _erf(values: Reals) -> Reals:
    return np.asarray(np.vectorize(erf, otypes=[np.float64])(values))


def _gelu(node: ir.Node, x: Reals) -> Reals:
    if node.attributes.get_string("approximate", "none") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def _number(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes.get_float(name, default) or 0.0)


FUNCTIONS: dict[str, Callable[[ir.Node, Reals], Reals]] = {
    "Erf": lambda _, x: _erf(x),
    "Gelu": _gelu,
    "Sigmoid": lambda _, x: 1 / (1 + np.exp(-x)),
    "Tanh": lambda _, x: np.tanh(x),
    "HardSwish": lambda _, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda n, x: np.clip(_number(n, "alpha", 0.2) * x + _number(n, "beta", 0.5), 0, 1),
    "LeakyRelu": lambda n, x: np.where(x < 0, _number(n, "alpha", 0.01) * x, x),
    "Elu": lambda n, x: np.where(x < 0, _number(n, "alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),
    "Selu": lambda n, x: (
        _number(n, "gamma", 1.0507010) * np.where(x < 0, _number(n, "alpha", 1.6732632) * np.expm1(np.minimum(x, 0)), x)
    ),
    "Mish": lambda _, x: x * np.tanh(np.logaddexp(0, x)),
    "Softplus": lambda _, x: np.logaddexp(0, x),
    "Exp": lambda _, x: np.exp(x),
    "Abs": lambda _, x: np.abs(x),
    "Neg": lambda _, x: -x,
    "Sqrt": lambda _, x: np.sqrt(x),
}
"""Functions of one number that become tables, in float64."""
