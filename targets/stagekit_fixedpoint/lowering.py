"""From a Q/DQ graph to an integer-only program, node by node; what does not fit is collected with its reason.

Between a DequantizeLinear and the QuantizeLinear behind an operation the graph computes in real numbers. Here
the operation becomes a :class:`~stagekit_fixedpoint.values.Pending` accumulator, what can be folded (bias,
ReLU, constant factors) is folded, and the QuantizeLinear turns it into one integer step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.errors import CompileError
from stagekit.graph import Graph
from stagekit.graph.cost import macs as graph_macs
from stagekit.graph.fingerprint import in_order
from stagekit.graph.shapes import inferred
from stagekit.target import Unsupported
from stagekit_fixedpoint import bounds, factors
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Format
from stagekit_fixedpoint.device import Arithmetic, Device
from stagekit_fixedpoint.program import Array, Program, Step, Tensor
from stagekit_fixedpoint.values import Constant, Hosted, Joined, Pending, Refused, Stored, Tabulated, Value


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program, the nodes that did not fit, and the share of multiply-accumulates that are in the program."""

    program: Program
    problems: tuple[Unsupported, ...]
    share: float


def lower(graph: Graph, device: Device, host: bool = False) -> Lowered:
    """Everything of a Q/DQ graph that the device can do; a program that runs only when ``problems`` is empty.

    Args:
        host: what the device cannot do is placed on the host, in floats, wherever tensors are stored around it.
    """
    builder = Builder(graph, device, host)
    for node in in_order(graph.body):
        builder.add(node)
    builder.finish_outputs()
    program = builder.program()
    share = 1.0
    if builder.problems or any(isinstance(step, p.Host) for step in program.steps):
        whole = graph_macs(inferred(graph))
        share = min(1.0, macs(program) / whole) if whole else 0.0
    return Lowered(program, tuple(builder.problems), share)


def lowered(graph: Graph, device: Device, host: bool = False) -> Lowered:
    """:func:`lower` for graphs that must fit entirely.

    Raises:
        CompileError: names the nodes that do not fit, each with its reason.
    """
    result = lower(graph, device, host)
    if result.problems:
        listed = "; ".join(f"{u.node} ({u.op}): {u.why}" for u in result.problems[:8])
        more = f"; and {len(result.problems) - 8} more" if len(result.problems) > 8 else ""
        raise CompileError(
            f"{device.name} cannot compute it: {listed}{more}",
            where=graph.source,
            remedy="`stagekit calibrate` writes the Q/DQ graph for a profile; a head or SPM runs on the CPU instead",
        )
    return result


def macs(program: Program) -> int:
    """Multiply-accumulates of one image."""
    return sum(step_macs(program, step) for step in program.steps)


def step_macs(program: Program, step: Step) -> int:
    """Multiply-accumulates of one step; 0 for steps that are no sums of products."""
    out = program.tensors[step.output].elements
    if isinstance(step, p.Convolution):
        return out * int(np.prod(program.arrays[step.weight].shape[1:]))
    if isinstance(step, p.Linear):
        return out * len(program.arrays[step.weight])
    return out * program.tensors[step.inputs[0]].shape[-1] if isinstance(step, p.Product) else 0


