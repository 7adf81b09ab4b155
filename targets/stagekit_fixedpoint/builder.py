"""The state of one lowering: what each tensor of the graph stands for, and the program so far.

Rules (:mod:`~stagekit_fixedpoint.rules`) ask it for their inputs and add tensors, arrays and steps to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.target import Unsupported
from stagekit_fixedpoint import bounds, factors
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Format
from stagekit_fixedpoint.device import Arithmetic, Device
from stagekit_fixedpoint.program import Array, Program, Step, Tensor
from stagekit_fixedpoint.values import Constant, Refused, Stored, Value


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

    def stored(self, node: ir.Node, index: int = 0, joined: bool = False, exponents: bool = False) -> Tensor:
        """An input that lies in memory as integers.

        Args:
            joined: its batch may be joined with its rows.
            exponents: its channels may have exponents.
        """
        value = self.value(node, index)
        if isinstance(value, Stored):
            if value.joined and not joined:
                raise Refused("the batch is joined with the rows of its input; only Gemm and MatMul compute on that")
            if value.tensor.exponents and not exponents:
                raise Refused("the channels of its input have scales of their own, which only sums and norms read")
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
        return self.like(Tensor(name, shape, fmt, scale, zero_point), name, shape)

    def like(self, source: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
        """A new tensor in the form of another."""
        while name in self.tensors:
            name += "'"
        self.tensors[name] = replace(source, name=name, shape=shape)
        return self.tensors[name]

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

    def convert(self, x: Tensor, out: Tensor, factor: float = 1.0) -> None:
        """Emits the change of format from one tensor to another."""
        stage = factors.requantize(self.arithmetic, x.scales * factor, out, multiplier=factor != 1.0)
        self.emit(p.Convert(out.name, (x.name,), out.name, stage))

    def converted(self, x: Tensor, like: Tensor, name: str) -> str:
        """The name of ``x`` in the format of ``like``."""
        if x.form == like.form:
            return x.name
        out = self.like(like, name, x.shape)
        self.convert(x, out)
        return out.name

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


def _numbers(array: Array) -> Array:
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


Rule = Callable[[Builder, ir.Node], tuple[Value, ...]]
RuleTable = Mapping[str, Rule]