class Builder:
    """The state of one lowering."""

    def __init__(self, graph: Graph, device: Device, host: bool = False) -> None:
        self.graph = graph
        self.device = device
        self.host = host
        self.values: dict[str, Value | None] = {}
        self.tensors: dict[str, Tensor] = {}
        self.arrays: dict[str, Array] = {}
        self.steps: list[Step] = []
        self.problems: list[Unsupported] = []
        self.operators = {str(node.name): node.op_type for node in graph.body}
        self.float_inputs: dict[str, tuple[int, ...]] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        for spec in graph.inputs:
            shape = tuple(d if isinstance(d, int) else -1 for d in spec.shape[1:])
            if spec.dtype in ("int8", "uint8", "int16"):
                fmt = Format(int(spec.dtype.lstrip("uint")), not spec.dtype.startswith("u"))
                self.values[spec.name] = Stored(self.new_tensor(spec.name, shape, fmt, 1.0, 0))
                self.inputs.append(spec.name)
            else:
                self.float_inputs[spec.name] = shape

    @property
    def arithmetic(self) -> Arithmetic:
        return self.device.arithmetic

    def add(self, node: ir.Node) -> None:
        """Lowers one node, or notes why it cannot be."""
        from stagekit_fixedpoint.host import hosted
        from stagekit_fixedpoint.rules import RULES, unknown

        name = str(node.name or node.outputs[0].name)
        results: list[Value | None] = [None] * len(node.outputs)
        try:
            # What reads a node that was already reported follows from it, and is not reported again.
            if all(v is None or self.values.get(str(v.name), 0) is not None for v in node.inputs):
                try:
                    results = list(RULES.get(node.op_type, unknown)(self, node))
                except Refused as refusal:
                    if not self.host or refusal.node:
                        raise
                    results = [hosted(self, node, refusal)]
        except Refused as refusal:
            operator = self.operators.get(refusal.node, node.op_type)
            self.problems.append(Unsupported(refusal.node or name, operator, str(refusal)))
        for value, result in zip(node.outputs, results, strict=True):
            self.values[str(value.name)] = result

    # What rules ask of a builder.

    def value(self, node: ir.Node, index: int) -> Value:
        """The value that a node reads.

        Raises:
            Refused: it is a float input that nothing quantises.
        """
        source = node.inputs[index]
        assert source is not None
        name = str(source.name)
        if name in self.values:
            found = self.values[name]
            assert found is not None
            return found
        if source.const_value is not None:
            return Constant(_numbers(source.const_value.numpy()))
        raise Refused(f"tensor {name!r} has no quantisation; calibrate the graph for this profile")

    def stored(self, node: ir.Node, index: int = 0, joined: bool = False) -> Tensor:
        """An input that lies in memory as integers; with ``joined`` its batch may be joined with its rows."""
        value = self.value(node, index)
        if isinstance(value, Stored):
            if value.joined and not joined:
                raise Refused("the batch is joined with the rows of its input; only Gemm and MatMul compute on that")
            return value.tensor
        source = node.inputs[index]
        what = "a constant" if isinstance(value, Constant) else "not quantised; calibrate the graph for this profile"
        raise Refused(f"its input {str(source.name) if source is not None else index!r} is {what}")

    def constant(self, node: ir.Node, index: int) -> Constant | None:
        """A constant input, or None where the node has none there."""
        if index >= len(node.inputs) or node.inputs[index] is None:
            return None
        value = self.value(node, index)
        if not isinstance(value, Constant):
            raise Refused(f"its input {index} must be a constant")
        return value

    def need(self, operator: str) -> None:
        """Raises Refused unless the device has this kind of work."""
        if operator not in self.arithmetic.operators:
            raise Refused(f"{self.device.name} has no unit for {operator.replace('_', ' ')}")

    def new_tensor(self, name: str, shape: tuple[int, ...], fmt: Format, scale: float, zero_point: int) -> Tensor:
        while name in self.tensors:
            name += "'"
        self.tensors[name] = Tensor(name, shape, fmt, scale, zero_point)
        return self.tensors[name]

    def like(self, source: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
        """A new tensor in the format of another."""
        return self.new_tensor(name, shape, source.format, source.scale, source.zero_point)

    def array(self, name: str, values: Array) -> str:
        """Stores a constant array; returns the name it has in the program."""
        while name in self.arrays:
            name += "'"
        self.arrays[name] = np.asarray(values, np.int64)
        return name

    def emit(self, step: Step) -> None:
        """Appends a step; its accumulator must not be able to overflow where the device forbids it."""
        self.steps.append(step)
        limit = bounds.bound(step, self.tensors, self.arrays)
        if limit is not None and self.arithmetic.accumulator_overflow == "forbid":
            missing = limit.bits - self.arithmetic.accumulator_bits
            if missing > 0:
                raise Refused(
                    f"its accumulator can reach [{limit.low}, {limit.high}], which needs {limit.bits} bits;"
                    f" {self.device.name} has {self.arithmetic.accumulator_bits}: {missing} missing",
                    step.name,
                )

    def store(self, value: Value, name: str, fmt: Format, scale: float, zero_point: int) -> Stored:
        """A value in the format of the QuantizeLinear behind it."""
        from stagekit_fixedpoint.elementwise import store_table
        from stagekit_fixedpoint.host import emit

        if isinstance(value, Stored):
            x = value.tensor
            if (x.format, x.scale, x.zero_point) == (fmt, scale, zero_point):
                return value
            out = self.new_tensor(name, x.shape, fmt, scale, zero_point)
            self.convert(x, out)
            return Stored(out, value.joined)
        if isinstance(value, Pending):
            out = self.new_tensor(name, value.shape, fmt, scale, zero_point)
            self.complete(value, out)
            return Stored(out, value.joined)
        if isinstance(value, Joined):
            out = self.new_tensor(name, value.shape, fmt, scale, zero_point)
            parts = [self.converted(part, out, f"{name}/{i}") for i, part in enumerate(value.parts)]
            self.emit(p.Concatenate(value.name, tuple(parts), out.name, value.axis))
            return Stored(out)
        if isinstance(value, Tabulated):
            out = self.new_tensor(name, value.source.shape, fmt, scale, zero_point)
            store_table(self, value, out)
            return Stored(out)
        if isinstance(value, Hosted):
            out = self.new_tensor(name, value.shape, fmt, scale, zero_point)
            emit(self, value, out)
            return Stored(out)
        raise Refused("a constant needs no quantisation at run time")

    def convert(self, x: Tensor, out: Tensor, factor: float = 1.0) -> None:
        """Emits the change of format from one tensor to another."""
        stage = factors.requantize(self.arithmetic, np.array(x.scale * factor), out, multiplier=factor != 1.0)
        self.emit(p.Convert(out.name, (x.name,), out.name, stage))

    def converted(self, x: Tensor, like: Tensor, name: str) -> str:
        """The name of ``x`` in the format of ``like``."""
        if (x.format, x.scale, x.zero_point) == (like.format, like.scale, like.zero_point):
            return x.name
        out = self.like(like, name, x.shape)
        self.convert(x, out)
        return out.name

    def complete(self, value: Pending, out: Tensor) -> None:
        """Emits the step of a pending accumulator, and those of its limits by channel."""
        from stagekit_fixedpoint.limits import emit_limits

        if value.limits is not None:
            wider = self.like(out, f"{out.name}/unlimited", out.shape)
            self.complete(replace(value, limits=None), wider)
            emit_limits(self, value.name, wider, out, value.limits)
            return
        stage = factors.requantize(self.arithmetic, value.unit, out, value.low, value.high, value.multiplier)
        bias = np.zeros(1, np.int64)
        if value.bias is not None:
            bias = factors.integer_bias(
                self.arithmetic, value.bias, value.unit, out.shape[value.axis - (value.axis > 0)]
            )
        self.emit(value.finish(out.name, stage, bias))

    def finish_outputs(self) -> None:
        """The graph's outputs must be stored tensors."""
        for output in self.graph.body.outputs:
            value = self.values.get(str(output.name))
            if isinstance(value, Stored) and not value.joined:
                self.outputs.append(value.tensor.name)
            elif value is not None:
                self.problems.append(
                    Unsupported(str(output.name), "output", "the graph's output has no quantisation; calibrate it")
                )

    def program(self) -> Program:
        a = self.arithmetic
        return Program(
            self.device.name,
            tuple(self.inputs),
            tuple(self.outputs),
            dict(self.tensors),
            tuple(self.steps),
            dict(self.arrays),
            a.accumulator_bits,
            a.accumulator_overflow,
        )


def _numbers(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


Rule = Callable[[Builder, ir.Node], tuple[Value, ...]]
RuleTable = Mapping[str, Rule]
